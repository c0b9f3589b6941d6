"""The command group: what each error becomes, and which file holds which command."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lkca.cli import (
    analyze,
    bench,
    degrade,
    demo,
    distill,
    doctor,
    evaluate,
    export,
    factorize,
    fit,
    inspect,
    models,
    prepare,
    report,
    schema,
    train,
    upscale,
)
from lkca.cli.console import complain
from lkca.cli.stopping import cleaning_up
from lkca.errors import LkcaError

__all__ = ["app"]

_BAD_PATHS = (errno.ENAMETOOLONG, errno.EACCES)  # also of a question whether something is there
_NO_MEMORY = ("can't allocate memory", "out of memory")  # torch's allocators raise plain RuntimeErrors


@contextmanager
def _told() -> Iterator[None]:
    """Turns exceptions into one sentence on stderr and the exit code that goes with it."""
    try:
        yield
    except LkcaError as error:
        complain(str(error))
        raise typer.Exit(error.exit_code) from error
    except Exception as error:
        usage_error = hasattr(error, "format_message")  # typer's own, whichever click it is built on
        broken_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
        if usage_error:
            _show_how(error)
        if usage_error or broken_pipe or isinstance(error, (typer.Exit, typer.Abort)):
            raise
        if type(error).__name__ == "BackendError":  # by name: importing it would import torch for every command
            complain(f"{error}; 'lkca doctor' tells which backends are here")
            raise typer.Exit(2) from error
        if os.environ.get("LKCA_DEBUG") == "1":
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in _BAD_PATHS and error.filename is not None:
            complain(
                f"{os.fsdecode(error.filename)}: {(error.strerror or '').lower()}; check the path, or choose another"
            )
            raise typer.Exit(2) from error
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            complain("not enough memory; use a smaller scene or a part of it, or close other programs")
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of what the library writes: OutputError
            complain("the output could not be written (no space left); free some space or send it elsewhere")
        else:
            detail = str(error).strip().splitlines()
            complain(
                f"unexpected failure ({type(error).__name__}: {detail[0] if detail else 'no message'}); "
                "set LKCA_DEBUG=1 for the traceback"
            )
        raise typer.Exit(1) from error


def _show_how(error: Any) -> None:
    """Adds the command's first example to a usage error: it shows which of the words are options. Of files that follow
    one another, as of ``-i *.tif``, it says that the option is to be repeated."""
    context = getattr(error, "ctx", None)
    parameters = context.command.params if context else ()
    if "unexpected extra argument" in error.message and any(p.multiple for p in parameters if "-i" in p.opts):
        error.message += "\nGive each file an -i of its own, or name their folder."
    example = re.search(r"\[cyan\](.+?)\[/cyan\]", (context and context.command.epilog) or "")
    if example:
        error.message = f"{error.message}\nFor example: {example[1]}".lstrip()


class ErrorGroup(TyperGroup):
    """The commands, whose errors are told in one sentence."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _told():  # --version and --help print here
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _told(), cleaning_up():
            return super().invoke(ctx)


app = typer.Typer(
    name="lkca",
    cls=ErrorGroup,
    help="Hyperspectral super-resolution: train on your own scenes, make them sharper, measure it.",
    epilog="First steps: 'lkca demo', then 'lkca upscale -i FILE -o OUT -s 4'; with a model of your own: "
    "'lkca fit FILE -s 4 -o model' and 'lkca upscale -i FILE -o OUT -m model'.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import lkca

        typer.echo(f"lkca {lkca.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _paragraphs(docstring: str | None) -> str:
    """The docstring with its paragraphs unwrapped: the help wraps them to the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in (docstring or "").split("\n\n"))


for _name, _module, _command in (
    ("demo", demo, demo.demo_command),
    ("fit", fit, fit.fit_command),
    ("upscale", upscale, upscale.upscale_command),
    ("evaluate", evaluate, evaluate.evaluate_command),
    ("report", report, report.report_command),
    ("degrade", degrade, degrade.degrade_command),
    ("models", models, models.models_command),
    ("inspect", inspect, inspect.inspect_command),
    ("analyze", analyze, analyze.analyze_command),
    ("factorize", factorize, factorize.factorize_command),
    ("distill", distill, distill.distill_command),
    ("train", train, train.train_command),
    ("prepare", prepare, prepare.prepare_command),
    ("export", export, export.export_command),
    ("bench", bench, bench.bench_command),
    ("doctor", doctor, doctor.doctor_command),
    ("schema", schema, schema.schema_command),
):
    app.command(_name, help=_paragraphs(_command.__doc__), epilog=_module.EXAMPLES)(_command)
