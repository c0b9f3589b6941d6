"""The upsampling operators."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels.reference.bicubic import Convention

__all__ = ["lowrank_pixel_shuffle", "lowrank_upsample", "pixel_shuffle_epilogue"]


def lowrank_pixel_shuffle(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    upscale_factor: int,
    skip_bicubic: Convention = "matlab",
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    result = reference.lowrank_pixel_shuffle(
        z, weight, bias, gate, skip, upscale_factor=upscale_factor, skip_bicubic=skip_bicubic
    )
    return result if out is None else out.copy_(result)


def pixel_shuffle_epilogue(
    y: Tensor,
    gate: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    upscale_factor: int,
    skip_bicubic: Convention = "matlab",
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    result = reference.pixel_shuffle_epilogue(y, gate, skip, upscale_factor=upscale_factor, skip_bicubic=skip_bicubic)
    return result if out is None else out.copy_(result)


def lowrank_upsample(
    x: Tensor,
    weight_down: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    upscale_factor: int,
    bias_down: Tensor | None = None,
    padding: int | tuple[int, int] | None = None,
    stride: int = 1,
    dilation: int = 1,
    skip_bicubic: Convention = "matlab",
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    if padding is None:
        padding = (dilation * (weight_down.shape[2] // 2), dilation * (weight_down.shape[3] // 2))
    z = F.conv2d(x, weight_down, bias_down, stride=stride, padding=padding, dilation=dilation)
    return lowrank_pixel_shuffle(
        z, weight, bias, gate, skip, upscale_factor=upscale_factor, skip_bicubic=skip_bicubic, out=out, backend=backend
    )
