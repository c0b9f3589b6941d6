"""``lkca degrade``: the blurry cube that a sensor with s times larger pixels would have seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lkca.choices import DegradationMethod
from lkca.cli.console import note, print_line
from lkca.cli.options import (
    Axes,
    BandShape,
    Nodata,
    Overwrite,
    Scale,
    Sigma,
    Variable,
    degradation_asked,
    examples,
    reading,
)

__all__ = ["EXAMPLES", "degrade_command"]

EXAMPLES = examples(
    "lkca degrade -i scene.tif -o coarse.tif -s 4",
    "lkca degrade -i scene.hdr -o coarse.img -s 2 --method gaussian",
)


def degrade_command(
    source: Annotated[str, typer.Option("--input", "-i", help="Cube to degrade.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Cube to write.", show_default=False)],
    scale: Scale,
    method: Annotated[
        DegradationMethod, typer.Option("--method", help="bicubic (MATLAB's, antialiased), gaussian or area.")
    ] = "bicubic",
    sigma: Sigma = None,
    overwrite: Overwrite = False,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Makes a cube s times coarser, as Wald's protocol does, and keeps its metadata.

    Scenes of any size are done in bounded memory.
    """
    from lkca.data import open_cube
    from lkca.inference.degrade import degrade_scene

    degradation = degradation_asked(method, sigma, scale)
    assert degradation is not None
    with open_cube(source, **reading(variable, shape, axes, nodata)) as cube:
        report = degrade_scene(cube, output, degradation, overwrite=overwrite)
        for remark in (*cube.warnings, *report.warnings):
            note(remark)
        rows, cols, bands = report.shape
        print_line(
            f"{output}: {rows} × {cols} pixels, {bands} bands ({method} ×1/{scale} of {cube.rows} × {cube.cols})"
        )
