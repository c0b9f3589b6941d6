"""Overviews of a tiled TIFF: each level halves the one before, and every sample is the mean of the valid ones below."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from lkca.data.codec import beside
from lkca.data.window import Window, pieces
from lkca.data.writers.blocks import Blocks, write_at

__all__ = ["Phase", "add_overviews", "halve"]

_AT_ONCE = 4  # blocks beside each other that are made: about 14 MiB in float32, where samples are missing
_FEW = 1 / 5  # of the means: to gather what more are made of takes longer than to make all anew
_THREADS = 4  # more wait for the disk, or for each other's files


def add_overviews(file: Path, levels: Sequence[Blocks], code: float | None) -> None:
    """Makes all levels in ``file`` but the first, which is there; each has half the size, rounded up, of the one
    before. code: of missing samples, see :func:`halve`. What was there goes to the disk meanwhile. OSError."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with (
        ThreadPoolExecutor(min(cores, _THREADS), "lkca-overviews") as pool,
        ThreadPoolExecutor(1, "lkca-flush") as flusher,
        file.open("rb+") as stream,
    ):
        flushed = flusher.submit(os.fsync, stream.fileno())
        for finer, coarser in pairwise(levels):
            bands, rows, cols = coarser.shape
            strips = [
                (band, strip)
                for band in range(bands)
                for strip in pieces(Window.full(rows, cols), coarser.block[0], cols)
            ]
            for _ in pool.map(partial(_halve_strip, file, finer, coarser, code), *zip(*strips, strict=True)):
                pass
        flushed.result()


def _halve_strip(file: Path, finer: Blocks, coarser: Blocks, code: float | None, band: int, strip: Window) -> None:
    """Makes a row of blocks of ``coarser``."""
    _, rows, cols = finer.shape
    with file.open("r+b", buffering=0) as stream:
        for made in pieces(strip, strip.height, _AT_ONCE * coarser.block[1]):
            down, across = _below(made.row, made.height, rows), _below(made.col, made.width, cols)
            samples = finer.read(stream, _window(down.inside, across.inside), band)
            if any(down.beyond + across.beyond):
                samples = np.pad(samples, (down.beyond, across.beyond), mode="edge")
            for start, run in coarser.parts(made, band, halve(samples, code, down.phase, across.phase)):
                write_at(stream.fileno(), run, start)


@dataclass(frozen=True)
class Phase:
    """Along an axis of odd length 2 · size - 1: what is made of it are ``size`` samples that cover it exactly, as GDAL
    and its readers have it, each 2 - 1/size of it. first: the number of the first one that is made."""

    first: int
    size: int


_Phases: TypeAlias = tuple[Phase | None, Phase | None]
_EVEN: _Phases = (None, None)


@dataclass(frozen=True)
class _Below:
    """What lies below some samples along an axis. beyond: how many more are taken than there are, at either end."""

    inside: slice
    beyond: tuple[int, int]
    phase: Phase | None


def _below(first: int, count: int, length: int) -> _Below:
    """length: of the finer axis."""
    odd = length % 2
    begin, end = 2 * first - odd, 2 * (first + count)
    inside = slice(max(begin, 0), min(end, length))
    return _Below(inside, (inside.start - begin, end - inside.stop), Phase(first, length // 2 + 1) if odd else None)


def _window(rows: slice, cols: slice) -> Window:
    return Window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)


def halve(samples: np.ndarray, code: float | None, rows: Phase | None = None, cols: Phase | None = None) -> np.ndarray:
    """Means of 2 x 2 samples.

    samples: contiguous (…, rows, cols), even, of any integer or float dtype, which the result has too; integers are
    rounded to nearest, halves up. code: what missing samples are stored as, None where none is; they do not count, nor
    do others that are not finite, a mean of nothing is missing, and a mean that would be the code moves to the next
    value. rows, cols: of an axis of odd length, of which ``samples`` has an odd number: from the one before those below
    the first that is made; what lies beyond the ends does not count.
    """
    dtype, phases = samples.dtype, (rows, cols)
    own = None if code is None else dtype.type(code)  # compared with a Python float, integers would become floats
    missing = np.zeros(samples.shape, dtype=bool) if own is None else samples == own
    if dtype.kind == "f":
        missing |= ~np.isfinite(samples)
    if any(phases):
        made, nothing = _of_valid(samples, missing, phases)
    else:
        made = _of_four(samples)
        nothing = np.zeros(made.shape, dtype=bool)
        if missing.any():
            some, nothing = _any_and_all(missing)
            partly = some & ~nothing
            edge = np.flatnonzero(partly)
            if edge.size < _FEW * made.size:  # the edges of what is missing, mostly: gathered
                at = np.unravel_index(edge, made.shape)  # 10 times as fast as np.nonzero
                made[at] = _of_valid(_fours(samples)[at], _fours(missing)[at], _EVEN)[0][:, 0, 0]
            else:
                np.copyto(made, _of_valid(samples, missing, _EVEN)[0], where=partly)
    if own is not None and not np.isnan(own):
        made[made == own] = beside(own)
    if nothing.any():
        made[nothing] = np.nan if own is None else own
    return made


def _of_four(samples: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 samples that all count."""
    dtype = samples.dtype
    if dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # missing samples are among them
            return _sums(samples * dtype.type(0.25), _EVEN, dtype)  # the sum of four may be more than the dtype holds
    if dtype.itemsize < 8:
        sums = _sums(samples, _EVEN, np.int32 if dtype.itemsize < 4 else np.int64)
        sums += 2
        sums >>= 2
        return sums.astype(dtype)
    made: np.ndarray = _sums(samples >> 2, _EVEN, dtype) + ((_sums(samples & 3, _EVEN, dtype) + 2) >> 2)
    return made


def _of_valid(samples: np.ndarray, missing: np.ndarray, phases: _Phases) -> tuple[np.ndarray, np.ndarray]:
    """Means of what is not missing, and where nothing is."""
    dtype = samples.dtype
    wide = np.dtype(np.float32 if dtype.itemsize < 4 or dtype == np.float32 else np.float64)
    shares = wide.type(0.25) * ~missing
    weights = _sums(shares, phases, wide)
    means = _sums(shares * np.where(missing, 0, samples), phases, wide) / np.where(weights, weights, 1)
    return means.astype(dtype) if dtype.kind == "f" else _rounded(means, dtype), weights == 0


def _any_and_all(missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of 2 x 2: whether one is, and whether all are."""
    above, below = missing[..., 0::2, :], missing[..., 1::2, :]
    one, two = ((above | below).view(np.uint16), (above & below).view(np.uint16))  # columns two at a time
    return one != 0, two == 0x0101


def _fours(samples: np.ndarray) -> np.ndarray:
    """(…, rows, cols) -> (…, rows / 2, cols / 2, 2, 2)."""
    *outer, rows, cols = samples.shape
    return samples.reshape(*outer, rows // 2, 2, cols // 2, 2).swapaxes(-3, -2)


def _rounded(means: np.ndarray, dtype: np.dtype) -> np.ndarray:
    limits = np.iinfo(dtype)
    most = float(limits.max) if dtype.itemsize < 8 else np.nextafter(float(limits.max), 0)  # which floats hold
    return np.clip(np.floor(means + 0.5), limits.min, most).astype(dtype)


def _sums(samples: np.ndarray, phases: _Phases, dtype: DTypeLike) -> np.ndarray:
    """Of 2 x 2 samples, or of as much as their phases say."""
    rows = _pairs(samples.swapaxes(-1, -2), phases[0], dtype)
    return _pairs(rows.swapaxes(-1, -2), phases[1], dtype)


def _pairs(samples: np.ndarray, phase: Phase | None, dtype: DTypeLike) -> np.ndarray:
    """Sums along the last axis."""
    sums: np.ndarray
    if phase is None:
        sums = np.add(samples[..., 0::2], samples[..., 1::2], dtype=dtype)
        return sums
    numbers = phase.first + np.arange(samples.shape[-1] // 2)
    before, after = (share.astype(dtype) for share in (numbers / phase.size, 1 - (numbers + 1) / phase.size))
    sums = before * samples[..., :-1:2] + samples[..., 1::2] + after * samples[..., 2::2]
    return sums
