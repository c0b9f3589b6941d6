"""Channel attention from a window around each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels.arguments import check_first
from lkca_kernels.autocasting import autocast
from lkca_kernels.memory_format import memory_format_of
from lkca_kernels.ops import _checks
from lkca_kernels.ops._operator import Operator

__all__ = ["local_channel_attention"]

_local = Operator(
    "local_channel_attention",
    tensors="Tensor x, Tensor w1, Tensor w2, Tensor? residual",
    options=(("int", "window"),),
    reference=reference.local_channel_attention,
    result=lambda x, *_, window: torch.empty_like(x, memory_format=memory_format_of(x)),
    passes=3,
)


def local_channel_attention(
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    residual: Tensor | None = None,
    *,
    window: int,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """``x * 2 sigmoid(w2 · relu(w1 · a / (mean_C(a) + eps))) + residual``: each pixel's gates from its surroundings.

    a[b, c, y, x] is the mean of the magnitude of x[b, c] over the ``window`` × ``window`` pixels around (y, x), those
    inside the image only. A result depends on ``window // 2`` pixels to each side; the gates do not depend on the
    scale of x, which the ratio of a to its mean over the channels takes out.

    Args:
        x: (B, C, H, W), as for :func:`channel_gate`.
        w1: (Cr, C), to Cr hidden channels.
        w2: (C, Cr), back to C; zero makes every gate 1.
        residual: (B, C, H, W), added to the result, or None.
        window: odd, from 1 to 2**20 - 1; may be wider than the image.
        out: as for :func:`channel_attention`.
        backend: see :func:`lkca_kernels.use_backend`.

    Returns:
        (B, C, H, W), channels_last where ``x`` is, else contiguous. 16-bit tensors are computed in float32 and rounded
        once. eps is the square root of the least normal number of the dtype computed in: 1.08e-19 in float32, and so
        for 16-bit tensors too; 1.49e-154 in float64. Where x is 0 the magnitude's derivative is taken as 0.
        Differentiable in every tensor; twice too, then through the reference.

    Raises:
        TypeError, ValueError: an argument that does not fit, named. BackendError (a ValueError): the backend asked for
            cannot serve the call.
    """
    x, w1, w2, residual = autocast(x, w1, w2, residual)
    check_first("x", x, "(B, C, H, W)")
    if w1 is None or w2 is None:
        raise TypeError("w1, w2: expected tensors, got None for one of them")
    tensors = (x, w1, w2, residual)
    _checks.check_kinds(_local.names, tensors)
    window = _checks.checked_window(window)
    channels = x.shape[1]
    if w1.ndim != 2 or w1.shape[1] != channels:
        raise ValueError(f"w1: expected (Cr, C) with C = {channels}, the channels of x, got {tuple(w1.shape)}")
    _checks.check_shape("w2", w2, "(C, Cr)", (channels, w1.shape[0]))
    _checks.check_alike(_local.names, tensors, out)
    return _local(tensors, {"window": _checks.constant(window)}, out, backend)
