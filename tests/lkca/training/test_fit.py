from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lkca.data.degradation import Degradation, crop_to_multiple, degrade
from lkca.errors import InputError
from lkca.metrics import evaluate
from lkca.models.prior import shipped_prior
from lkca.training import Progress, fit
from lkca.training.distillation import Distiller
from lkca.training.fit import Recipe, _hold_out
from lkca.training.optimise import adamw
from lkca.training.patches import PatchSampler, Scene, fill_invalid
from lkca.training.progress import Budget
from lkca_kernels import bicubic_upsample

SMALL = Recipe(
    components=3, width=8, blocks=1, window=5, batch=2, patch=8, prior=False, teacher_lr=5e-3, teacher_share=0.3,
    student_share=0.65,
)  # fmt: skip


def scene(rows: int = 48, cols: int = 40, bands: int = 6, seed: int = 0) -> torch.Tensor:
    """Sharp-edged patches of a few spectra: bicubic loses, and what it loses can be learned."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (rows // 4 + 2, cols // 4 + 2)), np.ones((5, 4), int))[:rows, :cols]
    spectra = np.random.default_rng(99).uniform(0.1, 0.9, (4, bands))
    noise = rng.normal(0, 0.002, (rows, cols, bands))
    return torch.from_numpy(np.moveaxis(spectra[labels] + noise, 2, 0).astype(np.float32))


def failing(at: int) -> Callable[..., float]:
    """A course of the learning rate under which step ``at`` destroys the weights."""
    taken = iter(range(1, 1000))
    return lambda *_: float("nan") if next(taken) == at else 1.0


def gain(net: torch.nn.Module, cube: torch.Tensor, scale: int) -> float:
    cube = crop_to_multiple(cube, scale)
    lr = degrade(cube, scale)[None]
    with torch.no_grad():
        ours, base = net(lr)[0], bicubic_upsample(lr, scale)[0]
    return evaluate(cube, ours, scale=scale).mpsnr - evaluate(cube, base, scale=scale).mpsnr


def test_fit_beats_bicubic_on_unseen_pixels_and_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    rates: list[tuple[float, float]] = []
    taught: list[dict[str, Any]] = []
    loss = Distiller.loss

    def spy(self: Distiller, degraded: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        assert degraded.shape == (2 * 3, 1, 8, 8) and len(self.points) == 1  # patches × components
        taught.append(options)
        return loss(self, degraded, *others, **options)

    def made(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
        rates.append((lr, weight_decay))
        return adamw(module, lr, weight_decay)

    monkeypatch.setattr(Distiller, "loss", spy)
    monkeypatch.setattr("lkca.training.loop.adamw", made)
    result = fit([scene()], 2, minutes=None, max_steps=90, recipe=SMALL, callback=seen.append)
    assert gain(result.net, scene(seed=7), 2) > 0.3
    assert rates == [(5e-3, 1e-2), (2e-4, 1e-2)]
    assert taught[0]["weight"] == 1 and taught[-1]["weight"] == pytest.approx(SMALL.teacher_weight_end, abs=0.01)
    assert {options["alignment"] for options in taught} == {0.1}
    assert {len(set(options["orientations"])) for options in taught} == {2}
    assert result.steps == seen[-1].step == 86 and len(taught) == 59  # 0.3 of 90 are the teacher's, 0.95 all
    assert result.description["training_pixels"] == 40 * 40  # the last 8 rows validate
    assert result.description["components"] == 3 and result.net.config.window == 5
    assert [s for s in dict.fromkeys(p.stage for p in seen)] == ["prepare", "teacher", "distil"]
    assert result.history == seen and result.energy >= SMALL.energy
    kept = result.metrics["student"]["mpsnr"] - result.metrics["bicubic"]["mpsnr"]
    best = max(p.gain for p in seen if p.stage == "distil" and p.gain is not None)
    assert kept > 0 and best == pytest.approx(kept, abs=1e-4)  # both on the rows that validate
    assert "rows" in result.split and not result.interrupted and not result.net.training
    assert result.net.config.rank == result.rank and result.net.config.bands == 6


def test_same_seed_same_network() -> None:
    cubes = [scene(24, 24), scene(33, 21, seed=1)]
    one, two, other = (fit(cubes, 2, minutes=None, max_steps=6, seed=s, recipe=SMALL) for s in (3, 3, 4))
    for a, b in zip(one.net.state_dict().values(), two.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert (one.net.head.weight != other.net.head.weight).any()
    alike = dataclasses.replace(SMALL, prior=True)  # whatever the seed: patches alone differ
    one, other = (fit(cubes, 2, minutes=None, max_steps=2, seed=s, recipe=alike) for s in (3, 4))
    assert (one.net.head.weight != other.net.head.weight).any()


@pytest.mark.parametrize(
    ("origin", "degradation", "lr"),
    [
        ({}, "bicubic", 5e-5),
        ({}, "area", 5e-3),
        ({"degradation": "area"}, "area", 5e-5),
        ({"exact": False}, "bicubic", 5e-3),
    ],
)
def test_a_start_that_knows_the_task_is_only_adapted(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any], degradation: Any, lr: float
) -> None:
    rates: list[float] = []
    prior = shipped_prior()
    assert prior is not None
    start = dataclasses.replace(prior, origin={**origin})
    monkeypatch.setattr("lkca.training.loop.set_rate", lambda optimiser, rate: rates.append(20 * rate))
    fit([scene(24, 24)], 2, minutes=None, max_steps=1, recipe=SMALL, init=start, degradation=degradation)
    assert rates[0] == pytest.approx(lr)  # of 20 steps that warm up


def test_the_default_device_plays_no_part() -> None:
    cube = scene(24, 24)
    with torch.device("meta"):
        one = fit([cube], 2, minutes=None, max_steps=6, recipe=SMALL)
    other = fit([cube], 2, minutes=None, max_steps=6, recipe=SMALL)
    assert torch.equal(one.net.head.weight, other.net.head.weight) and one.metrics == other.metrics


@pytest.mark.parametrize("size", [(30, 30, 6, 4), (9, 12, 3, 3), (4, 4, 1, 4), (8, 40, 2, 8)])
def test_small_scenes_do_no_harm(size: tuple[int, int, int, int]) -> None:
    rows, cols, bands, scale = size
    cube = scene(rows, cols, bands)
    result = fit([cube], scale, minutes=None, max_steps=6, recipe=SMALL)
    assert result.net(degrade(crop_to_multiple(cube, scale), scale)[None]).isfinite().all()
    assert gain(result.net, cube, scale) > -0.2


def test_missing_values_are_neither_learned_from_nor_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = scene()
    cube[:, 10:14, 5:30] = cube[:, 42:46, 5:20] = float("nan")  # the last 8 rows validate
    cube[2] = 0.5  # a constant band
    cube[4, 20, 20] = float("inf")
    result = fit([cube], 2, minutes=None, max_steps=30, recipe=SMALL)
    assert result.net(torch.rand(1, 6, 5, 5)).isfinite().all()
    assert result.metrics["student"]["mpsnr"] >= result.metrics["bicubic"]["mpsnr"]
    held, valid = (part[..., 40:, :] for part in fill_invalid(cube))
    base = bicubic_upsample(degrade(held, 2)[None], 2)[0]
    expected = evaluate(held, base, scale=2, peak=1.0, mask=valid)
    assert result.metrics["bicubic"]["mpsnr"] == pytest.approx(expected.mpsnr)
    draw, seen = PatchSampler.draw, list[Progress]()

    def nothing_valid(self: PatchSampler) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        coarse, sharp, known = draw(self)
        return coarse, sharp, torch.zeros_like(known)

    monkeypatch.setattr(PatchSampler, "draw", nothing_valid)
    fit([cube], 2, minutes=None, max_steps=8, recipe=SMALL, callback=seen.append)
    assert {progress.loss for progress in seen if progress.stage == "teacher"} == {0.0}


def test_a_scene_whose_only_valid_pixels_are_its_last_rows_is_learned_from() -> None:
    """They were held out, and nothing was left: the recipe was said to make no network."""
    cube = scene()
    cube[2, :40] = float("nan")
    result = fit([cube], 2, minutes=None, max_steps=6, recipe=SMALL)
    assert result.description["training_pixels"] == 8 * 40 and result.split.startswith("training pixels")


def test_the_last_rows_are_held_out_where_ten_coarse_ones_are_left() -> None:
    def parts(rows: int, share: float, missing: slice = slice(0, 0)) -> list[list[int]]:
        valid = torch.ones(rows, 6, dtype=torch.bool)
        valid[missing] = False
        kept, held, _ = _hold_out([Scene(torch.zeros(1, rows, 6), valid)], 2, share)
        return [[part.image.shape[1] for part in those] for those in (kept, held)]

    assert parts(28, 0.01) == [[20], [8]] and parts(26, 0.01) == [[26], []]
    assert parts(60, 0.25) == [[46], [14]] and parts(60, 0.25, slice(46, 60)) == [[46], []]


@pytest.mark.parametrize("at", [3, 45])
def test_interrupt_leaves_the_best_so_far(at: int) -> None:
    def callback(progress: Progress) -> None:
        if progress.step == at:
            raise KeyboardInterrupt

    result = fit([scene()], 2, minutes=None, max_steps=60, recipe=SMALL, callback=callback)
    assert result.interrupted and result.steps == at
    assert gain(result.net, scene(seed=7), 2) > -0.05


@pytest.mark.parametrize(("at", "holdout"), [(12, 0.2), (12, 0.01), (45, 0.2)])  # of the teacher, of the student
def test_a_loss_that_is_not_finite_leaves_the_best_so_far(
    monkeypatch: pytest.MonkeyPatch, at: int, holdout: float
) -> None:
    """An hour's training ended without a model."""
    cube = scene() if holdout == 0.2 else scene()[:, :26]  # too low to hold rows out
    monkeypatch.setattr("lkca.training.loop.rate_factor", failing(at))
    result = fit([cube], 2, minutes=None, max_steps=60, recipe=dataclasses.replace(SMALL, holdout=holdout))
    assert result.failure.startswith(f"step {at + 1}: the loss is nan") and result.interrupted
    assert (result.steps, result.history[-1].stage) == (at + 1, "teacher" if at < 15 else "distil")
    assert all(tensor.isfinite().all() for tensor in result.net.state_dict().values())
    assert result.metrics["student"]["mpsnr"] > result.metrics["bicubic"]["mpsnr"]


def test_a_loss_that_is_not_finite_from_the_start_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lkca.training.loop.rate_factor", failing(1))
    with pytest.raises(InputError, match="step 2: the loss is nan"):
        fit([scene()], 2, minutes=None, max_steps=60, recipe=SMALL)


def test_time_budget_is_kept() -> None:
    result = fit([scene()], 2, minutes=0.04, recipe=SMALL)
    assert result.seconds < 6


def test_a_prior_that_knows_the_task_is_adapted_by_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long there is: more of them learn the scene by heart. Who names a number gets it."""
    budgets: list[Budget] = []

    def kept(*args: Any) -> Budget:
        budgets.append(Budget(*args))
        return budgets[-1]

    monkeypatch.setattr(sys.modules["lkca.training.fit"], "Budget", kept)  # the function hides the module
    gentle = Recipe(adapt_steps=5)
    assert 5 <= fit([scene(24, 24)], 2, recipe=gentle).steps <= 6  # both stages may end beyond the bound
    for settings in ({"max_steps": 12}, {"degradation": "area"}, {"recipe": dataclasses.replace(gentle, prior=False)}):
        fit([scene(24, 24)], 2, **{"minutes": 0.001, "recipe": gentle, **settings})
    assert [budget.steps for budget in budgets] == [5, 12, None, None]


def test_bad_input() -> None:
    for cubes, words in (
        ([], "at least one"),
        ([torch.rand(8, 8)], r"cube 0: expected \(bands, rows, cols\)"),
        ([torch.rand(2, 8, 8), torch.rand(3, 8, 8)], "cube 1: has 3 bands, cube 0 has 2"),
        ([torch.rand(2, 8, 3)], "hold no 4 x 4 block"),
        ([torch.full((2, 8, 8), float("nan"))], "no pixel"),
    ):
        with pytest.raises(InputError, match=words):
            fit(cubes, 4, max_steps=2)
    with pytest.raises(InputError, match="degradation: its scale is 2, expected the fit's own scale 4"):
        fit([torch.rand(2, 40, 40)], 4, max_steps=2, degradation=Degradation(scale=2))


@pytest.mark.parametrize(
    "knobs",
    [
        {"components": 0},
        {"components": 2.5},
        {"width": -1},
        {"teacher_share": 0.0},
        {"teacher_share": 0.8, "student_share": 0.4},
        {"holdout": 1.0},
        {"alignment": -1.0},
        {"teacher_weight_end": 3.0},
        {"prior": "no"},
    ],
)
def test_a_recipe_that_cannot_run_is_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(knobs))):
        Recipe(**knobs)
