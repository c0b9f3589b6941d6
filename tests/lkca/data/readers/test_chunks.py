"""How often the chunks of HDF5 files are unpacked, and what their cache may hold."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio

from lkca.data import Cube, open_cube
from lkca.data.readers import chunks
from lkca.data.window import Window, pieces

SHAPE, CHUNK = (64, 96, 40), (32, 24, 10)  # rows, cols, bands: 16 chunks side by side, 32 in all
ROW = 32 * 96 * 40 * 4  # bytes
VALUES = np.random.default_rng(0).random(SHAPE, dtype=np.float32)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(chunks, "_LEAST", ROW // 4)
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        h5.create_dataset("reflectance", data=VALUES, chunks=CHUNK, compression="gzip")
    return tmp_path / "x.nc"


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def read_by_rows(cube: Cube) -> int:
    """Bytes that all of the scene takes from the file, in strips of fewer rows than a chunk has."""
    before = bytes_read()
    for strip in pieces(Window.full(*SHAPE[:2]), 8, SHAPE[1]):
        assert np.array_equal(cube.read(strip), VALUES[strip.slices].transpose(2, 0, 1))
    return bytes_read() - before


def test_each_chunk_is_unpacked_once(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = scene.stat().st_size
    with open_cube(scene) as cube:
        assert read_by_rows(cube) < 1.1 * size
        with rasterio.Env(GDAL_CACHEMAX=ROW - 1):  # where a caller has less to give
            assert read_by_rows(cube) > 3 * size
    monkeypatch.setattr(chunks, "_MOST", ROW - 1)
    with open_cube(scene) as cube:
        assert read_by_rows(cube) > 3 * size
