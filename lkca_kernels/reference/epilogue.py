"""Reference of the full-rank layer's epilogue. Inputs are taken as checked by lkca_kernels.ops."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lkca_kernels.reference.bicubic import Convention, bicubic_upsample
from lkca_kernels.reference.precision import widen

__all__ = ["pixel_shuffle_epilogue"]


def _shuffle(y: Tensor, s: int) -> Tensor:
    if y.numel():
        return F.pixel_shuffle(y, s)
    batch, channels, h, w = y.shape  # its backward gives an empty gradient a wrong shape (torch 2.13)
    split = y.reshape(batch, channels // s**2, s, s, h, w)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // s**2, h * s, w * s).clone()  # no view of y


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
    y, gate, skip = widen(y), widen(gate), widen(skip)
    out = _shuffle(y, upscale_factor)
    if skip is not None and skip.shape[2:] != out.shape[2:]:
        skip = bicubic_upsample(skip, upscale_factor, skip_bicubic)
    if gate is not None:
        gate = gate[:, :, None, None]
        out = gate * out if skip is None else skip.addcmul(gate, out)
    elif skip is not None:
        out = skip + out
    return out.to(dtype).contiguous()
