"""Any teacher, any student: the distillation loop. docs/distillation.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import call

import torch
from torch import Tensor, nn

from lkca.config import check_knobs, knob
from lkca.losses import SpectralGradientLoss
from lkca.nn import LowRankConv2d, LowRankUpsample
from lkca.nn.mode import evaluating
from lkca.training.distillation import Apply, Criterion, Decay, Distiller, Point, teacher_weight
from lkca.training.loop import LoopResult, Schedule, train_loop
from lkca.training.progress import Budget

__all__ = ["DistillRecipe", "distill"]

Draw = Callable[[], tuple[Tensor, Tensor, Tensor | None]]


@dataclass(frozen=True)
class DistillRecipe:
    """The knobs of :func:`distill`; docs/distillation.md has the ablation.

    start = end = 0 is fine-tuning without teacher. ValueError for values that are out of bounds.
    """

    points: tuple[Point, ...] = knob((), "Where features are compared.")
    alignment: float = knob(0.1, "Weight α of the features' distance.", ge=0)
    start: float = knob(1.0, "The teacher's weight at first.", ge=0, le=1)
    end: float = knob(0.0, "The teacher's weight at the end.", ge=0, le=1)
    decay: Decay = knob("cosine", "How it gets there; constant: it does not.")
    orientations: int = knob(
        1, "Of the teacher's self-ensemble, drawn anew every step; 1: the teacher as it is.", ge=1, le=8
    )
    warmup_share: float = knob(0.0, "Of the time, in which only the low-rank factors learn.", ge=0, le=1)
    warmup_lr: float = knob(1e-3, "Peak learning rate of that time.", gt=0, le=1)
    lr: float = knob(5e-4, "Peak learning rate of the rest.", gt=0, le=1)
    weight_decay: float = knob(1e-4, "AdamW's; vectors are not decayed.", ge=0, le=1)
    ema: float = knob(0.99, "Decay of the weights' average, which is what is kept.", ge=0, lt=1)
    evaluations: int = knob(8, "How often the student is validated in each phase.", ge=1, le=1000)

    def __post_init__(self) -> None:
        check_knobs(self)
        if not isinstance(self.points, (tuple, list)) or not all(isinstance(point, Point) for point in self.points):
            raise ValueError(f"points: expected a sequence of Point, got {self.points!r}")


def distill(
    teacher: nn.Module,
    student: nn.Module,
    draw: Draw,
    *,
    budget: Budget,
    recipe: DistillRecipe | None = None,
    criterion: Criterion | None = None,
    score: Callable[[], float] | None = None,
    apply: Apply = call,
    generator: torch.Generator | None = None,
    report: Callable[[float | None, float | None], None] = lambda loss, gain: None,
) -> LoopResult:
    """Train ``student`` in place on the truth and on ``teacher``, until the budget's end; the teacher stays as it is.

    draw() gives the next batch: degraded (B, C, h, w), sharp (B, C', H, W), normalised, and what of it counts,
    (B, 1, H, W) bool, or None for all. criterion: compares outputs; by default L1 + 0.3 SAM + 0.1 gradient
    (:class:`lkca.losses.SpectralGradientLoss`). score(): rates the student as it stands, higher is better; the best
    averaged weights are kept, without it the last. apply: how a model is run, by default by calling it. generator: for
    the orientations. report(loss, gain): called after each step; gain is the latest score.

    Returns the number of ``steps``, the ``best`` score, the last ``loss``, and whether Ctrl-C ``interrupted`` it, which
    keeps the best so far. ValueError for points that do not fit the models, for a student of which no parameter asks
    for a gradient or one is the teacher's own, and for a batch that is none; InputError for a loss that is not finite.
    """
    if not any(p.requires_grad for p in student.parameters()):
        raise ValueError(
            "student: no parameter of it asks for a gradient, as those of a loaded model; call requires_grad_(True)"
        )
    theirs = {id(p) for p in teacher.parameters()}
    if name := next((name for name, p in student.named_parameters() if p.requires_grad and id(p) in theirs), None):
        raise ValueError(
            f"student: shares {name} with the teacher, which would learn along; give it a copy, or freeze it"
        )
    recipe = recipe or DistillRecipe()
    criterion = criterion or SpectralGradientLoss()

    def loss_of(position: float) -> Tensor:
        degraded, sharp, valid = _batch(draw())
        done = (budget.fraction - began) / max(1 - began, 1e-9)  # of both phases
        orientations = [0]
        if recipe.orientations > 1:
            where = None if generator is None else generator.device  # whatever torch.set_default_device says
            orientations = torch.randperm(8, generator=generator, device=where)[: recipe.orientations].tolist()
        return whole.loss(
            degraded,
            sharp,
            _where(criterion, valid),
            weight=teacher_weight(done, recipe.start, recipe.end, recipe.decay),
            alignment=recipe.alignment,
            orientations=orientations,
        )

    def phase(end: float, lr: float) -> LoopResult:
        schedule = Schedule(
            budget.fraction, end, lr, recipe.weight_decay, ema=recipe.ema, evaluations=recipe.evaluations
        )
        return train_loop(whole, loss_of, schedule, budget, score=score, report=report)

    with evaluating(teacher):
        whole = Distiller(teacher, student, _batch(draw())[0], recipe.points, apply=apply)
        began, steps = budget.fraction, 0
        if recipe.warmup_share > 0:
            with _only_factors(student):
                result = phase(began + recipe.warmup_share * (1 - began), recipe.warmup_lr)
            if result.interrupted:
                return result
            steps = result.steps
        result = phase(1.0, recipe.lr)
        result.steps += steps
        return result


def _batch(drawn: tuple[Tensor, Tensor, Tensor | None]) -> tuple[Tensor, Tensor, Tensor | None]:
    """What draw() gave, checked: a mask of other dimensions could be spread along the wrong ones."""
    if len(drawn) != 3:
        raise ValueError(f"draw(): expected (degraded, sharp, valid or None), got {len(drawn)} values")
    _, sharp, valid = drawn
    if valid is not None:
        if valid.dtype != torch.bool:
            raise ValueError(f"draw(): valid is {valid.dtype}, expected bool")
        batch, bands, rows, cols = sharp.shape
        if valid.shape not in ((batch, 1, rows, cols), (batch, bands, rows, cols)):
            raise ValueError(
                f"draw(): valid is {tuple(valid.shape)}, expected (B, 1, H, W) of sharp {tuple(sharp.shape)}"
            )
    return drawn


def _where(criterion: Criterion, valid: Tensor | None) -> Criterion:
    """``criterion`` of predictions that are taken as perfect where not ``valid``."""
    if valid is None:
        return criterion
    return lambda prediction, target: criterion(torch.where(valid, prediction, target), target)


@contextmanager
def _only_factors(student: nn.Module) -> Iterator[None]:
    """Inside, only the parameters of the student's low-rank layers ask for gradients."""
    layers = [m for m in student.modules() if isinstance(m, (LowRankConv2d, LowRankUpsample))]
    if not layers:
        raise ValueError("warmup_share: the student has no low-rank layer to warm up")
    factors = {id(p) for layer in layers for p in layer.parameters()}
    frozen = [p for p in student.parameters() if p.requires_grad and id(p) not in factors]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)
