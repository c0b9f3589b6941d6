"""Every k-th pixel of a scene, gathered while its parts pass: what a picture of a large scene is made of."""

from __future__ import annotations

import math

import numpy as np

from lkca.data.window import Window

__all__ = ["Thinned"]

_SIDE = 1024  # pixels of the longer side, at most


class Thinned:
    """Planes of a scene of ``rows`` x ``cols`` pixels, each at every ``step``-th row and column from the first on.

    step: the least for which no side is longer than 1024, so 1 for a scene that is not. pixels: float32 (planes, rows,
    cols) of those kept, NaN until they are put.
    """

    def __init__(self, planes: int, rows: int, cols: int) -> None:
        self.step = max(1, math.ceil(max(rows, cols) / _SIDE))
        kept = (math.ceil(size / self.step) for size in (rows, cols))
        self.pixels = np.full((planes, *kept), np.nan, dtype=np.float32)

    def of(self, window: Window, part: np.ndarray) -> np.ndarray:
        """Those that are kept, perhaps none, of the pixels ``part`` (..., height, width) at ``window``: a view."""
        first = (-start % self.step for start in (window.row, window.col))
        down, across = (
            slice(start, size, self.step) for start, size in zip(first, (window.height, window.width), strict=True)
        )
        return part[..., down, across]

    def put(self, window: Window, kept: np.ndarray) -> None:
        """Fill in the pixels that :meth:`of` gives of a window by ``kept``, (planes, rows, cols)."""
        row, col = -(-window.row // self.step), -(-window.col // self.step)
        self.pixels[:, row : row + kept.shape[-2], col : col + kept.shape[-1]] = kept
