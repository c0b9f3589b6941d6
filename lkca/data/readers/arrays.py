"""Windows of array-like sources (memory maps, HDF5 datasets, arrays) whatever their axis order."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from lkca.data.memory import copy_mapped
from lkca.data.window import Window
from lkca.errors import InputError

__all__ = ["ArrayWindows", "check_axes", "guess_axes", "kept_axes", "unfold_axes"]

_MAX_PLAUSIBLE_BANDS = 512


class ArrayWindows:
    """Reads (bands, height, width) blocks from an array-like whose axes are named by ``axes``.

    array: anything with ``shape``, ``dtype`` and slicing (numpy, numpy.memmap, h5py.Dataset).
    axes: permutation of "rcb" (rows, columns, bands), the order of the array's axes; "1" for others, of length 1.
    """

    def __init__(self, array: Any, axes: str) -> None:
        self.array = array
        self.axes = axes
        sizes = dict(zip(axes, array.shape, strict=True))
        self.shape = (int(sizes["r"]), int(sizes["c"]), int(sizes["b"]))

    def allow(self, nbytes: int) -> None:
        """So many bytes of what is unpacked may be kept; of arrays and maps nothing is."""

    def __call__(self, window: Window, bands: np.ndarray) -> np.ndarray:
        # h5py wants increasing indices without repeats; a run of bands is a slice
        picked, back = np.unique(bands, return_inverse=True)
        run = picked[-1] - picked[0] + 1 == len(picked)
        rows, cols = window.slices
        part: dict[str, Any] = {"r": rows, "c": cols, "1": 0}
        part["b"] = slice(int(picked[0]), int(picked[-1]) + 1) if run else picked
        block = np.asarray(self.array[tuple(part[axis] for axis in self.axes)])
        if isinstance(self.array, np.memmap) and run:
            source, block = block, np.empty(block.shape, dtype=block.dtype)
            copy_mapped(block, source, self.array)
        block = block.transpose([self.axes.replace("1", "").index(axis) for axis in "brc"])
        return block if np.array_equal(picked, bands) else block[back]


def kept_axes(shape: tuple[int, ...], named: Collection[int] = ()) -> list[int]:
    """The axes that count: all; of more than three those longer than 1 (the others are a time, say), if they are three.

    named: axes that are rows, columns or bands by their names; they count even where they have length 1.
    """
    kept = [axis for axis, size in enumerate(shape) if size > 1 or axis in named]
    return kept if len(shape) > 3 and len(kept) == 3 and 0 not in shape else list(range(len(shape)))


def check_axes(axes: str, source: str) -> str:
    """``axes`` in lower case; InputError unless it is a permutation of "rcb"."""
    axes = axes.strip().lower()
    if sorted(axes) != ["b", "c", "r"]:
        raise InputError(
            f"{source}: --axes {axes!r} must hold r (rows), c (columns) and b (bands) once each, for example rcb or brc"
        )
    return axes


def guess_axes(shape: tuple[int, ...], source: str, band_counts: set[int] | None = None) -> tuple[str, str | None]:
    """Axis order of a 3-D array without one, and a warning where it is only a guess.

    In this order: the axis whose length equals a wavelength list (``band_counts``) holds the bands; beside a
    square picture the third axis does, the last without and the first with a warning; of three different lengths
    the last does (rows, cols, bands, the habit of MATLAB files) if it is the shortest, or if the first is not the
    shortest, or if it is the longest and has at most 512 entries. Everything else is an InputError that names
    ``--axes``: wavelengths that fit two axes, and a first axis as long as the last (of rows, cols and as many bands
    as rows, or of a square picture by lines).
    """
    by_count = [axis for axis, size in enumerate(shape) if size in (band_counts or ())]
    if len(by_count) == 1:
        return ("brc", "rbc", "rcb")[by_count[0]], None
    first, middle, last = shape
    guess = f"axes of {first} x {middle} x {last} taken as {{}}; --axes overrides this"
    if not by_count and first == middle != last:
        return "rcb", None
    if not by_count and middle == last != first:
        return "brc", guess.format("bands, rows, columns")
    if len(set(shape)) == 3:
        if last == min(shape):
            return "rcb", None
        if first != min(shape) or (last == max(shape) and last <= _MAX_PLAUSIBLE_BANDS):
            return "rcb", guess.format("rows, columns, bands")
    raise InputError(
        f"{source}: cannot tell which axis of {first} x {middle} x {last} holds the bands; "
        "say it with --axes, for example --axes rcb (rows, columns, bands) or brc"
    )


def unfold_axes(
    shape: tuple[int, ...], pixels: tuple[int, int], source: str, *, column_major: bool
) -> tuple[tuple[int, int, int], str]:
    """Unfold a 2-D array (bands x pixels, or pixels x bands) of C order into three axes.

    pixels: (rows, cols). column_major: pixels run down the columns first (MATLAB's reshape).
    Returns the 3-D shape for ``reshape`` and its axes.
    """
    rows, cols = pixels
    if shape.count(rows * cols) != 1:
        raise InputError(
            f"{source}: {rows} rows x {cols} columns are {rows * cols} pixels, which must be exactly one side of "
            f"{shape[0]} x {shape[1]}; correct the shape"
        )
    plane, names = ((cols, rows), "cr") if column_major else ((rows, cols), "rc")
    if shape[1] == rows * cols:
        return (shape[0], *plane), "b" + names
    return (*plane, shape[1]), names + "b"
