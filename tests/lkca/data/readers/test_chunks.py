"""How often the chunks of HDF5 files are unpacked, and what their cache may hold."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from lkca.data import Cube, open_cube
from lkca.data.readers import hdf5
from lkca.data.window import Window, pieces

SHAPE, CHUNK = (64, 96, 40), (32, 24, 10)  # rows, cols, bands: 16 chunks side by side, 32 in all
ROW = 32 * 96 * 40 * 4  # bytes
VALUES = np.random.default_rng(0).random(SHAPE, dtype=np.float32)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hdf5, "CHUNK_CACHE", ROW // 4)
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


def test_each_chunk_is_unpacked_once_by_a_caller_with_memory_for_that(scene: Path) -> None:
    size = scene.stat().st_size
    with open_cube(scene) as cube:
        for given, least, most in ((0, 3, 9), (ROW - 1, 3, 9), (ROW, 0.9, 1.1)):
            with cube.region(Window.full(*SHAPE[:2])).caching(given):
                assert least * size < read_by_rows(cube) < most * size


def test_tiny_chunks_need_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place for each of them would take more than they do."""
    monkeypatch.setattr(hdf5, "CHUNK_CACHE", 100)
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        h5.create_dataset("reflectance", data=VALUES[:8, :8], chunks=(1, 1, 1))
    with open_cube(tmp_path / "x.nc") as cube:
        windows = cube.read_stored.read  # type: ignore[attr-defined]
        before = windows.array.id.id
        with cube.caching(1 << 30):
            assert windows.array.id.id == before
