"""Reference of the channel gate and its attention. Inputs are taken as checked by lkca_kernels.ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lkca_kernels.memory_format import laid_out_like
from lkca_kernels.reference.precision import widen

__all__ = ["channel_attention", "channel_gate", "channel_mean"]


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
    return laid_out_like(x, out.to(x.dtype))
