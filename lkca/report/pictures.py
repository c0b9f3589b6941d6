"""Cubes and maps as inlined PNG pictures, and which parts of a scene are worth enlarging."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lkca.data import Window

__all__ = ["Picture", "choose_crops", "colour_bar", "encode", "paint", "round_limit"]

_COLOUR_MAP = "inferno"
_LEVELS = 255  # of the palette; the last index is that of missing pixels
_MISSING = 217  # grey
_STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
_CROPS = 3


@dataclass(frozen=True)
class Picture:
    """uri: 'data:image/png;base64,…'. width, height: its own pixels."""

    uri: str
    width: int
    height: int


def encode(picture: np.ndarray) -> Picture:
    """float (rows, cols, 3) in 0..1 as an RGB PNG."""
    return _png(Image.fromarray(np.round(picture * 255).astype(np.uint8)))


def paint(values: np.ndarray, limit: float) -> Picture:
    """(rows, cols) as a palette PNG, 0 to ``limit`` from black to yellow; larger values like the limit, NaN grey."""
    share = np.clip(np.nan_to_num(values, nan=0.0) / limit, 0, 1)
    index = np.where(np.isfinite(values), np.round(share * (_LEVELS - 1)), _LEVELS).astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette(_palette())
    return _png(image)


def colour_bar() -> Picture:
    """The colours of :func:`paint` from left to right, one pixel high."""
    return paint(np.linspace(0, 1, _LEVELS)[None], 1.0)


def round_limit(values: np.ndarray) -> float:
    """The 98th percentile of the finite values, rounded up to one or two plain digits; 1 where all are 0."""
    finite = values[np.isfinite(values)]
    top = float(np.percentile(finite, 98)) if finite.size else 0.0
    if top <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(top))
    return float(f"{next(step * power for step in _STEPS if step * power >= top * (1 - 1e-9)):.3g}")


def choose_crops(picture: np.ndarray, scale: int) -> list[Window]:
    """Up to three squares that do not overlap and have most edges, on a grid of ``scale``.

    picture: (rows, cols, 3) in 0..1, of the truth: no result is favoured. Empty where the scene is small.
    """
    rows, cols, _ = picture.shape
    least = min(rows, cols)
    side = min(48, max(least // 3, min(16, least // 2))) // scale * scale
    if side < 8 or side < 2 * scale:
        return []
    grey = picture.mean(axis=2)
    edges = np.zeros((rows, cols))
    edges[:-1] += np.abs(np.diff(grey, axis=0))
    edges[:, :-1] += np.abs(np.diff(grey, axis=1))
    total = np.pad(edges, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    tops, lefts = np.arange(0, rows - side + 1, scale), np.arange(0, cols - side + 1, scale)
    y, x = tops[:, None], lefts[None]
    energy = total[y + side, x + side] - total[y, x + side] - total[y + side, x] + total[y, x]
    crops: list[Window] = []
    while len(crops) < _CROPS and np.isfinite(energy.max()):
        i, j = np.unravel_index(int(energy.argmax()), energy.shape)
        top, left = int(tops[i]), int(lefts[j])
        crops.append(Window(top, left, side, side))
        overlaps = (np.abs(y - top) < side) & (np.abs(x - left) < side)
        energy = np.where(overlaps, -np.inf, energy)
    return crops


def _palette() -> list[int]:
    import matplotlib

    colours = matplotlib.colormaps[_COLOUR_MAP](np.linspace(0, 1, _LEVELS))[:, :3]
    return [*np.round(colours * 255).astype(int).ravel().tolist(), _MISSING, _MISSING, _MISSING]


def _png(image: Image.Image) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/png;base64,{text}", image.width, image.height)
