"""Parts of scenes as users name them, and regions of whole coarse pixels."""

from __future__ import annotations

import math

import numpy as np

from lkca.data import Cube, Window
from lkca.errors import InputError

__all__ = ["parse_roi", "whole_pixels"]

_ROUNDING = 1e-3  # pixels


def parse_roi(text: str | None, cube: Cube) -> Window:
    """The part of a scene that ``text`` names; the whole scene for None.

    Pixels as Python slices, ``"r0:r1,c0:c1"``; or coordinates of the scene's CRS, ``"xmin,ymin,xmax,ymax"``: the pixels
    that the rectangle touches, as far as the scene has them. Raises InputError where that is none.
    """
    if text is None:
        return Window.full(cube.rows, cube.cols)
    if ":" in text:
        return Window.parse(text, (cube.rows, cube.cols))
    try:
        west, south, east, north = ends = [float(part) for part in text.split(",")]
        if not np.isfinite(ends).all():
            raise ValueError
    except ValueError:
        raise InputError(
            f"the region '{text}' is not understood; give pixels as 0:100,50:150 (rows, columns) or map coordinates as "
            "XMIN,YMIN,XMAX,YMAX"
        ) from None
    if west > east or south > north:
        raise InputError(f"the region '{text}' has its ends exchanged; give XMIN,YMIN,XMAX,YMAX")
    transform, corners = cube.meta.transform, np.full((1, 2), np.nan)
    if transform is not None and not transform.is_degenerate:
        corners = np.array([~transform @ (x, y) for x in (west, east) for y in (south, north)])
    if not np.isfinite(corners).all():
        raise InputError(
            f"{cube.source}: has no geotransform that turns map coordinates into pixels; give pixels as 0:100,0:100"
        )
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    first_row, last_row = _touched(top, bottom, cube.rows)
    first_col, last_col = _touched(left, right, cube.cols)
    if first_row >= last_row or first_col >= last_col:
        raise InputError(f"{cube.source}: the region '{text}' lies outside the scene; its CRS and bounds: lkca inspect")
    return Window(first_row, first_col, last_row - first_row, last_col - first_col)


def _touched(start: float, stop: float, size: int) -> tuple[int, int]:
    """Whole pixels that the range touches; a thousandth of a pixel is rounding."""
    return max(0, math.floor(start + _ROUNDING)), min(size, math.ceil(stop - _ROUNDING))


def whole_pixels(cube: Cube, region: str | None, scale: int, *, least: int = 1) -> tuple[Window, list[str]]:
    """The region cut at its lower right to a multiple of ``scale``, and a remark where something was cut.

    Raises InputError where fewer than ``least`` coarse pixels remain along a side.
    """
    shape = (cube.rows, cube.cols)
    window = Window.full(*shape) if region is None else Window.parse(region, shape)
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
