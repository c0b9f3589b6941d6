"""What the page shows, from the objects that the commands made; a section whose data are missing is None or empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lkca.data import Window
from lkca.evaluation import Evaluation
from lkca.lowrank import Analysis
from lkca.report.charts import Chart, Series, line_chart
from lkca.report.pictures import Picture, choose_crops, colour_bar, encode, paint, round_limit
from lkca.report.tables import SCORE_COLUMNS, Table, rank_table, score_table
from lkca.report.view import SceneView
from lkca.training.progress import Progress
from lkca.visual import Composite, choose_pixels, error_map, runs, spectral_angle_map, value_name

__all__ = [
    "Colours",
    "Crop",
    "Headline",
    "LayerSection",
    "MapPair",
    "SceneSection",
    "TitledPicture",
    "layer_sections",
    "scene_section",
    "training_charts",
]

_TITLES = {
    "low": "low resolution",
    "bicubic": "bicubic",
    "model": "model",
    "prediction": "prediction",
    "truth": "truth",
}
_ROLES = {"bicubic": "bicubic", "model": "model", "prediction": "model", "truth": "truth"}


@dataclass(frozen=True)
class TitledPicture:
    """One cube in one set of colours. key: of :data:`_TITLES`."""

    key: str
    title: str
    picture: Picture


@dataclass(frozen=True)
class Colours:
    """One composite of all cubes. stretch: the limits in words."""

    key: str
    title: str
    bands: str
    stretch: str
    shown: tuple[TitledPicture, ...]


@dataclass(frozen=True)
class Crop:
    """A part of the view at full size. number: as the view's frame has it; shown: the results, side by side."""

    number: int
    window: Window  # in the view
    where: str  # in the scene
    shown: tuple[TitledPicture, ...]


@dataclass(frozen=True)
class MapPair:
    """Maps of one quantity within one pair of limits. limit: in words."""

    title: str
    about: str
    limit: str
    maps: tuple[TitledPicture, ...]


@dataclass(frozen=True)
class Headline:
    """A score in large figures. change: against bicubic; better: whether that is a gain."""

    name: str
    value: str
    change: str
    better: bool


@dataclass(frozen=True)
class SceneSection:
    """Everything about one scene. window: what is pictured, None where nothing is. pixels: (number, row, col in it)."""

    source: str
    about: str = ""
    window: Window | None = None
    headlines: tuple[Headline, ...] = ()
    scores: Table | None = None
    colours: tuple[Colours, ...] = ()
    crops: tuple[Crop, ...] = ()
    maps: tuple[MapPair, ...] = ()
    bar: Picture | None = None
    pixels: tuple[tuple[int, int, int], ...] = ()
    spectra: tuple[Chart, ...] = ()
    psnr: tuple[Chart, ...] = ()
    psnr_table: Table | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerSection:
    """One upsampling layer: the energy curve, the spectrum and the table of candidate ranks."""

    energy: Chart | None
    spectrum: Chart | None
    table: Table


def scene_section(result: Evaluation | None, view: SceneView | None) -> SceneSection:
    """``view`` None: scores alone. ``result`` None: nothing is scored."""
    source = view.source if view is not None else result.source if result is not None else ""
    found = SceneSection(source)
    if result is not None:
        psnr = _psnr(result)
        found = replace(
            found,
            headlines=_headlines(result),
            scores=score_table(result),
            psnr=psnr,
            psnr_table=_psnr_table(result) if psnr else None,
            notes=result.notes,
        )
    if view is None:
        return found
    composites = _composites(view)
    pixels = choose_pixels(view.base, view.good)
    return replace(
        found,
        about=_about(view),
        window=view.window,
        colours=tuple(_colours(view, key, composite) for key, composite in composites.items()),
        crops=_crops(view, next(iter(composites.values()))),
        maps=_maps(view),
        bar=colour_bar(),
        pixels=tuple((number, row, col) for number, (row, col) in enumerate(pixels, 1)),
        spectra=_spectra(view, pixels),
    )


def layer_sections(analysis: Analysis) -> tuple[LayerSection, ...]:
    """Rank and energy of each upsampling layer of a model."""
    found = []
    for layer in analysis.layers:
        count = len(layer.singular_values) if layer.rank is None else layer.rank // layer.groups  # beyond: rounding
        values = layer.singular_values[:count].double().numpy()
        ranks = np.arange(1, count + 1, dtype=float) * layer.groups
        curve = np.concatenate(([0.0], layer.energy_curve[:count].double().numpy()))
        marks = [(float(layer.break_even), "break-even")] if layer.break_even else []
        energy = line_chart(
            "Energy kept by a rank",
            [Series("kernel", "model", np.concatenate(([0.0], ranks)), curve)],
            "rank",
            "share of the squared norm",
            marks=marks,
            from_zero=True,
        )
        strength = values / max(float(values.max()), 1e-30) if values.size else values
        spectrum = line_chart(
            "Singular values", [Series("kernel", "model", ranks, strength)], "component", "of the largest", log_y=True
        )
        found.append(LayerSection(energy, spectrum, rank_table(layer, analysis.parameters)))
    return tuple(found)


def training_charts(history: Sequence[Progress]) -> tuple[Chart, ...]:
    """Loss of the latest step and held-out gain over bicubic, by step; stages are marked where they begin."""
    starts: dict[str, int] = {}
    for report in history:
        if report.stage != "prepare":
            starts.setdefault(report.stage, report.step)
    marks = [(float(step), stage) for stage, step in starts.items()]
    charts = []
    for what, title, label, log in (
        ("loss", "Training loss", "loss (share of the detail's power)", True),
        ("gain", "Gain on the held-out rows", "MPSNR above bicubic, dB", False),
    ):
        points = [(r.step, getattr(r, what)) for r in history if getattr(r, what) is not None]
        if len(points) < 2:
            continue
        x, y = (np.asarray(values, dtype=float) for values in zip(*points, strict=True))
        charts.append(line_chart(title, [Series(what, "model", x, y)], "step", label, marks=marks, log_y=log))
    return tuple(chart for chart in charts if chart is not None)


def _about(view: SceneView) -> str:
    rows, cols = view.shape
    size = f"{rows} × {cols} pixels, {len(view.good)} bands, ×{view.scale}"
    if view.whole:
        return f"{size}; shown whole (rows and columns {view.window})"
    return (
        f"{size}; pictures, maps and spectra show {view.window.height} × {view.window.width} pixels of it "
        f"(rows and columns {view.window}), at full resolution"
    )


def _composites(view: SceneView) -> dict[str, Composite]:
    """The true colours, or false ones, and colour infrared where the wavelengths allow it."""
    true = Composite.of(view.base, view.wavelengths, view.good)
    cir = Composite.of(view.base, view.wavelengths, view.good, kind="cir")
    return {"true": true} | ({"cir": cir} if cir.by_wavelength else {})


def _cubes(view: SceneView) -> dict[str, np.ndarray]:
    return ({} if view.low is None else {"low": view.low}) | dict(view.images)


def _colours(view: SceneView, key: str, composite: Composite) -> Colours:
    title = "Colour infrared" if key == "cir" else "True colour" if composite.by_wavelength else "False colour"
    if composite.by_wavelength:
        stretch = f"{composite.low[0]:.4g} to {composite.high[0]:.4g}"
    else:
        pairs = zip("RGB", composite.low, composite.high, strict=True)
        stretch = ", ".join(f"{name} {low:.4g} to {high:.4g}" for name, low, high in pairs)
    shown = tuple(TitledPicture(name, _TITLES[name], encode(composite.render(c))) for name, c in _cubes(view).items())
    return Colours(key, title, composite.name, stretch, shown)


def _crops(view: SceneView, composite: Composite) -> tuple[Crop, ...]:
    crops = []
    for number, window in enumerate(choose_crops(composite.render(view.base), view.scale), 1):
        shown = []
        for name, cube in _cubes(view).items():
            step = view.scale if name == "low" else 1
            rows, cols = (slice(s.start // step, s.stop // step) for s in window.slices)
            shown.append(TitledPicture(name, _TITLES[name], encode(composite.render(cube[:, rows, cols]))))
        where = str(window.shifted(view.window.row, view.window.col))
        crops.append(Crop(number, window, where, tuple(shown)))
    return tuple(crops)


def _maps(view: SceneView) -> tuple[MapPair, ...]:
    """Error and angle against the truth; without one, how far the result went from bicubic."""
    known = "truth" in view.images
    base_name = "truth" if known else "bicubic"
    others = {name: cube for name, cube in view.images.items() if name != base_name}
    if base_name not in view.images or not others:
        return ()
    base = view.images[base_name]
    pairs = []
    for title, about, unit, measure in (
        ("Mean absolute " + ("error" if known else "change"), "|difference|, mean over the good bands", "", error_map),
        ("Spectral angle", "between the spectra of the good bands", "°", spectral_angle_map),
    ):
        values = {name: measure(base, cube, view.good) for name, cube in others.items()}
        limit = round_limit(values.get("bicubic", next(iter(values.values()))))
        share = f" ({limit / view.peak:.2g} of the peak)" if view.peak and not unit else ""
        shown = tuple(TitledPicture(name, _TITLES[name], paint(image, limit)) for name, image in values.items())
        against = "" if known else "; against bicubic, since no truth is known: this is no error"
        pairs.append(MapPair(title, about + against, f"{limit:g}{unit}{share}", shown))
    return tuple(pairs)


def _axis(wavelengths: np.ndarray | None, bands: int) -> tuple[np.ndarray, str]:
    if wavelengths is None:
        return np.arange(1, bands + 1, dtype=float), "band"
    return np.asarray(wavelengths, dtype=float), "wavelength, nm"


def _shades(at: np.ndarray, good: np.ndarray) -> list[tuple[float, float]]:
    """Intervals of the axis (rising) that hold bad bands."""
    half = 0.5 * float(np.median(np.diff(at))) if len(at) > 1 else 0.5
    return [(float(at[low]) - half, float(at[high]) + half) for low, high in runs(~good)]


def _spectra(view: SceneView, pixels: Sequence[tuple[int, int]]) -> tuple[Chart, ...]:
    at, x_label = _axis(view.wavelengths, len(view.good))
    order = np.argsort(at, kind="stable")
    at, good = at[order], view.good[order]
    names = [name for name in ("truth", "bicubic", "model", "prediction") if name in view.images]
    unit = "value" if view.peak is None else value_name(view.peak)
    charts = []
    for number, (row, col) in enumerate(pixels, 1):
        series = [
            Series(_TITLES[name], _ROLES[name], at, np.where(good, view.images[name][order, row, col], np.nan))
            for name in names
        ]
        title = f"Pixel {number}: row {view.window.row + row}, column {view.window.col + col}"
        chart = line_chart(title, series, x_label, unit, shades=_shades(at, good), from_zero=True, break_gaps=True)
        charts += [] if chart is None else [chart]
    return tuple(charts)


def _headlines(result: Evaluation) -> tuple[Headline, ...]:
    name = "model" if "model" in result.scores else "prediction" if "prediction" in result.scores else None
    if name is None:
        return ()
    ours, base = result.scores[name], result.scores.get("bicubic")
    found = []
    for key, heading, digits, more in SCORE_COLUMNS:
        if key not in ("mpsnr", "sam", "ergas"):
            continue
        value = getattr(ours, key)
        change, better = "", True
        if base is not None:
            gain = value - getattr(base, key)
            change, better = f"{gain:+.{digits}f} vs bicubic", (gain > 0) == more
        found.append(Headline(heading, f"{value:.{digits}f}", change, better))
    return tuple(found)


def _psnr(result: Evaluation) -> tuple[Chart, ...]:
    """Of every prediction, and what the model gains."""
    good = result.scored
    at, x_label = _axis(result.wavelengths, len(good))
    order = np.argsort(at, kind="stable")
    at, shades = at[order], _shades(at[order], good[order])
    curves = {}
    for name, metrics in result.scores.items():
        values = np.full(len(good), np.nan)
        values[good] = metrics.psnr_per_band
        curves[name] = values[order]
    series = [Series(_TITLES[name], _ROLES[name], at, values) for name, values in curves.items()]
    charts = [line_chart("PSNR of each band", series, x_label, "PSNR, dB", shades=shades, break_gaps=True)]
    if {"bicubic", "model"} <= curves.keys():
        gain = [Series("model", "model", at, curves["model"] - curves["bicubic"])]
        charts.append(
            line_chart(
                "Gain over bicubic", gain, x_label, "PSNR gain, dB", shades=shades, from_zero=True, break_gaps=True
            )
        )
    return tuple(chart for chart in charts if chart is not None)


def _psnr_table(result: Evaluation) -> Table:
    heading = () if result.wavelengths is None else ("wavelength, nm",)
    rows = []
    for index, band in enumerate(result.bands.tolist()):
        where = () if result.wavelengths is None else (f"{result.wavelengths[band]:.1f}",)
        rows.append((str(band + 1), *where, *(f"{m.psnr_per_band[index]:.2f}" for m in result.scores.values())))
    return Table("PSNR of each band, dB", ("band", *heading, *result.scores), tuple(rows))
