"""lowrank_pixel_shuffle_stored: what a file stores is, to the last bit, what the float result rounds to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import lkca_kernels as k
from lkca_kernels import cpu
from lkca_kernels.backends import BackendError

DTYPES = (torch.int16, torch.uint16, torch.float32)
NATIVE = cpu.unavailable() is None
BACKENDS = ("reference", "cpu") if NATIVE else ("reference",)
ISAS = [name for name in cpu.available_isas() if "bf16" not in name and "amx" not in name] if NATIVE else ["absent"]
needs_native = pytest.mark.skipif(not NATIVE, reason=f"the C++ CPU backend {cpu.unavailable()}")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = cpu.use_isa(request.param)
    yield request.param
    cpu.use_isa(before)


def _tensors(b: int, c: int, r: int, h: int, w: int, s: int, *, gain: float = 1000.0) -> dict[str, Any]:
    """Products of about ``gain``: with 30,000 many are clipped."""
    generator = torch.Generator().manual_seed(b + c + r + h + w + s)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    gains = gain * (0.5 + torch.rand(c, generator=generator)) * torch.tensor([1.0, -1.0]).repeat(c)[:c]
    return {
        "z": normal(b, r, h, w), "weight": normal(c * s * s, r), "bias": normal(c * s * s), "skip": normal(b, c, h, w),
        "least": normal(c) - 0.5, "gain": gains, "upscale_factor": s,
    }  # fmt: skip


def _out(tensors: dict[str, Any], dtype: torch.dtype, rows: tuple[int, int]) -> Tensor:
    (b, _, _, w), s = tensors["z"].shape, tensors["upscale_factor"]
    shape = (b, tensors["weight"].shape[0] // s**2, (rows[1] - rows[0]) * s, w * s)
    return torch.full(shape, 77, dtype=torch.int32).to(dtype)


def _products(tensors: dict[str, Any], rows: tuple[int, int], **how: Any) -> Tensor:
    """From the float operator of the same backend."""
    s = tensors["upscale_factor"]
    given = (tensors[name] for name in ("z", "weight", "bias"))
    values = k.lowrank_pixel_shuffle(*given, None, tensors["skip"], upscale_factor=s, **how)
    values = values[:, :, rows[0] * s : rows[1] * s]
    if tensors["least"] is not None:
        values = values.maximum(tensors["least"][:, None, None])
    return values if tensors["gain"] is None else values * tensors["gain"][:, None, None]


def _same(out: Tensor, extremes: Tensor, products: Tensor) -> None:
    rounded = products
    if not out.is_floating_point():
        bounds, rounded = torch.iinfo(out.dtype), products.round()
        assert torch.equal(out.to(torch.int32), rounded.clamp(bounds.min, bounds.max).to(torch.int32))
    else:
        assert torch.equal(out, products)
    assert extremes.tolist() == [rounded.min().item(), rounded.max().item()]


@needs_native
@pytest.mark.parametrize("s", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_native_rounds_its_own_float_result(isa: str, s: int, dtype: torch.dtype) -> None:
    sizes = [(1, 3, 5, 7, 19), (2, 2, 4, 5, 16), (1, 1, 1, 1, 1), (2, 5, 33, 4, 37), (1, 17, 3, 6, 64)]
    for (b, c, r, h, w), gain in itertools.product(sizes, (1000.0, 30000.0)):
        every = _tensors(b, c, r, h, w, s, gain=gain)
        for absent, rows in (((), (0, h)), (("bias", "least"), (h // 3, h)), (("skip", "gain"), (0, (h + 1) // 2))):
            tensors = every | dict.fromkeys(absent)
            out = _out(tensors, dtype, rows)
            extremes = k.lowrank_pixel_shuffle_stored(**tensors, rows=rows, out=out, backend="cpu")
            _same(out, extremes, _products(tensors, rows, backend="cpu"))


@pytest.mark.parametrize("served_by", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip_bicubic", ["matlab", "torch"])
def test_against_the_formula_in_float64(served_by: str, dtype: torch.dtype, skip_bicubic: Any) -> None:
    tensors = _tensors(2, 3, 5, 6, 7, 4)
    out = _out(tensors, dtype, (1, 5))
    how = {"skip_bicubic": skip_bicubic}
    extremes = k.lowrank_pixel_shuffle_stored(**tensors, **how, rows=(1, 5), out=out, backend=served_by)
    wide = {name: t.double() if isinstance(t, Tensor) else t for name, t in tensors.items()}
    true = _products(wide, (1, 5), **how, backend="reference")
    bounds = (-math.inf, math.inf) if dtype == torch.float32 else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    # Half a level, and the error of float32 before.
    assert (out.double() - true.clamp(*bounds)).abs().max() <= 0.5 + 1e-5 * true.abs().max()
    assert (extremes - torch.stack([true.min(), true.max()])).abs().max() <= 0.5 + 1e-5 * true.abs().max()


@pytest.mark.parametrize("served_by", BACKENDS)
def test_halves_go_to_even_and_ends_are_kept(served_by: str) -> None:
    values = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 32766.5, 32767.4, 32767.6, 1e30, -32768.5, -1e30])
    z, weight = values.view(1, 1, 1, -1), torch.ones(4, 1)
    for dtype, expected in (
        (torch.int16, [0, 2, 2, 0, -2, 32766, 32767, 32767, 32767, -32768, -32768]),
        (torch.uint16, [0, 2, 2, 0, 0, 32766, 32767, 32768, 65535, 0, 0]),
    ):
        out = torch.empty(1, 1, 2, 22, dtype=torch.int32).to(dtype)
        extremes = k.lowrank_pixel_shuffle_stored(z, weight, upscale_factor=2, out=out, backend=served_by)
        assert out[0, 0, 0, ::2].to(torch.int32).tolist() == expected
        assert extremes.tolist() == [-torch.tensor(1e30).item(), torch.tensor(1e30).item()]


@pytest.mark.parametrize("served_by", BACKENDS)
def test_autocast_does_not_matter(served_by: str) -> None:
    tensors = _tensors(1, 3, 5, 6, 7, 4)
    out, plain = (_out(tensors, torch.int16, (0, 6)) for _ in range(2))
    expected = k.lowrank_pixel_shuffle_stored(**tensors, out=plain, backend=served_by)
    with torch.autocast("cpu", torch.bfloat16):
        found = k.lowrank_pixel_shuffle_stored(**tensors, out=out, backend=served_by)
        explained = k.explain("lowrank_pixel_shuffle_stored", **tensors, out=out).chosen
    assert torch.equal(out, plain) and torch.equal(found, expected)
    assert explained == BACKENDS[-1]


@pytest.mark.parametrize("served_by", BACKENDS)
def test_autograd_hears_of_a_result_that_was_overwritten(served_by: str) -> None:
    tensors = _tensors(1, 3, 5, 6, 7, 4)
    out = _out(tensors, torch.float32, (0, 6))
    loss = (out * torch.ones_like(out).requires_grad_()).sum()
    k.lowrank_pixel_shuffle_stored(**tensors, out=out, backend=served_by)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_native
def test_other_dtypes_are_refused_by_name() -> None:
    z, weight = torch.ones(1, 2, 3, 4, dtype=torch.bfloat16), torch.ones(16, 2, dtype=torch.bfloat16)
    told = k.explain("lowrank_pixel_shuffle_stored", z, weight, upscale_factor=4, out=z)
    assert told.chosen == "reference" and told.refusals["cpu"] == "serves float32 there, not torch.bfloat16"


@pytest.mark.parametrize("served_by", BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 5, 18])
def test_what_is_not_finite_is_told(served_by: str, value: float, at: int) -> None:
    tensors = _tensors(1, 2, 3, 4, 19, 4) | {"least": None}
    tensors["z"][0, 1, 2, at] = value
    for dtype in DTYPES:
        extremes = k.lowrank_pixel_shuffle_stored(**tensors, out=_out(tensors, dtype, (0, 4)), backend=served_by)
        assert extremes.isnan().all()
        rows = (0, 1)  # the bicubic skip looks further, the features do not
        extremes = k.lowrank_pixel_shuffle_stored(
            **tensors, rows=rows, out=_out(tensors, dtype, rows), backend=served_by
        )
        assert extremes.isfinite().all()


@pytest.mark.parametrize("served_by", BACKENDS)
def test_a_bound_that_is_no_number_is_told(served_by: str) -> None:
    tensors = _tensors(1, 2, 3, 4, 19, 4)
    tensors["least"][1] = math.nan
    for dtype in DTYPES:
        extremes = k.lowrank_pixel_shuffle_stored(**tensors, out=_out(tensors, dtype, (0, 4)), backend=served_by)
        assert extremes.isnan().all()


@pytest.mark.parametrize("served_by", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_and_layouts(served_by: str, dtype: torch.dtype) -> None:
    tensors = _tensors(2, 3, 5, 6, 7, 3)
    out = _out(tensors, dtype, (2, 2))
    assert k.lowrank_pixel_shuffle_stored(**tensors, rows=(2, 2), out=out, backend=served_by).tolist() == [
        math.inf, -math.inf,
    ]  # fmt: skip
    expected = _out(tensors, dtype, (0, 6))
    k.lowrank_pixel_shuffle_stored(**tensors, out=expected, backend=served_by)
    strided = {name: tensors[name].to(memory_format=torch.channels_last) for name in ("z", "skip")}
    strided["weight"] = torch.cat([tensors["weight"]] * 2, 1)[:, :5]
    strided["gain"] = torch.stack([tensors["gain"]] * 2, 1)[:, 1]
    out = torch.empty_like(expected)
    k.lowrank_pixel_shuffle_stored(**tensors | strided, out=out, backend=served_by)
    difference = (out.to(torch.float32) - expected.to(torch.float32)).abs().max()
    assert difference <= (1e-2 if dtype == torch.float32 else 1)  # a product's last digit may round the other way
    no_rank = tensors | {"z": tensors["z"][:, :0], "weight": tensors["weight"][:, :0]}
    k.lowrank_pixel_shuffle_stored(**no_rank, out=out, backend=served_by)
    _same(out, k.lowrank_pixel_shuffle_stored(**no_rank, out=out, backend=served_by), _products(no_rank, (0, 6)))


@pytest.mark.parametrize("served_by", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_alone_is_written(served_by: str, dtype: torch.dtype) -> None:
    tensors = _tensors(1, 3, 4, 5, 19, 4)
    expected = _out(tensors, dtype, (1, 4))
    k.lowrank_pixel_shuffle_stored(**tensors, rows=(1, 4), out=expected, backend=served_by)
    for offset in (1, 3, 16):
        room = torch.full((expected.numel() + offset + 64,), 12345, dtype=torch.int32).to(dtype)
        out = room[offset : offset + expected.numel()].view(expected.shape)
        k.lowrank_pixel_shuffle_stored(**tensors, rows=(1, 4), out=out, backend=served_by)
        assert torch.equal(out, expected)
        around = torch.cat([room[:offset].to(torch.float32), room[offset + expected.numel() :].to(torch.float32)])
        assert (around == 12345).all()


@needs_native
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    tensors = _tensors(2, 24, 17, 61, 37, 3)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            out = _out(tensors, torch.int16, (5, 60))
            found.append((out, k.lowrank_pixel_shuffle_stored(**tensors, rows=(5, 60), out=out, backend="cpu")))
    finally:
        torch.set_num_threads(before)
    for out, extremes in found[1:]:
        assert torch.equal(out, found[0][0]) and torch.equal(extremes, found[0][1])


@needs_native
def test_strides_past_2_to_the_31() -> None:
    """Planes that far apart, in memory of which only those few pages are ever touched."""
    far = 2**31 + 5
    try:
        room = torch.empty(2 * far + 64)
    except RuntimeError:
        pytest.skip("needs 18 GB of address space")
    tensors = _tensors(1, 2, 3, 2, 5, 2)
    z = room.as_strided((1, 3, 2, 5), (3 * far, far, 7, 1))
    z.copy_(tensors["z"])
    out, near = (_out(tensors, torch.int16, (0, 2)) for _ in range(2))
    k.lowrank_pixel_shuffle_stored(**tensors | {"z": z}, out=out, backend="cpu")
    k.lowrank_pixel_shuffle_stored(**tensors, out=near, backend="cpu")
    assert torch.equal(out, near)


@pytest.mark.parametrize("served_by", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(served_by: str, dtype: torch.dtype) -> None:
    tensors = _tensors(2, 3, 4, 5, 6, 2)
    del tensors["upscale_factor"]
    for rows in ((1, 4), (2, 2)):
        out = _out({**tensors, "upscale_factor": 2}, dtype, rows)
        operator = torch.ops.lkca_kernels.lowrank_pixel_shuffle_stored.default
        torch.library.opcheck(operator, (*tensors.values(), 2, "matlab", *rows, served_by), {"out": out})


@pytest.mark.parametrize("served_by", BACKENDS)
def test_compiled_whole_with_symbolic_sizes(served_by: str) -> None:
    compiled = torch.compile(
        lambda **given: k.lowrank_pixel_shuffle_stored(**given, backend=served_by),
        backend="aot_eager", fullgraph=True, dynamic=True,
    )  # fmt: skip
    for h, w in ((5, 6), (9, 4)):
        tensors = _tensors(1, 3, 4, h, w, 2)
        out, plain = (_out(tensors, torch.int16, (1, h)) for _ in range(2))
        found = compiled(**tensors, rows=(1, h), out=out)
        expected = k.lowrank_pixel_shuffle_stored(**tensors, rows=(1, h), out=plain, backend=served_by)
        assert torch.equal(out, plain) and torch.equal(found, expected)


def test_wrong_arguments_are_named() -> None:
    good = _tensors(2, 3, 4, 5, 6, 2)
    out = _out(good, torch.int16, (0, 5))
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (TypeError, "z: expected float32, got torch.float64", {"z": good["z"].double()}),
        (TypeError, "weight: expected a tensor (C*s*s, R), got None", {"weight": None}),
        (ValueError, "weight: expected (C*s*s, R) with s*s = 4 and R = 4", {"weight": good["weight"][:, :3]}),
        (ValueError, "weight: expected (C*s*s, R) with s*s = 4 and R = 4", {"weight": torch.tensor(1.0)}),
        (ValueError, "bias: expected (C*s*s,) = (12,)", {"bias": good["bias"][:3]}),
        (ValueError, "skip: expected (B, C, h, w) = (2, 3, 5, 6)", {"skip": torch.zeros(2, 3, 10, 12)}),
        (ValueError, "least: expected (C,) = (3,)", {"least": torch.zeros(1)}),
        (ValueError, "gain: expected (C,) = (3,)", {"gain": torch.zeros(3, 1)}),
        (TypeError, "gain: expected torch.float32, the dtype of z", {"gain": torch.zeros(3).double()}),
        (ValueError, "rows: expected (first, last) within 0 and h = 5, got (2, 6)", {"rows": (2, 6)}),
        (ValueError, "rows: expected (first, last) within 0 and h = 5, got (4, 3)", {"rows": (4, 3)}),
        (TypeError, "rows: expected two integers (first, last), got 3", {"rows": 3}),
        (TypeError, "rows: expected an integer, got float", {"rows": (0.0, 2.0)}),
        (ValueError, "upscale_factor: expected at least 2, got 1", {"upscale_factor": 1}),
        (ValueError, "skip_bicubic: expected 'matlab' or 'torch'", {"skip_bicubic": "cubic"}),
        (TypeError, "out: expected one of torch.int16, torch.uint16, torch.float32, got", {"out": out.int()}),
        (TypeError, "out: expected a tensor, got NoneType", {"out": None}),
        (ValueError, "out: expected the result's shape = (2, 3, 10, 12)", {"out": out[:1]}),
        (ValueError, "out: expected a tensor that is dense", {"out": out.mT.contiguous().mT}),
        (ValueError, "out: given while z requires a gradient", {"z": good["z"].clone().requires_grad_()}),
        (BackendError, "lowrank_pixel_shuffle_stored: backend 'triton'", {"backend": "triton"}),
        (BackendError, "lowrank_pixel_shuffle_stored: backend 'cuda'", {"backend": "cuda"}),
    ]  # fmt: skip
    for kind, message, changed in wrong:
        with pytest.raises(kind) as caught:
            k.lowrank_pixel_shuffle_stored(**good | {"out": out} | changed)
        assert str(caught.value).startswith(message), caught.value
