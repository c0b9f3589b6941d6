"""What a cube looks like: colours by wavelength, maps of error and spectral angle, pixels worth a look.

A sample is missing where it is not finite, or is masked (numpy.ma).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lkca.data.codec import unmasked

__all__ = [
    "Composite",
    "CompositeKind",
    "choose_pixels",
    "error_map",
    "pixel_bands",
    "runs",
    "spectral_angle_map",
    "value_name",
]

CompositeKind = Literal["true", "cir"]

# nm, for red, green and blue of the screen; cir: colour infrared, vegetation red
_COLOURS: dict[str, tuple[float, float, float]] = {"true": (640, 550, 460), "cir": (860, 650, 550)}
_TOO_FAR = 60.0  # nm; a band further away does not stand for a colour
_STRETCH = (2, 98)  # percentiles that become black and full
_REFLECTANCE = 2.0  # no reflectance is larger, glints included; no count or radiance scene stays below
_GAMMA = np.float32(0.7)  # a display shows linear values too dark
_SMOOTHED = 1 << 18  # samples whose means are made at a time
_MISSING = 0.85  # grey of pixels without data


@dataclass(frozen=True)
class Composite:
    """Which bands stand for red, green and blue, and which values for black and white.

    One composite shows several pictures of a scene under the same stretch. bands: indices from 0. low, high:
    float32 (3,). name: for captions, for example "640, 550, 460 nm". by_wavelength: else false colour.
    """

    bands: tuple[int, int, int]
    name: str
    by_wavelength: bool
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(
        cls,
        cube: np.ndarray,
        wavelengths: np.ndarray | None,
        good_bands: np.ndarray | None = None,
        *,
        kind: CompositeKind = "true",
    ) -> Composite:
        """Colours of ``cube`` (bands, rows, cols), between the 2nd and the 98th percentile of the bands' valid values.

        The nearest good bands to 640, 550 and 460 nm (``cir``: 860, 650, 550 nm) are taken; without wavelengths, or
        where a colour has no band within 60 nm, those at 3/4, 1/2 and 1/4 of the good bands: false colour. Colours by
        wavelength share one stretch, from the lowest percentile to the highest, and so keep their balance; those of
        false colour, which have none, are stretched one by one.
        ValueError for an array that is no cube, lists of another length, or no good band.
        """
        if cube.ndim != 3:
            raise ValueError(f"rgb: expected (bands, rows, cols), found {cube.shape}")
        return cls.choose(len(cube), wavelengths, good_bands, kind=kind).stretched(cube)

    @classmethod
    def choose(
        cls,
        bands: int,
        wavelengths: np.ndarray | None,
        good_bands: np.ndarray | None = None,
        *,
        kind: CompositeKind = "true",
    ) -> Composite:
        """The colours of :meth:`of` for a cube of so many ``bands``, not stretched yet: black is 0, white 1."""
        return cls(*_pick_bands(bands, wavelengths, good_bands, kind), np.zeros(3, np.float32), np.ones(3, np.float32))

    def stretched(self, cube: np.ndarray) -> Composite:
        """The same colours between the percentiles of ``cube``, as :meth:`of` says."""
        limits = np.array([_percentiles(unmasked(cube[band])) for band in self.bands], dtype=np.float32)
        if self.by_wavelength:
            limits[:] = limits.min(), limits.max()
        low, high = limits.T
        return replace(self, low=low, high=np.where(high > low, high, low + 1))

    def render(self, cube: np.ndarray) -> np.ndarray:
        """(bands, rows, cols) -> float32 (rows, cols, 3) in 0..1; pixels that are not finite are light grey."""
        values = np.stack([unmasked(cube[band]) for band in self.bands], axis=-1).astype(np.float32)
        valid = np.isfinite(values).all(axis=-1, keepdims=True)
        picture = np.clip((np.where(valid, values, 0) - self.low) / (self.high - self.low), 0, 1) ** _GAMMA
        return np.where(valid, picture, np.float32(_MISSING))


def error_map(reference: np.ndarray, prediction: np.ndarray, good_bands: np.ndarray | None = None) -> np.ndarray:
    """Mean absolute difference over the good bands, float32 (rows, cols), in the cubes' units; NaN where one is NaN."""
    good = np.arange(len(reference)) if good_bands is None else np.flatnonzero(good_bands)
    total = np.zeros(reference.shape[1:])
    for band in good:
        total += np.abs(_double(reference[band]) - _double(prediction[band]))
    return (total / max(len(good), 1)).astype(np.float32)


def spectral_angle_map(
    reference: np.ndarray, prediction: np.ndarray, good_bands: np.ndarray | None = None
) -> np.ndarray:
    """Angle between spectra in degrees, float32 (rows, cols); NaN where either is zero or not finite in a good band."""
    good = np.arange(len(reference)) if good_bands is None else np.flatnonzero(good_bands)
    products = np.zeros((3, *reference.shape[1:]))
    for band in good:
        r, p = _double(reference[band]), _double(prediction[band])
        products += np.stack((r * p, r * r, p * p))
    norms = np.sqrt(products[1] * products[2])
    cosine = np.divide(products[0], norms, out=np.full_like(norms, np.nan), where=norms > 0)
    result: np.ndarray = np.degrees(np.arccos(np.clip(cosine, -1, 1))).astype(np.float32)
    return result


def choose_pixels(truth: np.ndarray, good_bands: np.ndarray | None = None, count: int = 4) -> list[tuple[int, int]]:
    """(row, col) of up to ``count`` pixels with unlike spectra, chosen from the truth alone: no result is favoured.

    The first is of median brightness; each next one is the furthest in angle from those before, and not beside them.
    Spectra are means over 3 x 3 pixels, so that noise does not choose. Borders and missing data are out.
    """
    truth = unmasked(truth)
    _, rows, cols = truth.shape
    bands = pixel_bands(len(truth), good_bands)
    margin = 2 if min(rows, cols) > 8 else 0
    inside = np.zeros((rows, cols), dtype=bool)
    inside[margin : rows - margin, margin : cols - margin] = True

    def smooth(top: int, bottom: int) -> np.ndarray:
        near = np.clip(np.arange(top - 1, bottom + 1), 0, rows - 1)
        padded = np.pad(truth[np.ix_(bands, near)].astype(np.float64), ((0, 0), (0, 0), (1, 1)), mode="edge")
        parts = [padded[:, i : i + bottom - top, j : j + cols] for i in range(3) for j in range(3)]
        mean: np.ndarray = np.mean(parts, axis=0)
        return mean

    def spectra() -> Iterator[np.ndarray]:
        """(bands, pixels) inside, some rows at a time; made anew for each choice, since all at once take gigabytes."""
        step = max(1, _SMOOTHED // max(1, len(bands) * cols))
        for top in range(0, rows, step):
            mean, part = smooth(top, min(top + step, rows)), inside[top : top + step]
            part &= np.isfinite(mean).all(axis=0)
            yield mean[:, part]

    norm = np.concatenate([np.linalg.norm(some, axis=0) for some in spectra()])
    if not norm.size:
        return []
    down, across = np.nonzero(inside)
    free = norm > 0.02 * np.median(norm)  # the angle of a very dark pixel is noise
    likeness = np.full(norm.size, -np.inf)
    picked = [int(np.abs(norm - np.median(norm)).argmin())]
    while len(picked) < count:
        row, col = down[picked[-1]], across[picked[-1]]
        free &= np.maximum(np.abs(down - row), np.abs(across - col)) > min(rows, cols) / 10
        if not free.any():
            break
        like = np.concatenate([smooth(row, row + 1)[:, 0, col] @ some for some in spectra()])
        likeness = np.maximum(likeness, like / np.maximum(norm * norm[picked[-1]], 1e-24))
        picked.append(int(np.where(free, likeness, np.inf).argmin()))
    return [(int(down[i]), int(across[i])) for i in picked]


def pixel_bands(bands: int, good_bands: np.ndarray | None = None) -> np.ndarray:
    """Indices of up to 32 of the good bands, evenly spread: those whose spectra :func:`choose_pixels` compares."""
    good = np.arange(bands) if good_bands is None else np.flatnonzero(good_bands)
    spread: np.ndarray = good[np.linspace(0, len(good) - 1, min(len(good), 32)).astype(int)]
    return spread


def value_name(peak: float) -> str:
    """What to write at the axis of a cube's values, judged by its largest: "reflectance" or "value"."""
    return "reflectance" if peak < _REFLECTANCE else "value"


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(start), int(stop) - 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _pick_bands(
    bands: int, wavelengths: np.ndarray | None, good_bands: np.ndarray | None, kind: str
) -> tuple[tuple[int, int, int], str, bool]:
    """Bands, their name, and whether they are chosen by wavelength."""
    if kind not in _COLOURS:
        raise ValueError(f"rgb: kind must be one of {', '.join(_COLOURS)}, found {kind!r}")
    for name, values in (("wavelengths", wavelengths), ("good_bands", good_bands)):
        if values is not None and len(values) != bands:
            raise ValueError(f"rgb: {len(values)} {name} for {bands} bands")
    good = np.arange(bands) if good_bands is None else np.flatnonzero(good_bands)
    if not len(good):
        raise ValueError("rgb: every band is marked bad; there is nothing to show")
    if wavelengths is not None:
        distances = [np.abs(np.asarray(wavelengths)[good] - colour) for colour in _COLOURS[kind]]
        if max(float(d.min()) for d in distances) <= _TOO_FAR:
            r, g, b = (int(good[d.argmin()]) for d in distances)
            return (r, g, b), ", ".join(f"{wavelengths[band]:.0f}" for band in (r, g, b)) + " nm", True
    r, g, b = (int(good[round(share * (len(good) - 1))]) for share in (0.75, 0.5, 0.25))
    return (r, g, b), f"bands {r + 1}, {g + 1}, {b + 1} (false colour)", False


def _double(plane: np.ndarray) -> np.ndarray:
    """float64, NaN where masked."""
    return unmasked(plane).astype(np.float64)


def _percentiles(band: np.ndarray) -> tuple[float, float]:
    values = band[np.isfinite(band)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, _STRETCH)
    return float(low), float(high)
