"""The channel gate and channel attention."""

from __future__ import annotations

from torch import Tensor

from lkca_kernels import reference

__all__ = ["channel_attention", "channel_gate"]


def channel_gate(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, backend: str | None = None) -> Tensor:
    return reference.channel_gate(x, w1, b1, w2, b2)


def channel_attention(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    residual: Tensor | None = None,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    result = reference.channel_attention(x, w1, b1, w2, b2, residual)
    return result if out is None else out.copy_(result)
