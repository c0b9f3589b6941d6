"""Triton kernels of the upsampling operators against the float64 reference.

On a GPU where there is one, else in Triton's interpreter (``TRITON_INTERPRET=1``, set before Triton is imported; the
second pytest call of ``make test`` does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels import triton as backend

pytestmark = pytest.mark.skipif(backend.unavailable() is not None, reason=f"Triton backend {backend.unavailable()}")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE.type == "cuda" else [])

# RMS ratio to the float64 result of the same inputs. float32: sums of up to a few hundred products, a few units of
# 2**-24. 16 bits: the stored result is rounded once, by 2**-11 (2**-8 for bfloat16) at most. The backward pass rounds
# gate * W as well before its product, as PyTorch's own rounds gate * grad; sums that cancel show it.
BOUND = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
BOUND_GRAD = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

# B, C, R, h, w, s: primes and ones; several row blocks, pixel blocks and rank slices, and tiles that straddle rows.
SHAPES = [
    pytest.param(2, 5, 7, 3, 23, 2, id="primes-x2"),
    pytest.param(1, 3, 33, 3, 16, 3, id="two-rank-slices-x3"),
    pytest.param(1, 7, 3, 1, 1, 4, id="one-pixel-x4"),
    pytest.param(1, 3, 1, 3, 23, 4, id="rank-one-x4"),
    pytest.param(2, 1, 5, 3, 7, 5, id="one-channel-x5"),
    pytest.param(1, 3, 2, 2, 5, 8, id="x8"),
]
# test_arithmetic runs the whole matrix; here every tile path meets every kind of skip and both widths of storage once.
SKIPS = [("hr", torch.float32), ("torch", torch.float32), *(("matlab", dtype) for dtype in DTYPES[1:])]


def _options(kind: str, s: int) -> dict[str, object]:
    return {"upscale_factor": s, "skip_bicubic": "torch" if kind == "torch" else "matlab"}


def _skip(kind: str, low: tuple[int, ...], s: int, randn: Callable[..., Tensor]) -> Tensor | None:
    if kind == "none":
        return None
    return randn(*low[:2], low[2] * s, low[3] * s) if kind == "hr" else randn(*low)


@pytest.fixture
def randn() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    return make


def error(found: Tensor, wanted: Tensor) -> float:
    """RMS ratio; NaN (an element never written) passes no comparison."""
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def differentiate(
    function: Callable[..., Tensor], tensors: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Result and gradients of a reference, in float64."""
    inputs = [None if t is None else t.double().requires_grad_() for t in tensors]
    out = function(*inputs)
    gradients = iter(torch.autograd.grad(out, [t for t in inputs if t is not None], grad.double()))
    return out.detach(), [None if t is None else next(gradients) for t in inputs]


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


@pytest.mark.parametrize(("kind", "dtype"), SKIPS)
@pytest.mark.parametrize(("batch", "channels", "rank", "h", "w", "s"), SHAPES)
def test_lowrank_forward_and_backward(batch, channels, rank, h, w, s, kind, dtype, randn) -> None:
    z, weight, bias = (
        randn(*n).to(dtype) for n in ((batch, rank, h, w), (channels * s * s, rank), (channels * s * s,))
    )
    gate = randn(batch, channels).to(dtype)
    skip = _skip(kind, (batch, channels, h, w), s, randn)
    tensors = [z, weight, bias, gate, None if skip is None else skip.to(dtype)]
    options = _options(kind, s)
    grad = randn(batch, channels, h * s, w * s).to(dtype)
    wanted, gradients = differentiate(lambda *t: reference.lowrank_pixel_shuffle(*t, **options), tensors, grad)

    out = poisoned(batch, channels, h * s, w * s, dtype=dtype)
    assert backend.lowrank_pixel_shuffle_fwd(*tensors, **options, out=out) is out
    same_dtype = reference.lowrank_pixel_shuffle(*tensors, **options)
    assert error(out, wanted) < BOUND[dtype]
    assert error(out, wanted) <= 2 * error(same_dtype, wanted) + 1e-7

    needs = (True, True, True, True, kind in ("matlab", "torch"))
    found = backend.lowrank_pixel_shuffle_bwd(grad, *tensors, **options, needs=needs)
    for name, got, want, tensor, need in zip(
        ["z", "weight", "bias", "gate", "skip"], found, gradients, tensors, needs, strict=True
    ):
        if not need:
            assert got is None
            continue
        assert got.dtype == dtype and got.shape == tensor.shape, name
        assert error(got, want) < BOUND_GRAD[dtype], name


@pytest.mark.parametrize(("kind", "dtype"), SKIPS)
@pytest.mark.parametrize(("batch", "channels", "rank", "h", "w", "s"), SHAPES)
def test_epilogue_forward_and_backward(batch, channels, rank, h, w, s, kind, dtype, randn) -> None:
    y, gate = randn(batch, channels * s * s, h, w).to(dtype), randn(batch, channels).to(dtype)
    skip = _skip(kind, (batch, channels, h, w), s, randn)
    tensors = [y, gate, None if skip is None else skip.to(dtype)]
    options = _options(kind, s)
    grad = randn(batch, channels, h * s, w * s).to(dtype)
    wanted, gradients = differentiate(lambda *t: reference.pixel_shuffle_epilogue(*t, **options), tensors, grad)

    out = poisoned(batch, channels, h * s, w * s, dtype=dtype)
    backend.pixel_shuffle_epilogue_fwd(*tensors, **options, out=out)
    assert error(out, wanted) < BOUND[dtype]
    # The adjoint of the bicubic skip is one function for both operators, and tested with the other one.
    d_y, d_gate, d_skip = backend.pixel_shuffle_epilogue_bwd(grad, *tensors, **options, needs=(True, True, False))
    assert d_skip is None
    assert error(d_y, gradients[0]) < BOUND[dtype]
    assert error(d_gate, gradients[1]) < BOUND[dtype]


@pytest.mark.parametrize("absent", ["bias", "gate", "both"])
def test_optional_tensors(absent: str, randn) -> None:
    z, weight = randn(1, 3, 2, 5), randn(12, 3)
    bias = None if absent in ("bias", "both") else randn(12)
    gate = None if absent in ("gate", "both") else randn(1, 3)
    tensors, grad = [z, weight, bias, gate], randn(1, 3, 4, 10)
    options = {"upscale_factor": 2, "skip_bicubic": "matlab"}
    wanted, gradients = differentiate(lambda *t: reference.lowrank_pixel_shuffle(*t, None, **options), tensors, grad)
    out = backend.lowrank_pixel_shuffle_fwd(*tensors, None, **options)
    assert out.is_contiguous() and error(out, wanted) < BOUND[torch.float32]
    needs = tuple(t is not None for t in (*tensors, None))
    found = backend.lowrank_pixel_shuffle_bwd(grad, *tensors, None, **options, needs=needs)
    for got, want in zip(found, gradients, strict=False):
        assert (got is None) == (want is None)
        assert want is None or error(got, want) < BOUND[torch.float32]

    y = randn(1, 12, 2, 5)
    found = backend.pixel_shuffle_epilogue_bwd(grad, y, gate, None, **options, needs=(True, gate is not None, False))
    _, gradients = differentiate(lambda *t: reference.pixel_shuffle_epilogue(*t, None, **options), [y, gate], grad)
    assert error(found[0], gradients[0]) < BOUND[torch.float32]
    assert (found[1] is None) == (gate is None)


@pytest.mark.parametrize("needed", range(5))
def test_one_gradient_alone_equals_the_joint_pass(needed: int, randn) -> None:
    tensors = [randn(1, 2, 3, 11), randn(9 * 16, 2), randn(9 * 16), randn(1, 9), randn(1, 9, 3, 11)]
    grad = randn(1, 9, 12, 44)
    options = {"upscale_factor": 4, "skip_bicubic": "torch"}
    _, gradients = differentiate(lambda *t: reference.lowrank_pixel_shuffle(*t, **options), tensors, grad)
    needs = tuple(k == needed for k in range(5))
    found = backend.lowrank_pixel_shuffle_bwd(grad, *tensors, **options, needs=needs)
    assert [t is not None for t in found] == list(needs)
    assert error(found[needed], gradients[needed]) < BOUND[torch.float32]


@pytest.mark.parametrize(("w", "s", "convention"), [(1, 2, "torch"), (5, 3, "matlab"), (23, 2, "matlab")])
def test_programs_that_go_along_the_image(w: int, s: int, convention: str, randn, monkeypatch) -> None:
    """Few and small tiles: steps from pixels to pixels over the ends of rows, and rows of sums from block to block."""
    from lkca_kernels.triton import bicubic, config, lowrank_bwd

    tile = config.ShuffleTile(8, 16, 16, 4)
    monkeypatch.setattr(lowrank_bwd, "backward_weight_tiles", lambda *_: (tile,))
    monkeypatch.setattr(lowrank_bwd, "backward_input_tiles", lambda *_: (tile,))
    monkeypatch.setattr(lowrank_bwd, "splits", lambda blocks, *_: (2, -(-blocks // 2)) if blocks > 2 else (1, blocks))
    monkeypatch.setattr(bicubic, "adjoint_tiles", lambda _: (config.AdjointTile(64, 4),))
    tensors = [randn(1, 3, 7, w), randn(3 * s * s, 3), randn(3 * s * s), randn(1, 3), randn(1, 3, 7, w)]
    grad, options = randn(1, 3, 7 * s, w * s), {"upscale_factor": s, "skip_bicubic": convention}
    _, gradients = differentiate(lambda *t: reference.lowrank_pixel_shuffle(*t, **options), tensors, grad)
    found = backend.lowrank_pixel_shuffle_bwd(grad, *tensors, **options, needs=(True,) * 5)
    for got, want in zip(found, gradients, strict=True):
        assert error(got, want) < BOUND[torch.float32]


@pytest.mark.parametrize("convention", ["matlab", "torch"])
@pytest.mark.parametrize(("s", "w"), [(2, 2), (2, 4), (2, 10), (4, 6), (4, 8), (8, 3), (8, 4)])
def test_low_res_skip_by_groups_of_pixels(s: int, w: int, convention: str, randn) -> None:
    """Groups that an LR row ends in, begins with and holds; of an even width samples are read two at a time."""
    z, weight, skip = randn(1, 2, 3, w), randn(3 * s * s, 2), randn(1, 3, 3, w)
    options = {"upscale_factor": s, "skip_bicubic": convention}
    wanted = reference.lowrank_pixel_shuffle(z.double(), weight.double(), None, None, skip.double(), **options)
    found = backend.lowrank_pixel_shuffle_fwd(z, weight, None, None, skip, **options)
    assert error(found, wanted) < BOUND[torch.float32]
    y = randn(1, 3 * s * s, 3, w)
    wanted = reference.pixel_shuffle_epilogue(y.double(), None, skip.double(), **options)
    assert error(backend.pixel_shuffle_epilogue_fwd(y, None, skip, **options), wanted) < BOUND[torch.float32]


@pytest.mark.parametrize("kind", ["none", "hr", "matlab"])
@pytest.mark.parametrize(("channels", "rank", "s"), [(37, 3, 2), (11, 3, 3), (19, 3, 4), (7, 17, 8)])
def test_programs_that_go_along_the_rows(channels: int, rank: int, s: int, kind: str, randn, monkeypatch) -> None:
    """Two programs for the rows of a pixel, of several steps each; at x8 the sums of a channel take two programs."""
    from lkca_kernels.triton import lowrank_fwd

    made: list[tuple[int, int]] = []

    def in_two(blocks: int, *_: int) -> tuple[int, int]:
        made.append((2, -(-blocks // 2)))
        return made[-1]

    monkeypatch.setattr(lowrank_fwd, "splits", in_two)
    tensors = [randn(1, rank, 2, 6), randn(channels * s * s, rank), randn(channels * s * s), randn(1, channels)]
    tensors.append(_skip(kind, (1, channels, 2, 6), s, randn))
    grad, options = randn(1, channels, 2 * s, 6 * s), _options(kind, s)
    wanted, gradients = differentiate(lambda *t: reference.lowrank_pixel_shuffle(*t, **options), tensors, grad)
    assert error(backend.lowrank_pixel_shuffle_fwd(*tensors, **options), wanted) < BOUND[torch.float32]
    assert made[0][1] > 1
    if kind == "none":
        needs = (False, True, True, True, False)
        found = backend.lowrank_pixel_shuffle_bwd(grad, *tensors, **options, needs=needs)
        for got, want in zip(found[1:4], gradients[1:4], strict=True):
            assert error(got, want) < BOUND_GRAD[torch.float32]


def test_strided_inputs_and_layouts(randn) -> None:
    """channels_last, sliced, expanded and misaligned inputs; gradients come in the layout of their input."""
    options = {"upscale_factor": 2, "skip_bicubic": "matlab"}
    z = randn(2, 5, 4, 7).contiguous(memory_format=torch.channels_last)
    weight = randn(5, 20).T
    bias = randn(41)[1::2]
    gate = randn(1, 5).expand(2, 5)
    skip = randn(2, 5, 8, 14)[:, :, ::2, ::2]
    grad = randn(2, 5, 1, 1).expand(2, 5, 8, 14)
    tensors = [z, weight, bias, gate, skip]
    wanted, gradients = differentiate(lambda *t: reference.lowrank_pixel_shuffle(*t, **options), tensors, grad)
    assert error(backend.lowrank_pixel_shuffle_fwd(*tensors, **options), wanted) < BOUND[torch.float32]
    found = backend.lowrank_pixel_shuffle_bwd(grad, *tensors, **options, needs=(True,) * 5)
    for got, want in zip(found, gradients, strict=True):
        assert error(got, want) < BOUND[torch.float32]
    assert found[0].stride() == z.stride()
    assert all(t.is_contiguous() for t in found[1:])

    high = randn(2, 7, 8, 30)[:, 1:6, :, 1:15]
    y = randn(2, 20, 4, 9)[..., 1:8]
    for stack in (y, y.contiguous(memory_format=torch.channels_last)):
        tensors = [stack, gate, high]
        wanted, gradients = differentiate(lambda *t: reference.pixel_shuffle_epilogue(*t, **options), tensors, grad)
        assert error(backend.pixel_shuffle_epilogue_fwd(*tensors, **options), wanted) < BOUND[torch.float32]
        d_y, d_gate, _ = backend.pixel_shuffle_epilogue_bwd(grad, *tensors, **options, needs=(True, True, False))
        assert error(d_y, gradients[0]) < BOUND[torch.float32] and error(d_gate, gradients[1]) < BOUND[torch.float32]
        channels_last = stack.is_contiguous(memory_format=torch.channels_last)
        assert d_y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_writes_stay_inside_out(randn) -> None:
    """Every element of ``out`` is written and none around it, with strides of its own."""
    sentinel = 12345.0
    for s, channels, h, w in ((2, 3, 3, 5), (3, 5, 2, 5), (4, 5, 3, 9)):
        around = torch.full((1, channels + 2, h * s + 2, w * s + 2), sentinel, device=DEVICE)
        inside = around[:, 1:-1, 1:-1, 1:-1]
        inside.fill_(float("nan"))
        z, weight = randn(1, 2, h, w), randn(channels * s * s, 2)
        backend.lowrank_pixel_shuffle_fwd(
            z, weight, None, None, None, upscale_factor=s, skip_bicubic="matlab", out=inside
        )
        wanted = reference.lowrank_pixel_shuffle(z.double(), weight.double(), None, None, None, upscale_factor=s)
        assert error(inside, wanted) < BOUND[torch.float32]
        inside.fill_(sentinel)
        assert (around == sentinel).all()


def test_addresses_past_two_to_the_31(randn) -> None:
    """Offsets that 32 bits cannot hold, over memory that is reserved but hardly touched.

    Every product of an index and a stride is taken past 2**31 elements: one that is computed in 32 bits wraps around
    and reads (or writes) far outside the tensor.
    """
    s, options = 2, {"upscale_factor": 2, "skip_bicubic": "matlab"}
    far = 2**30 + 3
    heap = torch.empty(4 * far + 64, dtype=torch.float16, device=DEVICE)

    def spread(tensor: Tensor, dim: int) -> Tensor:
        """The same values, ``far`` elements apart along ``dim``."""
        others = torch.empty([n for k, n in enumerate(tensor.shape) if k != dim]).stride()
        strides = [*others[:dim], far, *others[dim:]]
        return heap.as_strided(tensor.shape, strides).copy_(tensor)

    z, weight = randn(1, 4, 1, 3, dtype=torch.float16), randn(16, 4, dtype=torch.float16)
    wanted = reference.lowrank_pixel_shuffle(z.double(), weight.double(), None, None, None, **options)

    def check(out: Tensor) -> None:
        assert error(out, wanted) < BOUND[torch.float16]

    check(backend.lowrank_pixel_shuffle_fwd(spread(z, 1), weight, None, None, None, **options))
    check(backend.lowrank_pixel_shuffle_fwd(z, spread(weight, 1), None, None, None, **options))
    out = heap.as_strided((1, 4, 2, 6), (0, far, 6, 1))
    check(backend.lowrank_pixel_shuffle_fwd(z, weight, None, None, None, **options, out=out))
    high = randn(1, 1, 4, 2, dtype=torch.float16)  # rows far apart: an image of 4 rows
    small = randn(1, 1, 2, 1, dtype=torch.float16), randn(4, 1, dtype=torch.float16)
    found = backend.lowrank_pixel_shuffle_fwd(*small, None, None, spread(high, 2), **options)
    plain = reference.lowrank_pixel_shuffle(*(t.double() for t in small), None, None, high.double(), **options)
    assert error(found, plain) < BOUND[torch.float16]
    low = randn(1, 4, 1, 3, dtype=torch.float16)
    found = backend.lowrank_pixel_shuffle_fwd(z, weight, None, None, spread(low, 1), **options)
    assert (
        error(found, reference.lowrank_pixel_shuffle(z.double(), weight.double(), None, None, low.double(), **options))
        < 5e-4
    )

    grad = randn(1, 4, 2, 6, dtype=torch.float16)
    _, gradients = differentiate(
        lambda *t: reference.lowrank_pixel_shuffle(*t, None, None, low.double(), **options), [z, weight], grad
    )
    needs = (True, True, False, False, False)
    found = backend.lowrank_pixel_shuffle_bwd(spread(grad, 1), z, weight, None, None, None, **options, needs=needs)
    assert error(found[0], gradients[0]) < BOUND[torch.float16] and error(found[1], gradients[1]) < BOUND[torch.float16]
    y = randn(1, 4 * s * s, 1, 3, dtype=torch.float16)
    stack = heap.as_strided(y.shape, (0, far // 4, 3, 1)).copy_(y)
    found = backend.pixel_shuffle_epilogue_fwd(stack, None, None, **options)
    assert error(found, reference.pixel_shuffle_epilogue(y.double(), None, None, **options)) < BOUND[torch.float16]


def test_two_runs_give_the_same_bits(randn) -> None:
    tensors = [randn(2, 3, 5, 13), randn(20, 3), randn(20), randn(2, 5), randn(2, 5, 5, 13)]
    grad, options = randn(2, 5, 10, 26), {"upscale_factor": 2, "skip_bicubic": "matlab"}
    runs = [backend.lowrank_pixel_shuffle_bwd(grad, *tensors, **options, needs=(True,) * 5) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
