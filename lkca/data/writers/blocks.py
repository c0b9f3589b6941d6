"""The blocks of a tiled TIFF: where each sample lies in the file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from typing import Any

import numpy as np

from lkca.data.window import Window

__all__ = ["Blocks", "write_at"]


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``block`` (rows, cols) samples of a cube of ``shape`` (bands, rows, cols), from byte ``start`` on: band
    after band, and in each row by row. Those at the lower and right edge are whole ones too."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    start: int
    block: tuple[int, int]

    @cached_property
    def counts(self) -> tuple[int, int]:
        """How many blocks lie below and beside each other."""
        _, rows, cols = self.shape
        return -(-rows // self.block[0]), -(-cols // self.block[1])

    @cached_property
    def block_bytes(self) -> int:
        return math.prod(self.block) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.start + self.shape[0] * math.prod(self.counts) * self.block_bytes

    @property
    def offsets(self) -> np.ndarray:
        """Where each block begins, in their order."""
        return self.start + np.arange(self.shape[0] * math.prod(self.counts)) * self.block_bytes

    def offset(self, band: int, y: int, x: int) -> int:
        """Where one of them begins."""
        down, across = self.counts
        return self.start + ((band * down + y) * across + x) * self.block_bytes

    def parts(self, window: Window, band: int, plane: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """As ``Layout.parts``, of one band."""
        width = self.block[1]
        for y, rows, rows_there in _cuts(window.row, window.height, self.block[0]):
            for x, cols, cols_there in _cuts(window.col, window.width, width):
                part = plane[rows, cols]
                if window.col + cols.stop == self.shape[2] and cols_there.stop < width:
                    part = np.pad(part, ((0, 0), (0, width - cols_there.stop)))  # beyond the edge of the scene
                part, start = np.ascontiguousarray(part), self.offset(band, y, x)
                if part.shape[1] == width:
                    yield start + rows_there.start * width * self.dtype.itemsize, part
                    continue
                for row, run in enumerate(part, rows_there.start):
                    yield start + (row * width + cols_there.start) * self.dtype.itemsize, run

    def read(self, file: FileIO, window: Window, band: int) -> np.ndarray:
        """(height, width) of one band. OSError where the file is too short."""
        found = np.empty((window.height, window.width), dtype=self.dtype)
        width = self.block[1]
        for y, rows, rows_there in _cuts(window.row, window.height, self.block[0]):
            part = np.empty((rows.stop - rows.start, width), dtype=self.dtype)
            for x, cols, cols_there in _cuts(window.col, window.width, width):
                file.seek(self.offset(band, y, x) + rows_there.start * width * self.dtype.itemsize)
                if file.readinto(part.data.cast("B")) != part.nbytes:
                    raise OSError("the file of its samples is incomplete")
                found[rows, cols] = part[:, cols_there]
        return found


def _cuts(first: int, length: int, block: int) -> Iterator[tuple[int, slice, slice]]:
    """Each block that so many rows (or columns) from ``first`` on touch: its number, which of them those are, and where
    they lie in it."""
    for number in range(first // block, -(-(first + length) // block)):
        start, stop = max(first, number * block), min(first + length, (number + 1) * block)
        yield number, slice(start - first, stop - first), slice(start - number * block, stop - number * block)


def write_at(file: int, samples: np.ndarray, start: int) -> None:
    """All of the contiguous ``samples`` into a file descriptor, ``start`` bytes from its beginning; OSError."""
    done = _put(file, samples, start)
    while done < samples.nbytes:  # one call writes 2 GiB at most, and less on a disk that fills up
        done += _put(file, samples.data.cast("B")[done:], start + done)


def _seek_and_write(file: int, samples: Any, start: int) -> int:
    os.lseek(file, start, os.SEEK_SET)
    return os.write(file, samples)


_put: Callable[[int, Any, int], int] = getattr(os, "pwrite", _seek_and_write)  # Windows has no pwrite
