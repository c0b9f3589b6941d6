"""Reference of the channel attention within a window. Inputs are taken as checked by lkca_kernels.ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lkca_kernels.memory_format import laid_out_like
from lkca_kernels.reference.precision import widen

__all__ = ["local_channel_attention", "surroundings"]


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


def _epsilon(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).tiny ** 0.5)


def surroundings(x: Tensor, window: int) -> Tensor:
    """``a / (mean_C(a) + eps)``, a = the window's mean of |x|, like ``x`` (B, C, H, W); float32 for 16-bit ``x``."""
    pooled = _window_mean(widen(x).abs(), window)
    return pooled / (pooled.mean(1, keepdim=True) + _epsilon(pooled.dtype))


def local_channel_attention(
    x: Tensor, w1: Tensor, w2: Tensor, residual: Tensor | None = None, *, window: int
) -> Tensor:
    """``x * 2 sigmoid(w2 · relu(w1 · surroundings(x))) + residual``.

    In the memory format of ``x``; 16-bit inputs in float32, rounded once. eps is the square root of the least normal
    number of the dtype computed in, so float32's for 16-bit inputs too.
    """
    wide, magnitude = widen(x), widen(x).abs()
    # w1 and the window's mean commute: pooling the few hidden channels is the cheaper order
    mixed = torch.cat([_mix(widen(w1), magnitude), magnitude.mean(1, keepdim=True)], 1)
    pooled = _window_mean(mixed, window)
    hidden = F.relu(pooled[:, :-1] / (pooled[:, -1:] + _epsilon(wide.dtype)))
    gate = 2 * torch.sigmoid(_mix(widen(w2), hidden))
    out = wide * gate if residual is None else widen(residual).addcmul(wide, gate)
    return laid_out_like(x, out.to(x.dtype))
