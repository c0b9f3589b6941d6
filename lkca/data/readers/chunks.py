"""Windows of chunked HDF5 datasets, each chunk of which is unpacked as seldom as bounded memory allows.

HDF5 unpacks a whole chunk for any sample of it, and keeps it while its cache has room. Scenes are read by whole rows:
where fewer rows are read at once than a chunk has, all chunks that lie side by side have to stay until the next read.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
from rasterio.env import get_gdal_config

from lkca.data.readers.arrays import ArrayWindows
from lkca.data.window import Window

__all__ = ["ChunkWindows", "chunk_bytes"]

_LEAST, _MOST = 64 << 20, 512 << 20  # bytes of the cache
_SLOTS = 10  # of its table for each chunk in it: two chunks of one slot push each other out


class ChunkWindows(ArrayWindows):
    """As ArrayWindows, of a dataset that nobody else holds open: the settings of an open one cannot be changed.

    Its cache holds a row of chunks if that takes at most 512 MiB and what a caller allows GDAL for blocks of rasters
    (``GDAL_CACHEMAX``, by default 5 % of the machine's memory); else 64 MiB, for windows narrower than the scene.
    """

    def __init__(self, dataset: h5py.Dataset, axes: str) -> None:
        super().__init__(dataset, axes)
        self._row_bytes, self._cache = _row_bytes(dataset, axes), -1

    def __call__(self, window: Window, bands: np.ndarray) -> np.ndarray:
        allowed = min(_MOST, get_gdal_config("GDAL_CACHEMAX"))
        wanted = self._row_bytes if _LEAST < self._row_bytes <= allowed else min(_LEAST, allowed)
        if self._row_bytes and (self._cache < 0 or wanted < self._cache):  # a caller with a budget comes later
            self._open_again(wanted)
        return super().__call__(window, bands)

    def _open_again(self, nbytes: int) -> None:
        file, name, slots = self.array.file, self.array.name, _SLOTS * (nbytes // chunk_bytes(self.array) + 1) + 1
        settings: Any = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        settings.set_chunk_cache(slots, nbytes, 0.75)
        self.array = None  # closes it
        self.array, self._cache = h5py.Dataset(h5py.h5d.open(file.id, name.encode(), settings)), nbytes


def chunk_bytes(dataset: h5py.Dataset) -> int:
    """Bytes that one chunk takes in memory; 0 where there are none."""
    return 0 if dataset.chunks is None else math.prod(dataset.chunks) * int(dataset.dtype.itemsize)


def _row_bytes(dataset: h5py.Dataset, axes: str) -> int:
    """Of all chunks that hold one row of the scene."""
    if dataset.chunks is None:
        return 0
    beside = (
        1 if axis == "r" else -(-size // chunk)
        for axis, size, chunk in zip(axes, dataset.shape, dataset.chunks, strict=True)
    )
    return chunk_bytes(dataset) * math.prod(beside)
