"""Bicubic upsampling by an integer factor: the one definition that skips and baselines share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lkca_kernels.arguments import check_first, integer
from lkca_kernels.autocasting import unautocast
from lkca_kernels.memory_format import has_memory
from lkca_kernels.reference.precision import widen

__all__ = ["KEYS_A", "Convention", "bicubic_upsample", "check_convention", "keys"]

Convention = Literal["matlab", "torch"]
KEYS_A: dict[str, float] = {"matlab": -0.5, "torch": -0.75}

_BLOCK = 16  # low-resolution samples per block of the banded product
_REACH = 2  # samples that a phase needs beyond its own, on either side


def check_convention(name: str, convention: object) -> None:
    """Raises ValueError that names the argument for what is no :data:`Convention`."""
    if not isinstance(convention, str) or convention not in KEYS_A:
        raise ValueError(f"{name}: expected 'matlab' or 'torch', got {convention!r}")


def keys(distance: Tensor, a: float) -> Tensor:
    """Cubic convolution kernel of R. Keys (IEEE TASSP 29(6), 1981), support |distance| < 2."""
    d = distance.abs()
    return torch.where(d <= 1, _near(d, a), torch.where(d < 2, _far(d, a), torch.zeros_like(d)))


def _weight(distance: float, a: float) -> float:
    d = abs(distance)
    weight: float = _near(d, a) if d <= 1 else _far(d, a)
    return weight


def _near(d: Any, a: float) -> Any:
    return ((a + 2) * d - (a + 3)) * d * d + 1


def _far(d: Any, a: float) -> Any:
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a


def _border_index(size: int, padded: int, convention: str, device: torch.device) -> Tensor:
    """Source index of padded samples -2 … padded+1: reflection with the edge repeated, or the edge itself."""
    index = torch.arange(-_REACH, padded + _REACH, device=device)
    if convention == "torch":
        return index.clamp(0, size - 1)
    index = index % index.new_full((1,), 2 * size)  # a tensor: the ONNX exporter has no remainder by a symbolic number
    return torch.minimum(index, 2 * size - 1 - index)


def bicubic_upsample(x: Tensor, scale: int, convention: Convention = "matlab") -> Tensor:
    """Upsample ``x`` (B, C, h, w), float16, bfloat16, float32 or float64, to (B, C, h*scale, w*scale), contiguous.

    ``"matlab"`` is MATLAB's ``imresize``: Keys kernel with a = -0.5, half-pixel centres, border reflected with the edge
    repeated (index -1 is sample 0, -2 is sample 1). ``"torch"`` is ``F.interpolate(mode="bicubic",
    align_corners=False)``: a = -0.75, border clamped. Differentiable twice, exportable with dynamic h and w.

    16-bit inputs are computed in float32 and rounded once. Raises TypeError for another kind of ``x`` or a scale that
    is no integer, ValueError for another rank, a scale below 1 or an unknown convention.
    """
    check_first("x", x, "(B, C, h, w)")
    check_convention("convention", convention)
    scale = integer("scale", scale)
    if scale < 1:
        raise ValueError(f"scale: expected an integer >= 1, got {scale!r}")
    batch, channels, h, w = x.shape
    if x.numel() == 0:
        return x.new_empty(batch, channels, h * scale, w * scale) + x.sum()  # stays in the autograd graph
    with unautocast(x.device.type):
        return _way(x)(widen(x), scale, convention).to(x.dtype).contiguous()


def _way(x: Tensor) -> Callable[[Tensor, int, str], Tensor]:
    """The fastest way to ``x``: products on CPUs, where zeros of a matrix would spread what is not finite."""
    if x.device.type != "cpu":
        return _by_taps  # products may be tf32 there, and a look at the samples would wait for the device
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return _by_convolution
    if torch._C._len_torch_dispatch_stack() or not has_memory(x):  # a look at the samples would be traced, or cannot be
        return _by_banded_product
    return _by_banded_product if x.detach().sum(dtype=torch.float64).isfinite() else _by_taps


def _padded(x: Tensor, rows: int, cols: int, convention: str) -> Tensor:
    x = x.index_select(2, _border_index(x.shape[2], rows, convention, x.device))
    return x.index_select(3, _border_index(x.shape[3], cols, convention, x.device))


def _taps(samples: int, scale: int, convention: str, like: Tensor) -> Tensor:
    """Weights (samples*scale, samples + 4) of the outputs of ``samples`` pixels, over them and two more either side."""
    at = torch.arange(samples * scale, device=like.device, dtype=torch.float64)
    source = torch.arange(-_REACH, samples + _REACH, device=like.device, dtype=torch.float64)
    return keys(((at + 0.5) / scale - 0.5)[:, None] - source, KEYS_A[convention]).to(like.dtype)


def _by_taps(x: Tensor, scale: int, convention: str) -> Tensor:
    # Each sample of a phase from its own four neighbours and no other.
    a, (h, w) = KEYS_A[convention], x.shape[2:]
    for dim, size in ((2, h), (3, w)):
        x = x.index_select(dim, _border_index(size, size, convention, x.device))
        phases = []
        for phase in range(scale):
            at = (phase + 0.5) / scale - 0.5
            first = math.floor(at) - 1
            total = x.narrow(dim, first + _REACH, size) * _weight(at - first, a)
            for k in range(first + 1, first + 4):
                total = total.add(x.narrow(dim, k + _REACH, size), alpha=_weight(at - k, a))
            phases.append(total)
        x = torch.stack(phases, dim + 1).flatten(dim, dim + 1)
    return x


def _by_banded_product(x: Tensor, scale: int, convention: str) -> Tensor:
    # One block of outputs along an axis is a banded matrix times its samples and two more on either side: a few more
    # multiplications than the taps need, all of them in a matrix product, and the outputs come out in order.
    batch, channels, h, w = x.shape
    rows, cols = (h + _BLOCK - 1) // _BLOCK, (w + _BLOCK - 1) // _BLOCK
    band = _taps(_BLOCK, scale, convention, x)
    overlap = 2 * _REACH
    width = cols * _BLOCK + overlap
    x = _padded(x, rows * _BLOCK, cols * _BLOCK, convention).reshape(batch * channels, -1, width)

    own = x[:, :-overlap].reshape(-1, rows, _BLOCK, width)
    following = x[:, overlap:].reshape(-1, rows, _BLOCK, width)[:, :, -overlap:]
    x = (band @ torch.cat([own, following], 2)).reshape(batch * channels, -1, width)[:, : h * scale]

    own = x[..., :-overlap].reshape(-1, cols, _BLOCK)
    following = x[..., overlap:].reshape(-1, cols, _BLOCK)[..., -overlap:]
    x = torch.cat([own, following], 2).reshape(-1, _BLOCK + overlap) @ band.T
    return x.reshape(batch, channels, h * scale, -1)[..., : w * scale]


def _by_convolution(x: Tensor, scale: int, convention: str) -> Tensor:
    # The same sums, one filter per phase: slower, but sizes stay symbols, where a block count would become a constant.
    batch, channels, h, w = x.shape
    taps = _taps(1, scale, convention, x)
    filters = (taps[:, None, :, None] * taps[None, :, None, :]).flatten(0, 1)[:, None]
    planes = _padded(x, h, w, convention).flatten(0, 1)[:, None]
    return F.pixel_shuffle(F.conv2d(planes, filters), scale).reshape(batch, channels, h * scale, w * scale)
