"""Does a file suit a model, or a prediction its reference: scale, band count, wavelengths, place, values?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from lkca.data import Cube, Window
from lkca.errors import InputError
from lkca.models.config import ModelConfig
from lkca.models.directory import LoadedModel

__all__ = [
    "OTHER_BANDS",
    "OTHER_UNITS",
    "check_scale",
    "contradictions",
    "match_bands",
    "match_range",
    "suits",
    "upper_end",
    "wavelength_gap",
]

_SILENT, OTHER_BANDS = 0.1, 0.5  # between two lists of wavelengths, in units of the first's band spacing
OTHER_UNITS = 30.0  # between the upper ends of two cubes
_SHIFTED = 0.5  # pixels
_SAMPLE = 128  # pixels per side


def check_scale(model: LoadedModel, scale: int | None) -> None:
    """Raises InputError where a scale was asked for that is not the model's."""
    if scale is not None and scale != model.config.scale:
        raise InputError(
            f"{model.path}: the model upscales ×{model.config.scale}, but -s asks for ×{scale}; "
            f"use -s {model.config.scale} or fit a model for ×{scale}"
        )


def suits(cube: Cube, model: LoadedModel, *, force: bool | None = None) -> list[str]:
    """Remarks on how the cube's bands and values differ from the model's; InputError where they are others.

    force: whether to go on all the same; None where that cannot be asked for, and the error does not offer it.
    """
    if model.adapted:
        return []
    return match_bands(cube, model.config, force=force) + match_range(cube, model.config, force=force)


def match_bands(cube: Cube, config: ModelConfig, *, force: bool | None = None) -> list[str]:
    """Compares band count and wavelengths; returns remarks, or raises InputError where the bands are others.

    A wavelength that is off by more than half the model's band spacing is nearer to another band: refused unless
    ``force``. More than a tenth is remarked on.
    """
    wanted, source, bands, meta = config.bands, cube.source, cube.bands, cube.meta
    if bands != wanted.count:
        raise InputError(
            f"{source}: has {bands} bands, but the model was made for {wanted.count}{wanted.span}; "
            "give a cube of that sensor, or fit a model to this one with 'lkca fit'"
        )
    if wanted.wavelengths_nm is None:
        return []
    if meta.wavelengths is None:
        return [f"{source} names no wavelengths; its {bands} bands are taken to be the model's, in the same order"]
    expected, found = np.asarray(wanted.wavelengths_nm), np.asarray(meta.wavelengths, dtype=float)
    gap, worst = wavelength_gap(expected, found, np.asarray(wanted.used))
    what = f"band {worst} of {source} lies at {found[worst]:.1f} nm, the model's at {expected[worst]:.1f} nm"
    if gap > OTHER_BANDS:
        same_set = wavelength_gap(np.sort(expected), np.sort(found))[0] <= OTHER_BANDS
        remedy = (
            "reorder the bands as the model has them"
            if same_set
            else "fit a model to this sensor with 'lkca fit'"
            + ("" if force is None else ", or use --force if the bands do correspond")
        )
        if not force:
            raise InputError(f"{what}; {remedy}")
        return [f"{what}; used all the same because of --force"]
    if gap > _SILENT:
        return [f"{what}: close, but not the sensor that the model learned from"]
    return []


def match_range(cube: Cube, config: ModelConfig, *, force: bool | None = None) -> list[str]:
    """Compares the cube's values, from a part in its middle, with those that the model learned from.

    Reflectances and the counts that stand for them differ by a factor of thousands, ground by a factor of ten: beyond
    thirty the units are others, refused unless ``force``.
    """
    top, peak = _top(cube, config.bands.used), config.normalisation.peak
    if top is None or peak / OTHER_UNITS <= top <= peak * OTHER_UNITS:
        return []
    what = f"{cube.source}: the values reach {top:.4g}, those that the model learned from {peak:.4g}"
    if not force:
        raise InputError(
            f"{what}; give a cube in the same units (see its scale factor with 'lkca inspect')"
            + ("" if force is None else ", or --force")
        )
    return [f"{what}; used all the same because of --force"]


def contradictions(reference: Cube, prediction: Cube) -> list[str]:
    """Remarks on why two cubes of one size may not show the same: place, wavelengths, units of the values."""
    notes, where = [], f"{prediction.source} against {reference.source}"
    ours, theirs = reference.meta, prediction.meta
    if _differ(ours.crs, theirs.crs):
        notes.append(f"{where}: their CRSs differ, so they may show different ground")
    elif ours.transform is not None and theirs.transform is not None:
        ends = np.array([(0.0, 0.0), (reference.cols, reference.rows)])
        placed = np.array([~ours.transform @ (theirs.transform @ tuple(end)) for end in ends])
        shift = np.abs(placed - ends).max()
        if shift > _SHIFTED:
            notes.append(f"{where}: their geotransforms lie up to {shift:.1f} pixels apart; they show different ground")
    if ours.wavelengths is not None and theirs.wavelengths is not None:
        expected, found = (np.asarray(meta.wavelengths, dtype=float) for meta in (ours, theirs))
        gap, worst = wavelength_gap(expected, found)
        if gap > OTHER_BANDS:
            notes.append(f"{where}: band {worst} lies at {found[worst]:.1f} nm, not at {expected[worst]:.1f} nm")
    good = np.flatnonzero(reference.good_bands & prediction.good_bands)
    tops = [top for cube in (reference, prediction) if good.size and (top := _top(cube, good)) is not None]
    if len(tops) > 1 and max(tops) > OTHER_UNITS * max(min(tops), 0.0):
        notes.append(f"{where}: the values reach {tops[1]:.4g}, not {tops[0]:.4g}; their units or scale factors differ")
    return notes


def wavelength_gap(expected: np.ndarray, found: np.ndarray, used: np.ndarray | None = None) -> tuple[float, int]:
    """Largest |found - expected| over the bands ``used``, in units of the local band spacing, and its band index."""
    index = np.arange(expected.size) if used is None else used
    gap = np.abs(np.asarray(found, dtype=float) - expected)[index] / _spacing(expected)[index]
    worst = int(np.argmax(gap))
    return float(gap[worst]), int(index[worst])


def _spacing(wavelengths: np.ndarray) -> np.ndarray:
    """Distance in nm from each band to its nearest neighbour; 10 nm for a lone band."""
    if wavelengths.size < 2:
        return np.full(wavelengths.shape, 10.0)
    order = np.argsort(wavelengths)
    gaps = np.diff(wavelengths[order])
    nearest = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    # Detectors overlap: two bands may share a wavelength, and then say nothing about the resolution.
    nearest = np.maximum(nearest, 0.1 * np.median(gaps[gaps > 0]) if (gaps > 0).any() else 10.0)
    spacing = np.empty_like(nearest)
    spacing[order] = nearest
    result: np.ndarray = spacing
    return result


def _differ(ours: str | None, theirs: str | None) -> bool:
    """Whether two CRSs (WKT) are others; those that cannot be read are taken to be the same."""
    if ours is None or theirs is None or ours == theirs:
        return False
    try:
        one, other = CRS.from_wkt(ours), CRS.from_wkt(theirs)
    except CRSError:
        return False
    # A WKT that went through another dialect may be unequal, and have no code, while its parameters are the same.
    return bool(one != other and one.to_dict() != other.to_dict())


def _top(cube: Cube, bands: Sequence[int] | np.ndarray) -> float | None:
    """The upper end of the values in the middle of the cube."""
    return upper_end(cube.read(Window.centre(cube.rows, cube.cols, _SAMPLE, _SAMPLE), bands))


def upper_end(values: np.ndarray) -> float | None:
    """What they reach, a few glints aside; None where all are missing."""
    values = values[np.isfinite(values)]
    return float(np.percentile(values, 99.9)) if values.size else None
