"""The branch of a large-kernel block: depthwise convolution, two pointwise layers, residual."""

from __future__ import annotations

import torch
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels.arguments import check_first
from lkca_kernels.autocasting import autocast
from lkca_kernels.memory_format import memory_format_of
from lkca_kernels.ops import _checks
from lkca_kernels.ops._operator import Operator

__all__ = ["large_kernel_branch"]

_branch = Operator(
    "large_kernel_branch",
    tensors="Tensor x, Tensor depthwise, Tensor expand, Tensor contract, Tensor? residual",
    reference=reference.large_kernel_branch,
    result=lambda x, *_: torch.empty_like(x, memory_format=memory_format_of(x)),
    passes=4,
)


def large_kernel_branch(
    x: Tensor,
    depthwise: Tensor,
    expand: Tensor,
    contract: Tensor,
    residual: Tensor | None = None,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """``contract · relu(expand · (depthwise ⋆ x)) + residual``: a large depthwise kernel, then each pixel's two layers.

    ⋆ is PyTorch's convolution, a kernel per channel, zeros beyond the image, size kept; the layers have no bias.

    Args:
        x: (B, C, H, W), float16, bfloat16, float32 or float64, any strides. All tensors share its dtype and device;
            under autocast they are cast to the autocast dtype (float64 is not).
        depthwise: (C, 1, kh, kw), odd sides; may be larger than the image.
        expand: (M, C), to M ≥ 1 hidden channels.
        contract: (C, M), back to C.
        residual: (B, C, H, W), added to the result, or None.
        out: dense in the layout of the result, takes it (not while a gradient is needed).
        backend: see :func:`lkca_kernels.use_backend`.

    Returns:
        (B, C, H, W), channels_last where ``x`` is, else contiguous. 16-bit tensors are computed in float32 and rounded
        once; a CPU with dot products of bfloat16 rounds the maps between the layers too, as PyTorch's layers do.
        Differentiable in every tensor; twice too, then through the reference.

    Raises:
        TypeError, ValueError: an argument that does not fit, named. BackendError (a ValueError): the backend asked for
            cannot serve the call.
    """
    x, depthwise, expand, contract, residual = autocast(x, depthwise, expand, contract, residual)
    check_first("x", x, "(B, C, H, W)")
    if depthwise is None or expand is None or contract is None:
        raise TypeError("depthwise, expand, contract: expected tensors, got None for one of them")
    tensors = (x, depthwise, expand, contract, residual)
    _checks.check_kinds(_branch.names, tensors)
    channels = x.shape[1]
    if depthwise.ndim != 4 or depthwise.shape[:2] != (channels, 1) or not all(n % 2 for n in depthwise.shape[2:]):
        raise ValueError(
            f"depthwise: expected (C, 1, kh, kw) with C = {channels}, the channels of x, and odd sides, "
            f"got {tuple(depthwise.shape)}"
        )
    if expand.ndim != 2 or expand.shape[1] != channels or not expand.shape[0]:
        raise ValueError(
            f"expand: expected (M, C) with M ≥ 1 and C = {channels}, the channels of x, got {tuple(expand.shape)}"
        )
    _checks.check_shape("contract", contract, "(C, M)", (channels, expand.shape[0]))
    _checks.check_alike(_branch.names, tensors, out)
    return _branch(tensors, {}, out, backend)
