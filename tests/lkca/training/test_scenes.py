"""Cubes made ready to learn from."""

from __future__ import annotations

import numpy as np
import pytest

from lkca.data import Cube
from lkca.training.scenes import prepare_scenes


def test_a_glint_is_no_peak_and_bands_below_zero_may_stay_there() -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.9, (6, 48, 40)).astype(np.float32)
    values[1, 5, 5], values[3] = 50.0, values[3] - 0.5
    ready = prepare_scenes([Cube.from_array(values)], 2)
    assert 0.5 < ready.normalisation.peak < 1 and ready.bands.nonnegative == [0, 1, 2, 4, 5]


@pytest.mark.filterwarnings("error")
def test_what_the_peak_makes_infinite_is_missing() -> None:
    """-3.4e38, of a file that does not say that it stands for nothing."""
    values = np.random.default_rng(0).uniform(0.1, 0.9, (6, 48, 40)).astype(np.float32)
    values[1, 5, 5] = np.finfo(np.float32).min
    (cube,) = prepare_scenes([Cube.from_array(values)], 2).cubes
    assert np.argwhere(~np.isfinite(cube)).tolist() == [[1, 5, 5]]
