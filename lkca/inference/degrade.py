"""Arrays and scenes made coarser, missing samples kept apart."""

from __future__ import annotations

import numpy as np
import torch

from lkca.data import Cube, CubeMeta
from lkca.data.degradation import Degradation
from lkca.inference.fill import fill_missing
from lkca.inference.windows import whole_pixels

__all__ = ["degrade_array", "degrade_scene"]

_CHUNK_SAMPLES = 1 << 25


def degrade_array(cube: np.ndarray, degradation: Degradation) -> np.ndarray:
    """float32 (bands, rows, cols) → (bands, rows/s, cols/s); rows and cols are multiples of the degradation's s.

    Missing samples (NaN) are filled before the filter; a coarse sample is missing where at least half of the fine
    ones under it are.
    """
    scale = degradation.scale
    filled, missing = fill_missing(cube)
    bands, rows, cols = cube.shape
    out = np.empty((bands, rows // scale, cols // scale), dtype=np.float32)
    step = max(1, _CHUNK_SAMPLES // (rows * cols))
    with torch.inference_mode():
        for start in range(0, bands, step):
            part = torch.from_numpy(np.ascontiguousarray(filled[start : start + step]))
            out[start : start + step] = degradation.apply(part).numpy()
    if missing is not None:
        share = missing.reshape(bands, rows // scale, scale, cols // scale, scale).mean(axis=(2, 4))
        out[share >= 0.5] = np.nan
    return out


def degrade_scene(cube: Cube, degradation: Degradation) -> tuple[np.ndarray, CubeMeta, list[str]]:
    """A scene s times coarser: (bands, rows // s, cols // s), its metadata, and remarks."""
    cube.check_usable()
    window, notes = whole_pixels(cube, None, degradation.scale)
    return degrade_array(cube.read(window), degradation), cube.meta.degraded(degradation.scale), notes
