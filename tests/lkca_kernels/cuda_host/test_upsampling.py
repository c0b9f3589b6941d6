"""``lowrank_pixel_shuffle`` and ``pixel_shuffle_epilogue``."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lkca_kernels import cuda, reference

from .cases import BOUND, DTYPES, check_gradients, doubles, random, rms, upsampling_inputs, with_sentinels

# (B, C, R, h, w, s): ones, primes, tiles that end within a row, ranks over one operand tile, rows of whole vectors
# and not, the narrowest rows that are interpolated on the tensor cores.
SHAPES = [
    (1, 1, 1, 1, 1, 2),
    (1, 3, 5, 4, 8, 2),
    (2, 5, 32, 9, 16, 4),
    (1, 7, 70, 5, 7, 3),
    (1, 2, 1, 13, 11, 5),
    (2, 3, 16, 3, 2, 8),
    (1, 1, 3, 2, 3, 17),
    (1, 45, 7, 3, 52, 2),
    (2, 17, 17, 5, 30, 4),
    (1, 11, 32, 13, 11, 8),
    (1, 9, 40, 9, 4, 4),
    (2, 19, 12, 23, 6, 4),
]
SKIPS = ["none", "hr", "matlab", "torch"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lowrank_pixel_shuffle(grid: ctypes.CDLL, shape: tuple[int, ...], skip: str, dtype: torch.dtype) -> None:
    full = skip != "torch"  # without bias and gate there
    inputs, convention = upsampling_inputs(shape, skip, dtype, full)
    b, c, _, h, w, s = shape
    exact = doubles(inputs)
    expected = reference.lowrank_pixel_shuffle(*exact, upscale_factor=s, skip_bicubic=convention)
    out, room = with_sentinels((b, c, h * s, w * s), dtype)
    options = {"upscale_factor": s, "skip_bicubic": convention}
    assert cuda.lowrank_pixel_shuffle_fwd(*inputs, **options, out=out) is out
    assert rms(out, expected.detach()) < BOUND[dtype]
    assert (room[:32] == 77).all() and (room[-32:] == 77).all()

    grad_out = random(b, c, h * s, w * s, dtype=dtype, seed=6)
    needs = (True, True, full, full, skip in ("matlab", "torch"))
    got = cuda.lowrank_pixel_shuffle_bwd(grad_out, *inputs, **options, needs=needs)
    expected.backward(grad_out.double())
    if skip == "hr":
        exact[4] = None
    check_gradients(got, exact, dtype)


def test_an_overflowed_sum_that_nothing_multiplies(grid: ctypes.CDLL) -> None:
    """Without a bias the gradient of the gate is that of the product alone: inf, no 0 · inf."""
    z, weight, gate = torch.ones(1, 1, 2, 2), torch.ones(4, 1), torch.ones(1, 1)
    grad_out = torch.zeros(1, 1, 4, 4)
    grad_out[0, 0, 0, 0] = torch.inf
    found = cuda.lowrank_pixel_shuffle_bwd(
        grad_out, z, weight, None, gate, None, upscale_factor=2, skip_bicubic="matlab",
        needs=(False, False, False, True, False),
    )  # fmt: skip
    assert found[3] is not None and found[3].item() == torch.inf


# (h, w): one row and two, several rows in a tile, and none; the last tile may be short. Rows of whole vectors from 16.
@pytest.mark.parametrize(
    "size",
    [(1, 6), (2, 130), (11, 22), (37, 8), (3, 150), (5, 4), (43, 6), (9, 16), (7, 24), (5, 40), (2, 136)],
    ids=str,
)
@pytest.mark.parametrize("convention", ["matlab", "torch"])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_low_res_skip_alone(grid: ctypes.CDLL, dtype: torch.dtype, convention: str, size: tuple[int, int]) -> None:
    """The interpolated skip is right to half an ulp of the result, and what is not finite stays near."""
    h, w = size
    channels, options = 35, {"upscale_factor": 4, "skip_bicubic": convention}
    z, weight = random(1, 3, h, w, dtype=dtype, seed=1), torch.zeros(channels * 16, 3, dtype=dtype)
    skip = random(1, channels, h, w, dtype=dtype, seed=2)

    def compare(given: Tensor) -> tuple[Tensor, Tensor]:
        expected = reference.lowrank_pixel_shuffle(z.double(), weight.double(), None, None, given.double(), **options)
        return cuda.lowrank_pixel_shuffle_fwd(z, weight, None, None, given, **options), expected

    found, expected = compare(skip)
    # 2^-17 of each of the 16 terms, which are 5 at most
    allowed = expected.abs() * torch.finfo(dtype).eps / 2 + 16 * 5 * 2**-17
    assert ((found - expected).abs() <= allowed).all() and rms(found, expected) < torch.finfo(dtype).eps / 3

    for value in (float("nan"), float("inf")):
        given = skip.clone()
        at = torch.randint(h * w, (channels,), generator=torch.Generator().manual_seed(3))
        at[:4] = torch.tensor([0, w - 1, (h - 1) * w, h * w - 1])
        given.view(channels, -1)[torch.arange(channels), at] = value
        found, expected = compare(given)
        lost, reached = ~found.isfinite(), ~expected.isfinite()
        near = torch.nn.functional.max_pool2d(reached.float(), 9, stride=1, padding=4) > 0
        assert reached.any() and (lost | ~reached).all() and (near | ~lost).all()

    room = torch.zeros(skip.numel() + 1, dtype=dtype)  # words of the skip that are not aligned
    found, expected = compare(room[1:].view(skip.shape).copy_(skip))
    assert rms(found, expected) < torch.finfo(dtype).eps / 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixel_shuffle_epilogue(grid: ctypes.CDLL, shape: tuple[int, ...], skip: str, dtype: torch.dtype) -> None:
    (_, _, _, gate, added), convention = upsampling_inputs(shape, skip, dtype, skip != "torch")
    b, c, _, h, w, s = shape
    inputs = [random(b, c * s * s, h, w, dtype=dtype, seed=7), gate, added]
    exact = doubles(inputs)
    expected = reference.pixel_shuffle_epilogue(*exact, upscale_factor=s, skip_bicubic=convention)
    out, room = with_sentinels((b, c, h * s, w * s), dtype)
    options = {"upscale_factor": s, "skip_bicubic": convention}
    cuda.pixel_shuffle_epilogue_fwd(*inputs, **options, out=out)
    assert rms(out, expected.detach()) < BOUND[dtype]
    assert (room[:32] == 77).all() and (room[-32:] == 77).all()

    grad_out = random(b, c, h * s, w * s, dtype=dtype, seed=6)
    needs = (True, gate is not None, skip in ("matlab", "torch"))
    got = cuda.pixel_shuffle_epilogue_bwd(grad_out, *inputs, **options, needs=needs)
    expected.backward(grad_out.double())
    if skip == "hr":
        exact[2] = None
    check_gradients(got, exact, dtype)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(grid: ctypes.CDLL, data: st.DataObject) -> None:
    integer = st.integers
    sizes = [integer(1, 2), integer(1, 6), integer(1, 40), integer(1, 7), integer(1, 9), integer(2, 9)]
    shape = tuple(data.draw(st.tuples(*sizes)))
    dtype, skip = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(SKIPS))
    inputs, convention = upsampling_inputs(shape, skip, dtype, data.draw(st.booleans()))
    options = {"upscale_factor": shape[-1], "skip_bicubic": convention}
    exact = doubles(inputs)
    expected = reference.lowrank_pixel_shuffle(*exact, **options)
    assert rms(cuda.lowrank_pixel_shuffle_fwd(*inputs, **options), expected.detach()) < BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_at_most_twice_the_error_of_pytorch_in_the_same_dtype(grid: ctypes.CDLL, dtype: torch.dtype) -> None:
    inputs, _ = upsampling_inputs((2, 4, 32, 12, 16, 4), "hr", dtype, True)
    grad_out = random(2, 4, 48, 64, dtype=dtype, seed=6)
    options = {"upscale_factor": 4, "skip_bicubic": "matlab"}

    def eager(tensors: list[Tensor | None]) -> list[Tensor]:
        z, weight, bias, gate, skip = tensors
        y = torch.nn.functional.conv2d(z, weight[:, :, None, None], bias)
        out = torch.nn.functional.pixel_shuffle(y, 4) * gate[:, :, None, None] + skip
        out.backward(grad_out.to(out.dtype))
        return [out.detach(), *[t.grad for t in (z, weight, bias, gate)]]

    exact = eager(doubles(inputs))
    theirs = eager([t.clone().requires_grad_() for t in inputs])
    needs = (True, True, True, True, False)
    ours = [cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)]
    ours += cuda.lowrank_pixel_shuffle_bwd(grad_out, *inputs, **options, needs=needs)[:4]
    for name, our, their, right in zip(["out", "z", "weight", "bias", "gate"], ours, theirs, exact, strict=True):
        assert rms(our, right) <= 2 * rms(their, right), name


def test_infinities_stay_in_their_channel(grid: ctypes.CDLL) -> None:
    """What a tile leaves out is zero, not what an earlier tile left there: inf * 0 would be NaN elsewhere."""
    for dtype in DTYPES:
        inputs, _ = upsampling_inputs((1, 5, 8, 3, 43, 4), "none", dtype, True)
        grad_out = random(1, 5, 12, 172, dtype=dtype, seed=6)
        grad_out[:, 0] = float("inf")
        options = {"upscale_factor": 4, "skip_bicubic": "matlab"}
        needs = (False, True, True, True, False)
        got = cuda.lowrank_pixel_shuffle_bwd(grad_out, *inputs, **options, needs=needs)
        assert got[1][16:].isfinite().all() and got[2][16:].isfinite().all() and got[3][:, 1:].isfinite().all()


def test_offsets_past_two_to_the_31(emulation: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block of an output with more than 2^31 elements; the rest of its memory is never touched."""
    monkeypatch.setattr(cuda, "_ops", lambda: torch.ops.lkca_cuda_emulated)
    b, c, r, h, w, s = 1, 520, 1, 256, 256, 8
    z, weight = random(b, r, h, w, dtype=torch.bfloat16, seed=1), random(c * s * s, r, dtype=torch.bfloat16, seed=2)
    out = torch.empty(b, c, h * s, w * s, dtype=torch.bfloat16)
    assert out.numel() > 2**31
    emulation.lkca_emulation_only_last(1)
    try:
        cuda.lowrank_pixel_shuffle_fwd(z, weight, None, None, None, upscale_factor=s, skip_bicubic="matlab", out=out)
    finally:
        emulation.lkca_emulation_only_last(0)
    rows = weight[-s * s :].double()
    expected = torch.nn.functional.pixel_shuffle(torch.einsum("mr,brhw->bmhw", rows, z[:, :, -1:, 128:].double()), s)
    assert rms(out[:, -1:, -s:, 128 * s :], expected) < BOUND[torch.bfloat16]
