"""The samples of a result while it is made: one flat file, written once and where each belongs."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from lkca.data import CubeMeta, Window
from lkca.data.memory import reserve

__all__ = ["Samples", "checksum"]

_FLUSHED_BYTES = 64 << 20


class Samples:
    """``path`` holds (bands, rows, cols) as the output stores them, band after band (ENVI's bsq), little-endian.

    Several processes write disjoint windows of it at once. They do so into a file that is open for writing alone: a
    map, or a file that is read too, makes network file systems write whole pages, others' samples among them.

    shape: (rows, cols, bands). flush: they go to the disk as they come, and from the system's cache: where the file is
    to be the output, which must be on the disk before it has its name. New pages for a cache cost more than the disk.
    Not where tiles are narrower than the scene: pages that hold rows of two tiles would be read back for the second.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, *, flush: bool = False) -> None:
        assert meta.stored_dtype is not None
        rows, cols, bands = shape
        self.path, self.shape, self.dtype = path, (bands, rows, cols), np.dtype(meta.stored_dtype)
        self._file: int | None = None
        self._inode: int | None = None  # of the file that was written to
        self._flush = flush and hasattr(os, "posix_fadvise")
        self._kept = 0  # bytes written since the last flush
        self._flusher = ThreadPoolExecutor(1, "lkca-flush")
        self._flushed: Future[None] | None = None

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def make(self) -> bool:
        """Reserves the file; False where it was there in full. OSError where there is no room for it."""
        if self.path.exists() and self.path.stat().st_size == self.nbytes:
            return False
        self.path.write_bytes(b"")
        reserve(self.path, self.nbytes)
        return True

    def write(self, window: Window, first: int, stored: np.ndarray) -> None:
        """stored: (some bands, height, width), bands from ``first`` on, each row contiguous. OSError where it fails."""
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
            self._inode = os.fstat(self._file).st_ino
        _, rows, cols = self.shape
        whole_rows = window.width == cols
        for band, plane in enumerate(stored, first):
            start = ((band * rows + window.row) * cols + window.col) * self.dtype.itemsize
            if whole_rows:
                _write_at(self._file, np.ascontiguousarray(plane), start)
                continue
            for row in plane:
                _write_at(self._file, row, start)
                start += cols * self.dtype.itemsize
        self._kept += stored.nbytes
        if self._flush and whole_rows and self._kept >= _FLUSHED_BYTES:
            self.settle()
            self._flushed = self._flusher.submit(_flush, self._file)
            self._kept = 0

    def replaced(self) -> bool:
        """Whether the file that was written to has gone from its folder: another run has begun anew there."""
        if self._inode is None:
            return False
        try:
            return self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return self.path.parent.exists()

    def view(self, window: Window) -> np.ndarray:
        """(bands, height, width), a map of the file: what is used of it is read then."""
        mapped: np.ndarray = np.memmap(self.path, dtype=self.dtype, mode="r", shape=self.shape)
        return mapped[(slice(None), *window.slices)]

    def checksum(self, window: Window, rows: int) -> int:
        """Of what the file holds there, taken over so many rows at once; see :func:`checksum`."""
        found = 0
        for band, plane in enumerate(self.view(window)):
            for row in range(0, window.height, rows):
                found ^= checksum(band, row, plane[row : row + rows])
        return found

    def forget(self) -> None:
        """What was read leaves the system's cache: pages that are half another process's must not be written back."""
        if hasattr(os, "posix_fadvise"):
            file = os.open(self.path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)

    def close(self) -> None:
        """OSError where what was written did not reach the disk."""
        try:
            self.settle()
        finally:
            self._flusher.shutdown()
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def settle(self) -> None:
        """Waits for the flush that is under way, and raises the OSError that it raised."""
        flushed, self._flushed = self._flushed, None
        if flushed is not None:
            flushed.result()


def checksum(band: int, row: int, plane: np.ndarray) -> int:
    """Of some rows of a band of a tile, from ``row`` on; those of all of them, in any order, are combined by ``^``.

    XXH3, 64 bits; band and row are its seed, lest equal pieces cancel each other.
    """
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(plane).data, seed=band << 32 | row)


def _flush(file: int) -> None:
    os.fdatasync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_at(file: int, samples: np.ndarray, start: int) -> None:
    """samples: contiguous; a row of a narrow tile, half a million of them in a gigabyte, or the rows of a wide one."""
    done = _put(file, samples, start)
    while done < samples.nbytes:  # one call writes 2 GiB at most, and less on a disk that fills up
        done += _put(file, samples.data.cast("B")[done:], start + done)


def _seek_and_write(file: int, samples: Any, start: int) -> int:
    os.lseek(file, start, os.SEEK_SET)
    return os.write(file, samples)


_put: Callable[[int, Any, int], int] = getattr(os, "pwrite", _seek_and_write)  # Windows has no pwrite
