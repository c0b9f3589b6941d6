"""Line charts as geometry: the template draws them as SVG, whose colours follow the page's theme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Chart", "Line", "Series", "line_chart"]

_WIDTH, _HEIGHT = 420.0, 270.0  # units; about a phone's pixels, so that text stays readable there
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 10.0, 10.0, 42.0
_MOST_POINTS = 1200


@dataclass(frozen=True)
class Series:
    """x, y: (n,), NaN where the line breaks. role: its style, one of truth, bicubic, model, other."""

    name: str
    role: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Line:
    """path: of an SVG path element."""

    name: str
    role: str
    path: str


@dataclass(frozen=True)
class Chart:
    """Positions in units of the viewBox. shades: (x, width) of bands. marks: (x, label) of vertical lines."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    shades: tuple[tuple[float, float], ...]
    marks: tuple[tuple[float, str], ...]
    description: str
    width: float = _WIDTH
    height: float = _HEIGHT
    left: float = _LEFT
    right: float = _WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = _HEIGHT - _BOTTOM


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    shades: Sequence[tuple[float, float]] = (),
    marks: Sequence[tuple[float, str]] = (),
    from_zero: bool = False,
    log_y: bool = False,
    break_gaps: bool = False,
) -> Chart | None:
    """A chart of all series on shared axes; None where no value is finite (and positive, if ``log_y``).

    shades: (from, to) in x, for what does not count. marks: (x, label). from_zero: the axis of y shows 0; not with
    ``log_y``. break_gaps: no line across more than three usual steps of x (bands that a file lacks). Long series are
    thinned to 1200 points.
    """
    known = [_clean(s, log_y, break_gaps) for s in series]
    known = [s for s in known if np.isfinite(s.y).any()]
    if not known:
        return None
    xs = np.concatenate([s.x for s in known])
    ys = np.concatenate([s.y[np.isfinite(s.y)] for s in known])
    x_low, x_high = _span(float(xs.min()), float(xs.max()))
    y_low, y_high = float(ys.min()), float(ys.max())
    if from_zero:
        y_low, y_high = min(0.0, y_low), max(0.0, y_high)
    y_low, y_high = _span(y_low, y_high)
    pad = 0.04 * (y_high - y_low)
    y_high += pad
    if not (from_zero and y_low == 0):
        y_low -= pad

    def to_x(x: float) -> float:
        return round(_LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT), 2)

    def to_y(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM), 2)

    def clipped(low: float, high: float) -> tuple[float, float]:
        begin, end = to_x(max(low, x_low)), to_x(min(high, x_high))
        return begin, round(max(end - begin, 0.0), 2)

    lines = tuple(
        Line(s.name, s.role, _path([(to_x(x), to_y(y) if np.isfinite(y) else None) for x, y in points]))
        for s in known
        for points in [list(zip(s.x.tolist(), s.y.tolist(), strict=True))]
    )
    shown = [clipped(low, high) for low, high in shades if high >= x_low and low <= x_high]
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        lines=lines,
        x_ticks=tuple((to_x(t), label) for t, label in _ticks(x_low, x_high)),
        y_ticks=tuple((to_y(t), label) for t, label in (_log_ticks if log_y else _ticks)(y_low, y_high)),
        shades=tuple(shown),
        marks=tuple((to_x(x), label) for x, label in marks if x_low <= x <= x_high),
        description=f"{title}. {y_label} against {x_label}. " + " ".join(_told(s, log_y) for s in known),
    )


def _clean(series: Series, log_y: bool, break_gaps: bool) -> Series:
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    if break_gaps and len(x) > 2:
        steps = np.diff(x)
        gaps = np.flatnonzero(steps > 3 * np.median(steps)) + 1
        x, y = np.insert(x, gaps, x[gaps]), np.insert(y, gaps, np.nan)
    step = -(-len(x) // _MOST_POINTS)
    x, y = x[::step], y[::step]
    if log_y:
        y = np.log10(y, out=np.full_like(y, np.nan), where=y > 0)
    return Series(series.name, series.role, x, np.where(np.isfinite(y), y, np.nan))


def _span(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    half = abs(low) * 0.05 or 0.5
    return low - half, high + half


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = [0.0 if abs(t) < 1e-12 * (high - low) else float(t) for t in found if low <= t <= high]
    return [(t, _label(t)) for t in ticks]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """low, high and the first of each pair are decimal logarithms."""
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1, max(1, round((high - low) / 6)))
    values = [step * 10.0**decade for decade in decades for step in steps]
    return [(float(np.log10(v)), _label(v)) for v in values if low <= np.log10(v) <= high]


def _label(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _path(points: list[tuple[float, float | None]]) -> str:
    """Moves after each gap; a lone point becomes a short dash."""
    parts: list[str] = []
    drawing = False
    for i, (x, y) in enumerate(points):
        if y is None:
            drawing = False
            continue
        parts.append(f"{'L' if drawing else 'M'}{x:g} {y:g}")
        if not drawing and (i + 1 == len(points) or points[i + 1][1] is None):
            parts.append("h1")
        drawing = True
    return "".join(parts)


def _told(series: Series, log_y: bool) -> str:
    y = series.y[np.isfinite(series.y)]
    y = 10**y if log_y else y
    return f"{series.name}: {y.min():.4g} to {y.max():.4g}."
