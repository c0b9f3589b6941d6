"""Rectangles of pixels, and how a scene is cut into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lkca.errors import InputError

__all__ = ["Window", "pieces", "row_strips"]

_SAMPLES = 1 << 24  # of a strip: 64 MiB as float32


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: first row and column (0-based) and its size in pixels."""

    row: int
    col: int
    height: int
    width: int

    @classmethod
    def full(cls, rows: int, cols: int) -> Window:
        """The whole scene of ``rows`` x ``cols`` pixels."""
        return cls(0, 0, rows, cols)

    @classmethod
    def centre(cls, rows: int, cols: int, height: int, width: int) -> Window:
        """The middle ``height`` x ``width`` pixels of a scene of ``rows`` x ``cols``, or as many as it has."""
        height, width = min(rows, height), min(cols, width)
        return cls((rows - height) // 2, (cols - width) // 2, height, width)

    @classmethod
    def parse(cls, text: str, shape: tuple[int, int] | None = None) -> Window:
        """Read ``"ROWS,COLS"``, each a Python slice (``"0:68,:"``, ``"10:,-32:"``); empty means all.

        ``shape`` (rows, cols) of the scene resolves open and negative ends and clips nothing: an end
        beyond the scene is an InputError, as is a window without pixels or a step.
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 2:
            raise InputError(f"region {text!r} must be ROWS,COLS, for example 0:68,0:100 or 0:68,:")
        (row, height), (col, width) = (
            _parse_slice(part, text, None if shape is None else shape[axis]) for axis, part in enumerate(parts)
        )
        return cls(row, col, height, width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """(row slice, column slice) for indexing an array whose last two axes are rows and columns."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def scaled(self, scale: int) -> Window:
        """The same ground on a grid ``scale`` times finer."""
        return Window(self.row * scale, self.col * scale, self.height * scale, self.width * scale)

    def coarse(self, scale: int) -> Window:
        """The same ground on a grid ``scale`` times coarser, of which each side is a multiple."""
        return Window(self.row // scale, self.col // scale, self.height // scale, self.width // scale)

    def shifted(self, rows: int, cols: int) -> Window:
        """The window moved down by ``rows`` and right by ``cols``."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def widened(self, margin: int, rows: int, cols: int) -> Window:
        """The window with ``margin`` pixels more on each side, as far as a scene of ``rows`` x ``cols`` has them."""
        size = self.height + 2 * margin, self.width + 2 * margin
        return Window(self.row - margin, self.col - margin, *size).overlap(Window.full(rows, cols))

    def overlap(self, other: Window) -> Window:
        """The pixels in both; a window of no height or width where there are none."""
        top, left = max(self.row, other.row), max(self.col, other.col)
        bottom, right = (min(a.stop, b.stop) for a, b in zip(self.slices, other.slices, strict=True))
        return Window(top, left, max(0, bottom - top), max(0, right - left))

    def check(self, rows: int, cols: int, source: str) -> None:
        """Raise InputError unless the window holds pixels and lies inside a scene of ``rows`` x ``cols``."""
        if self.height < 1 or self.width < 1:
            raise InputError(f"{source}: the region {self} holds no pixel; give one of at least 1 x 1")
        if self.row < 0 or self.col < 0 or self.row + self.height > rows or self.col + self.width > cols:
            raise InputError(
                f"{source}: the region {self} reaches outside the scene of {rows} rows x {cols} columns; "
                "give one inside it"
            )

    def __str__(self) -> str:
        return f"{self.row}:{self.row + self.height},{self.col}:{self.col + self.width}"


def pieces(area: Window, height: int, width: int) -> Iterator[Window]:
    """Windows that cover ``area``, row by row, each of that size but at its lower and right edge."""
    for row in range(0, area.height, height):
        for col in range(0, area.width, width):
            size = min(height, area.height - row), min(width, area.width - col)
            yield Window(area.row + row, area.col + col, *size)


def row_strips(rows: int, cols: int, bands: int) -> Iterator[Window]:
    """Windows of whole rows that cover a scene from top to bottom, each of at most 64 MiB as float32, or one row."""
    yield from pieces(Window.full(rows, cols), max(1, _SAMPLES // (cols * bands)), cols)


def _parse_slice(part: str, text: str, size: int | None) -> tuple[int, int]:
    ends = part.split(":") if part else ["", ""]
    try:
        if len(ends) != 2:
            raise ValueError
        start, stop = (int(end) if end.strip() else None for end in ends)
    except ValueError:
        raise InputError(f"region {text!r}: {part!r} is not START:STOP, for example 0:68") from None
    if size is None:
        if stop is None or stop < 0 or (start or 0) < 0:
            raise InputError(f"region {text!r}: {part!r} has an open or negative end; give both ends as numbers")
        first, last = start or 0, stop
    else:
        first = (start or 0) + (size if (start or 0) < 0 else 0)
        last = size if stop is None else stop + (size if stop < 0 else 0)
        if first < 0 or last > size:
            raise InputError(f"region {text!r}: {part!r} reaches outside 0:{size}; give ends inside it")
    if last <= first:
        raise InputError(f"region {text!r}: {part!r} holds no pixel; STOP must be greater than START")
    return first, last - first
