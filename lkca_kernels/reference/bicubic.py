"""Bicubic upsampling by an integer factor: the one definition that skips and baselines share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["KEYS_A", "Convention", "bicubic_upsample", "keys"]

Convention = Literal["matlab", "torch"]
KEYS_A: dict[str, float] = {"matlab": -0.5, "torch": -0.75}

_BLOCK = 16  # low-resolution samples per block of the banded product
_REACH = 2  # samples that a phase needs beyond its own, on either side


def keys(distance: Tensor, a: float) -> Tensor:
    """Cubic convolution kernel of R. Keys (IEEE TASSP 29(6), 1981), support |distance| < 2."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _border_index(size: int, padded: int, convention: str, device: torch.device) -> Tensor:
    """Source index of padded samples -2 … padded+1: reflection with the edge repeated, or the edge itself."""
    index = torch.arange(-_REACH, padded + _REACH, device=device)
    if convention == "torch":
        return index.clamp(0, size - 1)
    index = index % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def bicubic_upsample(x: Tensor, scale: int, convention: Convention = "matlab") -> Tensor:
    """Upsample ``x`` (B, C, h, w), any floating dtype, to (B, C, h*scale, w*scale), contiguous.

    ``"matlab"`` is MATLAB's ``imresize``: Keys kernel with a = -0.5, half-pixel centres, border reflected with the edge
    repeated (index -1 is sample 0, -2 is sample 1). ``"torch"`` is ``F.interpolate(mode="bicubic",
    align_corners=False)``: a = -0.75, border clamped. Differentiable twice, exportable with dynamic h and w.

    16-bit inputs are computed in float32 and rounded once. Raises ValueError for another rank, an empty image, a scale
    below 1 or an unknown convention.
    """
    if x.ndim != 4:
        raise ValueError(f"x: expected (B, C, h, w), got {x.ndim} dimensions")
    if convention not in KEYS_A:
        raise ValueError(f"convention: expected 'matlab' or 'torch', got {convention!r}")
    if scale < 1:
        raise ValueError(f"scale: expected an integer >= 1, got {scale!r}")
    batch, channels, h, w = x.shape
    if x.numel() == 0:
        return x.new_empty(batch, channels, h * scale, w * scale) + x.sum()  # stays in the autograd graph
    dtype = x.dtype
    values = x.float() if dtype in (torch.float16, torch.bfloat16) else x

    # One block of outputs along an axis is a banded matrix times its samples and two more on either side: few
    # multiplications more than the taps need, all of them in a matrix product, and outputs come out in order.
    rows, cols = (h + _BLOCK - 1) // _BLOCK, (w + _BLOCK - 1) // _BLOCK
    values = values.index_select(2, _border_index(h, rows * _BLOCK, convention, x.device))
    values = values.index_select(3, _border_index(w, cols * _BLOCK, convention, x.device))
    centre = (torch.arange(_BLOCK * scale, device=x.device, dtype=torch.float64) + 0.5) / scale - 0.5 + _REACH
    sample = torch.arange(_BLOCK + 2 * _REACH, device=x.device, dtype=torch.float64)
    band = keys(centre[:, None] - sample, KEYS_A[convention]).to(values.dtype)

    overlap = 2 * _REACH
    width = cols * _BLOCK + overlap
    values = values.reshape(batch * channels, rows * _BLOCK + overlap, width)
    own = values[:, :-overlap].reshape(-1, rows, _BLOCK, width)
    following = values[:, overlap:].reshape(-1, rows, _BLOCK, width)[:, :, -overlap:]
    values = (band @ torch.cat([own, following], 2)).reshape(batch * channels, rows * _BLOCK * scale, width)

    values = values[:, : h * scale]
    own = values[..., :-overlap].reshape(-1, cols, _BLOCK)
    following = values[..., overlap:].reshape(-1, cols, _BLOCK)[..., -overlap:]
    out = torch.cat([own, following], 2).reshape(-1, _BLOCK + overlap) @ band.T
    out = out.reshape(batch, channels, h * scale, cols * _BLOCK * scale)[..., : w * scale]
    return out.to(dtype).contiguous()
