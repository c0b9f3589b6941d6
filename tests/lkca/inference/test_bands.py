"""A network's upsampling, a few bands at a time, is that of all bands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lkca.inference.bands import BandUpsampler, band_slices
from lkca.inference.network import last_features
from lkca.models.directory import LoadedModel


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("full rank", {}), ("low rank", {}), ("shared body", {}), ("full rank", {"shared": True}), ("components", {})],
)
def test_parts_are_the_whole(kind: str, sizes: dict[str, bool], model_of: Callable[..., LoadedModel]) -> None:
    net = model_of(kind, 3, **sizes).net
    with torch.inference_mode():
        x = torch.rand(1, 5, 9, 7)
        last = last_features(net, x, nullcontext())
        whole, upsample = net(x), BandUpsampler(net.upsample, last, x)
        out = torch.empty(1, 2, 27, 21)
        assert upsample(1, 3, out).data_ptr() == out.data_ptr()
        torch.testing.assert_close(out, whole[:, 1:3], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            torch.cat([upsample(start, start + 1) for start in range(5)], 1), whole, rtol=1e-5, atol=1e-5
        )


def test_band_slices() -> None:
    assert list(band_slices(np.arange(5), 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(band_slices(np.array([3, 4, 7, 8, 9]), 9)) == [slice(3, 5), slice(7, 10)]
    assert list(band_slices(np.arange(0), 3)) == []
