"""A model directory as teacher: factorise its upsampler, distil the student over the user's scenes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lkca.data import Window, open_cube
from lkca.data.degradation import Degradation
from lkca.errors import InputError
from lkca.fitting.config import DistillConfig
from lkca.inference.array import resolve_device
from lkca.inference.checks import suits
from lkca.inference.seen import seen
from lkca.inference.windows import whole_pixels
from lkca.losses import WeightedLoss
from lkca.lowrank import LowRankError, factorize
from lkca.metrics import evaluate
from lkca.models import LKCANet
from lkca.models.config import ModelConfig, TrainingData, TrainingRecord, utc_now
from lkca.models.directory import LoadedModel, describe_architecture, package_versions
from lkca.nn import PixelShuffleUpsample
from lkca.nn.layout import channels_last
from lkca.training.distill import DistillRecipe, distill
from lkca.training.distillation import Point
from lkca.training.optimise import DivergedError, unchanged
from lkca.training.patches import PatchSampler, Scene, fill_invalid
from lkca.training.progress import Budget, Progress, ProgressCallback
from lkca.training.start import Lost
from lkca.training.supervised import LoopResult
from lkca.training.validation import LEAST_HELD, Restored, held_out, mean_scores, psnr_gain, validation_record
from lkca_kernels import bicubic_upsample

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

    def scores(net: LKCANet | None) -> dict[str, float]:
        return _scores(net, data.held or data.train, teacher.config.degradation, device)

    base = scores(None)
    score = (lambda: _gain(student, data.held, teacher.config.degradation, device)) if data.held else None
    criterion = _criterion(data.train, teacher.config.degradation, config).to(device)
    budget = Budget(None if config.minutes is None else 60 * config.minutes, config.max_steps)
    failure = ""
    try:
        done = _train(
            mentor, student, data.train, criterion, teacher.config.degradation, config, budget, score, callback
        )
    except DivergedError as error:  # the best until then is in place
        if unchanged(student, start.state_dict()):
            raise
        failure, done = str(error), LoopResult(steps=budget.taken, interrupted=True)
    student.eval()
    table = {"bicubic": base, "teacher": scores(mentor), "lr": scores(start), "student": scores(student)}
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
    whole = (_whole(scene, degradation.scale) for scene in scenes)
    return WeightedLoss(config.loss, Lost.of(((s.image, s.valid[None]) for s in whole), degradation).unit)


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
            about.append(TrainingData(name=cube.source, rows=cube.rows, cols=cube.cols, region=str(window)))
            image, valid = fill_invalid(torch.from_numpy((values - normal.offset) / np.float32(normal.peak)).float())
            rows = image.shape[1] // scale
            count = max(LEAST_HELD, round(rows * config.holdout)) if config.holdout else 0
            edge = scale * (rows - count)
            if rows - count < 2 * LEAST_HELD or not valid[:edge].any():
                edge = scale * rows
            if edge < scale * rows:
                notes += seen(cube, Window(edge, 0, scale * rows - edge, cube.cols), teacher)
        train.append(Scene(image[:, :edge], valid[:edge]))
        if edge < scale * rows:
            held.append(Scene(image[:, edge : scale * rows], valid[edge : scale * rows]))
    if not any(scene.valid.any() for scene in train):
        raise InputError("no pixel of the scenes has a valid sample in every band of the model; nothing to learn from")
    train, held = ([scene for scene in scenes if scene.valid.any()] for scenes in (train, held))
    return _Data(train, held, about, held_out(config.holdout, LEAST_HELD, len(held), len(sources))), notes


def _whole(scene: Scene, scale: int) -> Scene:
    """The part of whole coarse pixels."""
    rows, cols = (size // scale * scale for size in scene.image.shape[1:])
    return Scene(scene.image[:, :rows, :cols], scene.valid[:rows, :cols])


@torch.no_grad()
def _restored(
    net: LKCANet | None, scenes: Sequence[Scene], degradation: Degradation, device: torch.device
) -> Iterator[Restored]:
    """Scene by scene; "ours" is bicubic where there is no network."""
    for scene in (_whole(scene, degradation.scale) for scene in scenes):
        coarse = degradation.apply(scene.image)[None]
        bicubic = bicubic_upsample(coarse, degradation.scale)[0]
        yield Restored(scene.image, scene.valid, bicubic, bicubic if net is None else net(coarse.to(device))[0].cpu())


def _gain(net: LKCANet, scenes: Sequence[Scene], degradation: Degradation, device: torch.device) -> float:
    """Mean over scenes of :func:`psnr_gain`, by which the student is chosen."""
    gains = [psnr_gain(done) for done in _restored(net, scenes, degradation, device)]
    return sum(gains) / len(gains)


def _scores(
    net: LKCANet | None, scenes: Sequence[Scene], degradation: Degradation, device: torch.device
) -> dict[str, float]:
    """Means over the scenes; of bicubic where there is no network."""
    scale = degradation.scale
    return mean_scores(
        [
            evaluate(done.sharp, done.ours, scale=scale, peak=1.0, mask=done.valid)
            for done in _restored(net, scenes, degradation, device)
        ]
    )
