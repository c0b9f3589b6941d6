"""Reference of the channel gate and channel attention. Inputs are taken as checked by lkca_kernels.ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lkca_kernels.memory_format import memory_format_of
from lkca_kernels.reference.precision import widen

__all__ = ["channel_attention", "channel_gate", "gate_from_mean"]


def gate_from_mean(mean: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """``sigmoid(w2 · relu(w1 · mean + b1) + b2)``, (B, C), in the dtype of ``mean``."""
    w1, b1, w2, b2 = (t.to(mean.dtype) for t in (w1, b1, w2, b2))
    return torch.sigmoid(F.linear(F.relu(F.linear(mean, w1, b1)), w2, b2))


def channel_gate(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Squeeze-excite gate of ``x`` (B, C, H, W): (B, C) in (0, 1)."""
    (wide,) = widen(x)
    assert wide is not None
    return gate_from_mean(wide.mean((2, 3)), w1, b1, w2, b2).to(x.dtype)


def channel_attention(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None = None
) -> Tensor:
    """``x * gate + residual``, in the memory format of ``x``; 16-bit inputs are computed in float32, rounded once."""
    wide, wide_residual = widen(x, residual)
    assert wide is not None
    gate = gate_from_mean(wide.mean((2, 3)), w1, b1, w2, b2)[:, :, None, None]
    out = wide * gate if wide_residual is None else wide_residual.addcmul(wide, gate)
    return out.to(x.dtype).contiguous(memory_format=memory_format_of(x))
