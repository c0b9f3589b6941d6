"""Tile sizes, from channels, rank, scale, dtype and kind of skip alone, never from the image size.

Each function lists an operator's few candidates, the default first; `tune.choose` picks one. Those of
`lowrank_pixel_shuffle` were timed on an H200, the others chosen by the ahead-of-time report (registers, spills, shared
memory, estimated occupancy).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch

__all__ = [
    "AdjointTile",
    "ChannelTile",
    "LocalTile",
    "ShuffleTile",
    "adjoint_tiles",
    "backward_input_tiles",
    "backward_weight_tiles",
    "channel_tiles",
    "epilogue_tiles",
    "forward_tiles",
    "local_tiles",
    "power_of_two",
    "splits",
    "tap_group",
]


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n`` (1 for n <= 1)."""
    return 1 << max(0, n - 1).bit_length()


@dataclass(frozen=True)
class ShuffleTile:
    """Rows q = c*s + i, LR pixels and ranks of one program."""

    block_q: int
    block_p: int
    block_r: int
    num_warps: int
    num_stages: int = 1


def _shuffle_tiles(
    rows: int, scale: int, block_r: int, shapes: Iterable[tuple[int, int, int, int]]
) -> tuple[ShuffleTile, ...]:
    """Tiles from (columns, block_p, num_warps, num_stages), without repetitions.

    ``columns`` is the wanted number of rows times phases; tl.dot needs 16 at least. Where a single row has more phases,
    there are fewer pixels instead.
    """
    sp = power_of_two(scale)
    tiles = []
    for columns, block_p, num_warps, num_stages in shapes:
        block_q = max(1, 16 // sp, min(columns // sp, power_of_two(rows)))
        pixels = max(16, block_p * columns // max(columns, block_q * sp))
        tiles.append(ShuffleTile(block_q, pixels, block_r, num_warps, num_stages))
    return tuple(dict.fromkeys(tiles))


def tap_group(kind: str, scale: int, tile: ShuffleTile) -> int:
    """Neighbouring pixels whose bicubic taps one thread shares: 16 to 64 outputs; 0: each its own, or no LR skip."""
    return {2: 4, 4: 2, 8: 1}.get(scale, 0) if kind in ("matlab", "torch") and tile.block_q % scale == 0 else 0


@cache
def forward_tiles(
    channels: int, rank: int, scale: int, dtype: torch.dtype, low_res_skip: bool = False
) -> tuple[ShuffleTile, ...]:
    """4096 outputs per program and step of its loop, and 32 accumulators a thread, by default; under an LR skip a
    thread for each group of pixels.

    Half of it where the scale is no power of two: such rows are stored element by element, with an address for each.
    """
    # One slice holds a whole small rank; slices of a larger one are narrow, since the loop keeps more in registers.
    whole = 64 if dtype != torch.float32 else 32
    block_r = max(16, power_of_two(rank)) if rank <= whole else 32
    if scale != power_of_two(scale):
        shapes = [(32, 64, 4, 1), (64, 32, 4, 1), (32, 32, 4, 1)]
    elif low_res_skip:
        first = {2: (32, 64, 4, 1), 8: (64, 64, 2, 1)}.get(scale, (32, 128, 4, 1))
        shapes = [first, (64, 64, 4, 1) if scale == 8 else (32, 64, 2, 1)]
    elif dtype == torch.float32:
        shapes = [(64, 64, 4, 1), (32, 64, 4, 1)]
    else:
        shapes = [(32, 128, 4, 3), (64, 128, 8, 3), (64, 64, 4, 3), (32, 64, 4, 2)]
    return _shuffle_tiles(channels * scale, scale, block_r, shapes)


@cache
def epilogue_tiles(channels: int, scale: int) -> tuple[ShuffleTile, ...]:
    """There is no product, so no rank and no loop over the rows."""
    if scale == power_of_two(scale):
        shapes = [(64, 64, 4, 1), (64, 128, 8, 1), (128, 64, 8, 1), (128, 32, 4, 1), (64, 32, 4, 1)]
    else:
        shapes = [(64, 32, 4, 1), (64, 64, 8, 1), (32, 64, 4, 1), (32, 32, 4, 1)]
    return _shuffle_tiles(channels * scale, scale, 16, shapes)


def _backward_tiles(
    channels: int, rank: int, scale: int, shapes: Iterable[tuple[int, int, int, int]]
) -> tuple[ShuffleTile, ...]:
    return _shuffle_tiles(channels * scale, scale, max(16, min(power_of_two(rank), 32)), shapes)


@cache
def backward_weight_tiles(channels: int, rank: int, scale: int, dtype: torch.dtype) -> tuple[ShuffleTile, ...]:
    """Few registers, so that several programs a multiprocessor hide each other's loads, and loads of the next step."""
    if scale != power_of_two(scale):
        shapes = [(64, 32, 4, 1), (64, 64, 8, 1), (64, 16, 4, 1)]
    elif dtype == torch.float32:
        shapes = [(64, 64, 4, 1), (128, 64, 8, 1), (64, 32, 4, 1), (64, 32, 4, 2)]
    else:
        shapes = [(64, 64, 4, 3), (128, 64, 4, 2), (128, 64, 4, 1), (256, 64, 8, 1), (64, 64, 4, 1)]
    return _backward_tiles(channels, rank, scale, shapes)


@cache
def backward_input_tiles(channels: int, rank: int, scale: int, dtype: torch.dtype) -> tuple[ShuffleTile, ...]:
    """Long in pixels, so that the rows of the weight, which every program reads, are read rarely."""
    if scale != power_of_two(scale):
        shapes = [(64, 32, 4, 1), (64, 64, 8, 1), (64, 16, 4, 1)]
    elif dtype == torch.float32:
        shapes = [(64, 64, 4, 1), (64, 128, 8, 1), (32, 128, 8, 2), (32, 64, 4, 1)]
    else:
        shapes = [(64, 128, 4, 2), (64, 128, 4, 1), (64, 128, 8, 1), (64, 64, 4, 3), (32, 128, 4, 1)]
    return _backward_tiles(channels, rank, scale, shapes)


@dataclass(frozen=True)
class AdjointTile:
    """Columns and rows of one program of the bicubic adjoint, in LR samples."""

    columns: int
    rows: int
    num_warps: int = 4


@cache
def adjoint_tiles(scale: int) -> tuple[AdjointTile, ...]:
    """1024 elements of an HR row at a time by default, half of it where each is loaded by itself.

    Rows enough that the four above them, which are read again, are few.
    """
    whole = power_of_two(scale)
    columns = max(1, (1024 if scale == whole else 512) // whole)
    return AdjointTile(columns, 32), AdjointTile(2 * columns, 32), AdjointTile(columns, 64), AdjointTile(columns, 16)


@dataclass(frozen=True)
class ChannelTile:
    """Channels and pixels of one program of the channel operators."""

    block_c: int
    block_p: int
    num_warps: int = 4


@cache
def channel_tiles(channels_last: bool) -> tuple[ChannelTile, ...]:
    """2048 elements a program by default, long along the dimension that is contiguous."""
    if channels_last:
        return ChannelTile(32, 64), ChannelTile(64, 32), ChannelTile(32, 128, 8), ChannelTile(32, 32)
    return ChannelTile(4, 512), ChannelTile(1, 2048), ChannelTile(4, 1024, 8), ChannelTile(2, 512)


@dataclass(frozen=True)
class LocalTile:
    """Channels, pixels and hidden channels of one program of the attention within a window."""

    block_c: int
    block_p: int
    block_k: int
    num_warps: int


@cache
def local_tiles(channels: int, hidden: int) -> tuple[LocalTile, ...]:
    """Float32 products outside the tensor cores, so bounded by registers; tl.dot needs 16 at least."""
    block_k = max(16, min(power_of_two(hidden), 32))
    shapes = [(64, 64, 8), (32, 64, 4), (32, 128, 8)]
    tiles = (LocalTile(max(16, min(power_of_two(channels), c)), p, block_k, warps) for c, p, warps in shapes)
    return tuple(dict.fromkeys(tiles))


def splits(tiles: int, programs: int, wanted: int) -> tuple[int, int]:
    """Parts to cut ``tiles`` into, and their length; each takes ``programs``, of which about ``wanted`` are to come."""
    parts = max(1, min(tiles, -(-wanted // max(1, programs))))
    length = -(-tiles // parts)
    return -(-tiles // length), length
