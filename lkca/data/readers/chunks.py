"""Windows of chunked HDF5 datasets, each chunk of which is unpacked as seldom as bounded memory allows.

HDF5 unpacks a whole chunk for any sample of it, and keeps it while its cache has room. Scenes are read by whole rows:
where fewer rows are read at once than a chunk has, all chunks that lie side by side have to stay until the next read.
"""

from __future__ import annotations

import math
from typing import Any

import h5py

from lkca.data.readers.arrays import ArrayWindows

__all__ = ["CHUNK_CACHE", "ChunkWindows", "chunk_bytes"]

CHUNK_CACHE = 64 << 20  # bytes, of a file as it is opened
_LEAST_CHUNK = 1 << 12  # bytes; of smaller ones the table of the cache would take much of the memory
_SLOTS = 10  # of that table for each chunk: two chunks of one slot push each other out


class ChunkWindows(ArrayWindows):
    """As ArrayWindows, of a dataset that nobody else holds open: the settings of an open one cannot be changed."""

    def allow(self, nbytes: int) -> None:
        """The cache holds a row of chunks from now on, if that is more than it holds and takes at most ``nbytes``."""
        row, chunk = _row_bytes(self.array, self.axes), chunk_bytes(self.array)
        _, held, _ = self.array.id.get_access_plist().get_chunk_cache()
        if not held < row <= nbytes or chunk < _LEAST_CHUNK:
            return
        file, name = self.array.file, self.array.name
        settings: Any = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        settings.set_chunk_cache(_SLOTS * (row // chunk) + 1, row, 0.75)
        self.array = None  # closes it
        self.array = h5py.Dataset(h5py.h5d.open(file.id, name.encode(), settings))


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
