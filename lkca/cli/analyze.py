"""``lkca analyze``: how low the rank of a model's upsampling layers is, and what lowering it would save."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lkca.cli.console import note, print_json, print_line, print_table
from lkca.cli.options import FITTED_HELP, Json, ModelScale, Overwrite, examples
from lkca.errors import InputError
from lkca.output import check_output, check_picture

if TYPE_CHECKING:
    from torch import nn

    from lkca.lowrank import Analysis

__all__ = ["EXAMPLES", "analyze_command"]

EXAMPLES = examples(
    "lkca analyze model",
    "lkca analyze model --plot rank.png",
    "lkca analyze my_package.networks:make_model --json > rank.json",
)


def analyze_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=f"{FITTED_HELP} Or 'module:callable' that makes any PyTorch model.",
            show_default=False,
        ),
    ],
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Picture of the energy curves to write.", show_default=False)
    ] = None,
    rank: Annotated[
        list[int] | None, typer.Option("--rank", min=1, help="Candidate ranks; repeatable.", show_default=False)
    ] = None,
    scale: ModelScale = None,
    json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Shows the spectrum of each convolution that feeds a pixel shuffle, and what a lower rank would keep and save."""
    from lkca.lowrank import analyze

    if plot is not None:
        check_picture(plot)
        check_output(plot, overwrite=overwrite, inputs=[])
    net = _load(model, scale)
    found = analyze(net, ranks=rank or None)
    if json:
        print_json(found.as_dict())
    else:
        _print(model, found)
    if found.unrun:
        note(f"{model}: was not run, so layers may be missing and multiplications are unknown: {found.unrun}")
    if plot is not None:
        found.plot(plot)
        note(f"picture written to {plot}")


def _load(model: str, scale: int | None) -> nn.Module:
    """The network of a model directory or of a shipped model, or what 'package.module:callable' returns.

    The working directory is searched too, and the module's code is run. scale: which of a shipped model's. Raises
    InputError for anything else, as :func:`lkca.inference.choose.fitted_model` does.
    """
    from torch import nn

    from lkca.inference.choose import fitted_model

    package, separator, name = model.partition(":")
    if not separator or Path(model).exists():
        return fitted_model(model, scale).net
    if scale is not None:
        raise InputError(f"{model}: is made by code, which has its own scale factor; leave out -s")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        made: Any = importlib.import_module(package)
        for part in name.split("."):
            made = getattr(made, part)
        made = made if isinstance(made, nn.Module) else made()
    except Exception as error:  # the user's own code
        raise InputError(
            f"{model}: gives no model ({type(error).__name__}: {error}); expected 'module:callable'"
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(made, nn.Module):
        raise InputError(f"{model}: gives a {type(made).__name__}; expected a torch.nn.Module")
    return made


def _print(model: str, found: Analysis) -> None:
    from lkca.report.tables import rank_table

    if not found.layers:
        print_line(f"{model}: no upsampling layer that could be factorised")
    for layer in found.layers:
        table = rank_table(layer, found.parameters)
        print_table(table.title, table.columns, table.rows)
        print_line(table.note)
    for name, reason in found.skipped.items():
        print_line(f"{name}: cannot be factorised: {reason}")
