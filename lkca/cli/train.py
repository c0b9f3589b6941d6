"""``lkca train``: a model from a data set, by a configuration file."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lkca.cli.console import command_line, note, print_line, print_table, progress_console, training_bar
from lkca.cli.options import Axes, BandShape, Nodata, Overwrite, Variable, examples, reading, set_threads

if TYPE_CHECKING:
    from lkca.training import Progress as TrainProgress
    from lkca.training.config import TrainConfig
    from lkca.training.trainer import TrainResult

__all__ = ["EXAMPLES", "train_command"]

EXAMPLES = examples(
    "lkca train configs/chikusei_x4_base.yaml -o run data.dataset=chikusei.h5",
    "lkca train configs/cave_x4_base.yaml -o run --resume minutes=60",
    "torchrun --nproc-per-node 4 -m lkca train configs/chikusei_x4_base.yaml -o run",
)

_ENDS = {
    "done": "done",
    "early": "stopped early: no better for {patience} validations",
    "time": "stopped by its time; go on with --resume",
    "interrupted": "interrupted; go on with --resume",
}


def train_command(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file ('lkca schema train', configs/).", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.", show_default=False)],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes: steps=1000 model.width=48.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run's last checkpoint stands.")] = False,
    overwrite: Overwrite = False,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Trains a network on a prepared data set or on cube files.

    The run folder gets best/, the model of the best validation, and last/; each serves 'lkca upscale -m'. A run that
    was killed goes on with --resume as if it had not been. For several GPUs start it with torchrun.
    """
    from lkca.training.config import read_train_config
    from lkca.training.trainer import train

    how = reading(variable, shape, axes, nodata)
    keys = [f"data.{name}={json.dumps(value, ensure_ascii=False)}" for name, value in how.items() if value is not None]
    settings = read_train_config(config, [*(changes or []), *keys])
    set_threads(settings.threads)
    quiet = (os.environ.get("RANK") or "0") != "0"  # torchrun's number of this process
    with train_progress(settings, quiet=quiet) as callback:
        result = train(settings, output, resume=resume, overwrite=overwrite, callback=callback, command=command_line())
    if not quiet:
        _print(result, settings)


@contextmanager
def train_progress(config: TrainConfig, *, quiet: bool) -> Iterator[Callable[[TrainProgress], None]]:
    """A bar on stderr with steps, loss, patches per second, time left and validation; a log gets validations only."""
    console = progress_console()
    began: tuple[float, int] | None = None
    with training_bar(console, "left", "gain", quiet=quiet) as bar:
        task = bar.add_task("prepare", total=config.steps, left="", gain="")

        def update(progress: TrainProgress) -> None:
            nonlocal began
            now = time.monotonic()
            if began is None:
                began = now, progress.step
            rate = (progress.step - began[1]) / (now - began[0]) if now > began[0] else 0.0
            left = _time((config.steps - progress.step) / rate) + " left" if rate else ""
            text = f"step {progress.step}/{config.steps}, loss {progress.loss:.5f}, {rate * config.batch:.1f} patches/s"
            bar.update(task, completed=progress.step, description=text, left=left)
            if progress.gain is not None:
                bar.update(task, gain=f"{progress.gain:+.2f} dB vs bicubic")
                if not console.is_terminal:
                    note(f"{text}, {progress.gain:+.3f} dB vs bicubic, {left}")

        yield update


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _print(result: TrainResult, config: TrainConfig) -> None:
    from lkca.report.tables import recorded_scores
    from lkca.training.validation import RULES

    for remark in result.notes:
        note(remark)
    if result.metrics:
        title = f"{result.model}  ×{config.scale}  measured on the {result.split}, protocol {RULES}"
        print_table(title, *recorded_scores(result.metrics))
    end = _ENDS[result.end].format(patience=config.patience)
    best = f"; the best at step {result.best_step}" if result.metrics else ""
    print_line(f"{end}: {result.steps} steps in {_time(result.seconds)}{best}")
    if result.model is not None:
        print_line(f"Next: lkca upscale -i FILE -o OUT -m {shlex.quote(str(result.model))}")
