"""Reference of the low-rank operators. Inputs are taken as checked by lkca_kernels.ops."""

from __future__ import annotations

import torch
from torch import Tensor

from lkca_kernels.reference.bicubic import Convention
from lkca_kernels.reference.epilogue import pixel_shuffle_epilogue
from lkca_kernels.reference.precision import widen

__all__ = ["lowrank_pixel_shuffle", "lowrank_pixel_shuffle_stored"]


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
    """``pixel_shuffle_epilogue(weight · z + bias, gate, skip)``, 16-bit inputs in float32 up to the one rounding."""
    batch, _, h, w = z.shape
    pixels = widen(z).flatten(2)
    spread = widen(weight).expand(batch, -1, -1)
    y = torch.bmm(spread, pixels) if bias is None else torch.baddbmm(widen(bias)[:, None], spread, pixels)
    y = y.reshape(batch, weight.shape[0], h, w)
    out = pixel_shuffle_epilogue(y, widen(gate), widen(skip), upscale_factor=upscale_factor, skip_bicubic=skip_bicubic)
    return out.to(z.dtype)


def lowrank_pixel_shuffle_stored(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    least: Tensor | None,
    gain: Tensor,
    *,
    upscale_factor: int,
    skip_bicubic: Convention = "matlab",
    rows: tuple[int, int],
    out: Tensor,
) -> Tensor:
    """Those rows as a file stores them, into ``out``; returns the least and the largest product with ``gain``."""
    whole = lowrank_pixel_shuffle(z, weight, bias, None, skip, upscale_factor=upscale_factor, skip_bicubic=skip_bicubic)
    values = whole[:, :, rows[0] * upscale_factor : rows[1] * upscale_factor]
    if least is not None:
        values = torch.maximum(values, least[:, None, None])
    values = values * gain[:, None, None]
    if out.dtype.is_floating_point:
        out.copy_(values)
    else:
        values, bounds = values.round(), torch.iinfo(out.dtype)
        out.copy_(values.clamp(bounds.min, bounds.max).nan_to_num(bounds.min).to(torch.int32))
    if not values.numel():
        return values.new_tensor([torch.inf, -torch.inf])
    extremes = torch.stack([values.min(), values.max()])
    return torch.where(values.isfinite().all(), extremes, torch.nan)
