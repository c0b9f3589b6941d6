"""Mean over a window around each pixel, those inside the image only, and its adjoint. Separable, hence two passes."""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .tiles import low_res_pixels

__all__ = ["box_mean"]

_BLOCK_P, _NUM_WARPS = 512, 4


@triton.jit
def _count(i, n, reach):
    """How many of the positions around i lie inside 0 ... n - 1; 1 where none does, for no division by 0."""
    return tl.maximum(tl.minimum(i + reach, n - 1) - tl.maximum(i - reach, 0) + 1, 1)


@triton.jit(do_not_specialize=["p_blocks", "h", "reach"])
def box_mean_kernel(
    in_ptr,  # (planes, h, w) float32, contiguous
    out_ptr,  # the same
    h, w, reach, p_blocks,
    ALONG_X: tl.constexpr, ADJOINT: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p0 = (pid % p_blocks).to(tl.int64) * BLOCK_P
    y, x = low_res_pixels(p0, w, BLOCK_P)
    inside = y < h
    start = (pid // p_blocks).to(tl.int64) * h * w
    if ALONG_X:
        i, n, step = x.to(tl.int64), w, 1
    else:
        i, n, step = y, h, w
    pixel = start + p0 + tl.arange(0, BLOCK_P)
    total = tl.zeros([BLOCK_P], tl.float32)
    for d in range(-reach, reach + 1):
        source = i + d
        ok = inside & (source >= 0) & (source < n)
        away = (d + tl.zeros([1], tl.int64)) * step
        value = tl.load(in_ptr + pixel + away, mask=ok, other=0.0)
        if ADJOINT:
            value /= _count(source, n, reach)
        total += tl.where(ok, value, 0.0)
    if not ADJOINT:
        total /= _count(i, n, reach)
    tl.store(out_ptr + pixel, total, mask=inside)


def box_mean(planes: Tensor, h: int, w: int, window: int, *, adjoint: bool = False) -> Tensor:
    """Window's mean of each plane of ``planes`` (..., h * w), float32 and contiguous; or the adjoint of taking it."""
    p_blocks = triton.cdiv(h * w, _BLOCK_P)
    for along_x, size in ((True, w), (False, h)):
        reach = min(window // 2, size - 1)
        if reach == 0:
            continue
        out = torch.empty_like(planes)
        arguments = {
            "in_ptr": planes, "out_ptr": out, "h": h, "w": w, "reach": reach, "p_blocks": p_blocks,
            "ALONG_X": along_x, "ADJOINT": adjoint, "BLOCK_P": _BLOCK_P,
        }  # fmt: skip
        programs = planes.numel() // (h * w) * p_blocks
        launch(box_mean_kernel, programs, arguments, device=planes.device, num_warps=_NUM_WARPS)
        planes = out
    return planes
