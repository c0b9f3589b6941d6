"""Triton kernels of the attention within a window against the float64 reference (see test_triton_upsample).

test_arithmetic runs the whole matrix; here are the roads that its small cases do not take.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels import triton as backend

pytestmark = pytest.mark.skipif(backend.unavailable() is not None, reason=f"Triton backend {backend.unavailable()}")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Computed in float32 and rounded once. float32: sums over some hundred pixels and channels, whose terms cancel.
BOUND = {torch.float32: 4e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def make(batch: int, channels: int, hidden: int, h: int, w: int, dtype: torch.dtype) -> list[Tensor]:
    """x, w1, w2, residual and a gradient of the result."""
    generator = torch.Generator().manual_seed(1)
    image = (batch, channels, h, w)
    shapes = [image, (hidden, channels), (channels, hidden), image, image]
    return [torch.randn(s, generator=generator).to(DEVICE, dtype) for s in shapes]


def wanted(
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    residual: Tensor | None,
    grad: Tensor,
    window: int,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, ...]:
    """The reference's result and gradients of x, w1, w2."""
    inputs = [t.to(dtype, copy=True).requires_grad_() for t in (x, w1, w2)]
    added = None if residual is None else residual.to(dtype)
    out = reference.local_channel_attention(*inputs, added, window=window)
    return out.detach(), *torch.autograd.grad(out, inputs, grad.to(dtype))


@pytest.mark.parametrize(
    ("sizes", "window", "dtype", "memory"),
    [
        ((1, 70, 3, 5, 7), 3, torch.float32, "contiguous"),  # two blocks of channels
        ((1, 3, 37, 4, 5), 5, torch.float32, "channels_last"),  # two blocks of hidden channels
        ((2, 5, 3, 3, 29), 9, torch.float16, "sliced"),  # tiles that straddle rows, windows that leave the image
        ((1, 2, 1, 27, 20), 101, torch.float32, "sliced"),  # two blocks of the window's mean, which is the image's
    ],
)
def test_forward_and_backward(sizes, window, dtype, memory) -> None:
    x, w1, w2, residual, grad = make(*sizes, dtype)
    if memory == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif memory == "sliced":
        x, residual, grad = (torch.stack([t, t], -1).flatten(3)[..., ::2] for t in (x, residual, grad))
        w1, w2 = w1.T.contiguous().T, w2.T.contiguous().T
    around = torch.full([n + 2 for n in x.shape], 12345.0, dtype=dtype, device=DEVICE)
    out = around[1:-1, 1:-1, 1:-1, 1:-1]
    out.fill_(float("nan"))
    assert backend.local_channel_attention_fwd(x, w1, w2, residual, window=window, out=out) is out
    found = backend.local_channel_attention_bwd(grad, x, w1, w2, window=window, needs=(True,) * 3)
    names, tensors = ("out", "x", "w1", "w2"), (x, w1, w2, residual, grad, window)
    for name, got, want, plain in zip(names, (out, *found), wanted(*tensors), wanted(*tensors, dtype), strict=True):
        # The ratio takes the scale out of x, so that the gradients of few channels cancel: PyTorch's lose as much.
        assert got.dtype == dtype and error(got, want) < max(BOUND[dtype], 2 * error(plain, want)), name
    assert found[0].is_contiguous(memory_format=getattr(torch, memory, torch.contiguous_format))
    assert found[1].is_contiguous() and found[2].is_contiguous()
    out.fill_(12345.0)
    assert (around == 12345.0).all()


def test_dark_windows() -> None:
    """Where all of a window is 0 the ratio is 0 and every result finite; gradients agree beside it too."""
    x, w1, w2, _, grad = make(1, 3, 2, 3, 9, torch.float32)
    x[..., 3:] = 0
    out = backend.local_channel_attention_fwd(x, w1, w2, None, window=3)
    found = backend.local_channel_attention_bwd(grad, x, w1, w2, window=3, needs=(True,) * 3)
    for got, want in zip((out, *found), wanted(x, w1, w2, None, grad, 3), strict=True):
        assert got.isfinite().all() and error(got, want) < BOUND[torch.float32]


def test_nan_stays_within_the_windows_that_hold_it() -> None:
    x, w1, w2, _, _ = make(1, 3, 2, 3, 9, torch.float32)
    x[0, 1, 1, 7] = float("nan")
    out = backend.local_channel_attention_fwd(x, w1, w2, None, window=3)
    expected = reference.local_channel_attention(x, w1, w2, None, window=3)
    assert torch.equal(out.isnan(), expected.isnan()) and not out[..., :6].isnan().any() and out[..., 6:].isnan().all()


def test_addresses_past_two_to_the_31() -> None:
    """Strides that 32 bits cannot multiply, over memory that is reserved but hardly touched."""
    far = 2**30 + 3
    x, w1, w2, _, grad = make(1, 4, 2, 2, 3, torch.float16)
    heap = torch.empty(3 * far + 64, dtype=torch.float16, device=DEVICE)

    def spread(tensor: Tensor) -> Tensor:
        return heap.as_strided(tensor.shape, (0, far, 3, 1)).copy_(tensor)

    plain = wanted(x, w1, w2, None, grad, 3)
    assert error(backend.local_channel_attention_fwd(spread(x), w1, w2, None, window=3), plain[0]) < 5e-4
    out = backend.local_channel_attention_fwd(x, w1, w2, None, window=3, out=heap.as_strided(x.shape, (0, far, 3, 1)))
    assert error(out, plain[0]) < 5e-4
    found = backend.local_channel_attention_bwd(spread(grad), x, w1, w2, window=3, needs=(True,) * 3)
    assert all(error(got, want) < 5e-4 for got, want in zip(found, plain[1:], strict=True))
    found = backend.local_channel_attention_bwd(grad, spread(x), w1, w2, window=3, needs=(False, True, True))
    assert all(error(got, want) < 5e-4 for got, want in zip(found[1:], plain[2:], strict=True))
