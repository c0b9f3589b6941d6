"""``lkca factorize``: a model of lower rank, chosen by what it loses on real scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lkca.cli.console import command_line, note, print_line, print_table
from lkca.cli.options import (
    FITTED_HELP,
    Axes,
    BandShape,
    ModelOutput,
    ModelScale,
    Nodata,
    Overwrite,
    Threads,
    Variable,
    examples,
    reading,
    set_threads,
)
from lkca.errors import InputError

if TYPE_CHECKING:
    from lkca.fitting.factorize import FactorizedModel

__all__ = ["EXAMPLES", "factorize_command"]

EXAMPLES = examples(
    "lkca factorize model -o small --max-psnr-drop 0.05 --calibration scene.tif",
    "lkca factorize model -o small --rank 48 --calibration a.mat --calibration b.mat",
)


def factorize_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=FITTED_HELP, show_default=False)],
    output: ModelOutput,
    calibration: Annotated[
        list[str],
        typer.Option(
            "--calibration",
            help="Sharp cube; repeatable. Three quarters of its rows calibrate the factors, the rest measure quality.",
            show_default=False,
        ),
    ],
    max_psnr_drop: Annotated[
        float | None,
        typer.Option("--max-psnr-drop", help="dB that may be lost; the smallest rank is searched.", show_default=False),
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="The rank itself.", show_default=False)] = None,
    energy: Annotated[
        float | None,
        typer.Option("--energy", min=0, max=1, help="Share of the outputs' variance to keep.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="Weights to keep: a number, or a share below 1.", show_default=False),
    ] = None,
    scale: ModelScale = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Lowers the rank of a model's upsampling layer as far as real scenes allow, and writes the smaller model.

    The factors are fitted to the layer's own inputs on the calibration scenes; each rank that is tried is measured, in
    quality and in time. Without a limit given, 0.05 dB may be lost.
    """
    from lkca.fitting.factorize import factorize_directory
    from lkca.inference.choose import fitted_model
    from lkca.models.directory import check_model_output, save_model

    wanted = {"max_psnr_drop": max_psnr_drop, "rank": rank, "energy": energy, "budget": budget}
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if len(given) > 1:
        options = " and ".join("--" + name.replace("_", "-") for name in given)
        raise InputError(f"{options} exclude each other; give one of them")
    check_model_output(output, overwrite=overwrite)
    set_threads(threads)
    how = reading(variable, shape, axes, nodata)
    loaded = fitted_model(model, scale)
    limit = given or {"max_psnr_drop": 0.05}
    done = factorize_directory(loaded, calibration, how=how, command=command_line(), **limit)
    save_model(output, done.net, done.config, overwrite=overwrite)
    for scene in done.before:
        for remark in scene.notes:
            note(remark)
    _print(done, output)
    if done.net.config.rank == loaded.net.config.rank:
        note(f"nothing was cut: {output} has the rank of {model}; allow more loss, or give --rank")


def _print(done: FactorizedModel, output: Path) -> None:
    first, chosen = done.points[0], done.net.config.rank
    rows = []
    for p in done.points:
        name = "full" if p.rank is None else str(p.rank)
        role = "before" if p is first else "chosen" if p.rank == chosen else ""
        rows.append(
            [name, role, f"{p.mpsnr:.3f}", f"{p.mpsnr - first.mpsnr:+.3f}", f"{p.weights:,}", f"{1000 * p.seconds:.1f}",
             f"{first.seconds / p.seconds:.2f}×"]
        )  # fmt: skip
    columns = ["rank", "", "MPSNR dB", "change", "weights", "ms per 32×32", "faster"]
    record = done.config.validation
    assert record is not None
    print_table(f"{output}  measured on the {record.split}", columns, rows, text_columns=2)
    layer = done.factorization.layers[0]
    print_line(
        f"the upsampler keeps {layer.energy:.2%} of its outputs' variance at rank {layer.rank}; "
        f"ms: the whole network here, {_threads()} thread(s), least of 9; protocol {record.protocol}"
    )


def _threads() -> int:
    import torch

    return torch.get_num_threads()
