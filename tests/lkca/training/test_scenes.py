"""Cubes made ready to learn from."""

from __future__ import annotations

import numpy as np

from lkca.data import Cube
from lkca.training.scenes import prepare_scenes


def test_a_glint_is_no_peak_and_bands_below_zero_may_stay_there() -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.9, (6, 48, 40)).astype(np.float32)
    values[1, 5, 5], values[3] = 50.0, values[3] - 0.5
    ready = prepare_scenes([Cube.from_array(values)], 2)
    assert 0.5 < ready.normalisation.peak < 1 and ready.bands.nonnegative == [0, 1, 2, 4, 5]
