"""From the user's files to normalised cubes of one band set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lkca.data import Cube, open_cube
from lkca.errors import InputError
from lkca.inference.checks import OTHER_BANDS, OTHER_UNITS, upper_end, wavelength_gap
from lkca.inference.windows import whole_pixels
from lkca.models.config import BandSet, Normalisation, TrainingData
from lkca.training.validation import MIN_COARSE_PIXELS

__all__ = ["TrainingScenes", "prepare_scenes"]

_PERCENTILE = 99.9
_SAMPLE = 256  # pixels per side that tell the units of a scene
_RULE = (
    f"peak: the largest, over the used bands, of the {_PERCENTILE} % quantile of the training region's valid samples, "
    "so that a few glints do not squash the range; offset 0, so that spectral angles are those of physical spectra"
)


@dataclass(frozen=True)
class TrainingScenes:
    """Scenes ready for training.

    cubes: normalised float32 (used bands, rows, cols), rows and cols multiples of the scale factor, NaN where missing.
    notes: remarks for the user.
    """

    cubes: list[np.ndarray]
    bands: BandSet
    normalisation: Normalisation
    data: list[TrainingData]
    notes: list[str]


def prepare_scenes(
    sources: Sequence[str | Cube], scale: int, *, region: str | None = None, how: Mapping[str, Any] | None = None
) -> TrainingScenes:
    """Opens, compares, cuts and normalises the scenes of a fit.

    ``how``: keyword arguments for :func:`lkca.data.open_cube`. Raises InputError where a scene cannot be read, has
    other bands than the first or other units than the others, fewer than two good bands, or too few or no valid pixels
    in the region.
    """
    if not sources:
        raise InputError("no scene to train on; give at least one file")
    cubes = [source if isinstance(source, Cube) else open_cube(source, **(how or {})) for source in sources]
    try:
        return _prepare(cubes, scale, region)
    finally:
        for source, cube in zip(sources, cubes, strict=True):
            if cube is not source:
                cube.close()


def _prepare(cubes: Sequence[Cube], scale: int, region: str | None) -> TrainingScenes:
    first = cubes[0]
    notes = [warning for cube in cubes for warning in cube.warnings]
    good = np.ones(first.bands, dtype=bool)
    raw, data = [], []
    for cube in cubes:
        _check_same_bands(first, cube)
        window, cut = whole_pixels(cube, region, scale, least=MIN_COARSE_PIXELS)
        notes += cut
        values = cube.read(window)
        good &= cube.good_bands & np.isfinite(values).any(axis=(1, 2))
        raw.append(values)
        data.append(TrainingData.of(cube, window))
    used = np.flatnonzero(good)
    if used.size < 2:
        raise InputError(
            f"{first.source}: has {used.size} good band{'s'[: used.size != 1]} with valid samples in the region, at "
            "least 2 are needed; check the nodata value and the bad-band list, or give a hyperspectral cube"
        )
    if used.size < first.bands:
        notes.append(
            f"{first.bands - used.size} of {first.bands} bands are bad or empty: left to bicubic, not to the network"
        )
    _check_same_units(cubes, raw, used)
    peak = _robust_peak(raw, used)
    if peak <= 0:
        raise InputError(
            f"{first.source}: the samples' upper end is {peak:g}; expected positive reflectances or radiances"
        )
    ready = []
    for cube, values in zip(cubes, raw, strict=True):
        with np.errstate(over="ignore"):  # what becomes infinite, as -3.4e38 does, is missing
            part = values[used] / np.float32(peak)
        share = 1 - np.isfinite(part).all(axis=0).mean()
        if share > 0:
            notes.append(f"{cube.source}: {share:.1%} of the training pixels are incomplete and not learned from")
        ready.append(part)
    nonnegative = [b for b in used.tolist() if not any((values[b] < 0).any() for values in raw)]
    return TrainingScenes(
        cubes=ready,
        bands=BandSet.of(first, used.tolist(), nonnegative),
        normalisation=Normalisation(offset=0.0, peak=peak, rule=_RULE),
        data=data,
        notes=list(dict.fromkeys(notes)),
    )


def _check_same_bands(first: Cube, cube: Cube) -> None:
    if cube.bands != first.bands:
        raise InputError(
            f"{cube.source}: has {cube.bands} bands, {first.source} has {first.bands}; "
            "fit together scenes of one sensor"
        )
    if first.meta.wavelengths is None or cube.meta.wavelengths is None:
        return
    gap, band = wavelength_gap(np.asarray(first.meta.wavelengths), np.asarray(cube.meta.wavelengths))
    if gap > OTHER_BANDS:
        raise InputError(
            f"{cube.source}: band {band} lies at {cube.meta.wavelengths[band]:.1f} nm, that of {first.source} at "
            f"{first.meta.wavelengths[band]:.1f} nm; fit together scenes of one sensor"
        )


def _check_same_units(cubes: Sequence[Cube], raw: Sequence[np.ndarray], used: np.ndarray) -> None:
    """One peak divides them all: reflectances beside counts would become next to nothing."""
    tops = []
    for cube, values in zip(cubes, raw, strict=True):
        down, across = (max(1, length // _SAMPLE) for length in values.shape[1:])
        top = upper_end(values[used, ::down, ::across])
        if top is not None and top > 0:
            tops.append((top, cube.source))
    if tops and max(tops)[0] > OTHER_UNITS * min(tops)[0]:
        (low, dark), (high, bright) = min(tops), max(tops)
        raise InputError(
            f"{dark}: the values reach {low:.4g}, those of {bright} {high:.4g}; give scenes in the same units (see "
            "their scale factors with 'lkca inspect')"
        )


def _robust_peak(raw: Sequence[np.ndarray], used: np.ndarray) -> float:
    peak = -np.inf
    for band in used:
        values = np.concatenate([cube[band][np.isfinite(cube[band])] for cube in raw])
        peak = max(peak, float(np.percentile(values, _PERCENTILE)))
    return peak
