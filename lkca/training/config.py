"""The configuration file of ``lkca train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from lkca.choices import WIDEST_SIGMA
from lkca.config import StrictModel, read_yaml, record_of, validated
from lkca.data.degradation import Degradation, DegradationMethod
from lkca.errors import InputError
from lkca.losses import LOSSES, WeightedLoss
from lkca.models import PRESETS, LKCANetConfig
from lkca.training.validation import MIN_COARSE_PIXELS

__all__ = ["DEFAULT_LOSS", "FREE", "LOSS_HELP", "DataConfig", "NetworkConfig", "TrainConfig", "read_train_config"]

DEFAULT_LOSS = {"l2": 1.0, "sam": 30.0}  # docs/training.md compares it
LOSS_HELP = f"Weight of each term: {', '.join(LOSSES)} (lkca/losses.py has the formulas)."

_ANY = 2**31  # steps, patches; no honest run has more

_Sizes: Any = record_of(LKCANetConfig, "_Sizes", without=("bands", "scale"), unset=True)


class NetworkConfig(_Sizes):  # type: ignore[misc]
    """A preset, and what is changed in it, null leaving the preset's; docs/model.md has each size."""

    preset: Literal[tuple(PRESETS)] = Field(default="base", description="Named size.")  # type: ignore[valid-type]

    def build(self, bands: int, scale: int) -> LKCANetConfig:
        """The network's configuration; InputError where the sizes make none."""
        changes = {name: getattr(self, name) for name in _Sizes.model_fields if getattr(self, name) is not None}
        try:
            return LKCANetConfig.preset(self.preset, bands=bands, scale=scale, **changes)
        except ValueError as error:
            raise InputError(f"model: these sizes make no network ({error}); see docs/model.md") from error


class DataConfig(StrictModel):
    """What is trained on: a prepared data set, or files of one sensor."""

    dataset: str | None = Field(default=None, description="File of 'lkca prepare'; it has its own validation scenes.")
    scenes: list[str] | None = Field(default=None, description="Cube files, instead of a data set.")
    holdout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description=f"Of files: share of the last rows that validate; {MIN_COARSE_PIXELS} coarse ones at least.",
    )
    workers: int = Field(default=0, ge=0, le=256, description="Processes that read patches; 0: the training process.")
    variable: str | None = Field(default=None, description="Of files: name of the cube in them.")
    shape: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="Of files: rows and columns of a 2-D (bands × pixels) matrix."
    )
    axes: str | None = Field(default=None, description="Of files: order of the axes, such as brc.")
    nodata: float | None = Field(
        default=None, allow_inf_nan=True, description="Of files: stored where samples are missing."
    )

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.dataset is None) == (not self.scenes):
            raise ValueError("data: give either 'dataset', a file of 'lkca prepare', or 'scenes', a list of cube files")
        if self.dataset is not None and (idle := [name for name, value in self.reading.items() if value is not None]):
            raise ValueError(
                f"data: {idle[0]} tells how to read 'scenes' and has no effect on a data set; leave it out"
            )
        if self.dataset is not None and self.holdout != type(self).model_fields["holdout"].default:
            raise ValueError(
                "data: holdout cuts 'scenes' and has no effect on a data set, which has its own validation scenes; "
                "leave it out"
            )
        return self

    @property
    def reading(self) -> dict[str, Any]:
        """What :func:`lkca.data.open_cube` is to be told of the scenes."""
        return self.model_dump(include={"variable", "shape", "axes", "nodata"})


class TrainConfig(StrictModel):
    """What ``lkca train`` takes. Steps, not epochs or minutes, set the learning rate's course."""

    scale: int = Field(ge=2, le=64, description="Scale factor.")
    data: DataConfig = Field(description="What is trained on.")
    model: NetworkConfig = Field(default_factory=NetworkConfig, description="A preset, and what is changed in it.")
    loss: dict[str, float] = Field(default_factory=lambda: dict(DEFAULT_LOSS), description=LOSS_HELP)
    degradation: DegradationMethod = Field(default="bicubic", description="How sharp patches are made coarse.")
    sigma: float | None = Field(default=None, gt=0, le=WIDEST_SIGMA, description="Of the Gaussian, in fine pixels.")
    steps: int = Field(default=20_000, ge=1, le=_ANY, description="Optimiser steps.")
    batch: int = Field(default=16, ge=1, le=65_536, description="Patches per step, over all processes.")
    accumulate: int = Field(default=1, ge=1, le=4096, description="Parts in which a step's patches pass the network.")
    patch: int = Field(default=16, ge=4, le=1024, description="Side of a patch in coarse pixels.")
    lr: float = Field(default=2e-3, gt=0, le=1, description="Peak learning rate: warm-up, then half a cosine to 0.")
    warmup: int = Field(default=200, ge=0, le=_ANY, description="Steps of linear warm-up.")
    weight_decay: float = Field(default=1e-4, ge=0, le=1, description="AdamW's; vectors are not decayed.")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(default=0.999, ge=0, lt=1, description="Decay of the weights' average, which is what is kept.")
    amp: Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)] = (
        Field(default="no", description="Mixed precision.")  # YAML takes a bare no for false
    )
    compile: bool = Field(default=False, description="torch.compile the network.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything random.")
    validate_every: int = Field(default=500, ge=1, le=_ANY, description="Steps between validations.")
    patience: int | None = Field(default=None, ge=1, description="Validations without a new best that end the run.")
    checkpoint_every: int = Field(default=500, ge=1, le=_ANY, description="Steps between states to resume from.")
    minutes: float | None = Field(default=None, gt=0, description="Stop after so long; go on later with --resume.")
    tensorboard: bool = Field(default=True, description="Scalars and pictures for TensorBoard.")
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto takes the GPUs there are.")
    threads: int | None = Field(default=None, ge=1, le=4096, description="CPU threads; null: all cores.")

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        WeightedLoss(self.loss)  # its ValueError says what is wrong
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} is no multiple of accumulate {self.accumulate}; change one of them")
        if self.sigma is not None and self.degradation != "gaussian":
            raise ValueError(f"sigma belongs to the gaussian degradation, not to {self.degradation}; leave it out")
        return self

    @property
    def degrader(self) -> Degradation:
        return Degradation(method=self.degradation, scale=self.scale, sigma=self.sigma)


# What may differ between a run and its resumption: none of it changes the weights.
FREE = {"minutes", "tensorboard", "threads", "checkpoint_every"}


def read_train_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A YAML file with ``key=value`` changes, dots for records within records: ``model.width=48``, ``loss.sam=0.5``.

    Values are YAML. A ``loss`` given as a whole (``loss={charbonnier: 1}``) replaces the file's. InputError names what
    cannot be read.
    """
    values: dict[str, Any] = read_yaml(path, TrainConfig).model_dump()  # defaults too: of a loss a part may change
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise InputError(f"'{text}': is no KEY=VALUE, such as steps=1000 or model.width=48")
        *parents, last = key.split(".")
        record = values
        for name in parents:
            record = record.setdefault(name, {})
            if not isinstance(record, dict):
                raise InputError(f"'{text}': {name} is no record of keys; see 'lkca schema train'")
        try:
            record[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"'{text}': the value is no YAML; see 'lkca schema train'") from error
    return validated(TrainConfig, values, "command line" if overrides else str(path))
