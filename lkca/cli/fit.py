"""``lkca fit``: a model from the user's own scenes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lkca.cli.console import command_line, note, print_line, print_table, progress_console, training_bar
from lkca.cli.options import (
    Axes,
    BandShape,
    DegradationOption,
    InputFiles,
    ModelOutput,
    Nodata,
    Overwrite,
    Region,
    ReportOption,
    Seed,
    Threads,
    Variable,
    check_report,
    configured,
    examples,
    one_process,
    reading,
    set_threads,
)
from lkca.cli.stopping import stopping
from lkca.errors import LkcaError

if TYPE_CHECKING:
    from lkca.fitting import FittedModel
    from lkca.training import Progress as FitProgress

__all__ = ["EXAMPLES", "fit_command", "fit_progress", "print_fit"]

EXAMPLES = examples(
    "lkca fit scene.tif -s 4 -o model",
    'lkca fit scene.hdr -s 4 -o model --minutes 10 --region "0:300,:"',
    "lkca fit a.mat b.mat -s 2 -o model --config fit.yaml --seed 1",
    "lkca fit new_sensor.tif -s 4 -o model --init old_model",
)


def fit_command(
    files: InputFiles,
    output: ModelOutput,
    scale: Annotated[
        int | None,
        typer.Option("--scale", "-s", min=2, max=64, help="Scale factor; here or in --config.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0, help="Time budget of the whole fit; 0: --max-steps alone.", show_default="5"),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps",
            min=1,
            help="Bound on the training steps.",
            show_default="300 from the prior, else the time's",
        ),
    ] = None,
    region: Region = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="MODEL",
            help="Model directory to start from, of any bands and sensor.",
            show_default="the shipped prior",
        ),
    ] = None,
    degradation: DegradationOption = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file with these options and more ('lkca schema').", show_default=False),
    ] = None,
    seed: Seed = None,
    report: ReportOption = None,
    overwrite: Overwrite = False,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", rich_help_panel="Where to run", help="auto, cpu, cuda or cuda:N.", show_default="auto"
        ),
    ] = None,
    threads: Threads = None,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Trains a model on your own scenes: makes them coarser and learns to restore them.

    A full-rank teacher is trained, its upsampler factorised, and the low-rank student distilled from it, all within
    the time budget. Ctrl-C or SIGTERM ends the fit early and keeps the best model so far; so does a loss that becomes
    NaN or infinite (exit code 1).
    """
    from lkca.fitting import FitConfig, fit_scenes
    from lkca.models.directory import check_model_output, save_model

    given = {
        "scale": scale,
        "minutes": minutes,
        "max_steps": max_steps,
        "region": region,
        "init": init,
        "degradation": degradation,
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    settings = configured(FitConfig, config, given)
    one_process("fit")
    check_model_output(output, overwrite=overwrite)
    if report is not None:
        check_report(report, overwrite=overwrite, inputs=files)
    set_threads(settings.threads)
    how = reading(variable, shape, axes, nodata)
    with fit_progress() as shown, stopping(shown) as callback:
        fitted = fit_scenes(files, settings, how=how, callback=callback, command=command_line())
        save_model(output, fitted.result.net, fitted.config, overwrite=overwrite)
    for remark in fitted.notes:
        note(remark)
    print_fit(fitted, output)
    if report is not None:
        from lkca.inference.device import resolve_device
        from lkca.report.build import report_of_fit
        from lkca.report.page import write_report

        where = resolve_device(settings.device)
        write_report(report, report_of_fit(fitted, str(output), files, how=how, device=where, command=command_line()))
        note(f"report written to {report}")
    if fitted.result.failure:
        raise LkcaError(f"{fitted.result.failure}; {output} holds the best model until then")
    print_line(f"Next: lkca upscale -i FILE -o OUT -m {shlex.quote(str(output))}")


@contextmanager
def fit_progress() -> Iterator[Callable[[FitProgress], None]]:
    """A progress bar on stderr with stage, held-out gain over bicubic, and time left; yields the fit's callback."""
    console = progress_console()
    said: set[str] = set()
    with training_bar(console, "left", "gain") as bar:
        task = bar.add_task("prepare", total=1.0, left="", gain="")

        def update(progress: FitProgress) -> None:
            if not console.is_terminal and progress.stage not in said:  # a log shows no bar: name the stages at least
                said.add(progress.stage)
                note(f"{progress.stage} (after {progress.elapsed:.0f} s)")
            left = "" if progress.total is None else f"{max(0.0, progress.total - progress.elapsed):.0f} s left"
            fields: dict[str, Any] = {
                "left": left,
                "gain": "" if progress.gain is None else f"{progress.gain:+.2f} dB vs bicubic",
            }
            description = f"{progress.stage}, step {progress.step}"
            bar.update(task, completed=progress.fraction, description=description, **fields)

        yield update


def print_fit(fitted: FittedModel, output: Path) -> None:
    """The final table: teacher, student and bicubic on the held-out part of the training region."""
    from lkca.report.tables import fit_table

    table = fit_table(fitted, str(output))
    print_table(table.title, table.columns, table.rows)
    print_line(table.note)
