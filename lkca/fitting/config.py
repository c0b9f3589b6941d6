"""The configuration file of ``lkca fit``."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from pydantic import Field, create_model

from lkca.config import StrictModel
from lkca.data.degradation import DegradationMethod
from lkca.training.fit import Recipe

__all__ = ["FitConfig", "RecipeConfig"]

_TO_ONE: dict[str, Any] = {"gt": 0, "le": 1}
# Beyond these a fit cannot run, or asks for all the memory there is.
_BOUNDS: dict[str, dict[str, Any]] = {
    "components": {"ge": 1, "le": 4096},
    "width": {"ge": 1, "le": 1024},
    "blocks": {"ge": 1, "le": 128},
    "kernel_size": {"ge": 1, "le": 127},
    "window": {"ge": 0, "le": 1023},
    "patch": {"ge": 4, "le": 1024},
    "batch": {"ge": 1, "le": 1024},
    "energy": _TO_ONE,
    "teacher_share": _TO_ONE,
    "student_share": _TO_ONE,
    "holdout": {"gt": 0, "lt": 1},
    "adapt_lr": _TO_ONE,
    "teacher_lr": _TO_ONE,
    "student_lr": _TO_ONE,
    "weight_decay": {"ge": 0, "le": 1},
    "teacher_weight_end": {"ge": 0, "le": 1},
    "alignment": {"ge": 0},
}
# The recipe's own dataclass says which knobs there are; this makes it checkable and part of the JSON schema.
_HINTS = typing.get_type_hints(Recipe)
_KNOBS: dict[str, Any] = {
    knob.name: (_HINTS[knob.name], Field(default=knob.default, **_BOUNDS.get(knob.name, {})))
    for knob in dataclasses.fields(Recipe)
}
RecipeConfig: Any = create_model("RecipeConfig", __base__=StrictModel, **_KNOBS)


class FitConfig(StrictModel):
    """What ``lkca fit --config`` takes; an option given on the command line goes before the file."""

    scale: int | None = Field(default=None, ge=2, le=64, description="Scale factor.")
    minutes: float | None = Field(
        default=5.0, gt=0, le=100_000, description="Time budget; null: max_steps alone counts."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Bound on the training steps, however much time is left."
    )
    region: str | None = Field(default=None, description="Rows and columns to train on, such as '0:68,:'; null: all.")
    init: str | None = Field(
        default=None, description="Model directory whose body starts the fit, for any bands; null: the shipped prior."
    )
    degradation: DegradationMethod = Field(
        default="bicubic", description="How sharp cubes are made blurry for training."
    )
    sigma: float | None = Field(
        default=None, gt=0, description="Of the Gaussian, in fine pixels; null: a typical sensor's."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything random.")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(default=None, ge=1, le=4096, description="CPU threads; null: all cores.")
    recipe: RecipeConfig = Field(default_factory=RecipeConfig, description="Network and schedule; see docs/fit.md.")
