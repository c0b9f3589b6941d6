"""The configuration files of ``lkca fit`` and ``lkca distill``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from lkca.choices import WIDEST_SIGMA
from lkca.config import StrictModel, record_of
from lkca.data.degradation import DegradationMethod
from lkca.losses import WeightedLoss
from lkca.training.config import DEFAULT_LOSS, LOSS_HELP
from lkca.training.distill import DistillRecipe
from lkca.training.distillation import Point
from lkca.training.fit import Recipe
from lkca.training.validation import LEAST_HELD

__all__ = ["DistillConfig", "FitConfig", "RecipeConfig"]

RecipeConfig: Any = record_of(Recipe, "RecipeConfig")


class FitConfig(StrictModel):
    """What ``lkca fit --config`` takes; an option on the command line overrides the file."""

    scale: int | None = Field(default=None, ge=2, le=64, description="Scale factor.")
    minutes: float | None = Field(
        default=5.0, gt=0, le=100_000, description="Time budget; null: max_steps alone counts."
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="Bound on the training steps, however much time is left; null: the recipe's adapt_steps from a "
        "prior that knows scale and degradation, else the time's.",
    )
    region: str | None = Field(default=None, description="Rows and columns to train on, such as '0:68,:'; null: all.")
    init: str | None = Field(
        default=None, description="Model directory whose body starts the fit, for any bands; null: the shipped prior."
    )
    degradation: DegradationMethod = Field(
        default="bicubic", description="How sharp cubes are made blurry for training."
    )
    sigma: float | None = Field(
        default=None,
        gt=0,
        le=WIDEST_SIGMA,
        description="Of the Gaussian, in fine pixels: s times the FWHM in pixels of the scene / 2.355. Null: a typical "
        "sensor's.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything random.")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(default=None, ge=1, le=4096, description="CPU threads; null: all cores.")
    recipe: RecipeConfig = Field(default_factory=RecipeConfig, description="Network and schedule; see docs/fit.md.")


PointConfig: Any = record_of(Point, "PointConfig")
_DistillRecipe: Any = record_of(DistillRecipe, "_DistillRecipe", without=("points", "warmup_share"))


class DistillRecipeConfig(_DistillRecipe):  # type: ignore[misc]
    """docs/distillation.md explains each."""

    warmup_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Of the time, in which only the low-rank factors learn; helped in all seeds of the study.",
    )
    points: list[PointConfig] | None = Field(
        default=None,
        description="Where features are compared; null: F_N, and the upsampler's rank features where the factors map "
        "them.",
    )


class DistillConfig(StrictModel):
    """What ``lkca distill`` takes as CONFIG; an option on the command line overrides the file."""

    rank: int | None = Field(default=None, ge=1, description="Of the student's upsampler; or energy.")
    energy: float | None = Field(default=None, gt=0, le=1, description="Share of the kernel's squared norm to keep.")
    minutes: float | None = Field(default=5.0, gt=0, le=100_000, description="Time; null: max_steps alone counts.")
    max_steps: int | None = Field(default=None, ge=1, description="Bound on the training steps.")
    patch: int = Field(default=16, ge=4, le=1024, description="Side of a patch in coarse pixels.")
    batch: int = Field(default=4, ge=1, le=1024, description="Patches per step.")
    holdout: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description=f"Share of each scene's last rows that validate; {LEAST_HELD} coarse ones at least.",
    )
    loss: dict[str, float] = Field(default_factory=lambda: dict(DEFAULT_LOSS), description=LOSS_HELP)
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything random.")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(default=None, ge=1, le=4096, description="CPU threads; null: all cores.")
    recipe: DistillRecipeConfig = Field(
        default_factory=DistillRecipeConfig, description="Schedule and losses; see docs/distillation.md."
    )

    @model_validator(mode="after")
    def _consistent(self) -> DistillConfig:
        WeightedLoss(self.loss)  # its ValueError says what is wrong
        return self
