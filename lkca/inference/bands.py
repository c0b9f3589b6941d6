"""The upsampling of a network, a few bands or rows at a time: what is made is still in the cache when it is stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lkca.nn import LowRankUpsample, PixelShuffleUpsample
from lkca_kernels import explain, lowrank_pixel_shuffle, lowrank_pixel_shuffle_stored, pixel_shuffle_epilogue

__all__ = ["BandUpsampler", "band_slices", "stores"]


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

    def part(self, rows: slice, cols: slice) -> BandUpsampler:
        """The same for a part of the coarse image, beyond whose edges it sees nothing."""
        at = (slice(None), slice(None), rows, cols)
        return BandUpsampler(self._layer, self._features[at].contiguous(), self._skip[at].contiguous())

    def store(
        self, start: int, stop: int, rows: slice, least: Tensor | None, gain: Tensor, out: Tensor
    ) -> tuple[float, float]:
        """Those rows of the image as a file stores them: :func:`lkca_kernels.lowrank_pixel_shuffle_stored`.

        least: (stop - start,) or None; gain: the same; out: (1, stop - start, s · rows, s · w). Returns the extremes.
        """
        layer = self._layer
        assert isinstance(layer, LowRankUpsample)
        s = layer.upscale_factor
        of = slice(start * s**2, stop * s**2)
        low, high = lowrank_pixel_shuffle_stored(
            self._features, layer.weight[of], None if layer.bias is None else layer.bias[of], self._skip[:, start:stop],
            least, gain, upscale_factor=s, rows=(rows.start, rows.stop), out=out,
        ).tolist()  # fmt: skip
        return low, high


def stores(layer: PixelShuffleUpsample | LowRankUpsample) -> bool:
    """Whether :meth:`BandUpsampler.store` serves: on a CPU, by the backend that serves the float operator too.

    Not by the reference, which makes all rows for every call.
    """
    if not isinstance(layer, LowRankUpsample) or layer.weight.device.type != "cpu":
        return False
    weight, s = layer.weight, layer.upscale_factor
    z = weight.new_empty(1, layer.rank, 1, 1, dtype=torch.float32)
    chosen = explain(lowrank_pixel_shuffle_stored, z, weight, upscale_factor=s, out=z).chosen
    float_too = explain(lowrank_pixel_shuffle, z, weight, upscale_factor=s).chosen
    return chosen == float_too and chosen not in (None, "reference")


def band_slices(bands: np.ndarray, longest: int) -> Iterator[slice]:
    """Consecutive ones among ``bands`` (rising), at most ``longest`` at a time."""
    start = 0
    for at in range(1, len(bands) + 1):
        if at == len(bands) or bands[at] != bands[at - 1] + 1 or at - start == longest:
            yield slice(int(bands[start]), int(bands[at - 1]) + 1)
            start = at
