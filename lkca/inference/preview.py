"""A small picture of a large result, gathered while its tiles pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from lkca.data import Cube, CubeMeta, Window
from lkca.data.codec import to_physical
from lkca.data.thinned import Thinned
from lkca.output import save_figure
from lkca.visual import Composite

__all__ = ["Preview"]

_SAMPLE = 256  # coarse pixels per side that decide which bands are shown
_DPI = 100


class Preview:
    """Every k-th pixel of three bands of a result of ``shape`` (rows, cols, bands), stored as ``meta`` says."""

    def __init__(self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, cube: Cube) -> None:
        self.path = path
        middle = Window.centre(cube.rows, cube.cols, _SAMPLE, _SAMPLE)
        self._colours = Composite.of(cube.read(middle), meta.wavelengths, cube.good_bands)
        self._bands = list(self._colours.bands)
        self._meta = meta.subset(self._bands)
        self._thinned = Thinned(3, *shape[:2])

    def add(self, window: Window, read: Callable[[Window, slice], np.ndarray]) -> None:
        """A part of the output. read: gives (some bands, rows, cols) of a window of it, as it stores them."""
        planes = [self._thinned.of(window, read(window, slice(band, band + 1))) for band in self._bands]
        kept = np.concatenate(planes)
        if kept.size:
            self._thinned.put(window, to_physical(kept, self._meta))

    def write(self) -> None:
        """Raises OutputError where it cannot be written."""
        from matplotlib.figure import Figure

        _, rows, cols = self._thinned.pixels.shape
        colours = replace(self._colours, bands=(0, 1, 2))
        figure = Figure(figsize=(cols / _DPI, rows / _DPI))
        figure.figimage(colours.render(self._thinned.pixels))
        save_figure(figure, self.path, dpi=_DPI)
