"""Pictures of cubes: colours by wavelength, and the panel that compares a restored scene with the truth.

Drawn on a canvas of their own (Agg): no display, no pyplot, no state shared between figures or threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lkca.errors import InputError, OutputError
from lkca.metrics import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

__all__ = ["Composite", "choose_pixels", "comparison_panel", "rgb", "save_figure", "spectral_angle_map"]

CompositeKind = Literal["true", "cir"]

# nm, for red, green and blue of the screen; cir: colour infrared, vegetation red
_COLOURS: dict[str, tuple[float, float, float]] = {"true": (640, 550, 460), "cir": (860, 650, 550)}
_TOO_FAR = 60.0  # nm; a band further away does not stand for a colour
_GAMMA = np.float32(0.7)  # a display shows linear values too dark
_MISSING = 0.85  # grey of pixels without data
_PIXEL_COLOURS = ("#e41a1c", "#ff9f00", "#00b7ff", "#f032e6", "#ffffff", "#7fff00")


@dataclass(frozen=True)
class Composite:
    """Which bands stand for red, green and blue, and which values for black and white.

    One composite shows several pictures of a scene under the same stretch. bands: indices from 0. low, high:
    float32 (3,). name: for captions, for example "640, 550, 460 nm".
    """

    bands: tuple[int, int, int]
    low: np.ndarray
    high: np.ndarray
    name: str

    @classmethod
    def of(
        cls,
        cube: np.ndarray,
        wavelengths: np.ndarray | None,
        good_bands: np.ndarray | None = None,
        *,
        kind: CompositeKind = "true",
        percent: tuple[float, float] = (2, 98),
    ) -> Composite:
        """Colours of ``cube`` (bands, rows, cols), stretched between percentiles of the bands' valid values.

        The nearest good bands to 640, 550 and 460 nm (``cir``: 860, 650, 550 nm) are taken; without wavelengths, or
        where a colour has no band within 60 nm, those at 3/4, 1/2 and 1/4 of the good bands: false colour. Colours by
        wavelength share one stretch, from the lowest percentile to the highest, and so keep their balance; those of
        false colour, which have none, are stretched one by one.
        ValueError for an array that is no cube, lists of another length, or no good band.
        """
        bands, name, balanced = _pick_bands(cube, wavelengths, good_bands, kind)
        limits = np.array([_percentiles(cube[band], percent) for band in bands], dtype=np.float32)
        if balanced:
            limits[:] = limits.min(), limits.max()
        low, high = limits.T
        return cls(bands, low, np.where(high > low, high, low + 1), name)

    def render(self, cube: np.ndarray) -> np.ndarray:
        """(bands, rows, cols) -> float32 (rows, cols, 3) in 0..1; pixels that are not finite are light grey."""
        values = np.stack([cube[band] for band in self.bands], axis=-1).astype(np.float32)
        valid = np.isfinite(values).all(axis=-1, keepdims=True)
        picture = np.clip((np.where(valid, values, 0) - self.low) / (self.high - self.low), 0, 1) ** _GAMMA
        return np.where(valid, picture, np.float32(_MISSING))


def rgb(
    cube: np.ndarray,
    wavelengths: np.ndarray | None,
    good_bands: np.ndarray | None = None,
    *,
    kind: CompositeKind = "true",
    percent: tuple[float, float] = (2, 98),
) -> np.ndarray:
    """A cube (bands, rows, cols) as a picture, float32 (rows, cols, 3) in 0..1; see :meth:`Composite.of`."""
    return Composite.of(cube, wavelengths, good_bands, kind=kind, percent=percent).render(cube)


def spectral_angle_map(
    reference: np.ndarray, prediction: np.ndarray, good_bands: np.ndarray | None = None
) -> np.ndarray:
    """Angle between spectra in degrees, float32 (rows, cols); NaN where either is zero or not finite in a good band."""
    good = np.arange(len(reference)) if good_bands is None else np.flatnonzero(good_bands)
    products = np.zeros((3, *reference.shape[1:]))
    for band in good:
        r, p = reference[band].astype(np.float64), prediction[band].astype(np.float64)
        products += np.stack((r * p, r * r, p * p))
    norms = np.sqrt(products[1] * products[2])
    cosine = np.divide(products[0], norms, out=np.full_like(norms, np.nan), where=norms > 0)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1))).astype(np.float32)


def choose_pixels(truth: np.ndarray, good_bands: np.ndarray | None = None, count: int = 4) -> list[tuple[int, int]]:
    """(row, col) of up to ``count`` pixels with unlike spectra, chosen from the truth alone: no result is favoured.

    The first is of median brightness; each next one is the furthest in angle from those before, and not beside them.
    Spectra are means over 3 x 3 pixels, so that noise does not choose. Borders and missing data are out.
    """
    good = np.arange(len(truth)) if good_bands is None else np.flatnonzero(good_bands)
    _, rows, cols = truth.shape
    bands = good[np.linspace(0, len(good) - 1, min(len(good), 32)).astype(int)]
    padded = np.pad(truth[bands].astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    mean = np.mean([padded[:, i : i + rows, j : j + cols] for i in range(3) for j in range(3)], axis=0)
    margin = 2 if min(rows, cols) > 8 else 0
    inside = np.zeros((rows, cols), dtype=bool)
    inside[margin : rows - margin, margin : cols - margin] = True
    inside &= np.isfinite(mean).all(axis=0)
    where = np.argwhere(inside)
    if not len(where):
        return []
    spectra = mean[:, inside]
    norm = np.linalg.norm(spectra, axis=0)
    units = spectra / np.maximum(norm, 1e-12)
    usable = norm > 0.02 * np.median(norm)  # the angle of a very dark pixel is noise
    picked = [int(np.abs(norm - np.median(norm)).argmin())]
    while len(picked) < count:
        gaps = np.abs(where[:, None] - where[picked]).max(axis=2).min(axis=1)
        likeness = np.where(usable & (gaps > min(rows, cols) / 10), (units[:, picked].T @ units).max(axis=0), np.inf)
        if not np.isfinite(likeness.min()):
            break
        picked.append(int(likeness.argmin()))
    return [(int(where[i, 0]), int(where[i, 1])) for i in picked]


def comparison_panel(
    path: str | os.PathLike[str],
    lr: np.ndarray,
    bicubic: np.ndarray,
    ours: np.ndarray,
    truth: np.ndarray,
    wavelengths: np.ndarray | None = None,
    good_bands: np.ndarray | None = None,
    *,
    pixels: Sequence[tuple[int, int]] | None = None,
    metrics: Mapping[str, Metrics] | None = None,
    title: str | None = None,
    label: str = "LKCA-Net",
    units: str = "reflectance",
    kind: CompositeKind = "true",
) -> None:
    """Draw and save the comparison of a restored scene: pictures, error maps and spectra.

    lr: (bands, rows/s, cols/s); bicubic, ours, truth: (bands, rows, cols), physical values of ``units``. Row one: the
    four cubes in the colours and the stretch of the truth. Row two: mean absolute error over the good bands, and
    spectral angle, of bicubic and ours, each kind within the same limits (0 to the 98th percentile of bicubic's).
    Row three: spectra at ``pixels``, (row, col) of the truth, default :func:`choose_pixels`; bad bands are shaded.
    metrics: of "bicubic" and "ours", for captions. label: the name of ours. path: its suffix is the format (png, pdf,
    svg). ValueError for shapes that do not fit; InputError for an unknown suffix; OutputError where the file cannot
    be written; nothing partial stands under ``path``.
    """
    from matplotlib.figure import Figure

    _check_panel(lr, bicubic, ours, truth)
    good = np.ones(len(truth), dtype=bool) if good_bands is None else np.asarray(good_bands, dtype=bool)
    composite = Composite.of(truth, wavelengths, good, kind=kind)
    pixels = choose_pixels(truth, good) if pixels is None else list(pixels)
    metrics = metrics or {}

    figure = Figure(figsize=(15, 12.2), layout="constrained")
    parts: np.ndarray = figure.subfigures(3, 1, height_ratios=(1.08, 1, 0.86))  # type: ignore[assignment]
    scale = truth.shape[1] // lr.shape[1]
    extent = (-0.5, truth.shape[2] - 0.5, truth.shape[1] - 0.5, -0.5)

    pictures = parts[0].subplots(1, 4)
    ours_name, bicubic_name = _caption(label, metrics.get("ours")), _caption("bicubic", metrics.get("bicubic"))
    names = (f"LR (1/{scale})", bicubic_name, ours_name, "truth")
    for axes, cube, name in zip(pictures, (lr, bicubic, ours, truth), names, strict=True):
        axes.imshow(composite.render(cube), extent=extent, interpolation="nearest")
        axes.set_title(name, fontsize=11)
        _bare(axes)
    pictures[0].set_xlabel(f"R, G, B: {composite.name}", fontsize=8.5)
    _mark(pictures[3], pixels)

    maps = parts[1].subplots(1, 4)
    errors = [_error_map(truth, cube, good) for cube in (bicubic, ours)]
    angles = [spectral_angle_map(truth, cube, good) for cube in (bicubic, ours)]
    _draw_maps(parts[1], maps[:2], errors, label, "mean |error|", units)
    _draw_maps(parts[1], maps[2:], angles, label, "spectral angle", "degrees")

    curves = (
        (truth, "truth", "#000000", 2.0, "-"),
        (bicubic, "bicubic", "#2b7bba", 1.3, "--"),
        (ours, label, "#d1321c", 1.3, "-"),
    )
    plots = parts[2].subplots(1, len(pixels), squeeze=False)[0] if pixels else ()
    for number, (axes, pixel) in enumerate(zip(plots, pixels, strict=True)):
        _draw_spectra(axes, curves, pixel, wavelengths, good)
        colour = _PIXEL_COLOURS[number % len(_PIXEL_COLOURS)]
        axes.set_title(f"pixel {number + 1} (row {pixel[0]}, column {pixel[1]})", fontsize=10)
        axes.plot(0.03, 0.94, marker="s", color=colour, markeredgecolor="black", transform=axes.transAxes, ms=8)
        if number == 0:
            axes.set_ylabel(units)
            axes.legend(fontsize=8.5, frameon=False, loc="best")
    if title:
        figure.suptitle(title, fontsize=13)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 120) -> None:
    """Write a figure beside ``path``, then rename it; the suffix is the format. Errors as in comparison_panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    canvas = FigureCanvasAgg(figure)
    formats = sorted(canvas.get_supported_filetypes())
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in formats:
        raise InputError(f"{path}: {suffix or 'no suffix'} is no picture format; choose one of {', '.join(formats)}")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            figure.savefig(aside, format=suffix, dpi=dpi)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the picture cannot be written ({error.strerror or error})") from error


def _pick_bands(
    cube: np.ndarray, wavelengths: np.ndarray | None, good_bands: np.ndarray | None, kind: str
) -> tuple[tuple[int, int, int], str, bool]:
    """Bands, their name, and whether they are chosen by wavelength."""
    if cube.ndim != 3:
        raise ValueError(f"rgb: expected (bands, rows, cols), found {cube.shape}")
    if kind not in _COLOURS:
        raise ValueError(f"rgb: kind must be one of {', '.join(_COLOURS)}, found {kind!r}")
    for name, values in (("wavelengths", wavelengths), ("good_bands", good_bands)):
        if values is not None and len(values) != len(cube):
            raise ValueError(f"rgb: {len(values)} {name} for {len(cube)} bands")
    good = np.arange(len(cube)) if good_bands is None else np.flatnonzero(good_bands)
    if not len(good):
        raise ValueError("rgb: every band is marked bad; there is nothing to show")
    if wavelengths is not None:
        distances = [np.abs(np.asarray(wavelengths)[good] - colour) for colour in _COLOURS[kind]]
        if max(float(d.min()) for d in distances) <= _TOO_FAR:
            r, g, b = (int(good[d.argmin()]) for d in distances)
            return (r, g, b), ", ".join(f"{wavelengths[band]:.0f}" for band in (r, g, b)) + " nm", True
    r, g, b = (int(good[round(share * (len(good) - 1))]) for share in (0.75, 0.5, 0.25))
    return (r, g, b), f"bands {r + 1}, {g + 1}, {b + 1} (false colour)", False


def _percentiles(band: np.ndarray, percent: tuple[float, float]) -> tuple[float, float]:
    values = band[np.isfinite(band)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, percent)
    return float(low), float(high)


def _check_panel(lr: np.ndarray, bicubic: np.ndarray, ours: np.ndarray, truth: np.ndarray) -> None:
    if truth.ndim != 3 or bicubic.shape != truth.shape or ours.shape != truth.shape:
        raise ValueError(
            f"comparison_panel: bicubic {bicubic.shape}, ours {ours.shape} and truth {truth.shape} must be one "
            "(bands, rows, cols)"
        )
    bands, rows, cols = truth.shape
    whole = lr.ndim == 3 and lr.shape[0] == bands and rows % lr.shape[1] == 0
    if not whole or rows // lr.shape[1] * lr.shape[2] != cols:
        raise ValueError(f"comparison_panel: lr {lr.shape} is not {truth.shape} with rows and columns over one integer")


def _caption(name: str, metrics: Metrics | None) -> str:
    return name if metrics is None else f"{name}: {metrics.mpsnr:.2f} dB, SAM {metrics.sam:.2f}°"


def _error_map(truth: np.ndarray, prediction: np.ndarray, good: np.ndarray) -> np.ndarray:
    total = np.zeros(truth.shape[1:])
    for band in np.flatnonzero(good):
        total += np.abs(truth[band].astype(np.float64) - prediction[band])
    return total / max(int(good.sum()), 1)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _mark(axes: Axes, pixels: Sequence[tuple[int, int]]) -> None:
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.5, foreground="black")]
    for number, (row, col) in enumerate(pixels):
        colour = _PIXEL_COLOURS[number % len(_PIXEL_COLOURS)]
        axes.plot(col, row, marker="s", ms=8, mfc="none", mec=colour, mew=1.6, path_effects=outline)
        axes.annotate(
            str(number + 1), (col, row), (7, 5), textcoords="offset points", color=colour, fontsize=11, weight="bold",
            path_effects=outline,
        )  # fmt: skip


def _draw_maps(
    figure: FigureBase, pair: np.ndarray, images: Sequence[np.ndarray], label: str, what: str, unit: str
) -> None:
    """Maps of bicubic and ours within the same limits, over one colour bar."""
    finite = images[0][np.isfinite(images[0])]
    limit = float(np.percentile(finite, 98)) if finite.size else 0.0
    for axes, image, name in zip(pair, images, ("bicubic", label), strict=True):
        shown = axes.imshow(image, cmap="inferno", vmin=0, vmax=limit or 1.0, interpolation="nearest")
        axes.set_title(f"{what}: {name}", fontsize=11)
        _bare(axes)
    bar = figure.colorbar(
        shown, ax=list(pair), location="bottom", fraction=0.05, pad=0.03, aspect=45, extend="max"
    )  # fmt: skip
    bar.set_label(unit, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _draw_spectra(
    axes: Axes,
    curves: Sequence[tuple[np.ndarray, str, str, float, str]],
    pixel: tuple[int, int],
    wavelengths: np.ndarray | None,
    good: np.ndarray,
) -> None:
    at = np.arange(1, len(good) + 1, dtype=float) if wavelengths is None else np.asarray(wavelengths, dtype=float)
    order = np.argsort(at, kind="stable")
    at, shown = at[order], good[order]
    for cube, name, colour, width, style in curves:
        spectrum = np.where(shown, cube[order, pixel[0], pixel[1]].astype(np.float64), np.nan)
        axes.plot(at, spectrum, style, color=colour, lw=width, label=name)
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), high)
    half = 0.5 * float(np.median(np.diff(at))) if len(at) > 1 else 0.5
    for low, high in _runs(~shown):
        axes.axvspan(at[low] - half, at[high] + half, color="#d9d9d9", lw=0, zorder=0)
    axes.set_xlabel("band" if wavelengths is None else "wavelength (nm)")
    axes.set_xlim(at[0] - half, at[-1] + half)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(start), int(stop) - 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
