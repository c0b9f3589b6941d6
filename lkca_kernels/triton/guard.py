"""The last check before addresses are computed: `torch.ops.lkca_kernels` can be called without the operators' own."""

from __future__ import annotations

import torch
from torch import Tensor

from lkca_kernels.reference.bicubic import check_convention

from .support import DTYPES

__all__ = ["check", "check_shuffle"]


def check(first: Tensor, *others: tuple[str, Tensor | None, tuple[int, ...]]) -> None:
    """``first`` is dense and of a dtype that the kernels know; the others match it and have the shapes given.

    Raises ValueError, since a kernel given less would read past the end of a tensor.
    """
    dtype, device = first.dtype, first.device
    if dtype not in DTYPES or first.layout is not torch.strided:
        raise ValueError(f"expected a dense float32, float16 or bfloat16 tensor, got {first.layout} {dtype}")
    for name, tensor, shape in others:
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != dtype or tensor.device != device or tensor.layout is not torch.strided:
            found = f"{tensor.layout} {tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name}: expected a dense {dtype} tensor on {device}, got {found}")


def check_shuffle(
    first: Tensor, phases: int, s: int, skip_bicubic: str, gate: Tensor | None, skip: Tensor | None, high: Tensor | None
) -> None:
    """What the upsampling operators share: factor, gate, skip, and ``high``, the result or its gradient."""
    batch, _, h, w = first.shape
    if s < 2 or phases < 1 or phases % (s * s):
        raise ValueError(f"upscale_factor: expected a factor >= 2 whose square divides {phases} channels, got {s}")
    check_convention("skip_bicubic", skip_bicubic)
    channels = phases // (s * s)
    large = (batch, channels, h * s, w * s)
    expected = large if skip is not None and skip.shape == large else (batch, channels, h, w)
    check(first, ("gate", gate, (batch, channels)), ("skip", skip, expected), ("result or its gradient", high, large))
