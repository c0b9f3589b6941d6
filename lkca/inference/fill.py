"""Samples that are missing (NaN) are filled before any filter sees them, and missing again afterwards."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

__all__ = ["fill_bands", "fill_missing", "restore_missing"]


def fill_missing(cube: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Gives every missing sample the value of the nearest valid pixel of its band.

    cube: float32 (bands, rows, cols), NaN or infinite where missing; not changed. Returns the filled cube and the
    bool mask of what was missing, or the same array and None where nothing was. A band without any valid sample
    becomes 0. Nearest-pixel filling keeps the values next to a hole free of whatever the file stores in it.
    """
    finite = np.isfinite(cube)
    if finite.all():
        return cube, None
    missing = ~finite
    filled = cube.copy()
    incomplete = np.flatnonzero(missing.any(axis=(1, 2)))
    nearest: tuple[np.ndarray, np.ndarray] | None = None
    last_mask: np.ndarray | None = None
    for band in incomplete:
        mask = missing[band]
        if mask.all():
            filled[band] = 0.0
            continue
        if last_mask is None or not np.array_equal(mask, last_mask):  # most files miss whole pixels: one mask for all
            rows, cols = distance_transform_edt(mask, return_distances=False, return_indices=True)
            nearest, last_mask = (rows[mask], cols[mask]), mask
        assert nearest is not None
        filled[band][mask] = cube[band][nearest]
    return filled, missing


def fill_bands(cube: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """Replaces whole bands by interpolating between the nearest intact ones.

    cube: (bands, rows, cols) without missing samples; broken: bool (bands,). A network mixes bands, so a bad band
    must not reach it as it is. Returns ``cube`` itself where no band is broken; zeros where all are.
    """
    if not broken.any():
        return cube
    out = cube.copy()
    intact = np.flatnonzero(~broken)
    if intact.size == 0:
        out[:] = 0.0
        return out
    for band in np.flatnonzero(broken):
        after = int(np.searchsorted(intact, band))
        left, right = intact[max(after - 1, 0)], intact[min(after, intact.size - 1)]
        share = 0.0 if right == left else (band - left) / (right - left)
        out[band] = (1.0 - share) * cube[left] + share * cube[right]
    return out


def restore_missing(cube: np.ndarray, missing: np.ndarray | None, scale: int) -> None:
    """Sets to NaN, in place, the ``scale × scale`` samples of ``cube`` (bands, s·rows, s·cols) under a missing one."""
    if missing is None:
        return
    bands, rows, cols = missing.shape
    blocks = cube.reshape(bands, rows, scale, cols, scale)
    for band in np.flatnonzero(missing.any(axis=(1, 2))):
        r, c = np.nonzero(missing[band])
        blocks[band][r, :, c, :] = np.nan
