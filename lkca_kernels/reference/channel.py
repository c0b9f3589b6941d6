"""Reference of the channel gate and both channel attentions. Inputs are taken as checked by lkca_kernels.ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lkca_kernels.memory_format import memory_format_of
from lkca_kernels.reference.precision import widen

__all__ = ["channel_attention", "channel_gate", "channel_mean", "local_channel_attention"]


def channel_mean(x: Tensor) -> Tensor:
    """Average of ``x`` (B, C, H, W) over H and W: (B, C), float32 for 16-bit ``x``."""
    return widen(x).mean((2, 3))


def _gate(mean: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    hidden = F.relu(F.linear(mean, widen(w1), widen(b1)))
    return torch.sigmoid(F.linear(hidden, widen(w2), widen(b2)))


def channel_gate(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """``sigmoid(w2 · relu(w1 · mean(x) + b1) + b2)``, (B, C); 16-bit inputs in float32, rounded once."""
    return _gate(channel_mean(x), w1, b1, w2, b2).to(x.dtype)


def channel_attention(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None = None
) -> Tensor:
    """``x * gate + residual`` in the memory format of ``x``; 16-bit inputs in float32, rounded once."""
    gate = _gate(channel_mean(x), w1, b1, w2, b2)[:, :, None, None]
    out = widen(x) * gate if residual is None else widen(residual).addcmul(widen(x), gate)
    return out.to(x.dtype).contiguous(memory_format=memory_format_of(x))


def _window_mean(t: Tensor, window: int) -> Tensor:
    """Mean over ``window`` × ``window`` pixels around each, those inside the image only."""
    if not t.numel():  # avg_pool2d refuses an image without pixels
        return t
    reach = window // 2
    t = F.avg_pool2d(t, (1, window), stride=1, padding=(0, reach), count_include_pad=False)
    return F.avg_pool2d(t, (window, 1), stride=1, padding=(reach, 0), count_include_pad=False)


def _mix(weight: Tensor, t: Tensor) -> Tensor:
    """``weight`` (M, C) times the channels of ``t`` (B, C, H, W). No convolution: on CUDA those are tf32 by default."""
    pixels = torch.bmm(weight.expand(t.shape[0], -1, -1), t.flatten(2))
    return pixels.reshape(t.shape[0], weight.shape[0], *t.shape[2:])


def local_channel_attention(
    x: Tensor, w1: Tensor, w2: Tensor, residual: Tensor | None = None, *, window: int
) -> Tensor:
    """``x * 2 sigmoid(w2 · relu(w1 · a / (mean_C(a) + eps))) + residual``, a = the window's mean of |x|.

    In the memory format of ``x``; 16-bit inputs in float32, rounded once. eps is the square root of the least normal
    number of the dtype computed in, so float32's for 16-bit inputs too.
    """
    wide, magnitude = widen(x), widen(x).abs()
    # w1 and the window's mean commute: pooling the few hidden channels is the cheaper order
    mixed = torch.cat([_mix(widen(w1), magnitude), magnitude.mean(1, keepdim=True)], 1)
    pooled = _window_mean(mixed, window)
    hidden = F.relu(pooled[:, :-1] / (pooled[:, -1:] + torch.finfo(wide.dtype).tiny ** 0.5))
    gate = 2 * torch.sigmoid(_mix(widen(w2), hidden))
    out = wide * gate if residual is None else widen(residual).addcmul(wide, gate)
    return out.to(x.dtype).contiguous(memory_format=memory_format_of(x))
