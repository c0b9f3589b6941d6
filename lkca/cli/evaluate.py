"""``lkca evaluate``: how good a model is on cubes whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lkca.choices import DegradationMethod
from lkca.cli.console import command_line, complain, note, print_json, print_line, print_table
from lkca.cli.options import (
    MODEL_HELP,
    Axes,
    BandShape,
    DegradationOption,
    Device,
    Force,
    Json,
    Memory,
    Nodata,
    Overwrite,
    Peak,
    Region,
    ReportOption,
    SharpFiles,
    Sigma,
    Threads,
    Variable,
    check_report,
    degradation_asked,
    examples,
    open_together,
    reading,
    set_threads,
)
from lkca.errors import InputError, LkcaError
from lkca.output import check_output, check_picture

if TYPE_CHECKING:
    import torch

    from lkca.evaluation import Evaluation
    from lkca.models.directory import LoadedModel
    from lkca.models.prior import Prior

__all__ = ["EXAMPLES", "end_by", "evaluate_command", "evaluate_files", "print_evaluation", "unscored", "write_panel"]

EXAMPLES = examples(
    'lkca evaluate -m model scene.tif --region "68:,:" --panel compare.png',
    "lkca evaluate -m model *.mat --json > scores.json",
    "lkca evaluate -m model scene.tif --report report.html",
    "lkca evaluate -m general scene.tif -s 4",
    "lkca evaluate scene.tif -s 4",
    "lkca evaluate --reference truth.tif --prediction sharp.tif -s 4",
)


def evaluate_command(
    files: SharpFiles = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"{MODEL_HELP} Without it, bicubic alone is scored.", show_default=False),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", min=2, max=64, help="Scale factor.", show_default="the model's")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="True cube, to score a finished --prediction.", show_default=False)
    ] = None,
    prediction: Annotated[str | None, typer.Option("--prediction", help="Finished cube.", show_default=False)] = None,
    region: Region = None,
    peak: Peak = None,
    degradation: DegradationOption = None,
    sigma: Sigma = None,
    json: Json = False,
    panel: Annotated[
        Path | None,
        typer.Option("--panel", help="Picture (PNG) to write: the first file's cubes compared.", show_default=False),
    ] = None,
    report: ReportOption = None,
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
    """Degrades cubes, restores them by the model and by bicubic, and compares both with the truth.

    Or scores a finished prediction against its reference. Metrics follow the SSPSR family's protocol, with the
    largest valid sample of the reference as peak, if none is given; bad bands are not scored. Scenes of any size are
    done in bounded memory.
    """
    from lkca.evaluation import evaluate_prediction
    from lkca.inference.device import resolve_device
    from lkca.models.shipped import find_model
    from lkca.report.build import MOST_PICTURED, report_of_files, report_of_model
    from lkca.report.page import write_report

    results: list[Evaluation] = []
    failed: dict[str, LkcaError] = {}

    def told(result: Evaluation) -> Evaluation:
        """Told at once: what ends the command later does not take these scores with it."""
        for remark in result.notes:
            note(remark)
        if not json:
            print_evaluation(result)
        results.append(replace(result, middle=None))
        return result

    how = reading(variable, shape, axes, nodata)
    set_threads(threads)
    if panel is not None:
        if not files or model is None:
            raise InputError("--panel compares a model with bicubic; give -m MODEL and a file")
        check_picture(panel)
        check_output(panel, overwrite=overwrite, inputs=files)
    if report is not None:
        check_report(report, overwrite=overwrite, inputs=[*(files or []), *filter(None, (reference, prediction))])
    if reference is not None or prediction is not None:
        if reference is None or prediction is None or files or model is not None:
            raise InputError("--reference and --prediction go together, without files and without -m")
        if degradation is not None or sigma is not None:
            raise InputError("--degradation and --sigma have no effect on a finished --prediction; leave them out")
        if scale is None:
            raise InputError("--reference and --prediction need the scale factor for ERGAS; give -s, for example -s 4")
        with open_together((reference, prediction), how) as (truth, guess):
            told(evaluate_prediction(truth, guess, scale, region=region, peak=peak))
            if report is not None:
                page = report_of_files(guess, scale, reference=truth, region=region, peak=peak, command=command_line())
    else:
        if not files:
            raise InputError("give cubes to degrade and restore, or --reference and --prediction")
        loaded = None if model is None else find_model(model, scale)
        where = resolve_device(device)
        evaluated = evaluate_files(
            files, loaded, scale, how=how, region=region, peak=peak, degradation=degradation, sigma=sigma,
            device=where, force=force, memory=memory, failed=failed, pictured=0 if report is None else MOST_PICTURED,
            overview=panel is not None,
        )  # fmt: skip
        if report is None:
            for result in evaluated:
                told(result)
        else:
            page = report_of_model(map(told, evaluated), loaded, model or "", device=where, command=command_line())
            page.notes = unscored(failed)
    if json:
        errors = [{"source": file, "error": str(error)} for file, error in failed.items()]
        print_json({"results": [result.summary() for result in results], "failed": errors})
    if panel is not None and results:
        write_panel(panel, results[0])
        note(f"picture written to {panel}")
    if report is not None and results:
        write_report(report, page)
        note(f"report written to {report}")
    end_by(failed)


def evaluate_files(
    files: Sequence[str],
    loaded: LoadedModel | Prior | None,
    scale: int | None,
    *,
    how: dict[str, Any],
    region: str | None,
    peak: float | None,
    degradation: DegradationMethod | None,
    sigma: float | None,
    device: torch.device,
    force: bool,
    memory: str,
    failed: dict[str, LkcaError],
    pictured: int = 0,
    overview: bool = False,
) -> Iterator[Evaluation]:
    """Each file degraded, restored and scored; with the middle of the first ``pictured``, the overview of the first.

    failed: takes each file that cannot be scored, and why, which stderr is told at once; the others go on. The error of
    a single file is raised.
    """
    from lkca.data import open_cube
    from lkca.evaluation import evaluate_model
    from lkca.models.directory import LoadedModel

    factor = loaded.config.scale if scale is None and isinstance(loaded, LoadedModel) else scale
    if factor is None:
        raise InputError("give the scale factor with -s, for example -s 4; only a model directory has its own")
    blur = degradation_asked(degradation, sigma, factor)
    scored = 0
    for file in files:
        try:
            with open_cube(file, **how) as cube:
                result = evaluate_model(
                    cube, loaded, factor, region=region, peak=peak, degradation=blur, device=device, force=force,
                    memory=memory, middle=scored < pictured, overview=overview and scored == 0,
                )  # fmt: skip
        except LkcaError as error:
            if len(files) == 1:
                raise
            complain(str(error))
            failed[file] = error
            continue
        scored += 1
        yield result


def unscored(failed: Mapping[str, LkcaError]) -> tuple[str, ...]:
    """Remarks of a page on the files that it lacks."""
    return tuple(f"{file} could not be scored: {error}" for file, error in failed.items())


def end_by(failed: Mapping[str, LkcaError]) -> None:
    """Ends the command with the highest exit code of the files' errors, if there are any."""
    if failed:
        raise typer.Exit(max(error.exit_code for error in failed.values()))


def print_evaluation(result: Evaluation) -> None:
    """The table of one scene and the line that says how it was measured."""
    from lkca.report.tables import score_table

    table = score_table(result)
    print_table(table.title, table.columns, table.rows)
    print_line(table.note)


def write_panel(path: Path, result: Evaluation) -> None:
    """The picture that compares low resolution, bicubic, model and truth; ``result`` has its overview."""
    from lkca.panel import comparison_panel
    from lkca.visual import value_name

    assert result.overview is not None and result.model is not None
    title = f"{Path(result.source).name}, region {result.window}, ×{result.scale}"
    units = value_name(result.peak)
    comparison_panel(path, result.overview, metrics=result.scores, title=title, label=result.model, units=units)
