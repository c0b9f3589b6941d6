"""The upsampling of a network, a few bands at a time: what is made is still in the cache when it is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from lkca.nn import LowRankUpsample, PixelShuffleUpsample
from lkca_kernels import lowrank_pixel_shuffle, pixel_shuffle_epilogue

__all__ = ["BandUpsampler", "runs"]


class BandUpsampler:
    """``layer(features, skip)`` for some of its output bands at a time; no gate.

    features: what :func:`last_features` gave, (1, channels, h, w). skip: (1, out_channels, h, w), whose bicubic
    upsampling is added.
    """

    def __init__(self, layer: PixelShuffleUpsample | LowRankUpsample, features: Tensor, skip: Tensor) -> None:
        self._layer, self._features, self._skip = layer, features, skip

    def __call__(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Bands start:stop, (1, stop - start, s·h, s·w), in ``out`` where it is given (contiguous)."""
        layer, skip, x = self._layer, self._skip[:, start:stop], self._features
        s = layer.upscale_factor
        rows = slice(start * s**2, stop * s**2)
        if isinstance(layer, LowRankUpsample):
            bias = None if layer.bias is None else layer.bias[rows]
            return lowrank_pixel_shuffle(x, layer.weight[rows], bias, None, skip, upscale_factor=s, out=out)
        conv, groups = layer.conv, layer.shared_groups
        weight, bias = conv.weight, conv.bias
        if groups == 1:
            weight, bias = weight[rows], None if bias is None else bias[rows]
        else:  # a group for every band
            x = x.unflatten(1, (groups, -1))[0, start:stop]
        y = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation)
        y = y.reshape(1, (stop - start) * s**2, *y.shape[2:])
        return pixel_shuffle_epilogue(y, None, skip, upscale_factor=s, out=out)


def runs(bands: Sequence[int] | np.ndarray, longest: int) -> list[tuple[int, int]]:
    """Ranges of positions in ``bands`` at which they are consecutive, each of at most ``longest``."""
    found: list[tuple[int, int]] = []
    start = 0
    for at in range(1, len(bands) + 1):
        if at == len(bands) or bands[at] != bands[at - 1] + 1 or at - start == longest:
            found.append((start, at))
            start = at
    return found
