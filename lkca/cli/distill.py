"""``lkca distill``: a low-rank student of a model, taught by it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lkca.cli.console import command_line, note, print_line, print_table
from lkca.cli.fit import fit_progress
from lkca.cli.options import (
    FITTED_HELP,
    Axes,
    BandShape,
    ModelOutput,
    ModelScale,
    Nodata,
    Overwrite,
    Seed,
    Threads,
    Variable,
    configured,
    examples,
    one_process,
    reading,
    set_threads,
)
from lkca.cli.stopping import stopping
from lkca.errors import LkcaError

if TYPE_CHECKING:
    from lkca.fitting.distill import DistilledModel

__all__ = ["EXAMPLES", "distill_command"]

EXAMPLES = examples(
    "lkca distill --teacher model --energy 0.9 -o small --data scene.tif --minutes 5",
    "lkca distill --teacher model --rank 32 -o small kd.yaml --data a.mat --data b.mat",
)

_SCORES = (("mpsnr", "MPSNR dB", 3), ("sam", "SAM °", 3), ("rmse", "RMSE", 5), ("ergas", "ERGAS", 3))
_NAMES = {"lr": "factorised, untrained"}


def distill_command(
    teacher: Annotated[str, typer.Option("--teacher", help=FITTED_HELP, show_default=False)],
    output: ModelOutput,
    data: Annotated[
        list[str], typer.Option("--data", help="Sharp cube of the teacher's sensor; repeatable.", show_default=False)
    ],
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="YAML file ('lkca schema distill').", show_default=False),
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Of the student's upsampler.")] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", min=0, max=1, help="Or: share of the kernel's squared norm to keep.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Time budget; 0: --max-steps alone.", show_default="5")
    ] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=1, help="Bound on the training steps.")] = None,
    seed: Seed = None,
    scale: ModelScale = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Factorises a model's upsampler and lets the model teach the smaller one, over scenes of its sensor.

    The student learns from the scenes, made coarser, and from what the teacher makes of them, whose weight decays;
    their features are compared too. Ctrl-C or SIGTERM keeps the best student so far; so does a loss that becomes NaN
    or infinite (exit code 1).
    """
    from lkca.fitting.config import DistillConfig
    from lkca.fitting.distill import distill_directory
    from lkca.inference.choose import fitted_model
    from lkca.models.directory import check_model_output, save_model

    given = {
        "rank": rank,
        "energy": energy,
        "minutes": minutes,
        "max_steps": max_steps,
        "seed": seed,
        "threads": threads,
    }
    settings = configured(DistillConfig, config, given, alternatives=("rank", "energy"))
    one_process("distill")
    check_model_output(output, overwrite=overwrite)
    set_threads(settings.threads)
    how = reading(variable, shape, axes, nodata)
    loaded = fitted_model(teacher, scale)
    with fit_progress() as shown, stopping(shown) as callback:
        made = distill_directory(loaded, data, settings, how=how, callback=callback, command=command_line())
        save_model(output, made.net, made.config, overwrite=overwrite)
    for remark in made.notes:
        note(remark)
    _print(made, output)
    if made.failure:
        raise LkcaError(f"{made.failure}; {output} holds the best student until then")


def _print(made: DistilledModel, output: Path) -> None:
    from lkca.training.validation import RULES

    rows = [
        [_NAMES.get(name, name), *(f"{scores[key]:.{digits}f}" for key, _, digits in _SCORES)]
        for name, scores in made.scores.items()
    ]
    print_table(f"{output}  measured on the {made.split}", ["", *(title for _, title, _ in _SCORES)], rows)
    print_line(f"rank {made.rank}, {made.steps} steps; protocol {RULES} {made.config.normalisation.peak:.6g}")
