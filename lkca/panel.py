"""The picture that compares a restored scene with bicubic and with the truth.

Drawn without pyplot: no display, no state shared between figures or threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lkca.metrics import Metrics
from lkca.output import save_figure
from lkca.views import Overview
from lkca.visual import runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

__all__ = ["comparison_panel"]

_PIXEL_COLOURS = ("#e41a1c", "#ff9f00", "#00b7ff", "#f032e6", "#ffffff", "#7fff00")


def comparison_panel(
    path: str | os.PathLike[str],
    overview: Overview,
    *,
    metrics: Mapping[str, Metrics] | None = None,
    title: str | None = None,
    label: str = "model",
    units: str = "reflectance",
) -> None:
    """Draw and save the comparison of a restored scene: pictures, error maps and spectra.

    overview: with the results "bicubic" and "model", physical values of ``units``. Row one: low resolution, both
    results and the truth, in the colours and the stretch of the truth. Row two: mean absolute error over the good
    bands, and spectral angle, of bicubic and the model, each kind within the same limits (0 to the 98th percentile of
    bicubic's). Row three: spectra at the overview's pixels; bad bands are shaded. metrics: by result, for captions.
    label: the name of the model. path: its suffix is the format (png, pdf, svg). InputError for an unknown suffix;
    OutputError where the file cannot be written; nothing partial stands under ``path``.
    """
    from matplotlib.figure import Figure

    bicubic, ours = overview.result("bicubic"), overview.result("model")
    metrics = metrics or {}

    _, rows, cols = overview.truth.shape
    side = 3.5 * min(max(rows / cols, 0.15), 2.0)  # height of a picture in inches: four share the width
    heights = (1.0 + side, 0.9 + side, 3.6)
    figure = Figure(figsize=(15, sum(heights)), layout="constrained")
    parts: np.ndarray = figure.subfigures(3, 1, height_ratios=heights)  # type: ignore[assignment]
    pictures = parts[0].subplots(1, 4)
    shown = (
        (overview.low, overview.low_step * overview.scale, f"LR (1/{overview.scale})"),
        (bicubic.picture, overview.step, _caption("bicubic", metrics.get("bicubic"))),
        (ours.picture, overview.step, _caption(label, metrics.get("model"))),
        (overview.truth, overview.step, "truth"),
    )
    for axes, (planes, size, name) in zip(pictures, shown, strict=True):
        _, rows, cols = planes.shape
        extent = (-0.5, cols * size - 0.5, rows * size - 0.5, -0.5)
        axes.imshow(overview.colours.render(planes), extent=extent, interpolation="nearest")
        axes.set_title(name, fontsize=11)
        _bare(axes)
    thinned = f"\none pixel of {overview.step} × {overview.step} is shown" if overview.step > 1 else ""
    pictures[0].set_xlabel(f"R, G, B: {overview.colours.name}{thinned}", fontsize=8.5)
    _mark(pictures[3], overview.pixels)

    maps = parts[1].subplots(1, 4)
    _draw_maps(parts[1], maps[:2], (bicubic.error, ours.error), label, "mean |error|", units)
    _draw_maps(parts[1], maps[2:], (bicubic.angle, ours.angle), label, "spectral angle", "degrees")

    curves = (
        (overview.spectra, "truth", "#000000", 2.0, "-"),
        (bicubic.spectra, "bicubic", "#2b7bba", 1.3, "--"),
        (ours.spectra, label, "#d1321c", 1.3, "-"),
    )
    pixels = overview.pixels
    plots = parts[2].subplots(1, len(pixels), squeeze=False)[0] if pixels else ()
    for number, (axes, pixel) in enumerate(zip(plots, pixels, strict=True)):
        _draw_spectra(axes, curves, number, overview.wavelengths, overview.good)
        colour = _PIXEL_COLOURS[number % len(_PIXEL_COLOURS)]
        axes.set_title(f"pixel {number + 1} (row {pixel[0]}, column {pixel[1]})", fontsize=10)
        axes.plot(0.03, 0.94, marker="s", color=colour, markeredgecolor="black", transform=axes.transAxes, ms=8)
        if number == 0:
            axes.set_ylabel(units)
            axes.legend(fontsize=8.5, frameon=False, loc="best")
    if title:
        parts[0].suptitle(title, fontsize=13)  # of the figure it would lie over the captions
    save_figure(figure, path)


def _caption(name: str, metrics: Metrics | None) -> str:
    return name if metrics is None else f"{name}: {metrics.mpsnr:.2f} dB, SAM {metrics.sam:.2f}°"


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
    number: int,
    wavelengths: np.ndarray | None,
    good: np.ndarray,
) -> None:
    at = np.arange(1, len(good) + 1, dtype=float) if wavelengths is None else np.asarray(wavelengths, dtype=float)
    order = np.argsort(at, kind="stable")
    at, shown = at[order], good[order]
    for spectra, name, colour, width, style in curves:
        spectrum = np.where(shown, spectra[order, number].astype(np.float64), np.nan)
        alone = [first for first, last in runs(np.isfinite(spectrum)) if first == last]  # a line shows nothing of these
        axes.plot(
            at, spectrum, style, color=colour, lw=width, label=name, marker="o" if alone else "", ms=4, markevery=alone
        )
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), high)
    half = 0.5 * float(np.median(np.diff(at))) if len(at) > 1 else 0.5
    for low, high in runs(~shown):
        axes.axvspan(at[low] - half, at[high] + half, color="#d9d9d9", lw=0, zorder=0)
    axes.set_xlabel("band" if wavelengths is None else "wavelength (nm)")
    axes.set_xlim(at[0] - half, at[-1] + half)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
