"""What an array's result is made of: strips of rows, and pieces of them, some bands each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lkca.inference.bands import BandUpsampler

__all__ = ["EDGE", "Part", "Piece", "Strip", "widened"]

EDGE = 2  # coarse pixels around a result that the upsampling reads: bicubic's reach, more than its convolution's

Part = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Piece:
    """Some bands and rows of a result.

    samples: float32 (bands, rows, cols), NaN where missing; or, where ``counts`` are given, as the output stores them,
    with what its encoder would have counted.
    """

    bands: slice
    rows: slice
    samples: np.ndarray
    counts: dict[str, float] | None = None


@dataclass
class Strip:
    """Some rows of a core: of the part of an array that is upscaled, beside which ``filled`` has pixels to see.

    rows, cols: of the strip, in ``filled``; the core begins at row ``begin`` and has the same columns. near_cols: these
    and those beside them. empty: all of the core is missing. upsampler: of the network, over all rows and near_cols;
    None where there is no network, or nothing for it to do.
    """

    filled: np.ndarray
    missing: np.ndarray | None
    rows: slice
    cols: slice
    near_cols: slice
    begin: int
    empty: bool
    upsampler: BandUpsampler | None

    @property
    def near(self) -> Part:
        """What the upsampling sees."""
        return widened(self.rows, self.filled.shape[1]), self.near_cols

    def inner(self, scale: int) -> tuple[slice, ...]:
        """The strip's place in the result for ``near``."""
        return tuple(
            slice((part.start - wide.start) * scale, (part.stop - wide.start) * scale)
            for part, wide in zip((self.rows, self.cols), self.near, strict=True)
        )

    def fine_rows(self, scale: int) -> slice:
        """Its rows in the core's result."""
        return slice((self.rows.start - self.begin) * scale, (self.rows.stop - self.begin) * scale)

    def lacking(self, bands: slice) -> np.ndarray | None:
        """Which of its samples are missing; None where none is."""
        mask = None if self.missing is None else self.missing[bands, self.rows, self.cols]
        return None if mask is None or not mask.any() else mask

    @cached_property
    def near_upsampler(self) -> BandUpsampler | None:
        """The upsampler over what is near alone."""
        return None if self.upsampler is None else self.upsampler.part(self.near[0], slice(None))


def widened(part: slice, size: int) -> slice:
    """The part and :data:`EDGE` pixels on either side, as far as there are any."""
    return slice(max(0, part.start - EDGE), min(size, part.stop + EDGE))
