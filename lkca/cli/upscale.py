"""``lkca upscale``: the main use of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lkca.cli.console import note, print_line, row_progress
from lkca.cli.options import Axes, BandShape, Device, Overwrite, Threads, Variable, examples, parse_shape, set_threads
from lkca.errors import InputError

__all__ = ["EXAMPLES", "upscale_command"]

EXAMPLES = examples(
    "lkca upscale -i scene.tif -o sharp.tif -m model",
    "lkca upscale -i scene.hdr -o sharp.img -m model --dtype float32",
    "lkca upscale -i cube.mat::paviaU -o cube_x4.mat -m model --axes rcb",
    "lkca upscale -i scene.tif -o bicubic.tif -s 4 --bicubic",
)


def upscale_command(
    source: Annotated[str, typer.Option("--input", "-i", help="Cube to upscale.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Cube to write; the suffix picks the format.", show_default=False)
    ],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Model directory that 'lkca fit' wrote.", show_default=False)
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", min=2, max=64, help="Scale factor.", show_default="the model's")
    ] = None,
    bicubic: Annotated[bool, typer.Option("--bicubic", help="No model: plain bicubic, for comparison.")] = False,
    overwrite: Overwrite = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on though wavelengths or values are not like the model's.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Type of the stored samples, such as float32.", show_default="the input's"),
    ] = None,
    compress: Annotated[
        str | None, typer.Option("--compress", help="Compression, where the format has one: deflate, zstd, none.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
) -> None:
    """Makes a cube s times sharper and keeps its metadata.

    Nodata stays nodata and never reaches its neighbours. Bad bands are upscaled by bicubic.
    """
    if bicubic == (model is not None):
        raise InputError("give either a model with -m, or --bicubic")
    if bicubic and scale is None:
        raise InputError("--bicubic needs a scale factor; give -s, for example -s 4")
    from lkca.data import open_cube
    from lkca.inference.scene import upscale_scene
    from lkca.models.directory import load_model

    set_threads(threads)
    loaded = None if model is None else load_model(model)
    with open_cube(source, variable=variable, shape=parse_shape(shape), axes=axes) as cube:
        for warning in cube.warnings:
            note(warning)
        with row_progress(f"upscaling {source}") as progress:
            report = upscale_scene(
                cube,
                output,
                loaded,
                scale=scale,
                overwrite=overwrite,
                device=device,
                dtype=dtype,
                compress=compress,
                force=force,
                progress=progress,
            )
    for remark in report.notes:
        note(remark)
    how = "bicubic" if loaded is None else f"model {model}"
    print_line(
        f"{output}: {report.rows} × {report.cols} pixels, {report.bands} bands, by {how} in {report.seconds:.1f} s"
    )
    if loaded is not None and report.bicubic_bands:
        print_line(f"{report.bicubic_bands} bad or empty bands were upscaled by bicubic")
