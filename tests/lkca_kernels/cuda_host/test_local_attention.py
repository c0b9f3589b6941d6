"""``local_channel_attention``."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lkca_kernels import cuda, reference

from .cases import BOUND, DTYPES, FIRST, check_gradients, doubles, local_inputs, random, rms, with_sentinels

# (B, C, hidden, H, W, window): ones, primes, windows of one pixel and wider than the image, hidden channels of one part
# (either size) and of several, more than 64 rows of fields, tiles that end within a row, whole vectors and not.
WINDOWS = [
    (1, 1, 1, 1, 1, 1),
    (2, 7, 2, 5, 11, 3),
    (1, 67, 17, 19, 23, 9),
    (2, 5, 3, 13, 1, 31),
    (1, 3, 70, 2, 8, 101),
    (1, 130, 16, 9, 32, 5),
    (2, 64, 33, 12, 16, 7),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", WINDOWS, ids=str)
@pytest.mark.parametrize("with_residual", [False, True], ids=["", "residual"])
def test_local_channel_attention(
    grid: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype, with_residual: bool
) -> None:
    x, w1, w2, residual = local_inputs(shape, dtype)
    residual = residual if with_residual else None
    exact = doubles([x, w1, w2])
    window = shape[-1]
    expected = reference.local_channel_attention(
        *exact, residual=None if residual is None else residual.double(), window=window
    )
    out, room = with_sentinels(tuple(x.shape), dtype)
    assert cuda.local_channel_attention_fwd(x, w1, w2, residual, window=window, out=out) is out
    assert rms(out, expected.detach()) < BOUND[dtype]
    assert (room[:32] == 77).all() and (room[-32:] == 77).all()

    grad_out = random(*x.shape, dtype=dtype, seed=9)
    expected.backward(grad_out.double())
    got = cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=window, needs=(True,) * 3)
    check_gradients(got, exact, dtype)
    for i in range(3):  # each alone has the same bits
        needs = (i == 0, i == 1, i == 2)
        alone = cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=window, needs=needs)
        assert torch.equal(alone[i], got[i]) and [g is not None for g in alone] == list(needs)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_local_channel_attention_of_any_shape(grid: ctypes.CDLL, data: st.DataObject) -> None:
    integer = st.integers
    sizes = [integer(1, 2), integer(1, 20), integer(1, 40), integer(1, 9), integer(1, 40), integer(0, 12)]
    *shape, reach = data.draw(st.tuples(*sizes))
    dtype, window = data.draw(st.sampled_from(DTYPES)), 2 * reach + 1
    x, w1, w2, residual = local_inputs((*shape, window), dtype)
    exact = doubles([x, w1, w2])
    expected = reference.local_channel_attention(*exact, residual=residual.double(), window=window)
    out = cuda.local_channel_attention_fwd(x, w1, w2, residual, window=window)
    assert rms(out, expected.detach()) < BOUND[dtype]
    grad_out = random(*x.shape, dtype=dtype, seed=9)
    expected.backward(grad_out.double())
    got = cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=window, needs=(True,) * 3)
    check_gradients(got, exact, dtype, cancelled=20)  # the few terms of the smallest shapes


def test_local_channel_attention_of_zeros_and_infinities(grid: ctypes.CDLL) -> None:
    """Empty surroundings give gates of 1 and no NaN; what is not finite stays within the windows that hold it."""
    x, w1, w2, _ = local_inputs((1, 5, 3, 9, 20, 3), torch.float32)
    x[..., :10] = 0
    x[0, 2, 4, 15] = float("inf")
    out = cuda.local_channel_attention_fwd(x, w1, w2, None, window=3)
    assert (out[..., :9] == 0).all() and out[..., 17:].isfinite().all()
    assert not out[..., 3:6, 14:17].isfinite().all()
    grad_x = cuda.local_channel_attention_bwd(torch.ones_like(x), x, w1, w2, window=3, needs=(True, False, False))[0]
    assert (grad_x[..., :8] == 1).all() and grad_x[..., 18:].isfinite().all()
    expected = reference.local_channel_attention(x.double(), w1.double(), w2.double(), window=3)
    assert torch.equal(out.isnan(), expected.isnan())


def test_local_channel_attention_past_two_to_the_31(emulation: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block of every launch, for x with more than 2^31 elements, nearly all of them pages never touched."""
    monkeypatch.setattr(cuda, "_ops", lambda: torch.ops.lkca_cuda_emulated)
    b, c, h, w = 131100, 64, 16, 16
    (last, w1, w2, _), dtype = local_inputs((1, c, 1, h, w, 3), torch.bfloat16), torch.bfloat16
    x, grad_out, out = (torch.empty(b, c, h, w, dtype=dtype) for _ in range(3))
    assert x.numel() > 2**31
    x[-1:], grad_out[-1:] = last, random(1, c, h, w, dtype=dtype, seed=9)
    monkeypatch.setattr(cuda, "_wanted", lambda tensors, needs: [out, None, None])
    exact = doubles([last, w1, w2])
    expected = reference.local_channel_attention(*exact, window=3)
    expected.backward(grad_out[-1:].double())
    emulation.lkca_emulation_only_last(1)
    try:
        cuda.local_channel_attention_fwd(x, w1, w2, None, window=3, out=out)
        # Its tile begins at row 8, and what lies above was not mixed.
        assert rms(out[-1:, :, 9:], expected.detach()[:, :, 9:]) < BOUND[dtype]
        cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=3, needs=(True, False, False))
        assert rms(out[-1:, :, 10:], exact[0].grad[:, :, 10:]) < FIRST[dtype]
    finally:
        emulation.lkca_emulation_only_last(0)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_local_channel_attention_at_most_twice_the_error_of_pytorch(grid: ctypes.CDLL, dtype: torch.dtype) -> None:
    x, w1, w2, _ = local_inputs((1, 24, 8, 12, 16, 5), dtype)
    grad_out = random(*x.shape, dtype=dtype, seed=9)

    def eager(*tensors: Tensor) -> list[Tensor]:
        x, w1, w2 = tensors
        a = torch.nn.functional.avg_pool2d(x.abs(), 5, stride=1, padding=2, count_include_pad=False)
        hidden = torch.nn.functional.conv2d(a / a.mean(1, keepdim=True), w1[:, :, None, None]).relu()
        out = x * (2 * torch.nn.functional.conv2d(hidden, w2[:, :, None, None]).sigmoid())
        out.backward(grad_out.to(out.dtype))
        return [out.detach(), *[t.grad for t in tensors]]

    exact = eager(*doubles([x, w1, w2]))
    theirs = eager(*[t.clone().requires_grad_() for t in (x, w1, w2)])
    ours = [cuda.local_channel_attention_fwd(x, w1, w2, None, window=5)]
    ours += cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=5, needs=(True,) * 3)
    for name, our, their, right in zip(["out", "x", "w1", "w2"], ours, theirs, exact, strict=True):
        assert rms(our, right) <= 2 * rms(their, right), name
