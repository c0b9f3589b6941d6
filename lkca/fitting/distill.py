"""A model directory as teacher: factorise its upsampler, distil the student over the user's scenes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lkca.data import Window, open_cube
from lkca.data.degradation import Degradation
from lkca.errors import InputError
from lkca.fitting.config import DistillConfig
from lkca.inference.checks import suits
from lkca.inference.device import resolve_device
from lkca.inference.seen import seen
from lkca.inference.windows import whole_pixels
from lkca.losses import WeightedLoss
from lkca.lowrank import LowRankError, factorize
from lkca.models import LKCANet
from lkca.models.config import ModelConfig, TrainingData, TrainingRecord, utc_now
from lkca.models.directory import LoadedModel, describe_architecture, package_versions
from lkca.nn import PixelShuffleUpsample
from lkca.nn.layout import channels_last
from lkca.training.distill import DistillRecipe, distill
from lkca.training.distillation import Point
from lkca.training.loop import LoopResult
from lkca.training.optimise import DivergedError, unchanged
from lkca.training.patches import PatchSampler, Scene, fill_invalid
from lkca.training.progress import Budget, Progress, ProgressCallback
from lkca.training.start import Lost
from lkca.training.validation import LEAST_HELD, hold_out, mean_gain, measure, restore, split_text, validation_record

__all__ = ["DistilledModel", "distill_directory"]


@dataclass(frozen=True)
class DistilledModel:
    """net and config: to be saved. scores: of "bicubic", "teacher", "lr" (factorised, not trained) and "student" on
    ``split``; rank: of the student. notes: remarks for the user. failure: the step whose loss was not finite, and what
    to look for, "" otherwise; the network is the best until then."""

    net: LKCANet
    config: ModelConfig
    scores: dict[str, dict[str, float]]
    split: str
    rank: int
    steps: int
    notes: tuple[str, ...]
    failure: str = ""


def distill_directory(
    teacher: LoadedModel,
    sources: Sequence[str],
    config: DistillConfig,
    *,
    how: Mapping[str, Any] | None = None,
    callback: ProgressCallback | None = None,
    command: str = "",
) -> DistilledModel:
    """Factorise the teacher's upsampler to ``rank`` or ``energy`` and train the student over ``sources``.

    The scenes are made coarser as the teacher was trained to undo; the last rows of each validate. callback: called
    after each step. how: keyword arguments for :func:`lkca.data.open_cube`. command: kept in the model's records.
    InputError for scenes that do not suit the teacher, a configuration that leaves nothing to train, or a loss that is
    not finite before anything was learned; later such a loss ends the training, as Ctrl-C does.
    """
    if (config.rank is None) == (config.energy is None):
        raise InputError("give either the rank or the energy of the student, for example --rank 32 or --energy 0.99")
    if config.minutes is None and config.max_steps is None:
        raise InputError("the distillation has no end; give minutes, max_steps or both")
    device = resolve_device(config.device)
    data, notes = _scenes(teacher, sources, config, how or {})
    mentor = channels_last(copy.deepcopy(teacher.net).to(device)).eval()
    try:
        student = channels_last(factorize(mentor, rank=config.rank, energy=config.energy))
    except LowRankError as error:
        raise InputError(f"{teacher.path}: {error}") from error
    start = copy.deepcopy(student)
    degradation = teacher.config.degradation
    restored = partial(restore, degradation=degradation, device=device)
    score = (lambda: mean_gain(student, data.held, restored)) if data.held else None
    criterion = _criterion(data.train, degradation, config).to(device)
    budget = Budget(None if config.minutes is None else 60 * config.minutes, config.max_steps)
    failure = ""
    try:
        done = _train(mentor, student, data.train, criterion, degradation, config, budget, score, callback)
    except DivergedError as error:  # the best until then is in place
        if unchanged(student, start.state_dict()):
            raise
        failure, done = str(error), LoopResult(steps=budget.taken, interrupted=True)
    nets = {"teacher": mentor, "lr": start, "student": student.eval()}
    table = measure(nets, data.held or data.train, restored, degradation.scale)
    net = student.cpu()
    assert net.config.rank is not None
    record = TrainingRecord(
        data=data.about,
        seed=config.seed,
        seconds=round(budget.elapsed, 1),
        steps=done.steps,
        interrupted=done.interrupted,
        device=str(device),
        threads=torch.get_num_threads(),
        command=command,
        recipe=config.model_dump(),
        details={"teacher": teacher.name, "rank": net.config.rank, "prior": teacher.origin},
        created=utc_now(),
    )
    entry = teacher.config.model_copy(
        update={
            "architecture": describe_architecture(net),
            "training": record,
            "validation": validation_record(table, data.split),
            "versions": package_versions(),
        }
    )
    return DistilledModel(net, entry, table, data.split, net.config.rank, done.steps, tuple(notes), failure)


def _criterion(scenes: Sequence[Scene], degradation: Degradation, config: DistillConfig) -> WeightedLoss:
    """The configured loss; of L2 the unit is what bicubic misses in the scenes."""
    return WeightedLoss(config.loss, Lost.of(((s.image, s.valid[None]) for s in scenes), degradation).unit)


def _train(
    teacher: LKCANet,
    student: LKCANet,
    scenes: Sequence[Scene],
    criterion: WeightedLoss,
    degradation: Degradation,
    config: DistillConfig,
    budget: Budget,
    score: Callable[[], float] | None,
    callback: ProgressCallback | None,
) -> LoopResult:
    """Distil over patches of ``scenes``. Both networks are on one device."""
    device = student.head.weight.device
    sampler = PatchSampler(
        scenes,
        degradation.scale,
        degradation.apply,
        patch=config.patch,
        batch=config.batch,
        generator=torch.Generator().manual_seed(config.seed),
    )

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        coarse, sharp, valid = sampler.draw()
        return coarse.to(device), sharp.to(device), valid.to(device)

    def tell(loss: float | None, gain: float | None) -> None:
        if callback is not None:
            callback(Progress("distil", budget.taken, budget.elapsed, budget.fraction, loss, gain))

    torch.manual_seed(config.seed)
    student.requires_grad_(True)
    try:
        return distill(
            teacher,
            student.train(),
            draw,
            budget=budget,
            recipe=DistillRecipe(**config.recipe.model_dump(exclude={"points"}), points=_points(teacher, config)),
            criterion=criterion,
            score=score,
            generator=torch.Generator().manual_seed(config.seed),
            report=tell,
        )
    except ValueError as error:
        raise InputError(f"recipe: {error}") from error


def _points(teacher: LKCANet, config: DistillConfig) -> tuple[Point, ...]:
    if config.recipe.points is not None:
        return tuple(Point(**point.model_dump()) for point in config.recipe.points)
    layer = teacher.upsample
    points = [Point("upsample", where="input")]
    if isinstance(layer, PixelShuffleUpsample) and layer.shared_groups == 1:
        points.append(Point("upsample.conv", "upsample.reduce"))
    return tuple(points)


@dataclass(frozen=True)
class _Data:
    train: list[Scene]
    held: list[Scene]
    about: list[TrainingData]
    split: str


def _scenes(
    teacher: LoadedModel, sources: Sequence[str], config: DistillConfig, how: Mapping[str, Any]
) -> tuple[_Data, list[str]]:
    """The sources as the teacher's network sees them: its bands, normalised."""
    scale, normal = teacher.config.scale, teacher.config.normalisation
    train, held, about, notes = [], [], [], []
    for source in sources:
        with open_cube(source, **how) as cube:
            notes += [*cube.warnings, *suits(cube, teacher)]
            window, cut = whole_pixels(cube, None, scale, least=LEAST_HELD)
            notes += cut
            values = cube.read(window, np.asarray(teacher.config.bands.used))
            about.append(TrainingData.of(cube, window))
            scene = Scene(*fill_invalid(torch.from_numpy((values - normal.offset) / np.float32(normal.peak)).float()))
            first, last = hold_out(scene, scale, config.holdout, kept=2 * LEAST_HELD)
            train.append(first)
            if last is not None:
                notes += seen(cube, Window(first.image.shape[1], 0, last.image.shape[1], cube.cols), teacher)
                held.append(last)
    if not any(scene.valid.any() for scene in train):
        raise InputError("no pixel of the scenes has a valid sample in every band of the model; nothing to learn from")
    train = [scene for scene in train if scene.valid.any()]
    return _Data(train, held, about, split_text(config.holdout, LEAST_HELD, len(held), len(sources))), notes
