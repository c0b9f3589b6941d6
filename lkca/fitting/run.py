"""Scenes through ``lkca.training.fit`` to what a model directory records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lkca.data import Cube
from lkca.data.degradation import Degradation
from lkca.errors import InputError
from lkca.fitting.config import FitConfig
from lkca.inference.device import resolve_device
from lkca.models.config import ModelConfig, TrainingRecord, utc_now
from lkca.models.directory import describe_architecture, load_model, package_versions
from lkca.models.prior import shipped_prior
from lkca.training import FitResult, fit
from lkca.training.fit import Recipe
from lkca.training.progress import ProgressCallback
from lkca.training.scenes import prepare_scenes
from lkca.training.transfer import backbone
from lkca.training.validation import validation_record

__all__ = ["FittedModel", "fit_scenes"]

_SIZES = {"width", "blocks", "kernel_size", "window"}  # of a network that starts from random weights


@dataclass(frozen=True)
class FittedModel:
    """What a fit gave: the network with its scores and history, the entry for its directory, remarks."""

    result: FitResult
    config: ModelConfig
    notes: tuple[str, ...]


def fit_scenes(
    sources: Sequence[str | Cube],
    config: FitConfig,
    *,
    how: Mapping[str, Any] | None = None,
    callback: ProgressCallback | None = None,
    command: str = "",
) -> FittedModel:
    """Fits a model to scenes by Wald's protocol, as ``config`` says; Ctrl-C returns the best so far.

    So does a loss that is not finite, which ``result.failure`` tells, once something was learned.

    ``how``: keyword arguments for :func:`lkca.data.open_cube`. ``command``: kept in the model's records. Raises
    InputError for scenes or a configuration that leave nothing to train; ``config.scale`` must be set.
    """
    if config.scale is None:
        raise InputError("the scale factor is missing; give -s, for example -s 4")
    if config.minutes is None and config.max_steps is None:
        raise InputError("the fit has no end; give minutes, max_steps or both")
    if config.sigma is not None and config.degradation != "gaussian":
        raise InputError(f"sigma belongs to the gaussian degradation, not to {config.degradation}; leave it out")
    idle = sorted(config.recipe.model_fields_set & _SIZES)
    if config.init is not None and idle:
        raise InputError(f"recipe.{idle[0]} has no effect on the model that the fit starts from; leave it out")
    if config.recipe.prior and idle and shipped_prior() is not None:
        raise InputError(f"recipe.{idle[0]} has no effect on the shipped prior; add 'prior: false' to the recipe")
    init = None if config.init is None else backbone(load_model(config.init))
    device = resolve_device(config.device)
    degradation = Degradation(method=config.degradation, scale=config.scale, sigma=config.sigma)
    scenes = prepare_scenes(sources, config.scale, region=config.region, how=how)
    try:
        result = fit(
            [torch.from_numpy(cube) for cube in scenes.cubes],
            config.scale,
            minutes=config.minutes,
            max_steps=config.max_steps,
            seed=config.seed,
            device=device,
            degradation=degradation,
            callback=callback,
            recipe=Recipe(**config.recipe.model_dump()),
            init=init,
        )
    except ValueError as error:  # a network or patch size that the recipe asks for and that cannot be
        raise InputError(f"the recipe makes no network ({error}); see 'lkca schema' and docs/fit.md") from error
    record = TrainingRecord(
        data=scenes.data,
        seed=config.seed,
        seconds=round(result.seconds, 1),
        steps=result.steps,
        interrupted=result.interrupted,
        device=str(device),
        threads=torch.get_num_threads(),
        command=command,
        created=utc_now(),
        recipe=config.recipe.model_dump(),
        details=result.description,
    )
    entry = ModelConfig(
        architecture=describe_architecture(result.net),
        scale=config.scale,
        bands=scenes.bands,
        degradation=degradation,
        normalisation=scenes.normalisation,
        training=record,
        validation=validation_record(result.metrics, result.split),
        versions=package_versions(),
    )
    return FittedModel(result, entry, tuple(scenes.notes))
