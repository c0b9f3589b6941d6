"""``lkca report``: one HTML page about a model or a result, to look at and to pass on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lkca.cli.console import command_line, note, print_line
from lkca.cli.evaluate import end_by, evaluate_files, unscored
from lkca.cli.options import (
    MODEL_HELP,
    Axes,
    BandShape,
    DegradationOption,
    Device,
    Force,
    Memory,
    Nodata,
    Overwrite,
    Peak,
    Region,
    SharpFiles,
    Sigma,
    Threads,
    Variable,
    check_report,
    examples,
    open_together,
    reading,
    set_threads,
)
from lkca.errors import InputError, LkcaError

if TYPE_CHECKING:
    from lkca.evaluation import Evaluation

__all__ = ["EXAMPLES", "report_command"]

EXAMPLES = examples(
    'lkca report -m model scene.tif --region "68:,:" -o report.html',
    "lkca report -m model -o model.html",
    "lkca report --input coarse.tif --prediction sharp.tif -o report.html",
    "lkca report --reference truth.tif --prediction sharp.tif -s 4 -o report.html",
)


def report_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.", show_default=False)],
    files: SharpFiles = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP, show_default=False)] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale", "-s", min=2, max=64, help="Scale factor.", show_default="the model's, or that of the input"
        ),
    ] = None,
    prediction: Annotated[
        str | None, typer.Option("--prediction", help="Finished cube, as 'lkca upscale' wrote it.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--input", "-i", help="Coarse cube that the --prediction was made of.", show_default=False),
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="True cube, to score the --prediction.", show_default=False)
    ] = None,
    region: Region = None,
    peak: Peak = None,
    degradation: DegradationOption = None,
    sigma: Sigma = None,
    overwrite: Overwrite = False,
    force: Force = False,
    memory: Memory = "half",
    device: Device = "auto",
    threads: Threads = None,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Writes one HTML page: pictures, slider, error maps, spectra, PSNR by band, ranks, speed, and how it was made.

    Of a model, evaluated on files or alone; or of a finished cube, beside the input it was made of, its truth, or
    both. The page is a single file that opens anywhere and loads nothing.
    """
    from lkca.inference.device import resolve_device
    from lkca.models.shipped import find_model
    from lkca.report.build import MOST_PICTURED, report_of_files, report_of_model
    from lkca.report.page import write_report

    failed: dict[str, LkcaError] = {}
    how = reading(variable, shape, axes, nodata)
    set_threads(threads)
    finished = [path for path in (prediction, source, reference) if path is not None]
    check_report(output, overwrite=overwrite, inputs=[*(files or []), *finished])
    if finished:
        if prediction is None or (source is None and reference is None):
            raise InputError("--prediction is compared with an --input, a --reference, or both; give them together")
        if files or model is not None or degradation is not None or sigma is not None:
            raise InputError(
                "a finished --prediction is compared as it is, without files, -m, --degradation and --sigma"
            )
        if source is None and scale is None:
            raise InputError("--reference and --prediction need the scale factor for ERGAS; give -s, for example -s 4")
        with open_together(finished, how) as opened:
            cubes = dict(zip(finished, opened, strict=True))
            guess, low, truth = (None if path is None else cubes[path] for path in (prediction, source, reference))
            assert guess is not None
            report = report_of_files(
                guess, scale, low=low, reference=truth, region=region, peak=peak, command=command_line()
            )
    else:
        if not files and model is None:
            raise InputError("give a model with -m, cubes to evaluate it on, or a finished --prediction")
        alone = {
            "--region": region, "--peak": peak, "--degradation": degradation, "--sigma": sigma, "--variable": variable,
            "--shape": shape, "--axes": axes, "--nodata": nodata, "--force": force or None,
        }  # fmt: skip
        if not files and (idle := [option for option, value in alone.items() if value is not None]):
            raise InputError(
                f"{idle[0]} has no effect on a model alone; name the cubes to evaluate it on, or leave it out"
            )
        where = resolve_device(device)
        loaded = None if model is None else find_model(model, scale)
        results: Iterable[Evaluation] = ()
        if files:
            results = evaluate_files(
                files, loaded, scale, how=how, region=region, peak=peak, degradation=degradation, sigma=sigma,
                device=where, force=force, memory=memory, failed=failed, pictured=MOST_PICTURED,
            )  # fmt: skip
        report = report_of_model(results, loaded, model or "", device=where, command=command_line())
    for remark in (*(remark for scene in report.scenes for remark in scene.notes), *report.notes):
        note(remark)
    if report.scenes or not files:
        report.notes = (*report.notes, *unscored(failed))
        write_report(output, report)
        print_line(f"{output}: {output.stat().st_size / 1e6:.2f} MB, one file")
    end_by(failed)
