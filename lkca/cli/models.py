"""``lkca models``: what can be used without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lkca.cli.console import note, print_json, print_line, print_table
from lkca.cli.options import Axes, BandShape, Json, Nodata, Overwrite, Variable, examples, reading
from lkca.errors import InputError

__all__ = ["EXAMPLES", "models_command"]

EXAMPLES = examples(
    "lkca models",
    "lkca models general",
    "lkca models general --for scene.tif -s 4 -o model",
    "lkca upscale -i scene.tif -o sharp.tif -m general -s 4",
)


def models_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Model whose card to show.", show_default="all, as a table")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the model as a directory, for any command.", show_default=False),
    ] = None,
    scale: Annotated[int | None, typer.Option("--scale", "-s", help="Of the directory.", show_default=False)] = None,
    cube: Annotated[
        str | None,
        typer.Option("--for", metavar="FILE", help="Cube that the general model is made to fit.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Lists the models that come with lkca, or shows the card of one.

    Commands take their names where they take a model directory. With -o a model becomes a directory: general for all
    cubes of one sensor, and for the commands that see no cube.
    """
    from lkca.models.shipped import GENERAL, SHIPPED, ShippedModel

    if output is not None:
        how = reading(variable, shape, axes, nodata)
        _write(name or GENERAL, output, scale, cube, how, overwrite=overwrite)
        return
    if scale is not None or cube is not None:
        raise InputError("-s and --for say what to write; give the directory with -o")
    if name is not None:
        if name not in SHIPPED:
            raise InputError(f"no model '{name}' comes with lkca; there are {', '.join(SHIPPED)}")
        print_line(SHIPPED[name].card.rstrip())
        return

    def facts(model: ShippedModel) -> dict[str, object]:
        return {
            "name": model.name,
            "scales": list(model.scales),
            "bands": model.bands,
            "bytes": model.size,
            "gains": {f"x{scale}": gain for scale, gain in model.gains.items()},
            "trained_on": model.trained_on,
            "terms": model.terms,
        }

    if json:
        print_json({"models": [facts(model) for model in SHIPPED.values()]})
        return
    rows = [
        [
            model.name + (" (default)" if model.name == GENERAL else ""),
            model.bands,
            ", ".join(f"×{scale}" for scale in model.scales),
            ", ".join(f"×{scale} {gain:+.2f}" for scale, gain in model.gains.items()) or "–",
            f"{model.size / 1e6:.2f} MB",
        ]
        for model in SHIPPED.values()
    ]
    columns = ["name", "bands", "scales", "dB over bicubic", "size"]
    print_table("Shipped models", columns, rows, text_columns=len(columns))
    for model in SHIPPED.values():
        print_line(f"{model.name}: trained on {model.trained_on}. Terms of the data: {model.terms}.")
    print_line(
        "dB: mean over the public test scenes of MPSNR (docs/models.md); 'lkca models NAME' shows a model's card"
    )


def _write(
    name: str, output: Path, scale: int | None, file: str | None, how: dict[str, Any], *, overwrite: bool
) -> None:
    from lkca.data import open_cube
    from lkca.inference.choose import model_for
    from lkca.models.directory import check_model_output, save_model
    from lkca.models.prior import Prior
    from lkca.models.shipped import find_model

    check_model_output(output, overwrite=overwrite)
    model = find_model(name, scale)
    if isinstance(model, Prior):
        if file is None:
            raise InputError("the general model becomes a directory for one sensor; give a cube of it with --for")
        with open_cube(file, **how) as cube:
            for warning in cube.warnings:
                note(warning)
            loaded = model_for(cube, model, scale)
    elif file is not None:
        raise InputError(f"the model '{name}' has its own bands; leave out --for")
    else:
        loaded = model
    assert loaded is not None
    save_model(output, loaded.net, loaded.config, overwrite=overwrite)
    print_line(f"{output}: {name} ×{loaded.config.scale}, {loaded.config.bands.count} bands")
