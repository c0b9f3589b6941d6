"""What tells that a download is the image that it should be: layout, range, and numbers to compare between labs."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from lkca.data.cube import Cube
from lkca.data.window import Window
from lkca.errors import InputError

__all__ = ["Statistics", "check_layout"]

_SAMPLE = 256  # pixels per side
_LEAST = 0.5  # correlation of neighbours; real scenes have 0.9 and more, shuffled axes next to nothing


class Statistics:
    """Counts over all samples seen: range, mean, missing ones, means of the first and last band, a CRC-32."""

    def __init__(self) -> None:
        self._count = self._missing = 0
        self._min, self._max = np.inf, -np.inf
        self._sum: np.ndarray | None = None
        self._finite: np.ndarray | None = None
        self._crc = 0

    def update(self, block: np.ndarray) -> None:
        """Take in float32 (bands, rows, cols); NaN is missing. The CRC depends on how an image is cut into blocks."""
        finite = np.isfinite(block)
        values = np.where(finite, block, 0)
        sums, counts = values.sum(axis=(1, 2), dtype=np.float64), finite.sum(axis=(1, 2))
        self._sum = sums if self._sum is None else self._sum + sums
        self._finite = counts if self._finite is None else self._finite + counts
        self._count += block.size
        self._missing += block.size - int(counts.sum())
        if finite.any():
            self._min = min(self._min, float(block[finite].min()))
            self._max = max(self._max, float(block[finite].max()))
        self._crc = zlib.crc32(np.ascontiguousarray(block, dtype="<f4").tobytes(), self._crc)

    def summary(self) -> dict[str, Any]:
        """{"min", "max", "mean", "missing" (share), "mean_of_first_band", "mean_of_last_band", "crc32" (hex)}."""
        if self._sum is None or self._finite is None or not self._finite.any():
            raise InputError("the data hold no valid sample; check the download")
        means = self._sum / np.maximum(self._finite, 1)
        return {
            "min": self._min,
            "max": self._max,
            "mean": float(self._sum.sum() / self._finite.sum()),
            "missing": self._missing / self._count,
            "mean_of_first_band": float(means[0]),
            "mean_of_last_band": float(means[-1]),
            "crc32": f"{self._crc:08x}",
        }


def check_layout(cube: Cube) -> None:
    """InputError unless neighbouring pixels, and neighbouring bands, resemble each other in the scene's middle.

    A matrix whose axes were taken in another order, or whose pixels were unfolded wrongly, fails this.
    """
    middle = Window.centre(cube.rows, cube.cols, _SAMPLE, _SAMPLE)
    block = np.nan_to_num(cube.read(middle).astype(np.float64), posinf=0, neginf=0)
    pairs = {
        "bands": (block[:-1], block[1:]),
        "rows": (block[:, :-1], block[:, 1:]),
        "columns": (block[:, :, :-1], block[:, :, 1:]),
    }
    for what, (one, other) in pairs.items():
        likeness = _correlation(one, other)
        if likeness is not None and likeness < _LEAST:
            raise InputError(
                f"{cube.source}: neighbouring {what} correlate by {likeness:.2f} only; the axes are not rows, columns "
                "and bands as the protocol expects them, or the file is damaged"
            )


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Median over bands; None where no band varies."""
    one, other = (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(1, keepdims=True) for x in (one, other))
    norms = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    varies = norms > 0
    return float(np.median((one * other).sum(1)[varies] / norms[varies])) if varies.any() else None
