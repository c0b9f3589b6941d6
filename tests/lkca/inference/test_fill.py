"""Filling and restoring missing samples."""

from __future__ import annotations

import numpy as np
import pytest

from lkca.inference.fill import fill_bands, fill_missing, finer_mask, restore_missing


def test_complete_cube_is_not_copied() -> None:
    cube = np.ones((2, 3, 4), dtype=np.float32)
    filled, missing = fill_missing(cube)
    assert filled is cube and missing is None


def test_the_nearest_valid_pixel_of_the_same_band_fills() -> None:
    cube = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    cube[:, 1, 1] = np.nan
    cube[1, 3, 4] = np.inf
    before = cube.copy()
    filled, missing = fill_missing(cube)
    assert missing is not None and np.array_equal(missing, ~np.isfinite(before))
    assert np.array_equal(cube, before, equal_nan=True)
    assert np.array_equal(filled[~missing], before[~missing])
    neighbours = {float(before[0, r, c]) for r, c in ((0, 1), (2, 1), (1, 0), (1, 2))}
    assert float(filled[0, 1, 1]) in neighbours
    assert float(filled[1, 3, 4]) in {float(before[1, 2, 4]), float(before[1, 3, 3])}


def test_an_empty_band_becomes_zero() -> None:
    cube = np.ones((2, 3, 3), dtype=np.float32)
    cube[1] = np.nan
    filled, missing = fill_missing(cube)
    assert missing is not None and missing[1].all()
    assert np.array_equal(filled[1], np.zeros((3, 3)))


def test_broken_bands_are_interpolated_between_intact_ones() -> None:
    cube = np.stack([np.full((2, 2), v, dtype=np.float32) for v in (9, 1, 99, 99, 4, 77)])
    broken = np.array([True, False, True, True, False, True])
    assert fill_bands(cube, broken)[:, 0, 0].tolist() == [1, 1, 2, 3, 4, 4]
    assert cube[2, 0, 0] == 99
    assert fill_bands(cube, np.zeros(6, dtype=bool)) is cube
    assert not fill_bands(cube, np.ones(6, dtype=bool)).any()


@pytest.mark.parametrize("scale", [2, 3])
def test_missing_blocks_come_back(scale: int) -> None:
    missing = np.zeros((2, 3, 4), dtype=bool)
    missing[0, 1, 2] = missing[1, 0, 0] = missing[1, 2, 3] = True
    fine = np.zeros((2, 3 * scale, 4 * scale), dtype=np.float32)
    restore_missing(fine, None, scale)
    assert not fine.any()
    restore_missing(fine, missing, scale)
    expected = missing.repeat(scale, 1).repeat(scale, 2)
    assert np.array_equal(np.isnan(fine), expected) and np.array_equal(finer_mask(missing, scale), expected)
    assert np.array_equal(finer_mask(missing[[0, 0]], scale), expected[:1])  # the same for all bands
