"""The channel gate (squeeze-excite) and the attention that applies it."""

from __future__ import annotations

import torch
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels.arguments import check_first
from lkca_kernels.autocasting import autocast
from lkca_kernels.memory_format import memory_format_of
from lkca_kernels.ops import _checks
from lkca_kernels.ops._operator import Operator

__all__ = ["channel_attention", "channel_gate"]

_gate = Operator(
    "channel_gate",
    tensors="Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2",
    reference=reference.channel_gate,
    result=lambda x, *_: x.new_empty(x.shape[:2]),
    with_mean=True,
    takes_out=False,
)
_attention = Operator(
    "channel_attention",
    tensors="Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? residual",
    reference=reference.channel_attention,
    result=lambda x, *_: torch.empty_like(x, memory_format=memory_format_of(x)),
    passes=5,
    with_mean=True,
)


def _check(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None) -> None:
    check_first("x", x, "(B, C, H, W)")
    if w1 is None or b1 is None or w2 is None or b2 is None:
        raise TypeError("w1, b1, w2, b2: expected tensors, got None for one of them")
    _checks.check_kinds(_attention.names, (x, w1, b1, w2, b2, residual))
    channels = x.shape[1]
    if w1.ndim != 2 or w1.shape[1] != channels:
        raise ValueError(f"w1: expected (Cr, C) with C = {channels}, the channels of x, got {tuple(w1.shape)}")
    reduced = w1.shape[0]
    _checks.check_shape("b1", b1, "(Cr,)", (reduced,))
    _checks.check_shape("w2", w2, "(C, Cr)", (channels, reduced))
    _checks.check_shape("b2", b2, "(C,)", (channels,))


def channel_gate(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, backend: str | None = None) -> Tensor:
    """``sigmoid(w2 · relu(w1 · mean_HW(x) + b1) + b2)``: the squeeze-excite gate of Hu et al. (CVPR 2018).

    Args:
        x: (B, C, H, W), float16, bfloat16, float32 or float64, any strides. All tensors share its dtype and device;
            under autocast they are cast to the autocast dtype (float64 is not).
        w1: (Cr, C), to Cr hidden channels.
        b1: (Cr,).
        w2: (C, Cr), back to C.
        b2: (C,).
        backend: see :func:`lkca_kernels.use_backend`.

    Returns:
        (B, C) in (0, 1), contiguous; fits the ``gate`` of the upsampling operators. 16-bit tensors are computed in
        float32 and rounded once. Differentiable in every tensor; twice too, then through the reference.

    Raises:
        TypeError, ValueError: an argument that does not fit, named. BackendError (a ValueError): the backend asked for
            cannot serve the call.
    """
    x, w1, b1, w2, b2 = autocast(x, w1, b1, w2, b2)
    _check(x, w1, b1, w2, b2, None)
    return _gate((x, w1, b1, w2, b2), {}, None, backend)


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
    """``x * channel_gate(x, w1, b1, w2, b2)[:, :, None, None] + residual``.

    ``residual`` is (B, C, H, W) like ``x``; ``out``, dense in the layout of the result, takes it (not while a gradient
    is needed). The result (B, C, H, W) is channels_last where ``x`` is, else contiguous. Everything else is as for
    :func:`channel_gate`; 16-bit tensors are rounded once, the gate inside stays float32.
    """
    x, w1, b1, w2, b2, residual = autocast(x, w1, b1, w2, b2, residual)
    _check(x, w1, b1, w2, b2, residual)
    tensors = (x, w1, b1, w2, b2, residual)
    _checks.check_alike(_attention.names, tensors, out)
    return _attention(tensors, {}, out, backend)
