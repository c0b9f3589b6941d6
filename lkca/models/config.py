"""``config.json`` of a model directory: everything that is needed to use the weights, and where they came from."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from lkca.config import StrictModel
from lkca.data import Cube, Window
from lkca.data.degradation import Degradation

__all__ = [
    "Architecture",
    "BandSet",
    "ModelConfig",
    "Normalisation",
    "TrainingData",
    "TrainingRecord",
    "ValidationRecord",
    "utc_now",
]

_MAX_BANDS = 65_536


class Architecture(StrictModel):
    """Which network class, and the fields of its configuration."""

    name: Literal["LKCANet"] = Field(default="LKCANet", description="The class.")
    config: dict[str, Any] = Field(description="Fields of its LKCANetConfig; docs/model.md has each.")


class BandSet(StrictModel):
    """The bands of the files that the model was made for, and those that its network sees."""

    count: int = Field(ge=1, le=_MAX_BANDS, description="Bands in a file.")
    used: list[int] = Field(
        min_length=1,
        max_length=_MAX_BANDS,
        description="Indices (from 0) of the bands that the network sees; others go by bicubic.",
    )
    wavelengths_nm: list[float] | None = Field(
        default=None, max_length=_MAX_BANDS, description="Of all bands of a file."
    )
    fwhm_nm: list[float] | None = Field(
        default=None, max_length=_MAX_BANDS, description="Of all bands of a file: full width at half maximum."
    )
    nonnegative: list[int] = Field(
        default=[],
        max_length=_MAX_BANDS,
        description="Indices of used bands whose samples are not below 0; neither are the results there.",
    )

    @classmethod
    def of(cls, cube: Cube, used: list[int], nonnegative: list[int]) -> BandSet:
        """The bands of ``cube``, with its wavelengths and widths."""
        wavelengths, fwhm = (
            None if values is None else np.asarray(values, dtype=float).tolist()
            for values in (cube.meta.wavelengths, cube.meta.fwhm)
        )
        return cls(count=cube.bands, used=used, nonnegative=nonnegative, wavelengths_nm=wavelengths, fwhm_nm=fwhm)

    @property
    def span(self) -> str:
        """The range of the wavelengths, to follow a number of bands: " (400–700 nm)"; empty where they are unknown."""
        found = self.wavelengths_nm
        return f" ({min(found):.0f}–{max(found):.0f} nm)" if found else ""

    @model_validator(mode="after")
    def _consistent(self) -> BandSet:
        if sorted(set(self.used)) != self.used or self.used[0] < 0 or self.used[-1] >= self.count:
            raise ValueError(f"bands.used must rise within 0 to {self.count - 1}")
        if not set(self.nonnegative) <= set(self.used):
            raise ValueError("bands.nonnegative lists bands that bands.used does not")
        for name in ("wavelengths_nm", "fwhm_nm"):
            values = getattr(self, name)
            if values is not None and len(values) != self.count:
                raise ValueError(f"bands.{name} lists {len(values)} values for {self.count} bands")
        return self


class Normalisation(StrictModel):
    """network input = (physical value - offset) / peak, for every band."""

    offset: float = Field(default=0.0, description="In physical units.")
    peak: float = Field(gt=0, description="In physical units; what is 1 to the network.")
    rule: str = Field(default="", description="How peak and offset were chosen.")


class TrainingData(StrictModel):
    """One scene that the network was fitted to."""

    name: str = Field(description="Of the file.")
    rows: int = Field(ge=1, description="Of the whole scene.")
    cols: int = Field(ge=1, description="Of the whole scene.")
    region: str = Field(description="'ROWS,COLS' of the scene as Python slices.")

    @classmethod
    def of(cls, cube: Cube, window: Window) -> TrainingData:
        """That part of ``cube``."""
        return cls(name=cube.source, rows=cube.rows, cols=cube.cols, region=str(window))


def utc_now() -> str:
    """The time, to the second, as :class:`TrainingRecord` keeps it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class TrainingRecord(StrictModel):
    """How the weights were made."""

    data: list[TrainingData] = Field(description="Scenes.")
    seed: int = Field(description="Of everything random.")
    seconds: float = Field(ge=0, description="Time spent.")
    steps: int | None = Field(default=None, ge=0, description="Optimiser steps.")
    interrupted: bool = Field(default=False, description="Whether the training was stopped before its end.")
    device: str = Field(description="Where it ran.")
    threads: int | None = Field(default=None, description="CPU threads.")
    command: str = Field(default="", description="Command line.")
    recipe: dict[str, Any] = Field(default_factory=dict, description="Configuration of the training.")
    details: dict[str, Any] = Field(
        default_factory=dict,
        description="What the fit says of itself; 'prior': what the weights started from; 'factorized': each cut of "
        "the upsampler's rank since.",
    )
    created: str = Field(default="", description="ISO 8601, UTC.")


class ValidationRecord(StrictModel):
    """Numbers of the fit's own validation split (part of the training region), per stage."""

    protocol: str = Field(description="Of the metrics; see docs/metrics.md.")
    split: str = Field(default="", description="Which pixels were held out during the fit.")
    scores: dict[str, dict[str, float]] = Field(description="{'student': {'mpsnr': dB, ...}, 'bicubic': ...}")


class ModelConfig(StrictModel):
    """``config.json`` of a model directory, whole; ``lkca schema model`` prints every key with its meaning."""

    format: Literal["lkca-model"] = Field(default="lkca-model", description="What the file is.")
    format_version: Literal[1] = Field(default=1, description="Of the file's layout.")
    architecture: Architecture = Field(description="The network.")
    scale: int = Field(ge=2, le=64, description="Scale factor.")
    bands: BandSet = Field(description="What the network was made for.")
    degradation: Degradation = Field(description="What the network was trained to undo.")
    normalisation: Normalisation = Field(description="From physical values to the network's.")
    training: TrainingRecord = Field(description="Where the weights come from.")
    validation: ValidationRecord | None = Field(default=None, description="Scores on what was held out.")
    versions: dict[str, str] = Field(default_factory=dict, description="Of the packages that made the model.")

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        network = self.architecture.config
        for name, value in (("bands", len(self.bands.used)), ("scale", self.scale)):
            if network.get(name, value) != value:
                raise ValueError(f"architecture.config.{name} is {network[name]!r}, but the model says {value}")
        if self.degradation.scale != self.scale:
            raise ValueError(f"degradation.scale is {self.degradation.scale}, but the model's scale is {self.scale}")
        return self
