"""The samples of a result while it is made: one file, written once and where each belongs."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash

from lkca.data import Window
from lkca.data.memory import reserve
from lkca.data.window import pieces
from lkca.data.writers.blocks import write_at
from lkca.data.writers.layout import Layout, Planes

__all__ = ["Samples"]

_FLUSHED_BYTES = 64 << 20


class Samples:
    """The file ``path``, which holds the samples as the output stores them, at the places that ``layout`` names.

    Several processes write disjoint windows at once, each through a file that is open for writing alone: through a
    memory map, or a file that is read as well, network file systems write whole pages, others' samples among them.

    flush: send samples to the disk while others are computed, and drop them from the system's cache, whose new pages
    cost more than the disk does. For a file that will be the output itself, as that is on the disk before it gets its
    name. Without effect where overviews are made of the samples at the end, and where tiles are narrower than the
    scene: pages that hold rows of two tiles would be read back for the second one.
    """

    def __init__(self, path: Path, layout: Layout, *, flush: bool = False) -> None:
        self.path, self.layout = path, layout
        self._file: int | None = None
        self._inode: int | None = None  # of the file that was written to
        self._flush = flush and isinstance(layout, Planes) and hasattr(os, "posix_fadvise")
        self._kept = 0  # bytes written since the last flush
        self._flusher = ThreadPoolExecutor(1, "lkca-flush")
        self._flushed: Future[None] | None = None

    def make(self) -> None:
        """Reserves the file where it is not there in full. OSError where there is no room for it."""
        if not self.path.exists() or self.path.stat().st_size != self.layout.nbytes:
            self.path.write_bytes(b"")
            reserve(self.path, self.layout.nbytes)

    def write(self, window: Window, first: int, stored: np.ndarray) -> int:
        """stored: (some bands, height, width), bands from ``first`` on. Returns the checksum of what was written; those
        of all parts of a tile, in any order, are combined by ``^``. OSError where it fails."""
        written = 0
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
            self._inode = os.fstat(self._file).st_ino
        for start, part in self.layout.parts(window, first, stored):
            write_at(self._file, part, start)
            written ^= _checksum(start, part.data)
        self._kept += stored.nbytes
        if self._flush and window.width == self.layout.shape[2] and self._kept >= _FLUSHED_BYTES:
            self.settle()
            self._flushed = self._flusher.submit(_flush, self._file)
            self._kept = 0
        return written

    def replaced(self) -> bool:
        """Whether the file that was written to has gone from its folder: another run has begun anew there."""
        if self._inode is None:
            return False
        try:
            return self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return self.path.parent.exists()

    def read(self, window: Window, bands: slice = slice(None)) -> np.ndarray:
        """(bands, height, width): a map of the file, or a copy."""
        return self.layout.read(self.path, window, bands)

    def checksum(self, window: Window, rows: int) -> int:
        """Of what the file holds of a tile that was written so many rows at once; see :meth:`write`."""
        found = 0
        with self.path.open("rb", buffering=0) as file:
            for part in pieces(window, rows, window.width):
                for start, nbytes in self.layout.extents(part):
                    file.seek(start)
                    found ^= _checksum(start, file.read(nbytes))
        return found

    def forget(self) -> None:
        """Drop what was read from the system's cache: no page that is half another process's may be written back."""
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


def _checksum(start: int, content: bytes | memoryview) -> int:
    """XXH3, 64 bits; the place in the file is the seed, lest equal parts cancel each other."""
    return xxhash.xxh3_64_intdigest(content, seed=start)


def _flush(file: int) -> None:
    os.fdatasync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
