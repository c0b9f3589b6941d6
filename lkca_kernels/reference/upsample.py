"""Reference of the upsampling operators. Inputs are taken as checked by lkca_kernels.ops."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lkca_kernels.reference.bicubic import Convention, bicubic_upsample
from lkca_kernels.reference.precision import widen

__all__ = ["lowrank_pixel_shuffle", "pixel_shuffle_epilogue"]


def pixel_shuffle_epilogue(
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: Convention = "matlab",
) -> Tensor:
    """``gate * pixel_shuffle(y) + skip``; 16-bit inputs are computed in float32 and rounded once."""
    dtype = y.dtype
    y, gate, skip = widen(y, gate, skip)
    assert y is not None
    out = F.pixel_shuffle(y, upscale_factor)
    if skip is not None and skip.shape[2:] != out.shape[2:]:
        skip = bicubic_upsample(skip, upscale_factor, skip_bicubic)
    if gate is not None:
        gate = gate[:, :, None, None]
        out = gate * out if skip is None else skip.addcmul(gate, out)
    elif skip is not None:
        out = skip + out
    return out.to(dtype).contiguous()


def lowrank_pixel_shuffle(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: Convention = "matlab",
) -> Tensor:
    """``pixel_shuffle_epilogue(weight · z + bias, gate, skip)``; 16-bit inputs are computed in float32, rounded once."""
    dtype = z.dtype
    z, weight, bias, gate, skip = widen(z, weight, bias, gate, skip)
    assert z is not None and weight is not None
    y = F.conv2d(z, weight[:, :, None, None], bias)
    out = pixel_shuffle_epilogue(y, gate, skip, upscale_factor=upscale_factor, skip_bicubic=skip_bicubic)
    return out.to(dtype)
