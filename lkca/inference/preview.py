"""A small picture of a large result, gathered while its tiles pass."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from lkca.data import Cube, CubeMeta, Window
from lkca.data.codec import to_physical
from lkca.panel import check_picture, save_figure
from lkca.visual import Composite

__all__ = ["Preview"]

_SIDE = 1024  # pixels of the longer side, at most
_SAMPLE = 256  # coarse pixels per side that decide which bands are shown
_DPI = 100


class Preview:
    """Every k-th pixel of three bands of a result of ``shape`` (rows, cols, bands), stored as ``meta`` says.

    Raises InputError for a name that is no picture's.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, cube: Cube) -> None:
        check_picture(path)
        self.path = path
        self._step = max(1, math.ceil(max(shape[:2]) / _SIDE))
        middle = Window.centre(cube.rows, cube.cols, _SAMPLE, _SAMPLE)
        self._colours = Composite.of(cube.read(middle), meta.wavelengths, cube.good_bands)
        self._bands = list(self._colours.bands)
        self._meta = meta.subset(self._bands)
        rows, cols = (math.ceil(size / self._step) for size in shape[:2])
        self._pixels = np.full((3, rows, cols), np.nan, dtype=np.float32)

    def add(self, window: Window, stored: np.ndarray) -> None:
        """A tile (bands, rows, cols) as the output stores it, and where it lies there."""
        step = self._step
        row, col = -(-window.row // step), -(-window.col // step)
        part = stored[self._bands, row * step - window.row :: step, col * step - window.col :: step]
        if part.size:
            self._pixels[:, row : row + part.shape[1], col : col + part.shape[2]] = to_physical(part, self._meta)

    def write(self) -> None:
        """Raises OutputError where it cannot be written."""
        from matplotlib.figure import Figure

        _, rows, cols = self._pixels.shape
        colours = replace(self._colours, bands=(0, 1, 2))
        figure = Figure(figsize=(cols / _DPI, rows / _DPI))
        figure.figimage(colours.render(self._pixels))
        save_figure(figure, self.path, dpi=_DPI)
