"""Samples that are missing: bands of nothing else, values that the file does not name, values that are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from lkca.data import open_cube
from lkca.errors import InputError

from .samples import CUBE, RCB, write_tiff


def test_all_nodata_bands_are_bad(tmp_path: Path) -> None:
    array = CUBE.copy()
    array[2] = 0
    with write_tiff(tmp_path / "x.tif", array, nodata=0) as dataset:
        dataset.write(array)
    with open_cube(tmp_path / "x.tif") as cube:
        assert cube.good_bands.tolist() == [True, True, False, True, True]
        cube.check_usable()
    with write_tiff(tmp_path / "y.tif", array, nodata=0) as dataset:
        dataset.write(np.zeros_like(array))
    with open_cube(tmp_path / "y.tif") as cube, pytest.raises(InputError, match="no valid sample"):
        cube.check_usable()


@pytest.mark.parametrize(("dtype", "fill"), [(np.float32, -9999), (np.int32, -(2**31)), (np.uint16, 65535)])
def test_an_unnamed_nodata_value(tmp_path: Path, dtype: type, fill: int) -> None:
    """It is told, and can be said; the real scenes of test_real_files.py have no such warning."""
    stored = RCB.astype(dtype)
    stored[3:5, 2:6] = fill
    file = tmp_path / "x.npy"
    np.save(file, stored)
    with open_cube(file) as cube:
        assert any(f"hold {fill}, far from all others" in words for words in cube.warnings), cube.warnings
    with open_cube(file, nodata=fill) as cube:
        assert not any("far from all others" in words for words in cube.warnings) and cube.meta.nodata == fill
        assert np.isnan(cube.read()[:, 3:5, 2:6]).all() and np.isfinite(cube.read()).sum() == (12 * 9 - 8) * 5


@pytest.mark.parametrize(
    ("shape", "rows", "cols", "share"),
    [
        ((100, 140), slice(0, 32), slice(108, None), 11),
        ((100, 140), slice(68, None), slice(0, 32), 11),
        ((100, 140), slice(34, 66), slice(54, 86), 11),
        ((100, 20), slice(68, None), slice(None), 33),
        ((20, 100), slice(None), slice(68, None), 33),
    ],
)
def test_of_a_large_scene_the_corners_the_edges_and_the_middle_are_looked_at(
    tmp_path: Path, shape: tuple[int, int], rows: slice, cols: slice, share: int
) -> None:
    stored = np.random.default_rng(0).integers(100, 200, (*shape, 5), dtype=np.int16)
    stored[rows, cols] = -9999
    np.save(tmp_path / "x.npy", stored)
    with open_cube(tmp_path / "x.npy") as cube:
        assert any(f"{share}% of the pixels looked at hold -9999" in words for words in cube.warnings), cube.warnings


def test_a_nodata_value_that_is_named_ends_the_search(tmp_path: Path) -> None:
    """It may be the number that the netCDF library leaves in samples that nobody wrote."""
    with write_tiff(tmp_path / "x.tif", CUBE.astype(np.uint16), nodata=65535) as dataset:
        stored = CUBE.astype(np.uint16)
        stored[:, 3:5, 2:6] = 60000
        dataset.write(stored)
    with open_cube(tmp_path / "x.tif") as cube:
        assert cube.meta.nodata == 65535 and not any("far from all others" in words for words in cube.warnings)


def test_nodata_said_goes_before_the_files_own(tmp_path: Path) -> None:
    file = tmp_path / "x.tif"
    with rasterio.open(file, "w", driver="GTiff", width=9, height=12, count=5, dtype=np.uint16, nodata=CUBE.max()) as f:
        f.write(CUBE)
    with open_cube(file, nodata=CUBE[0, 0, 0]) as cube:
        assert np.array_equal(np.isnan(cube.read()), CUBE[0, 0, 0] == CUBE)
    with open_cube(file, nodata=-9999) as cube:
        assert "no sample of uint16 can be the nodata value -9999" in cube.warnings[0]
        assert cube.meta.nodata == -9999 and np.isfinite(cube.read()).all()
    with rasterio.open(file, "r+") as f:
        f.nodata = None
        f.write_mask(np.arange(12 * 9).reshape(12, 9) > 0)
    with open_cube(file, nodata=-9999) as cube:  # a mask stays
        assert np.isnan(cube.meta.nodata) and np.isnan(cube.read()).sum() == 5
    np.save(tmp_path / "classes.npy", np.arange(12 * 9).reshape(12, 9, 1) % 3)
    with open_cube(tmp_path / "classes.npy", axes="rcb") as cube:
        assert not any("far from all others" in words for words in cube.warnings)
