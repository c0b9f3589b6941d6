"""Reference of the large-kernel block's branch. Inputs are taken as checked by lkca_kernels.ops."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lkca_kernels.memory_format import laid_out_like
from lkca_kernels.reference.precision import widen

__all__ = ["large_kernel_branch"]


def large_kernel_branch(
    x: Tensor, depthwise: Tensor, expand: Tensor, contract: Tensor, residual: Tensor | None = None
) -> Tensor:
    """``contract · relu(expand · (depthwise ⋆ x)) + residual`` in the memory format of ``x``.

    The depthwise convolution meets zeros beyond the image. 16-bit inputs in float32, rounded once.
    """
    if not x.numel():  # convolutions refuse an image without pixels; the sums keep every input in the graph
        nothing = depthwise.sum() + expand.sum() + contract.sum()
        return (x if residual is None else x + residual) + nothing
    _, _, kh, kw = depthwise.shape
    y = F.conv2d(widen(x), widen(depthwise), padding=(kh // 2, kw // 2), groups=x.shape[1])
    y = F.conv2d(F.relu(F.conv2d(y, widen(expand)[:, :, None, None])), widen(contract)[:, :, None, None])
    out = y if residual is None else widen(residual) + y
    return laid_out_like(x, out.to(x.dtype))
