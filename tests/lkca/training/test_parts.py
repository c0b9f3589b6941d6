from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lkca.data.degradation import Degradation
from lkca.errors import InputError
from lkca.metrics import evaluate
from lkca.models import LKCANet, LKCANetConfig
from lkca.training.loop import Schedule, train_loop
from lkca.training.optimise import Average, adamw, rate_factor
from lkca.training.patches import PatchDataset, PatchSampler, Scene, SourceScene, dihedral, fill_invalid, undo_dihedral
from lkca.training.progress import Budget, Progress
from lkca.training.validation import (
    Restored,
    held_rows,
    hold_out,
    mean_scores,
    measure,
    psnr_gain,
    restore,
    split_text,
)


def test_the_eight_symmetries_differ_and_are_undone() -> None:
    image = torch.arange(12.0).reshape(1, 3, 4)
    seen = [dihedral(image, e) for e in range(8)]
    assert len({(t.shape, tuple(t.flatten().tolist())) for t in seen}) == 8
    for e, turned in enumerate(seen):
        torch.testing.assert_close(undo_dihedral(turned, e), image)


def test_fill_invalid() -> None:
    """As a scene that is upscaled is filled: a network learns from what it will be given."""
    cube = torch.arange(27.0).view(3, 3, 3)
    cube[0, 0, :2], cube[1, 2, 2] = math.nan, math.inf
    filled, valid = fill_invalid(cube)
    assert valid.tolist() == [[False, False, True], [True] * 3, [True, True, False]]
    assert filled[0, 0, 0] == 3 and filled[0, 0, 1] in (2, 4)  # of a pixel beside it, not the band's mean
    assert filled[1, 2, 2] in (14, 16) and torch.equal(filled[:, valid], cube[:, valid])
    cube[2] = math.nan
    filled, valid = fill_invalid(cube)
    assert not valid.any() and not filled[2].any() and filled[0, 0, 0] == 3


def test_sampler_draws_pairs_of_any_phase_from_scenes_of_any_size() -> None:
    degradation = Degradation(scale=2)
    big = Scene(torch.rand(1, 21, 30), torch.ones(21, 30, dtype=torch.bool))
    small = Scene(torch.rand(1, 5, 40) + 10, torch.ones(5, 40, dtype=torch.bool))
    sampler = PatchSampler(
        [big, small], 2, degradation.apply, patch=6, batch=3, generator=torch.Generator().manual_seed(0)
    )
    shapes = set()
    for _ in range(60):
        coarse, sharp, valid = sampler.draw()
        torch.testing.assert_close(coarse, degradation.apply(sharp))
        assert valid.shape == sharp.shape and valid.all()
        shapes.add(tuple(sharp.shape))
    assert shapes == {(3, 1, 12, 12), (3, 1, 4, 4)}
    shaded = Scene(small.image, torch.arange(5)[:, None].expand(5, 40) == 0)  # 40 of its pixels count, of 630 others
    weighed = PatchSampler(
        [big, shaded], 2, degradation.apply, patch=6, batch=1, generator=torch.Generator().manual_seed(0)
    )
    assert sum(bool(weighed.draw()[1].mean() > 5) for _ in range(200)) == pytest.approx(200 * 40 / 670, abs=8)
    mixed = PatchSampler(
        [big, small], 2, degradation.apply, patch=6, batch=8, generator=torch.Generator().manual_seed(0), mixed=True
    )
    origins = set()
    for _ in range(9):
        _, sharp, _ = mixed.draw()
        assert sharp.shape == (8, 1, 4, 4)  # as wide as the smaller scene allows
        origins.add(tuple((sharp.flatten(1).mean(1) > 5).tolist()))
    assert any(0 < sum(of_small) < 8 for of_small in origins)
    one, two = (
        PatchSampler([big, small], 2, degradation.apply, patch=6, batch=8, generator=seeded, mixed=True).draw()[1]
        for seeded in (torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
    )
    assert torch.equal(one, two)  # the seed decides which scenes, too
    for none in (Scene(small.image, ~small.valid), Scene(small.image[:, :1], small.valid[:1])):
        with pytest.raises(ValueError, match="no scene"):
            PatchSampler([none], 2, degradation.apply, patch=6, batch=1, generator=torch.Generator())


def test_patches_lie_anywhere_in_any_orientation_and_so_do_their_masks() -> None:
    image = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(8.0), indexing="ij"))  # says where it lies
    known = (image[0] + 2 * image[1]) % 5 > 0
    generator = torch.Generator().manual_seed(0)
    sampler = PatchSampler(
        [Scene(image, known)], 2, Degradation(scale=2).apply, patch=3, batch=200, generator=generator
    )
    holed = torch.where(known, image, math.nan).numpy()
    scene = SourceScene("x", holed.shape, lambda window: holed[(slice(None), *window.slices)])
    dataset, other = (PatchDataset([scene], 6, seed) for seed in (0, 1))
    drawn = [patches[number][0] for patches in (dataset, other) for number in range(3)]
    assert all(not torch.equal(*pair) for pair in itertools.combinations(drawn, 2))  # no seed goes on where another is
    large = np.full((2, 36, 32), 100, dtype=np.float32)
    both = PatchDataset(
        [scene, SourceScene("y", large.shape, lambda window: large[(slice(None), *window.slices)])], 6, 0
    )
    assert sum(bool(both[number][0].max() == 100) for number in range(100)) > 80  # it has 16 times the pixels
    for patches in (zip(*sampler.draw()[1:], strict=True), (dataset[number] for number in range(200))):
        places, turns = set(), set()
        for sharp, valid in patches:
            row, col = (int(least) for least in sharp[:, valid[0]].amin(1))
            there = (..., slice(row, row + 6), slice(col, col + 6))
            turn = [
                element
                for element in range(8)
                if torch.equal(dihedral(image[there], element)[:, valid[0]], sharp[:, valid[0]])
            ]
            assert len(turn) == 1 and torch.equal(dihedral(known[there], turn[0]), valid[0])
            places.add((row, col))
            turns.add(turn[0])
        assert len(places) == 4 * 3 and turns == set(range(8))


class Parabola(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([0.0]))


def test_train_leaves_the_best_that_was_scored() -> None:
    module, budget, gains = Parabola(), Budget(None, 40), list[float | None]()
    schedule = Schedule(0.0, 1.0, lr=0.2, warmup=1, ema=0.0, evaluations=20)
    result = train_loop(
        module,
        lambda position: (module.x - 5).square().sum(),
        schedule,
        budget,
        score=lambda: -abs(module.x.item() - 2),
        report=lambda loss, gain: gains.append(gain),
    )
    assert result.best == max(gain for gain in gains if gain is not None) and len(gains) == 40
    assert result.steps == budget.taken == 40 and not result.interrupted
    assert result.best == pytest.approx(-abs(module.x.item() - 2)) and abs(module.x.item() - 2) < 0.5

    module = Parabola()
    result = train_loop(
        module,
        lambda position: (module.x - 5).square().sum(),
        schedule,
        Budget(None, 9),
        score=lambda: -module.x.item(),
    )
    assert (result.best, module.x.item()) == (0, 0)  # the start was scored too

    module = Parabola()
    train_loop(module, lambda position: (module.x - 5).square().sum(), schedule, Budget(None, 200))
    assert module.x.item() == pytest.approx(5, abs=0.2)  # without a score: the last state


def test_train_follows_the_learning_rate() -> None:
    """AdamW's step along a gradient that stays is the rate."""
    module, budget = Parabola(), Budget(None, 8)
    budget.taken = 4
    places = [0.0]
    train_loop(
        module,
        lambda position: -module.x.sum(),
        Schedule(0.5, 1.0, lr=0.1, warmup=2),
        budget,
        report=lambda loss, gain: places.append(module.x.item()),
    )
    expected = [0.1 * rate_factor(step / 4, step, 2) for step in range(4)]
    assert np.diff(places).tolist() == pytest.approx(expected, rel=1e-4)


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    assert [rate_factor(0.0, step, 4) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1, 1]
    assert [rate_factor(position, 9, 4) for position in (0.5, 1.0)] == pytest.approx([0.5, 0])
    assert rate_factor(1 / 3, 0, 0) == pytest.approx(0.75)


def test_vectors_are_not_decayed() -> None:
    groups = adamw(nn.Conv2d(2, 3, 1), 1e-3, 0.1).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [(0.1, [4]), (0.0, [1])]


def test_the_average_forgets_its_start_and_the_module_gets_its_own_state_back() -> None:
    module = Parabola()
    average = Average(module, 0.9)
    module.x.data.fill_(1)
    average.update(module, 1)  # of which 1/11 is kept
    assert average.state["x"].item() == pytest.approx(10 / 11)
    module.x.data.fill_(2)
    average.update(module, 1000)
    assert average.state["x"].item() == pytest.approx(0.9 * 10 / 11 + 0.2)
    with average.inside(module):
        assert module.x.item() == average.state["x"].item()
    assert module.x.item() == 2


def test_gradients_are_clipped() -> None:
    module = Parabola()
    train_loop(module, lambda position: (module.x - 5).square().sum(), Schedule(0.0, 1.0, lr=0.1), Budget(None, 1))
    assert module.x.grad is not None and module.x.grad.item() == pytest.approx(-1)


def test_average_of_tied_weights() -> None:
    alone = nn.Linear(2, 2)
    tied = nn.Sequential(alone, alone)
    averages = [Average(module, 0.9) for module in (alone, tied)]
    with torch.no_grad():
        alone.weight.add_(1)
    for average, module in zip(averages, (alone, tied), strict=True):
        average.update(module, 100)
    assert torch.equal(averages[0].state["weight"], averages[1].state["0.weight"])
    with averages[1].inside(tied):
        assert torch.equal(alone.weight, averages[0].state["weight"])


def test_what_has_no_average_is_taken_as_it_is() -> None:
    """Counters, and what a module keeps beside its tensors; complex weights have an average."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spectrum = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
            self.register_buffer("seen", torch.tensor(0))
            self.notes = ["new"]

        def get_extra_state(self) -> dict[str, Any]:
            return {"notes": self.notes}

        def set_extra_state(self, state: dict[str, Any]) -> None:
            self.notes = state["notes"]

    module = Counts()
    average = Average(module, 0.5)
    module.spectrum.data.fill_(2 + 4j)
    module.get_buffer("seen").fill_(7)
    module.notes = ["old"]
    average.update(module, 100)
    module.get_buffer("seen").fill_(8)
    with average.inside(module):
        assert module.spectrum.tolist() == [1 + 2j] * 2
        assert module.get_buffer("seen") == 7 and module.notes == ["old"]
    assert module.spectrum.tolist() == [2 + 4j] * 2 and module.get_buffer("seen") == 8


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_the_average_of_weights_in_16_bits_follows_small_changes(dtype: torch.dtype) -> None:
    """A hundredth of a last place was rounded away each time: the average stayed at the start."""
    module = nn.Linear(1, 1).to(dtype)
    nn.init.ones_(module.weight)
    average = Average(module, 0.99)
    nn.init.constant_(module.weight, 1 + torch.finfo(dtype).eps)
    for step in range(2000, 2400):  # the ramp is over
        average.update(module, step)
    with average.inside(module):
        assert module.weight.dtype == dtype and module.weight.item() > 1


class Masked(nn.Module):
    """A state that is not finite, as causal masks are: a buffer, or a parameter that is not trained."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(2))
        mask = torch.tensor([0.0, -math.inf])
        if frozen:
            self.mask = nn.Parameter(mask, requires_grad=False)
        else:
            self.register_buffer("mask", mask)


@pytest.mark.parametrize("frozen", (False, True))
@pytest.mark.parametrize("scored", (False, True))
def test_a_mask_of_infinities_does_not_keep_the_start(scored: bool, frozen: bool) -> None:
    module = Masked(frozen)
    score = (lambda: -abs(1 - float(module.x.detach()[0]))) if scored else None
    train_loop(
        module, lambda position: (module.x - 1).square().sum(), Schedule(0.0, 1.0, lr=0.1), Budget(None, 5), score=score
    )
    assert (module.x > 0).all() and module.state_dict()["mask"].tolist() == [0, -math.inf]


def test_pixels_without_truth_are_not_scored() -> None:
    cube = torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(0))
    cube[1, 4:7, 3:9] = math.nan
    source = SourceScene("x", (3, 12, 10), lambda window: cube.numpy()[(slice(None), *window.slices)])
    net, degradation = LKCANet(LKCANetConfig(bands=3, scale=2, width=4, blocks=0)), Degradation(scale=2)
    done = restore(net, source.whole(), degradation, torch.device("cpu"))
    expected = evaluate(done.sharp, done.bicubic, scale=2, peak=1.0, mask=cube.isfinite().all(0))
    again = partial(restore, degradation=degradation, device=torch.device("cpu"))
    scores = measure({"a": net, "b": net}, iter([source.whole()]), again, 2)
    assert scores["bicubic"] == mean_scores([expected]) and list(scores) == ["bicubic", "a", "b"]
    assert scores["a"] == scores["b"] == pytest.approx(scores["bicubic"])  # a new network gives bicubic
    other = evaluate(done.sharp, done.sharp + 0.1, scale=2, peak=1.0)
    assert mean_scores([expected, other])["rmse"] == pytest.approx((expected.rmse + other.rmse) / 2)
    known = torch.where(done.valid, done.sharp, 99.0)
    halved = Restored(done.sharp, done.valid, known + 0.2, known + 0.1)
    assert psnr_gain(halved) == pytest.approx(20 * math.log10(2), abs=1e-4)


def test_how_many_rows_validate() -> None:
    """A share, rounded down, of which the least counts more; none where too few are left, or no valid pixel."""
    assert [held_rows(30, share, least=4, kept=8) for share in (0.25, 0.01, 0.8, 0.0)] == [7, 4, 0, 0]
    assert [held_rows(rows, 0.1, least=4, kept=8) for rows in (11, 12)] == [0, 4]
    image, valid = torch.rand(2, 60, 5), torch.ones(60, 5, dtype=torch.bool)
    scene = Scene(image, valid)
    first, last = hold_out(scene, 2, 0.25, kept=8)
    assert last is not None and torch.equal(torch.cat((first.image, last.image), 1), image)
    assert (first.valid.shape, last.valid.shape) == ((46, 5), (14, 5))
    assert hold_out(scene, 2, 0.25, kept=24) == (scene, None)
    valid[46:] = False
    first, last = hold_out(scene, 2, 0.25, kept=8)
    assert first.image.shape[1] == 46 and last is None
    assert hold_out(Scene(image, ~valid), 2, 0.25, kept=8)[1] is None  # only the last rows hold any: to learn from


def test_the_gain_of_extreme_values() -> None:
    """A sample of 1e30 has no square in float32; values that are not finite are no restoration."""
    sharp, valid = torch.zeros(2, 4, 4), torch.ones(4, 4, dtype=torch.bool)
    assert psnr_gain(Restored(sharp, valid, sharp + 1e30, sharp + 1e29)) == pytest.approx(20, abs=1e-4)
    for value in (math.nan, math.inf):
        ours = sharp + 0.1
        ours[0, 1, 2] = value
        assert not psnr_gain(Restored(sharp, valid, sharp + 1, ours)) > -math.inf


def test_a_constant_band_has_no_gain() -> None:
    """Bicubic restores it but for rounding, beside which anything a network adds is a hundred decibels."""
    sharp, valid = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(8, 8, dtype=torch.bool)
    sharp[1] = 0.137
    bicubic, ours = sharp + torch.tensor([0.1, 1e-8])[:, None, None], sharp + torch.tensor([0.05, 1e-3])[:, None, None]
    assert 0 < float((bicubic - sharp)[1].abs().max()) < 1e-6
    assert psnr_gain(Restored(sharp, valid, bicubic, ours)) == pytest.approx(20 * math.log10(2), abs=1e-4)
    constant = sharp[1:]
    assert psnr_gain(Restored(constant, valid, constant + 1e-8, constant + 1e-3)) == 0
    ours[1, 2, 3] = math.nan
    assert math.isnan(psnr_gain(Restored(sharp, valid, bicubic, ours)))
    exact = torch.stack([sharp[0] + 0.05, sharp[0]])  # the second band is restored without any error
    twice = sharp[:1].expand(2, 8, 8)
    assert psnr_gain(Restored(twice, valid, twice + 0.1, exact)) == pytest.approx(20 * math.log10(2), abs=1e-4)
    exact[:, ::2] = sharp[0, ::2] + 0.1  # half of the pixels as bicubic has them
    exact[:, 1::2] = sharp[0, 1::2]
    assert psnr_gain(Restored(twice, valid, twice + 0.1, exact)) == pytest.approx(10 * math.log10(2), abs=1e-4)


def test_where_a_model_is_measured_is_said() -> None:
    assert split_text(0.2, 4, 1, 3) == "last 20% of the rows, at least 4 coarse ones, of 1 of 3 scenes"
    assert split_text(0.2, 4, 0, 3) == "training pixels (none could be held out)"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training(bad: float) -> None:
    module = Parabola()
    losses = iter((1.0, 1.0, bad))
    with pytest.raises(InputError, match=r"step 3: the loss is -?(nan|inf); look for samples far beyond"):
        train_loop(module, lambda position: module.x.sum() * next(losses), Schedule(0.0, 1.0, lr=0.1), Budget(None, 9))
    assert module.x.isfinite().all()


def test_a_step_forgets_the_gradient_of_the_one_before() -> None:
    module, seen = Parabola(), []
    module.x.register_hook(lambda grad: seen.append(float(module.x.grad.sum()) if module.x.grad is not None else 0.0))
    train_loop(module, lambda position: module.x.sum(), Schedule(0.0, 1.0, lr=0.1), Budget(None, 3))
    assert seen == [0.0, 0.0, 0.0]


def test_weights_that_are_not_finite_are_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No loss is computed with the last step's; without a score they were kept."""
    module = Parabola()
    rates = iter((1.0, 1.0, math.nan))
    monkeypatch.setattr("lkca.training.loop.rate_factor", lambda *_: next(rates))
    train_loop(module, lambda position: module.x.sum(), Schedule(0.0, 1.0, lr=0.1), Budget(None, 3))
    assert module.x.isfinite().all()


def test_budget() -> None:
    with pytest.raises(ValueError, match="has no end"):
        Budget(None, None)
    for seconds in (0, 0.0, math.inf):  # of which no share would ever be spent
        with pytest.raises(ValueError, match="has no end"):
            Budget(seconds, None)
        by_steps = Budget(seconds, 4)
        by_steps.taken = 1
        assert by_steps.fraction == 0.25
    for seconds in (-1.0, math.nan):
        with pytest.raises(ValueError, match="expected a time of 0 or more"):
            Budget(seconds, 4)
    for steps in (0, -1):
        with pytest.raises(ValueError, match="steps: expected at least 1, got"):
            Budget(None, steps)
    assert Budget(1e-9, None).fraction == 1
    budget = Budget(1000.0, 4)
    budget.taken = 2
    assert budget.fraction == 0.5
    assert [Progress("train", 1, 10.0, fraction).total for fraction in (0.0, 0.25)] == [None, 40]
