"""Parts of scenes: row strips of bounded size, and regions of whole coarse pixels."""

from __future__ import annotations

from collections.abc import Iterator

from lkca.data import Cube, Window
from lkca.errors import InputError

__all__ = ["row_strips", "whole_pixels", "widened"]

_SAMPLES = 1 << 24  # 64 MiB as float32


def row_strips(rows: int, cols: int, bands: int, samples: int = _SAMPLES, *, multiple: int = 1) -> Iterator[Window]:
    """Windows of whole rows that cover the scene from top to bottom, each of at most ``samples`` samples.

    Each strip but the last has a multiple of ``multiple`` rows, however many samples these are.
    """
    step = max(multiple, samples // (cols * bands) // multiple * multiple)
    for row in range(0, rows, step):
        yield Window(row, 0, min(step, rows - row), cols)


def widened(window: Window, margin: int, rows: int) -> Window:
    """The strip with ``margin`` rows more above and below, as far as a scene of ``rows`` rows has them."""
    top = max(0, window.row - margin)
    bottom = min(rows, window.row + window.height + margin)
    return Window(top, window.col, bottom - top, window.width)


def whole_pixels(cube: Cube, region: str | None, scale: int, *, least: int = 1) -> tuple[Window, list[str]]:
    """The region cut at its lower right to a multiple of ``scale``, and a remark where something was cut.

    Raises InputError where fewer than ``least`` coarse pixels remain along a side.
    """
    shape = (cube.rows, cube.cols)
    window = Window(0, 0, *shape) if region is None else Window.parse(region, shape)
    height, width = window.height // scale * scale, window.width // scale * scale
    if min(height, width) < least * scale:
        raise InputError(
            f"{cube.source}: the region {window} has {window.height} × {window.width} pixels; ×{scale} needs at least "
            f"{least * scale} × {least * scale}: give a larger region or a smaller scale factor"
        )
    cut = Window(window.row, window.col, height, width)
    if cut == window:
        return cut, []
    return cut, [f"{cube.source}: region cut from {window} to {cut}, a multiple of {scale}"]
