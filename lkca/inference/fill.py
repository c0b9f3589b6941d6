"""Samples that are missing (NaN) are filled before any filter sees them, and missing again afterwards."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

__all__ = ["fill_bands", "fill_missing", "fill_spectra", "finer_mask", "restore_missing"]

_CHUNK_SAMPLES = 1 << 22


def fill_missing(cube: np.ndarray, reach: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Gives every missing sample the value of the nearest valid pixel of its band.

    cube: float32 (bands, rows, cols), NaN or infinite where missing; not changed. Returns the filled cube and the
    bool mask of what was missing, or the same array and None where nothing was. A band without any valid sample
    becomes 0. Nearest-pixel filling keeps the values next to a hole free of whatever the file stores in it.

    With ``reach`` (pixels), a sample that has no valid one of its band so near becomes NaN: the filling of a pixel then
    depends on nothing further away, and a window with that margin gives what the whole scene gives.
    """
    missing = ~np.isfinite(cube)
    if not missing.any():
        return cube, None
    filled = cube.copy()
    np.copyto(filled, 0.0 if reach is None else np.nan, where=missing)
    last_mask: np.ndarray | None = None
    for band in np.flatnonzero(missing.any(axis=(1, 2))):
        mask = missing[band]
        if mask.all():
            continue
        if last_mask is None or not np.array_equal(mask, last_mask):  # most files miss whole pixels: one mask for all
            (here, nearest), last_mask = _nearest(mask, reach), mask
        filled[band].reshape(-1)[here] = cube[band].take(nearest)
    return filled, missing


def _nearest(mask: np.ndarray, reach: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Flat places of the pixels that are set and have an unset one within ``reach``, and of the nearest such ones."""
    rows, cols = distance_transform_edt(mask, return_distances=False, return_indices=True)
    row, col = np.nonzero(mask)
    to_row, to_col = rows[mask].astype(np.intp), cols[mask].astype(np.intp)
    near = slice(None) if reach is None else (row - to_row) ** 2 + (col - to_col) ** 2 <= reach**2
    width = mask.shape[1]
    return (row * width + col)[near], (to_row * width + to_col)[near]


def fill_spectra(cube: np.ndarray) -> None:
    """Replaces NaN, in place, by interpolating between the nearest bands that the same pixel has; 0 where it has none.

    cube: float32 (bands, rows, cols), contiguous.
    """
    bands = cube.shape[0]
    flat = cube.reshape(bands, -1)
    known = np.isfinite(flat)
    some = known.any(axis=0)
    np.copyto(flat, 0.0, where=~some)
    pixels = np.flatnonzero(some & ~known.all(axis=0))
    band, step = np.arange(bands)[:, None], max(1, _CHUNK_SAMPLES // bands)
    for start in range(0, pixels.size, step):
        part = pixels[start : start + step]
        values, here = flat[:, part], known[:, part]
        before = np.maximum.accumulate(np.where(here, band, -1), axis=0)
        after = np.minimum.accumulate(np.where(here, band, bands)[::-1], axis=0)[::-1]
        left, right = np.where(before < 0, after, before), np.where(after == bands, before, after)
        share = ((band - left) / np.maximum(right - left, 1)).astype(np.float32)
        low, high = np.take_along_axis(values, left, axis=0), np.take_along_axis(values, right, axis=0)
        flat[:, part] = np.where(here, values, (1 - share) * low + share * high)


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


def finer_mask(missing: np.ndarray, scale: int) -> np.ndarray:
    """bool (bands, rows, cols) -> (bands, s·rows, s·cols); of one band where it is the same for all."""
    if (missing == missing[:1]).all():  # most files miss whole pixels
        missing = missing[:1]
    return missing.repeat(scale, axis=1).repeat(scale, axis=2)
