"""Tiles from a reader, through a network, to a sink: the three overlap, and two buffers serve all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from lkca.data import Cube, Window
from lkca.errors import InputError
from lkca.inference.array import Upscaler
from lkca.inference.strips import Piece

__all__ = ["Sink", "stream"]

Sink = Callable[[int, Piece], None]
_Read = tuple[np.ndarray, np.ndarray | None, tuple[slice, slice]]


def stream(
    cube: Cube, upscaler: Upscaler, tiles: Sequence[Window], sink: Sink, watch: Callable[[], None] | None = None
) -> None:
    """Gives ``sink`` each tile's number and a piece of its result.

    Tiles come in order, and each sample once. The piece's memory is used again once ``sink`` has returned;
    sink runs in a thread of its own, one call at a time. ``watch`` is called before each tile and may raise. An
    InputError of the reader names the tile.
    """
    if not tiles:
        return
    size = max(upscaler.buffer_size(tile.height, tile.width) for tile in tiles)
    buffers = [torch.empty(size, dtype=torch.float32) for _ in range(2)]
    stored: list[Future[None] | None] = [None, None]  # who still uses each buffer
    turn = 0

    def take() -> torch.Tensor:
        nonlocal turn
        turn = 1 - turn
        _wait(stored[turn])
        return buffers[turn]

    with ThreadPoolExecutor(1, "lkca-read") as reader, ThreadPoolExecutor(1, "lkca-store") as store:
        try:
            ahead = reader.submit(_read, cube, upscaler, tiles[0])
            for number in range(len(tiles)):
                if watch is not None:
                    watch()
                filled, missing, core = ahead.result()
                if number + 1 < len(tiles):
                    ahead = reader.submit(_read, cube, upscaler, tiles[number + 1])
                for piece in upscaler.pieces(filled, missing, core, take):
                    stored[turn] = store.submit(sink, number, piece)
                del filled, missing
            for future in stored:
                _wait(future)
        except BaseException:
            reader.shutdown(wait=False, cancel_futures=True)
            raise


def _wait(future: Future[None] | None) -> None:
    if future is not None:
        future.result()


def _read(cube: Cube, upscaler: Upscaler, tile: Window) -> _Read:
    """The tile with the network's halo, without gaps, and where the tile lies in it."""
    inner = tile.widened(upscaler.halo, cube.rows, cube.cols)
    outer = tile.widened(upscaler.halo + upscaler.reach, cube.rows, cube.cols)
    try:
        values = cube.read(outer)
    except InputError as error:
        rows, cols = tile.slices
        raise InputError(
            f"{error}; it happened at rows {rows.start}:{rows.stop}, columns {cols.start}:{cols.stop}"
        ) from error
    filled, missing = upscaler.prepare(values)
    part = inner.shifted(-outer.row, -outer.col).slices
    core = tile.shifted(-inner.row, -inner.col).slices
    return filled[(slice(None), *part)], None if missing is None else missing[(slice(None), *part)], core
