"""The picture of an analysis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lkca.errors import InputError
from lkca.output import save_figure

if TYPE_CHECKING:
    from lkca.lowrank.analyze import Analysis

__all__ = ["plot_analysis", "plot_curves"]


def plot_analysis(analysis: Analysis, path: str | Path) -> Path:
    """As :meth:`Analysis.plot`: a panel for every layer, of the kernel and of its outputs on calibration data."""
    panels: dict[str, dict[str, Tensor]] = {}
    marks: dict[str, int] = {}
    for layer in analysis.layers:
        columns = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        title = f"{layer.name or layer.kind}: {layer.out_channels} × {columns}"
        panels[title] = {"kernel": layer.energy_curve}
        if layer.data_energy_curve is not None:
            panels[title]["outputs on calibration data"] = layer.data_energy_curve
        marks[title] = layer.break_even // layer.groups
    if not panels:
        raise InputError("the model has no upsampling layer to draw")
    return plot_curves(panels, path, break_even=marks)


def plot_curves(
    panels: Mapping[str, Mapping[str, Tensor]], path: str | Path, *, break_even: Mapping[str, int] | None = None
) -> Path:
    """One panel per entry: {title: {curve's name: (n,) energy shares}}, with a line at the break-even rank."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.3 * rows), layout="constrained")
    for number, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        for name, curve in curves.items():
            shares = np.concatenate([[0.0], np.asarray(curve, dtype=float)])
            axes.plot(np.arange(len(shares)), shares, label=name, linewidth=1.4)
        mark = (break_even or {}).get(title)
        if mark:
            axes.axvline(mark, color="0.6", linestyle=":", label=f"break-even, rank {mark}")
        axes.axhline(0.99, color="0.85", linewidth=0.8, zorder=0)
        axes.set(title=title, xlabel="rank", ylabel="share of energy", ylim=(0, 1.02))
        axes.title.set_fontsize(9)
        axes.legend(fontsize=7, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    save_figure(figure, path, dpi=130)
    return path
