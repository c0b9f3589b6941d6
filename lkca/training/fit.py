"""``lkca fit``: from a user's own scenes to a low-rank network, within a time budget. docs/fit.md explains each choice.

Wald's protocol: the scenes are degraded by the scale, and the network learns to restore them. Teacher → factorise →
distil, all of it over a few spectral components; the network that comes out works on bands and equals it exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lkca.config import check_knobs, knob
from lkca.data.degradation import Degradation, DegradationMethod, crop_to_multiple
from lkca.errors import InputError
from lkca.lowrank import energy_curve, factorize, spectrum
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.lkcanet import lift, repeat
from lkca.models.prior import Prior, shipped_prior
from lkca.models.subspace import SpectralSubspace
from lkca.nn import LowRankUpsample, PixelShuffleUpsample
from lkca.nn.layout import channels_last
from lkca.training.distillation import Criterion, Distiller, Point, teacher_weight
from lkca.training.loop import LoopResult, Schedule, train_loop
from lkca.training.optimise import DivergedError, cpu_by_default, unchanged
from lkca.training.patches import PatchSampler, Scene, fill_invalid
from lkca.training.progress import Budget, Progress, ProgressCallback
from lkca.training.validation import LEAST_HELD, Restored, hold_out, mean_gain, measure, split_text
from lkca_kernels import bicubic_upsample

__all__ = ["FitResult", "Recipe", "fit"]

_FEATURES = (Point("upsample", where="input"),)  # F_N
_LEAST_LEARNED = 10  # coarse rows of a scene that are left to learn from where others are held out


@dataclass(frozen=True)
class Recipe:
    """The knobs of :func:`fit`; docs/fit.md says which defaults were measured (on training scenes) and which were not.

    InputError for values out of bounds: with them a fit cannot run, or asks for all the memory there is.
    """

    components: int = knob(
        16, "Spectral components that the network restores; the rest of the spectrum stays bicubic.", ge=1, le=4096
    )
    prior: bool = knob(True, "Start from the shipped prior, else from random weights of the sizes given.")
    width: int = knob(32, "Without the prior: feature channels.", ge=1, le=1024)
    blocks: int = knob(4, "Without the prior: large-kernel blocks.", ge=1, le=128)
    kernel_size: int = knob(7, "Without the prior: side of the depthwise kernels, odd.", ge=1, le=127)
    window: int = knob(9, "Without the prior: side of the attention's window, odd; 0: no attention.", ge=0, le=1023)
    energy: float = knob(0.99, "Share of the upsampling kernel's squared norm that the factors keep.", gt=0, le=1)
    teacher_share: float = knob(0.25, "Of the budget, for the teacher.", gt=0, le=1)
    student_share: float = knob(0.7, "Of the budget, for the student; with the teacher's 1 at most.", gt=0, le=1)
    patch: int = knob(14, "Side of a patch in coarse pixels.", ge=4, le=1024)
    batch: int = knob(4, "Patches per step.", ge=1, le=1024)
    adapt_lr: float = knob(5e-5, "Peak learning rate of a teacher whose prior knows scale and degradation.", gt=0, le=1)
    adapt_steps: int = knob(300, "Bound on the steps of a fit that such a teacher begins, without a max_steps.", ge=1)
    teacher_lr: float = knob(1e-3, "Peak learning rate of any other teacher.", gt=0, le=1)
    student_lr: float = knob(2e-4, "Peak learning rate of the student.", gt=0, le=1)
    weight_decay: float = knob(1e-2, "AdamW's; vectors are not decayed.", ge=0, le=1)
    teacher_weight_end: float = knob(0.5, "The teacher's weight at the end; it falls from 1.", ge=0, le=1)
    alignment: float = knob(0.1, "Weight of the features' distance.", ge=0)
    holdout: float = knob(
        0.2, f"Share of each scene's last rows that validate; {LEAST_HELD} coarse ones at least.", gt=0, lt=1
    )

    def __post_init__(self) -> None:
        try:
            check_knobs(self)
        except ValueError as error:
            raise InputError(f"recipe: {error}") from error
        shares = self.teacher_share, self.student_share
        if sum(shares) > 1:
            raise InputError(
                f"recipe: teacher_share and student_share are {shares[0]} and {shares[1]}; expected shares of the "
                "budget that sum to 1 at most"
            )


@dataclass
class FitResult:
    """net: eval mode, on the CPU, input and output normalised as the given cubes.

    history: every report that the callback got. metrics: {"bicubic", "teacher", "student"} -> {"mpsnr" dB, "sam"
    degrees, "rmse", "ergas"} on ``split``, the pixels that these were measured on. rank, energy: of the upsampler's
    factors. steps, seconds: spent. interrupted: by Ctrl-C or ``failure``; the network is the best until then.
    description: how it was made. failure: the step whose loss was not finite, and what to look for; "" otherwise.
    """

    net: LKCANet
    metrics: dict[str, dict[str, float]]
    split: str
    rank: int
    energy: float
    steps: int
    seconds: float
    interrupted: bool
    history: list[Progress] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


def fit(
    cubes: Sequence[Tensor],
    scale: int,
    *,
    minutes: float | None = 5.0,
    max_steps: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    degradation: Degradation | DegradationMethod = "bicubic",
    callback: ProgressCallback | None = None,
    recipe: Recipe | None = None,
    init: Prior | None = None,
) -> FitResult:
    """Fit a network that restores ``cubes`` degraded by ``scale``; see :class:`FitResult`.

    cubes: normalised (bands, H, W) float tensors or arrays, one band count, any sizes; values that are not finite are
    missing. minutes: wall-clock budget. max_steps: bound on optimiser steps (None: ``recipe.adapt_steps`` where the
    network starts from a prior that knows scale and degradation); with minutes=None the result depends on the seed
    alone (on one machine and thread count). init: what the network starts from instead of the shipped prior, such as
    :func:`lkca.training.transfer.backbone` gives. After the first step KeyboardInterrupt ends the fit early with the
    best network so far; so does a loss that is not finite, which the result's ``failure`` tells.

    Raises InputError where the cubes leave nothing to learn from, and for a loss that is not finite before anything was
    learned; ValueError where neither a time nor a number of steps ends it.
    """
    recipe = recipe or Recipe()
    if isinstance(degradation, str):
        degradation = Degradation(method=degradation, scale=scale)
    if degradation.scale != scale:
        raise InputError(f"degradation: its scale is {degradation.scale}, expected the fit's own scale {scale}")
    budget = Budget(None if minutes is None else 60 * minutes, max_steps)
    with cpu_by_default():
        return _Run(cubes, scale, degradation, recipe, budget, seed, device, callback, init).result()


class _Run:
    def __init__(
        self,
        cubes: Sequence[Tensor],
        scale: int,
        degradation: Degradation,
        recipe: Recipe,
        budget: Budget,
        seed: int,
        device: torch.device | str,
        callback: ProgressCallback | None,
        init: Prior | None,
    ) -> None:
        self.start = init or (shipped_prior() if recipe.prior else None)
        self.scale, self.degradation, self.recipe, self.budget = scale, degradation, recipe, budget
        self.near = self._knows_the_task()
        if self.near and budget.steps is None:  # more of them make it forget: docs/fit.md
            budget.steps = recipe.adapt_steps
        self.seed, self.device, self.callback = seed, torch.device(device), callback
        self.history: list[Progress] = []
        self.failure = ""
        self.stage = "prepare"
        self.report(None, None)
        known = _checked(cubes, scale)
        self.bands = known[0].image.shape[0]
        self.train_cubes, self.test_cubes, self.split = _hold_out(known, scale, recipe.holdout)
        self.subspace = self._subspace()
        self.scenes = [
            Scene(self.subspace.encode(c.image).to(self.device), c.valid.to(self.device)) for c in self.train_cubes
        ]
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = PatchSampler(
            self.scenes, scale, degradation.apply, patch=recipe.patch, batch=recipe.batch, generator=self.generator
        )
        self.power = self._detail_power()

    def _knows_the_task(self) -> bool:
        """Whether the start has learned this scale and this degradation, so that it needs little adaptation."""
        if self.start is None or self.scale not in self.start.scales:
            return False
        origin = self.start.origin
        return self.degradation.method == origin.get("degradation", "bicubic") and bool(origin.get("exact", True))

    def report(self, loss: float | None, gain: float | None) -> None:
        progress = Progress(self.stage, self.budget.taken, self.budget.elapsed, self.budget.fraction, loss, gain)
        self.history.append(progress)
        if self.callback is not None:
            self.callback(progress)

    def _subspace(self) -> SpectralSubspace:
        details, total, pixels = [], torch.zeros(self.bands, dtype=torch.float64), 0
        for cube in self.train_cubes:
            detail = cube.image - bicubic_upsample(self.degradation.apply(cube.image)[None], self.scale)[0]
            details.append(detail[:, cube.valid])
            total += cube.image[:, cube.valid].double().sum(1)
            pixels += int(cube.valid.sum())
        components = min(self.recipe.components, self.bands)
        return SpectralSubspace.of(torch.cat(details, 1), total / pixels, components)

    def _detail_power(self) -> Tensor:
        """Mean square of the detail over all components, a scalar."""
        power = [
            (s.image - bicubic_upsample(self.degradation.apply(s.image)[None], self.scale)[0])[:, s.valid].square()
            for s in self.scenes
        ]
        return torch.cat(power, 1).mean().clamp_min(torch.finfo(torch.float32).tiny)

    def draw(self) -> tuple[Tensor, Tensor, Criterion]:
        """(B·K, 1, h, w), the detail it lacks (B·K, 1, s·h, s·w), and the squared error as a share of its power."""
        degraded, sharp, valid = self.sampler.draw()
        detail = sharp - bicubic_upsample(degraded, self.scale)
        valid = valid.expand_as(detail).flatten(0, 1)[:, None]
        norm = self.power * valid.sum().clamp_min(1)

        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            return ((prediction - target).square() * valid).sum() / norm

        return _fold(degraded), detail.flatten(0, 1)[:, None], loss

    def new_teacher(self) -> tuple[LKCANet, float]:
        """A network over one component, and the learning rate that it needs."""
        torch.manual_seed(self.seed)
        r = self.recipe
        if self.start is not None:
            net = self.start.network(self.scale)
        else:
            config = LKCANetConfig(
                bands=1,
                scale=self.scale,
                width=r.width,
                blocks=r.blocks,
                kernel_size=r.kernel_size,
                window=r.window,
                shared=True,
            )
            net = LKCANet(config).float()
        return channels_last(net.to(self.device)), r.adapt_lr if self.near else r.teacher_lr

    @torch.no_grad()
    def restored(self, net: LKCANet, cube: Scene) -> Restored:
        """A cube of all bands degraded and restored, by a network over one component."""
        degraded = self.degradation.apply(cube.image)
        base = bicubic_upsample(degraded[None], self.scale)[0]
        detail = net.residual(_fold(self.subspace.encode(degraded)[None].to(self.device)))[:, 0]
        return Restored(cube.image, cube.valid, base, base + self.subspace.decode_detail(detail.cpu()))

    def learn(self, net: LKCANet, loss_of: Callable[[float], Tensor], end: float, lr: float) -> LoopResult:
        schedule = Schedule(self.budget.fraction, end, lr, self.recipe.weight_decay)
        score = (lambda: mean_gain(net, self.test_cubes, self.restored)) if self.test_cubes else None
        start = copy.deepcopy(net.state_dict())
        try:
            return train_loop(net, loss_of, schedule, self.budget, score=score, report=self.report)
        except DivergedError as error:
            if self.stage == "teacher" and unchanged(net, start):
                raise
            self.failure = str(error)
            return LoopResult(interrupted=True)

    def result(self) -> FitResult:
        r = self.recipe
        teacher, lr = self.new_teacher()

        def supervised(position: float) -> Tensor:
            degraded, target, criterion = self.draw()
            return criterion(teacher.residual(degraded), target)

        def distil(position: float) -> Tensor:
            degraded, target, criterion = self.draw()
            return distiller.loss(
                degraded,
                target,
                criterion,
                weight=teacher_weight(position, end=r.teacher_weight_end),
                alignment=r.alignment,
                orientations=torch.randperm(8, generator=self.generator)[:2].tolist(),
            )

        self.stage = "teacher"
        loop = self.learn(teacher, supervised, r.teacher_share, lr)
        student = channels_last(factorize(teacher, energy=r.energy))
        if not loop.interrupted:
            self.stage = "distil"
            distiller = Distiller(teacher, student, self.draw()[0], _FEATURES, apply=_residual)
            loop = self.learn(student, distil, r.teacher_share + r.student_share, r.student_lr)
        return self._finish(teacher, student, loop.interrupted)

    def _finish(self, teacher: LKCANet, student: LKCANet, interrupted: bool) -> FitResult:
        layer, low = teacher.upsample, student.upsample
        assert isinstance(layer, PixelShuffleUpsample) and isinstance(low, LowRankUpsample)
        curve = energy_curve(spectrum(layer).singular_values)
        space = self.subspace
        components = space.synthesis.shape[1]
        over_components = repeat(copy.deepcopy(student).cpu(), components)
        net = lift(over_components, space.mean, space.analysis, space.synthesis).eval()
        assert net.config.rank is not None
        nets = {"teacher": teacher, "student": student.to(self.device)}
        return FitResult(
            net=net,
            metrics=measure(nets, self.test_cubes or self.train_cubes, self.restored, self.scale),
            split=self.split,
            rank=net.config.rank,
            energy=float(curve[low.rank - 1]),
            steps=self.budget.taken,
            seconds=self.budget.elapsed,
            interrupted=interrupted,
            history=self.history,
            failure=self.failure,
            description={
                "components": components,
                "training_pixels": sum(int(c.valid.sum()) for c in self.train_cubes),
                "scenes": len(self.train_cubes),
                "prior": None if self.start is None else dict(self.start.origin),
            },
        )


def _residual(net: nn.Module, degraded: Tensor) -> Tensor:
    assert isinstance(net, LKCANet)
    return net.residual(degraded)


def _fold(components: Tensor) -> Tensor:
    """(B, K, h, w) -> (B·K, 1, h, w): the components one by one, as the shared body takes them."""
    return components.flatten(0, 1)[:, None].contiguous(memory_format=torch.channels_last)


def _checked(cubes: Sequence[Tensor], scale: int) -> list[Scene]:
    if not cubes:
        raise InputError("cubes: expected at least one, got none")
    result = []
    for index, given in enumerate(cubes):
        cube = torch.as_tensor(given).float()
        if cube.ndim != 3 or cube.shape[0] < 1:
            raise InputError(f"cube {index}: expected (bands, rows, cols), got shape {tuple(cube.shape)}")
        if cube.shape[0] != cubes[0].shape[0]:
            raise InputError(f"cube {index}: has {cube.shape[0]} bands, cube 0 has {cubes[0].shape[0]}")
        if min(cube.shape[1:]) < scale:
            raise InputError(
                f"cube {index}: {cube.shape[1]} x {cube.shape[2]} pixels hold no {scale} x {scale} block; "
                "give a larger scene or a smaller scale"
            )
        sharp, valid = fill_invalid(crop_to_multiple(cube, scale))
        if valid.any():
            result.append(Scene(sharp.contiguous(), valid))
    if not result:
        raise InputError(
            "cubes: no pixel has a finite value in every band; leave out the bands that hold none, or give other scenes"
        )
    return result


def _hold_out(cubes: list[Scene], scale: int, share: float) -> tuple[list[Scene], list[Scene], str]:
    """What is learned from, what validates, and the text that says which."""
    parts = [hold_out(cube, scale, share, kept=_LEAST_LEARNED) for cube in cubes]
    held = [last for _, last in parts if last is not None]
    text = split_text(share, LEAST_HELD, len(held), len(cubes), "training regions")
    return [first for first, _ in parts], held, text
