"""The epilogue of a full-rank upsampling layer: shuffle, gate and skip in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels.arguments import check_first
from lkca_kernels.autocasting import autocast
from lkca_kernels.ops import _checks
from lkca_kernels.ops._operator import Operator
from lkca_kernels.reference.bicubic import Convention

__all__ = ["pixel_shuffle_epilogue"]


def _shape(y: Tensor, upscale_factor: int) -> tuple[int, int, int, int]:
    batch, channels, h, w = y.shape
    return batch, channels // upscale_factor**2, h * upscale_factor, w * upscale_factor


_operator = Operator(
    "pixel_shuffle_epilogue",
    tensors="Tensor y, Tensor? gate, Tensor? skip",
    options=(("int", "upscale_factor"), ("str", "skip_bicubic")),
    reference=reference.pixel_shuffle_epilogue,
    result=lambda y, *_, upscale_factor, skip_bicubic: y.new_empty(_shape(y, upscale_factor)),
    passes=2,
)


def _check(
    y: Tensor, gate: Tensor | None, skip: Tensor | None, upscale_factor: int, skip_bicubic: str, out: Tensor | None
) -> None:
    check_first("y", y, "(B, C*s*s, h, w)")
    _checks.check_kinds(_operator.names, (y, gate, skip))
    square = upscale_factor * upscale_factor
    if y.shape[1] % square:
        raise ValueError(f"y: expected (B, C*s*s, h, w) with s*s = {square}, got {tuple(y.shape)}")
    _checks.check_epilogue(y, y.shape[1] // square, gate, skip, upscale_factor, skip_bicubic)
    if out is not None:
        shape = _shape(y, upscale_factor)
        _checks.check_out(out, shape, torch.contiguous_format, _operator.names, (y, gate, skip))


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
    """``gate * pixel_shuffle(y) + skip``: what follows a full-rank sub-pixel convolution, in one pass.

    ``y`` is (B, C*s*s, h, w), with any strides and the convolution's bias already in it. The other arguments, the
    result (B, C, h*s, w*s) and the errors raised are those of :func:`lkca_kernels.lowrank_pixel_shuffle`.
    """
    y, gate, skip = autocast(y, gate, skip)
    upscale_factor = _checks.checked_factor(upscale_factor)
    _check(y, gate, skip, upscale_factor, skip_bicubic, out)
    options = {"upscale_factor": _checks.constant(upscale_factor), "skip_bicubic": skip_bicubic}
    return _operator((y, gate, skip), options, out, backend)
