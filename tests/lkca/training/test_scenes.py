"""Cubes made ready to learn from."""

from __future__ import annotations

import numpy as np
import pytest

from lkca.data import Cube, CubeMeta
from lkca.errors import InputError
from lkca.training.scenes import prepare_scenes


def test_a_glint_is_no_peak_and_bands_below_zero_may_stay_there() -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.9, (6, 48, 40)).astype(np.float32)
    values[1, 5, 5], values[3] = 50.0, values[3] - 0.5
    ready = prepare_scenes([Cube.from_array(values)], 2)
    assert 0.5 < ready.normalisation.peak < 1 and ready.bands.nonnegative == [0, 1, 2, 4, 5]


def test_scenes_of_one_sensor_are_judged_together() -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.4, (6, 48, 41)).astype(np.float32)
    bright = 2 * values
    bright[2, 3, 4] = -0.1
    bright[:, 7, 7] = np.nan
    near, far = (CubeMeta(wavelengths=np.linspace(450, 850, 6) + shift) for shift in (0, 45))
    cubes = [Cube.from_array(values, near, "dark"), Cube.from_array(bright, near, "bright")]
    ready = prepare_scenes(cubes, 2)
    assert 0.7 < ready.normalisation.peak < 0.8 and ready.bands.nonnegative == [0, 1, 3, 4, 5]
    assert [scene.shape for scene in ready.cubes] == [(6, 48, 40)] * 2
    assert sum("bright: 0.1% of the training pixels are incomplete" in note for note in ready.notes) == 1
    assert any("40" in note for note in ready.notes) and len(set(ready.notes)) == len(ready.notes)  # a column is cut
    with pytest.raises(InputError, match=r"other: band 0 lies at 495.0 nm, that of dark at 450.0 nm"):
        prepare_scenes([cubes[0], Cube.from_array(values, far, "other")], 2)
    with pytest.raises(InputError, match="no scene to train on"):
        prepare_scenes([], 2)


@pytest.mark.filterwarnings("error")
def test_what_the_peak_makes_infinite_is_missing() -> None:
    """-3.4e38, of a file that does not say that it stands for nothing."""
    values = np.random.default_rng(0).uniform(0.1, 0.9, (6, 48, 40)).astype(np.float32)
    values[1, 5, 5] = np.finfo(np.float32).min
    (cube,) = prepare_scenes([Cube.from_array(values)], 2).cubes
    assert np.argwhere(~np.isfinite(cube)).tolist() == [[1, 5, 5]]
