"""Nodata values that a file does not name: said by the user, or suspected."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lkca.data.codec import nodata_code
from lkca.data.cube import Cube
from lkca.data.readers.cf import StoredSamples
from lkca.data.window import Window
from lkca.errors import LkcaError

__all__ = ["declare_nodata", "names_nodata", "warn_of_fill"]

_SIDE, _BANDS = 32, 8  # of the nine windows that are looked at
_SHARE = 0.01  # of their pixels


def declare_nodata(cube: Cube, value: float) -> None:
    """Samples stored as ``value`` are missing, whatever the file says, by its ``valid_range`` too; a mask beside them
    stays."""
    if isinstance(cube.read_stored, StoredSamples):
        cube.read_stored = replace(cube.read_stored, valid=None)
    dtype = cube.meta.stored_dtype
    if dtype is not None and not math.isnan(value) and nodata_code(dtype, value) is None:
        cube.warnings += (f"{cube.source}: no sample of {dtype} can be the nodata value {value:.17g}",)
        if cube.meta.nodata is not None and math.isnan(cube.meta.nodata):
            return
    cube.meta = cube.meta.replace(nodata=float(value))


def names_nodata(cube: Cube) -> bool:
    """Whether the file says what stands for missing samples."""
    stored = cube.read_stored
    return cube.meta.nodata is not None and (not isinstance(stored, StoredSamples) or stored.named)


def warn_of_fill(cube: Cube) -> None:
    """Adds a warning where whole pixels hold one value far from all others, as if it stood for missing samples.

    Far: by more than half the range of the others (1st to 99th percentile), as shadow hardly ever lies. A cube of one
    band may be a map of classes, and is not looked at. One band is read first: most cubes need no more.
    """
    if cube.bands == 1:
        return
    bands = np.unique(np.linspace(0, cube.bands - 1, _BANDS).astype(int))
    height, width = min(cube.rows, _SIDE), min(cube.cols, _SIDE)
    rows, cols = ({0, rest // 2, rest} for rest in (cube.rows - height, cube.cols - width))

    def sample(chosen: np.ndarray) -> np.ndarray:
        """(bands, pixels) of the nine windows."""
        parts = [cube.read_stored(Window(row, col, height, width), chosen) for row in rows for col in cols]
        samples = np.concatenate([part.reshape(len(chosen), -1) for part in parts], axis=1).astype(np.float64)
        samples[samples == cube.meta.nodata] = np.nan
        return samples

    try:
        first = sample(bands[:1])
        first = first[np.isfinite(first)]
        if not first.size or max((first == first.min()).mean(), (first == first.max()).mean()) < _SHARE:
            return
        pixels = sample(bands)
    except (LkcaError, OSError, ValueError, RuntimeError, KeyError):
        return  # who needs these samples will hear of it
    pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
    for value in (pixels.min(initial=np.inf), pixels.max(initial=-np.inf)):
        filled = (pixels == value).all(axis=0)
        others = pixels[pixels != value]
        if not others.size or filled.mean() < _SHARE:
            continue
        low, high = np.percentile(others, (1, 99))
        if low < high < low + 2 * np.abs(others - value).min():
            cube.warnings += (
                f"{cube.source}: {filled.mean():.0%} of the pixels looked at hold {value:.17g}, far from all others "
                f"({others.min():g} to {others.max():g}), and the file does not call them missing; if they are, say "
                f"so with --nodata {value:.17g}",
            )
            return
