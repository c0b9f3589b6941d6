"""What is shown of a scene of any size: all of it, thinned, or its middle at full resolution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from lkca.data import Cube, Window
from lkca.data.thinned import Thinned
from lkca.data.window import row_strips
from lkca.visual import Composite, choose_pixels, error_map, pixel_bands, spectral_angle_map

__all__ = ["SIDE", "Middle", "Overview", "Shown", "central_window", "pictured_window"]

SIDE = 384  # fine pixels per side of a middle, at most: a page of a few MB whatever the scene
_HOLE = 0.25  # of the pixels; a middle with fewer valid ones is hardly a picture


@dataclass(frozen=True)
class Shown:
    """One result in an overview: planes of every k-th pixel, and spectra.

    picture: float32 (3, rows, cols). error, angle: float32 (rows, cols), of :func:`lkca.visual.error_map` and
    :func:`lkca.visual.spectral_angle_map`. spectra: float32 (bands, pixels).
    """

    picture: np.ndarray
    error: np.ndarray
    angle: np.ndarray
    spectra: np.ndarray


class Overview:
    """A whole scene, of which every ``step``-th row and column is kept: no side of a picture is longer than 1024.

    truth, low: the scene and its coarse version, with a pixel for ``scale`` by ``scale`` of them; read now, in three
    bands and those that :func:`lkca.visual.choose_pixels` looks at. good: (bands,) bool, the bands that count.
    results: their names; they are gathered while tiles pass, so that what is held does not grow with the scene.

    colours: of the truth, for the three planes of a picture. pixels: (row, col) of the scene, chosen among those kept.
    spectra: of the truth there, float32 (bands, pixels). low_step: that of ``low``.
    """

    def __init__(self, truth: Cube, low: Cube, good: np.ndarray, results: Iterable[str]) -> None:
        self.shape, self.scale = (truth.rows, truth.cols), truth.rows // low.rows
        self.wavelengths, self.good = truth.meta.wavelengths, good
        colours = Composite.choose(truth.bands, self.wavelengths, good)
        self._bands, looked_at = list(colours.bands), pixel_bands(truth.bands, good)
        kept = _thinned(truth, [*self._bands, *looked_at])
        self.step, self.truth = kept.step, kept.pixels[:3].copy()
        self.colours = replace(colours, bands=(0, 1, 2)).stretched(self.truth)
        self.pixels = [(row * self.step, col * self.step) for row, col in choose_pixels(kept.pixels[3:])]
        spectra = [truth.read(Window(row, col, 1, 1))[:, 0, 0] for row, col in self.pixels]
        self.spectra = np.stack(spectra, axis=1) if spectra else np.empty((truth.bands, 0), np.float32)
        coarse = _thinned(low, self._bands)
        self.low_step, self.low = coarse.step, coarse.pixels
        self._results = {name: (Thinned(5, *self.shape), np.full_like(self.spectra, np.nan)) for name in results}

    def add(self, name: str, window: Window, truth: np.ndarray, result: np.ndarray) -> None:
        """A tile of the result of that name and the truth under it, both (bands, height, width); beyond is ignored."""
        thinned, spectra = self._results[name]
        for number, (row, col) in enumerate(self.pixels):
            if window.row <= row < window.row + window.height and window.col <= col < window.col + window.width:
                spectra[:, number] = result[:, row - window.row, col - window.col]
        r, p = (thinned.of(window, cube) for cube in (truth, result))
        maps = np.stack((error_map(r, p, self.good), spectral_angle_map(r, p, self.good)))
        thinned.put(window, np.concatenate((p[self._bands], maps)))

    def result(self, name: str) -> Shown:
        """What was gathered of one."""
        thinned, spectra = self._results[name]
        return Shown(thinned.pixels[:3], thinned.pixels[3], thinned.pixels[4], spectra)


class Middle:
    """The middle of a scene, at most 384 x 384 pixels on the grid of its coarse version, with all bands; another part
    where the middle is a hole (:func:`pictured_window`).

    Made as :class:`Overview`. part: where it lies in the scene. truth, low: float32 (bands, rows, cols) of it, read
    now. results: the same by name, NaN until the tiles have passed.
    """

    def __init__(self, truth: Cube, low: Cube, results: Iterable[str]) -> None:
        scale = truth.rows // low.rows
        self.part = pictured_window(truth, scale)
        self.truth, self.low = truth.read(self.part), low.read(self.part.coarse(scale))
        self.results = {name: np.full_like(self.truth, np.nan) for name in results}

    def add(self, name: str, window: Window, truth: np.ndarray, result: np.ndarray) -> None:
        """As :meth:`Overview.add`."""
        both = window.overlap(self.part)
        if both.height and both.width:
            here, there = (both.shifted(-w.row, -w.col).slices for w in (self.part, window))
            self.results[name][(slice(None), *here)] = result[(slice(None), *there)]


def central_window(rows: int, cols: int, scale: int) -> Window:
    """At most ``SIDE`` × ``SIDE`` pixels in the middle, on a grid of ``scale``."""
    most = max(SIDE // scale, 1) * scale
    height, width = min(rows, most), min(cols, most)
    return Window((rows - height) // 2 // scale * scale, (cols - width) // 2 // scale * scale, height, width)


def pictured_window(cube: Cube, scale: int) -> Window:
    """The middle of a scene, as :func:`central_window` has it; the part of that size with most valid pixels where the
    middle has few, as between the strips of a mosaic. One good band, every k-th pixel of it, tells."""
    middle = central_window(cube.rows, cube.cols, scale)
    good = np.flatnonzero(cube.good_bands)
    if not good.size or (middle.height, middle.width) == (cube.rows, cube.cols):
        return middle
    band = [int(good[good.size // 2])]
    if np.isfinite(cube.read(middle, band)).mean() >= _HOLE:
        return middle
    kept = _thinned(cube, band)
    valid = np.isfinite(kept.pixels[0])
    height, width = (max(1, size // kept.step) for size in (middle.height, middle.width))
    summed = np.pad(valid, ((1, 0), (1, 0))).astype(np.int64).cumsum(axis=0).cumsum(axis=1)
    inside = summed[height:, width:] - summed[:-height, width:] - summed[height:, :-width] + summed[:-height, :-width]
    if not inside.any():
        return middle
    row, col = (int(start) * kept.step for start in np.unravel_index(inside.argmax(), inside.shape))
    row, col = min(row, cube.rows - middle.height), min(col, cube.cols - middle.width)
    return Window(row // scale * scale, col // scale * scale, middle.height, middle.width)


def _thinned(cube: Cube, bands: list[int]) -> Thinned:
    """Some bands of a whole cube, read strip by strip."""
    found = Thinned(len(bands), cube.rows, cube.cols)
    for strip in row_strips(*cube.shape):
        found.put(strip, found.of(strip, cube.read(strip, bands)))
    return found
