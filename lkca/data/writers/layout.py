"""Where the samples of a cube lie in a file: in planes, or in the blocks of a tiled TIFF with overviews.

Either way a window can be written to its place before, after or while others are, by several processes too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lkca.data.window import Window
from lkca.data.writers.blocks import Blocks

__all__ = ["Layout", "Planes", "Pyramid"]

_PAGE = 4096  # bytes; each level begins with a page


@dataclass(frozen=True)
class Layout(ABC):
    """shape: (bands, rows, cols); dtype: of the samples, little-endian."""

    shape: tuple[int, int, int]
    dtype: np.dtype

    @staticmethod
    def of(shape: tuple[int, int, int], dtype: np.dtype, place: Mapping[str, Any]) -> Layout:
        """The one with that :attr:`place`."""
        if not place:
            return Planes(shape, dtype)
        rows, cols = place["block"]
        return Pyramid(shape, dtype, place["room"], (rows, cols))

    @property
    @abstractmethod
    def place(self) -> dict[str, Any]:
        """What tells it from others of its shape and dtype, JSON-able."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Of the whole file."""

    @abstractmethod
    def parts(self, window: Window, first: int, stored: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """What to write where, in bytes from the beginning: contiguous arrays that hold ``stored``, (some bands,
        height, width) from band ``first`` on, which belongs to ``window``."""

    @abstractmethod
    def read(self, file: Path, window: Window, bands: slice) -> np.ndarray:
        """(some bands, height, width) of ``file``: a map of it, or a copy."""

    def extents(self, window: Window) -> Iterator[tuple[int, int]]:
        """Where the :meth:`parts` of all bands of a window begin, and their bytes."""
        nothing = np.broadcast_to(np.zeros((), dtype=self.dtype), (self.shape[0], window.height, window.width))
        for start, part in self.parts(window, 0, nothing):
            yield start, part.nbytes


class Planes(Layout):
    """Band after band, row after row (ENVI's bsq)."""

    @property
    def place(self) -> dict[str, Any]:
        return {}

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def parts(self, window: Window, first: int, stored: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        _, rows, cols = self.shape
        for band, plane in enumerate(stored, first):
            start = ((band * rows + window.row) * cols + window.col) * self.dtype.itemsize
            if window.width == cols:
                yield start, np.ascontiguousarray(plane)
                continue
            for row in plane:
                yield start, np.ascontiguousarray(row)
                start += cols * self.dtype.itemsize

    def read(self, file: Path, window: Window, bands: slice) -> np.ndarray:
        mapped: np.ndarray = np.memmap(file, dtype=self.dtype, mode="r", shape=self.shape)
        return mapped[(bands, *window.slices)]


@dataclass(frozen=True)
class Pyramid(Layout):
    """Blocks of the full size at the end, before them those of its overviews, the smallest first, after ``room`` bytes
    for what describes them. Overviews halve the size, rounded up, until one fits a ``block`` (rows, cols)."""

    room: int
    block: tuple[int, int]

    @cached_property
    def levels(self) -> tuple[Blocks, ...]:
        """The full size and its overviews."""
        bands, *size = self.shape
        sizes = [size]
        while any(edge > limit for edge, limit in zip(sizes[-1], self.block, strict=True)):
            sizes.append([-(-edge // 2) for edge in sizes[-1]])
        levels: list[Blocks] = []
        start = self.room
        for rows, cols in reversed(sizes):
            start = -(-start // _PAGE) * _PAGE
            levels.append(Blocks((bands, rows, cols), self.dtype, start, self.block))
            start = levels[-1].end
        return tuple(reversed(levels))

    @property
    def place(self) -> dict[str, Any]:
        return {"room": self.room, "block": list(self.block)}

    @property
    def nbytes(self) -> int:
        return self.levels[0].end

    def parts(self, window: Window, first: int, stored: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for band, plane in enumerate(stored, first):
            yield from self.levels[0].parts(window, band, plane)

    def read(self, file: Path, window: Window, bands: slice) -> np.ndarray:
        with file.open("rb", buffering=0) as stream:
            planes = [self.levels[0].read(stream, window, band) for band in range(*bands.indices(self.shape[0]))]
        return np.stack(planes)
