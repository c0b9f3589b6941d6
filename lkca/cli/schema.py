"""``lkca schema``: the JSON schema of the files that lkca reads."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from lkca.cli.console import print_json
from lkca.cli.options import examples

__all__ = ["EXAMPLES", "schema_command"]

EXAMPLES = examples(
    "lkca schema fit > fit.schema.json",
    "lkca schema model",
)


def schema_command(
    kind: Annotated[
        Literal["fit", "train", "distill", "model"],
        typer.Argument(
            help="fit, train, distill: what these commands' configuration files take; "
            "model: a model directory's config.json."
        ),
    ] = "fit",
) -> None:
    """Prints a JSON schema, for editors and for checking files."""
    if kind == "fit":
        from lkca.fitting import FitConfig

        print_json(FitConfig.model_json_schema())
    elif kind == "train":
        from lkca.training.config import TrainConfig

        print_json(TrainConfig.model_json_schema())
    elif kind == "distill":
        from lkca.fitting.config import DistillConfig

        print_json(DistillConfig.model_json_schema())
    else:
        from lkca.models.config import ModelConfig

        print_json(ModelConfig.model_json_schema())
