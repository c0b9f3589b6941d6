"""Arrays and scenes made coarser, missing samples kept apart; of scenes, a bounded part is held at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from lkca.data import Cube, Window, WriteReport, create_writer
from lkca.data.degradation import Degradation
from lkca.data.window import pieces
from lkca.inference.fill import fill_missing
from lkca.inference.windows import whole_pixels

__all__ = ["degrade_array", "degrade_scene", "degraded"]

_CHUNK_SAMPLES = 1 << 22  # filtered at a time
_BLOCK_SAMPLES = 1 << 24  # read at a time: 64 MiB, and with what is made of them four times as much


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
            some = slice(start, start + step)
            out[some] = degradation.apply(torch.from_numpy(np.ascontiguousarray(filled[some]))).numpy()
            if missing is not None:
                under = missing[some].reshape(-1, rows // scale, scale, cols // scale, scale)
                out[some][under.mean(axis=(2, 4)) >= 0.5] = np.nan
    return out


def degraded(cube: Cube, degradation: Degradation) -> Cube:
    """A cube s times coarser whose samples are computed when they are read, equal to those of :func:`degrade_array`.

    cube: its rows and cols are multiples of s; it stays open, and closing one closes both. A window is computed in
    blocks, so reading it takes little more memory than its samples. They do not depend on the blocks: a coarse sample
    that is kept has a valid fine one under it, so whatever is missing in its filter's reach finds one as near as that.
    """
    scale, rows, cols = degradation.scale, cube.rows // degradation.scale, cube.cols // degradation.scale
    reach = math.ceil(math.sqrt(2) * (degradation.halo + scale - 1))
    margin = math.ceil((degradation.halo + reach) / scale)

    def read(part: Window, bands: np.ndarray) -> np.ndarray:
        out = np.empty((bands.size, part.height, part.width), dtype=np.float32)
        for some, block in _blocks(part, bands.size, scale, margin):
            wide = block.widened(margin, rows, cols)
            low = degrade_array(cube.read(wide.scaled(scale), bands[some]), degradation)
            inner = block.shifted(-wide.row, -wide.col).slices
            out[(some, *block.shifted(-part.row, -part.col).slices)] = low[(slice(None), *inner)]
        return out

    return Cube(
        cube.source, (rows, cols, cube.bands), cube.meta.degraded(scale), read, format=cube.format, files=cube.files,
        warnings=cube.warnings, close=cube.close, physical=True,
    )  # fmt: skip


def degrade_scene(
    cube: Cube, output: str | os.PathLike[str], degradation: Degradation, *, overwrite: bool = False
) -> WriteReport:
    """Writes a scene s times coarser, (rows // s, cols // s), with its metadata; window by window, in bounded memory.

    The report's warnings say what was cut and what the file could not keep. Raises InputError for what cannot be read
    or done as asked, OutputError where writing fails.
    """
    cube.check_usable()
    window, notes = whole_pixels(cube, None, degradation.scale)
    low = degraded(cube.region(window), degradation)
    with create_writer(output, low.shape, low.meta, overwrite=overwrite, inputs=cube.files) as writer:
        height, width = writer.block
        room = _BLOCK_SAMPLES // low.bands
        width = min(low.cols, max(1, room // (height * width)) * width)
        height = min(low.rows, max(1, room // (height * width)) * height)
        for part in pieces(Window.full(low.rows, low.cols), height, width):
            writer.write(part, low.read(part))
    assert writer.report is not None
    return replace(writer.report, warnings=(*notes, *writer.report.warnings))


def _blocks(part: Window, bands: int, scale: int, margin: int) -> Iterator[tuple[slice, Window]]:
    """Bands and coarse windows that cover ``part``, with their margin about ``_BLOCK_SAMPLES`` fine samples each.

    Whole rows where these are not so many that the margin costs more than them; else squares, of fewer bands at a time
    where they would be small for their margin, and of more samples where they would be narrower than it.
    """
    count = min(bands, max(1, _BLOCK_SAMPLES // (6 * margin * scale) ** 2))
    pixels = _BLOCK_SAMPLES // (count * scale**2)
    height, width = pixels // (part.width + 2 * margin) - 2 * margin, part.width
    if height < 2 * margin:
        height = width = max(margin, math.isqrt(pixels) - 2 * margin)
    for first in range(0, bands, count):
        for window in pieces(part, height, width):
            yield slice(first, first + count), window
