"""How a scene is cut: tiles on the coarse grid, within a budget of memory. docs/scenes.md has the formula."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lkca.data import Window
from lkca.data.gdal import CACHE_BYTES
from lkca.data.memory import available_memory, resident_memory
from lkca.data.window import pieces
from lkca.errors import InputError
from lkca.inference.array import Upscaler

__all__ = [
    "MemoryBudget",
    "TilePlan",
    "copied_rows",
    "plan_tiles",
    "size_text",
    "tile_bytes",
]

_SHARE = 0.5  # of the free memory, where nothing else is asked for
_TILE_BYTES = 2 << 30  # of a result, at most: larger ones gain little and leave less to overlap
_NARROW = 1.25  # times what they read is what narrower tiles than the scene cost: their rows are written one by one
_WIDE_ROWS = 128  # fewer, and each compressed block of a raster is unpacked for many tiles
_STEP = 16  # coarse pixels
_LEAST = 8
_COPIED_SAMPLES = 1 << 22
_RESERVE = 160 << 20  # libraries that load at their first use, the allocators' slack
_CACHE_SHARE, _CACHE_LEAST = 0.08, 16 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes of main memory that this process may hold in all, those that it holds already, and for blocks of files.

    remedy: what to do where that does not suffice.
    """

    total: int
    held: int
    remedy: str

    @classmethod
    def of(cls, text: str | None, neighbours: int = 1) -> MemoryBudget:
        """From ``"2G"``, ``"500M"`` (1024-based), or ``"half"`` of what is free, shared among ``neighbours`` processes.

        None: half, where --memory is no option and the remedy does not name it.
        """
        held = resident_memory()
        if text is None or text == "half":
            remedy = "close other programs" + ("" if text is None else ", or say with --memory what may be used")
            return cls(held + int(_SHARE * available_memory() / neighbours), held, remedy)
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
        total = 0.0 if match is None else float(match[1]) * _UNITS[match[2]]
        if not 0 < total < math.inf:
            raise InputError(f"the memory '{text}' is not understood; give for example 2G, 800M or half")
        return cls(int(total), held, "give more with --memory")

    @property
    def cache(self) -> int:
        """For blocks of raster files."""
        return min(CACHE_BYTES, max(_CACHE_LEAST, int(_CACHE_SHARE * self.total)))

    @property
    def fixed(self) -> int:
        """What is taken before the first tile."""
        return self.held + self.cache + _RESERVE


@dataclass(frozen=True)
class TilePlan:
    """Tiles that cover ``area`` of the coarse scene, row by row, each (rows, cols) in size but at the lower and right
    edge.

    margin: coarse pixels read around a tile, of which the network sees ``halo``. memory, budget: peak expected and
    allowed, bytes of the whole process.
    """

    area: Window
    rows: int
    cols: int
    scale: int
    halo: int
    margin: int
    memory: int
    budget: int

    def tiles(self) -> list[Window]:
        """In coordinates of the coarse scene."""
        return list(pieces(self.area, self.rows, self.cols))

    def fine(self, tile: Window) -> Window:
        """Where a tile lies in the output."""
        return tile.shifted(-self.area.row, -self.area.col).scaled(self.scale)


def plan_tiles(
    area: Window,
    upscaler: Upscaler,
    budget: MemoryBudget,
    *,
    stored_bytes: int = 4,
    copied: bool = False,
    resident: int = 0,
    tile: int | tuple[int, int] | None = None,
    device_memory: int | None = None,
) -> TilePlan:
    """The largest tiles that the budget allows, up to 2 GiB of result each; no more than there are pixels.

    They are as wide as the area, of 128 rows at least, unless they read a quarter more with their margins than square
    ones.

    stored_bytes: of a sample of the output. copied: whether finished samples are taken to it through memory.
    resident: bytes of output that the writer holds in memory. tile: side in coarse pixels, or rows and columns of a
    run that has begun, instead of those found. Raises InputError where not even the smallest tile fits.
    """
    scale = upscaler.scale

    def needed(size: tuple[int, int]) -> int:
        row = upscaler.bands * size[1] * scale
        copy = min(size[0] * scale, copied_rows(row)) * row if copied else 0
        return budget.fixed + resident + tile_bytes(*size, upscaler) + 2 * stored_bytes * copy

    def plan(size: tuple[int, int]) -> TilePlan:
        return TilePlan(area, *size, scale, upscaler.halo, upscaler.halo + upscaler.reach, needed(size), budget.total)

    def fits(size: tuple[int, int]) -> bool:
        on_device = device_memory is None or tile_bytes(*size, upscaler) <= device_memory
        return needed(size) <= budget.total and on_device

    if tile is not None:
        height, width = (tile, tile) if isinstance(tile, int) else tile
        size = (min(height, area.height), min(width, area.width))
        if not fits(size):
            begun = not isinstance(tile, int)
            raise InputError(
                f"tiles of {size[0]} × {size[1]} pixels need {size_text(needed(size))} of memory, "
                f"{size_text(budget.total)} are allowed; {budget.remedy}"
                + ("; a run keeps the tiles that it began with" if begun else " or give a smaller --tile")
            )
        return plan(size)
    best = _best_size(area, upscaler, fits)
    if best is None:
        raise InputError(
            f"the smallest tiles ({_LEAST} × {_LEAST} pixels) need "
            f"{size_text(needed(_cut(area, _LEAST, _LEAST)))} of memory, "
            f"{size_text(budget.total)} are allowed; {budget.remedy}"
            + (", or write .tif or an ENVI file, which are not collected in memory" if resident else "")
        )
    return plan(best)


def _best_size(area: Window, upscaler: Upscaler, fits: Callable[[tuple[int, int]], bool]) -> tuple[int, int] | None:
    """The cheaper of the largest square and the largest wide tiles, else the smallest ones; None: none fits."""

    def large(size: tuple[int, int]) -> bool:
        return 4 * size[0] * size[1] * upscaler.scale**2 * upscaler.bands > _TILE_BYTES

    def largest(sizes: Iterator[tuple[int, int]]) -> tuple[int, int] | None:
        """Of rising ones."""
        found: tuple[int, int] | None = None
        for size in sizes:
            if not fits(size) or (large(size) and found is not None):
                break
            found = size
        return found

    def cost(size: tuple[int, int]) -> float:
        return _read(area, size, upscaler.halo + upscaler.reach) * (1.0 if size[1] == area.width else _NARROW)

    longest = max(area.height, area.width)
    square = largest(_cut(area, side, side) for side in range(_STEP, longest + _STEP, _STEP))
    wide = largest(_cut(area, rows, area.width) for rows in range(_STEP, area.height + _STEP, _STEP))
    if wide is not None and (large(wide) or wide[0] < min(_WIDE_ROWS, area.height)):
        wide = None
    if square is not None:
        return min((size for size in (wide, square) if size is not None), key=cost)
    small = _cut(area, _LEAST, _LEAST)
    return small if fits(small) else None


def _cut(area: Window, rows: int, cols: int) -> tuple[int, int]:
    """Tiles of at most that size, all of about one size."""
    height, width = (
        math.ceil(length / math.ceil(length / side)) for length, side in ((area.height, rows), (area.width, cols))
    )
    return height, width


def _read(area: Window, size: tuple[int, int], margin: int) -> int:
    """Coarse pixels that are read for all tiles of that size."""
    rows, cols = (
        length + 2 * margin * (math.ceil(length / side) - 1)
        for length, side in zip((area.height, area.width), size, strict=True)
    )
    return rows * cols


def size_text(nbytes: float) -> str:
    """``"1.50 GiB"``, ``"12 MiB"``."""
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.0f} MiB"


def copied_rows(samples: int) -> int:
    """How many rows, of so many ``samples`` each, are read back and taken to the output at once."""
    return max(1, _COPIED_SAMPLES // samples)


def tile_bytes(rows: int, cols: int, upscaler: Upscaler) -> int:
    """What a tile of so many coarse pixels takes beside what is held anyway.

    Two are read (one ahead), one is in the network; of its bands some are made, and some are being stored.
    """
    bands, margin, halo = upscaler.bands, upscaler.halo + upscaler.reach, upscaler.halo
    read = (rows + 2 * margin) * (cols + 2 * margin) * bands * 10  # values, filled values, two masks
    network = (rows + 2 * halo) * (cols + 2 * halo) * 4 * (3 * bands + upscaler.features)
    fine = 4 * upscaler.buffer_size(rows, cols)
    return int(2 * read + network + 4 * fine)  # two parts of results, a convolution's or bicubic's, what is stored
