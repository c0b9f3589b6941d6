"""``lkca models``: what can be used without training."""

from __future__ import annotations

from typing import Annotated

import typer

from lkca.cli.console import print_json, print_line, print_table
from lkca.cli.options import Json, examples
from lkca.errors import InputError

__all__ = ["EXAMPLES", "models_command"]

EXAMPLES = examples(
    "lkca models",
    "lkca models general",
    "lkca upscale -i scene.tif -o sharp.tif -m general -s 4",
)


def models_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Model whose card to show.", show_default="all, as a table")
    ] = None,
    json: Json = False,
) -> None:
    """Lists the models that come with lkca, or shows the card of one.

    'lkca upscale' and 'lkca evaluate' take their names after -m.
    """
    from lkca.models.shipped import DEFAULT, SHIPPED, ShippedModel

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
            model.name + (" (default)" if model.name == DEFAULT else ""),
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
