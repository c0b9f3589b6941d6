"""Tile sizes, from channels, rank, scale and dtype alone: the image size never causes a new compilation.

Chosen by the ahead-of-time report (registers, spills, shared memory, estimated occupancy), not yet by timings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = [
    "CHANNELS_FIRST",
    "CHANNELS_LAST",
    "ChannelTile",
    "ShuffleTile",
    "backward_tile",
    "epilogue_tile",
    "forward_tile",
    "power_of_two",
    "splits",
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


def _shuffle_tile(rows: int, scale: int, columns: int, block_p: int, block_r: int, num_warps: int) -> ShuffleTile:
    """``columns`` is the wanted number of rows times phases; tl.dot needs 16 at least."""
    sp = power_of_two(scale)
    block_q = max(1, 16 // sp, min(columns // sp, power_of_two(rows)))
    return ShuffleTile(block_q, block_p, block_r, num_warps)


def forward_tile(channels: int, rank: int, scale: int, dtype: torch.dtype) -> ShuffleTile:
    """4096 outputs per program, 32 accumulators a thread.

    Half of it where the scale is no power of two: such rows are stored element by element, with an address for each.
    """
    block_p = 64 if scale == power_of_two(scale) else 32
    # One slice holds a whole small rank; slices of a larger one are narrow, since the loop keeps more in registers.
    whole = 64 if dtype != torch.float32 else 32
    block_r = max(16, power_of_two(rank)) if rank <= whole else 32
    return _shuffle_tile(channels * scale, scale, 64, block_p, block_r, 4)


def epilogue_tile(channels: int, scale: int) -> ShuffleTile:
    """As the forward tile; there is no product, so no rank."""
    return forward_tile(channels, 1, scale, torch.float32)


def backward_tile(channels: int, rank: int, scale: int, dtype: torch.dtype) -> ShuffleTile:
    """Wide in rows, so that few partial sums of the gradient of z remain to be added; bounded by registers.

    float32 without tf32 multiplies outside the tensor cores, with every operand in registers: half the tile.
    """
    shuffles_whole_rows = scale == power_of_two(scale)
    if dtype == torch.float32:
        columns, block_p, num_warps = (128, 16, 8) if shuffles_whole_rows else (64, 16, 4)
    else:
        columns, block_p, num_warps = (256, 32, 8) if shuffles_whole_rows else (64, 32, 4)
    return _shuffle_tile(channels * scale, scale, columns, block_p, max(16, min(power_of_two(rank), 32)), num_warps)


@dataclass(frozen=True)
class ChannelTile:
    """Channels and pixels of one program of the channel operators."""

    block_c: int
    block_p: int
    num_warps: int = 4


CHANNELS_FIRST = ChannelTile(4, 512)
CHANNELS_LAST = ChannelTile(32, 64)


def splits(tiles: int, programs: int, multiprocessors: int) -> tuple[int, int]:
    """Parts to cut a sum over ``tiles`` into, so that each multiprocessor has two programs, and their length."""
    wanted = max(1, min(tiles, -(-2 * multiprocessors // programs)))
    length = -(-tiles // wanted)
    return -(-tiles // length), length
