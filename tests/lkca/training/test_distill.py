from __future__ import annotations

import copy
import dataclasses
import importlib
import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lkca.lowrank import factorize
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.edsr import EDSR
from lkca.nn import LowRankUpsample, PixelShuffleUpsample
from lkca.training.distill import DistillRecipe, distill
from lkca.training.distillation import Distiller, Point, self_ensemble, teacher_weight
from lkca.training.fit import fit
from lkca.training.loop import LoopResult, Schedule, train_loop
from lkca.training.patches import dihedral, undo_dihedral
from lkca.training.progress import Budget

F_N = Point("upsample", where="input")
RANK = Point("upsample.conv", "upsample.reduce")
l2 = nn.functional.mse_loss


def network(seed: int = 0) -> LKCANet:
    torch.manual_seed(seed)
    net = LKCANet(LKCANetConfig(bands=3, scale=2, width=8, blocks=1, window=3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * 0.2)
    return net


def pair() -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    return torch.rand(2, 3, 5, 6), torch.rand(2, 3, 10, 12)


@pytest.mark.parametrize("decay", ("cosine", "linear", "exponential"))
def test_teacher_weight_decays(decay: str) -> None:
    values = [teacher_weight(t, 0.9, 0.2, decay) for t in (-1, 0, 0.25, 0.5, 1, 2)]  # type: ignore[arg-type]
    assert values[0] == values[1] == pytest.approx(0.9) and values[-1] == pytest.approx(0.2) == values[-2]
    assert values == sorted(values, reverse=True) and values[1] > values[2] > values[3] > values[4]


def test_teacher_weight_shapes() -> None:
    assert teacher_weight(0.5) == pytest.approx(0.5) and teacher_weight(0.25) > 0.8
    assert teacher_weight(0.25, decay="linear") == pytest.approx(0.75)
    assert teacher_weight(0.25, decay="exponential") < 0.3
    assert teacher_weight(0.9, 0.4, decay="constant") == 0.4
    with pytest.raises(ValueError, match="cosine, linear"):
        teacher_weight(0.5, decay="step")  # type: ignore[arg-type]


def test_self_ensemble_treats_all_orientations_alike() -> None:
    net, (x, _) = network(), pair()
    once = self_ensemble(net, x)
    assert not once.requires_grad
    assert (once - net(x)).abs().max() > 1e-3
    for e in range(8):
        torch.testing.assert_close(undo_dihedral(self_ensemble(net, dihedral(x, e)), e), once)


def test_loss_weighs_truth_teacher_and_features() -> None:
    teacher, student, (x, y) = network(0), network(1), pair()
    whole = Distiller(teacher, student, x, [F_N])

    def loss(weight: float, alignment: float = 0.0, orientations: tuple[int, ...] = (0,)) -> Tensor:
        return whole.loss(x, y, l2, weight=weight, alignment=alignment, orientations=orientations)

    truth, word = l2(student(x), y), l2(student(x), teacher(x))
    with teacher.register_forward_pre_hook(lambda *_: pytest.fail("the teacher runs in vain")):
        torch.testing.assert_close(loss(0.0, 1.0), truth)
    torch.testing.assert_close(loss(1.0), word)
    torch.testing.assert_close(loss(0.25), 0.75 * truth + 0.25 * word)
    f, g = student.features(x), teacher.features(x)
    torch.testing.assert_close(
        loss(0.5, 0.3) - loss(0.5), 0.5 * 0.3 * (f - g).square().sum() / g.square().sum(), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        loss(0.5, 0.3, (3, 6)) - loss(0.5, 0.0, (3, 6)), loss(0.5, 0.3) - loss(0.5), atol=1e-5, rtol=1e-4
    )
    dim = [whole.loss(1e-2 * x, y, l2, weight=0.5, alignment=alignment) for alignment in (300.0, 0.0)]
    torch.testing.assert_close(dim[0] - dim[1], 1e3 * (loss(0.5, 0.3) - loss(0.5)), atol=0, rtol=1e-3)  # a share
    torch.testing.assert_close(loss(1.0, 0.0, (3, 0, 6)), l2(student(x), self_ensemble(teacher, x, (0, 3, 6))))
    torch.testing.assert_close(loss(1.0, 0.0, (3, 6)), l2(student(x), self_ensemble(teacher, x, (3, 6))))


def test_a_residual_branch_can_be_taught_alone() -> None:
    teacher, student, (x, y) = network(0), network(1), pair()
    whole = Distiller(teacher, student, x, [F_N], apply=lambda net, x: net.residual(x))  # type: ignore[operator]
    torch.testing.assert_close(
        whole.loss(x, y, l2, weight=0.5, alignment=0.0),
        0.5 * l2(student.residual(x), y) + 0.5 * l2(student.residual(x), teacher.residual(x)),
    )


def test_factors_map_rank_features_to_the_full_rank_layer() -> None:
    teacher, (x, y) = network(), pair()
    full, low = factorize(teacher, rank=12), factorize(teacher, rank=2)
    layer = teacher.upsample
    assert isinstance(layer, PixelShuffleUpsample) and isinstance(low.upsample, LowRankUpsample)
    taught = layer.conv(teacher.features(x))

    def alignment(student: nn.Module) -> float:
        whole = Distiller(teacher, student, x, [RANK])
        assert not whole.projectors
        with torch.no_grad():
            whole_loss, of_outputs = (whole.loss(x, y, l2, weight=1.0, alignment=a) for a in (1.0, 0.0))
        return float(whole_loss - of_outputs)

    assert alignment(full) == pytest.approx(0, abs=1e-6)
    biased = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    whole = Distiller(biased, factorize(biased, rank=12), x, [Point("0", "0.reduce")])
    assert float(whole.loss(x, biased(x), l2, weight=1.0, alignment=1.0).detach()) == pytest.approx(0, abs=1e-6)
    own = torch.einsum("or,brhw->bohw", low.upsample.weight, low.upsample.reduce(low.features(x)))
    assert alignment(low) == pytest.approx(
        float(((own - taught).square().sum() / taught.square().sum()).detach()), rel=1e-4
    )


def test_projector_between_different_networks_is_trained_and_dropped() -> None:
    teacher, student, (x, y) = EDSR(3, 2, width=6, blocks=1), network(), pair()
    point = Point("body", "body.0")
    whole = Distiller(teacher, student, x, [point])
    assert [p.shape for p in whole.projectors.parameters()] == [(6, 8, 1, 1), (6,)]
    trained = {*student.parameters(), *whole.projectors.parameters()}
    assert {*whole.parameters()} == trained  # the teacher's are not among them
    whole.loss(x, y, l2, weight=1.0, alignment=1.0).backward()
    assert all(p.grad is not None for p in whole.projectors.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any("projector" in name for name, _ in student.named_parameters())
    names = set(student.state_dict())
    distill(teacher, student, lambda: (x, y, None), budget=Budget(None, 2), recipe=DistillRecipe(points=(point,)))
    assert set(student.state_dict()) == names and not any(m._forward_hooks for m in student.modules())
    x, y = x.double(), y.double()  # the projector is where and what the features are
    Distiller(teacher.double(), student.double(), x, [point]).loss(x, y, l2, weight=1.0)


def test_points_that_do_not_fit_are_named() -> None:
    teacher, student, (x, _) = network(), factorize(network(), rank=2), pair()
    with pytest.raises(ValueError, match="teacher: has no module 'nothing'"):
        Distiller(teacher, student, x, [Point("nothing")])
    with pytest.raises(ValueError, match="8 and 12 channels need a mapping"):
        Distiller(teacher, student, x, [Point("upsample.conv", "body", mapping="identity")])
    with pytest.raises(ValueError, match="no factors map 8 to 12"):
        Distiller(teacher, student, x, [Point("upsample.conv", "body", mapping="factors")])
    with pytest.raises(ValueError, match="different grids"):
        Distiller(teacher, student, x, [Point("upsample", "body")])
    with pytest.raises(ValueError, match="one shape"):
        Distiller(teacher, nn.Identity(), x)


class Attending(nn.Module):
    """Attention over pixels; its module takes keywords alone and gives two results."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 12, 1)
        self.attention = nn.MultiheadAttention(12, 1, batch_first=True)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.head(x).flatten(2).mT
        mixed: Tensor = self.attention(query=tokens, key=tokens, value=tokens)[0]
        return self.shuffle(mixed.mT.unflatten(2, x.shape[2:]))  # type: ignore[no-any-return]


def test_points_without_one_tensor_are_named() -> None:
    teacher, student, (x, _) = Attending(), Attending(), pair()
    with pytest.raises(ValueError, match=r"teacher: the output of 'attention' is a tuple, expected one tensor"):
        Distiller(teacher, student, x, [Point("attention")])
    with pytest.raises(ValueError, match=r"teacher: 'attention' is called without positional arguments; .*output"):
        Distiller(teacher, student, x, [Point("attention", where="input")])
    assert not any(m._forward_hooks for m in (*teacher.modules(), *student.modules()))


def test_distil_brings_the_student_near_its_teacher() -> None:
    torch.manual_seed(0)
    teacher = network()
    student = factorize(teacher, rank=4)
    before = copy.deepcopy(student)
    kept = copy.deepcopy(teacher.state_dict())
    teacher.train()

    def draw() -> tuple[Tensor, Tensor, None]:
        assert not teacher.training  # while it teaches
        x = torch.rand(4, 3, 6, 6)
        return x, torch.zeros(4, 3, 12, 12), None  # a truth that is wrong: only the teacher knows better

    recipe = DistillRecipe(points=(F_N, RANK), decay="constant", lr=1e-2, ema=0.9)
    done = distill(teacher, student, draw, budget=Budget(None, 60), recipe=recipe, criterion=l2)
    assert done.steps == 60 and teacher.training
    teacher.eval()
    assert all(torch.equal(kept[k], v) for k, v in teacher.state_dict().items())
    x, _, _ = draw()
    with torch.no_grad():
        assert l2(student(x), teacher(x)) < 0.7 * l2(before(x), teacher(x))


def test_warmup_moves_the_factors_alone() -> None:
    teacher, (x, y) = network(), pair()
    student = factorize(teacher, rank=2)
    before = copy.deepcopy(student.state_dict())
    recipe = DistillRecipe(warmup_share=1.0)
    distill(teacher, student, lambda: (x, y, None), budget=Budget(None, 3), recipe=recipe)
    moved = {k for k, v in student.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"upsample.weight", "upsample.reduce.weight"}
    assert all(p.requires_grad for p in student.parameters())
    with pytest.raises(ValueError, match="no low-rank layer"):
        distill(teacher, network(), lambda: (x, y, None), budget=Budget(None, 3), recipe=recipe)


def test_an_interrupt_in_the_warmup_ends_it() -> None:
    teacher, batch = network(), (*pair(), None)
    calls = iter(range(20))

    def draw() -> tuple[Tensor, Tensor, None]:
        if next(calls) == 2:  # after the example and the first step's
            raise KeyboardInterrupt
        return batch

    done = distill(
        teacher, factorize(teacher, rank=2), draw, budget=Budget(None, 9), recipe=DistillRecipe(warmup_share=0.5)
    )
    assert done.interrupted and done.steps == 1


def test_a_budget_that_never_ends_is_refused() -> None:
    cube = torch.rand(4, 64, 64)
    with pytest.raises(ValueError, match="has no end"):
        fit([cube], 2, minutes=0.0)
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        fit([cube], 2, minutes=None, max_steps=0)


def test_a_student_that_shares_weights_with_its_teacher_is_refused() -> None:
    """The teacher would learn along, its weights being the student's."""
    teacher, (x, y) = network(), pair()
    student = factorize(teacher, rank=2)
    name, part = next((name, part) for name, part in student.named_children() if list(part.parameters()))
    setattr(student, name, getattr(teacher, name))
    shared = next(n for n, _ in student.named_parameters() if n.startswith(f"{name}."))
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    for one in (student, teacher):
        with pytest.raises(ValueError, match=r"student: shares .* with the teacher.* copy"):
            distill(teacher, one, lambda: (x, y, None), budget=Budget(None, 2))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    setattr(student, name, part)
    distill(teacher, student, lambda: (x, y, None), budget=Budget(None, 2))
    getattr(teacher, name).requires_grad_(False)
    setattr(student, name, getattr(teacher, name))  # frozen in both
    distill(teacher, student, lambda: (x, y, None), budget=Budget(None, 2))
    assert torch.equal(dict(student.named_parameters())[shared], before[shared])


def test_what_cannot_be_trained_with_is_named() -> None:
    teacher, (x, y) = network(), pair()
    b, _, h, w = y.shape
    for batch, says in (
        ((x, y), r"draw\(\): expected \(degraded, sharp, valid or None\), got 2 values"),
        ((x, y, torch.ones(b, h, w, dtype=torch.bool)), r"draw\(\): valid is .*, expected \(B, 1, H, W\)"),
        ((x, y, torch.ones(b, 1, h, w)), r"draw\(\): valid is torch.float32, expected bool"),
    ):
        with pytest.raises(ValueError, match=says):
            distill(teacher, factorize(teacher, rank=2), lambda batch=batch: batch, budget=Budget(None, 2))
    with pytest.raises(ValueError, match="evaluations: expected an integer of at least 1, at most 1000, got 0"):
        DistillRecipe(evaluations=0)


def test_a_frozen_student_is_refused() -> None:
    teacher, (x, y) = network().requires_grad_(False), pair()  # as load_model gives it
    student = factorize(teacher, rank=2)
    with pytest.raises(ValueError, match=r"student: no parameter .* requires_grad_\(True\)"):
        distill(teacher, student, lambda: (x, y, None), budget=Budget(None, 2))
    distill(teacher, student.requires_grad_(True), lambda: (x, y, None), budget=Budget(None, 2))


def test_every_knob_of_the_recipe_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's weight falls over both phases, which share what is left of the budget."""
    teacher, (x, y) = network(), pair()
    recipe = DistillRecipe(
        start=0.9, end=0.1, decay="linear", alignment=0.3, orientations=3, warmup_share=0.5, warmup_lr=2e-3, lr=3e-3,
        weight_decay=0.2, ema=0.5, evaluations=2, points=(F_N,),
    )  # fmt: skip
    module, loss = importlib.import_module("lkca.training.distill"), Distiller.loss
    schedules: list[Schedule] = []
    seen: list[dict[str, Any]] = []

    def scheduled(whole: Distiller, loss_of: Any, schedule: Schedule, *others: Any, **options: Any) -> LoopResult:
        assert whole.points == (F_N,)
        schedules.append(schedule)
        return train_loop(whole, loss_of, schedule, *others, **options)

    def weighed(self: Distiller, *batch: Any, **options: Any) -> Tensor:
        seen.append(options)
        return loss(self, *batch, **options)

    monkeypatch.setattr(module, "train_loop", scheduled)
    monkeypatch.setattr(Distiller, "loss", weighed)
    turned = []
    for _ in range(2):
        schedules.clear(), seen.clear()
        budget, generator = Budget(None, 8), torch.Generator().manual_seed(1)
        budget.taken = 4
        student = factorize(teacher, rank=2)
        done = distill(teacher, student, lambda: (x, y, None), budget=budget, recipe=recipe, generator=generator)
        turned.append([options["orientations"] for options in seen])
    first = Schedule(0.5, 0.75, 2e-3, 0.2, ema=0.5, evaluations=2)
    assert schedules == [first, dataclasses.replace(first, start=0.75, end=1.0, lr=3e-3)] and done.steps == 4
    assert [options["weight"] for options in seen] == pytest.approx([0.9, 0.7, 0.5, 0.3])
    assert {options["alignment"] for options in seen} == {0.3}
    assert turned[0] == turned[1] and {len(set(of_step)) for of_step in turned[0]} == {3}


def test_pixels_that_do_not_count_teach_nothing() -> None:
    teacher, (x, y) = network(), pair()
    valid = torch.zeros(2, 1, 10, 12, dtype=torch.bool)
    valid[..., :6] = True
    spoilt = torch.where(valid, y, 1e6)
    results = []
    for target in (y, spoilt):
        student = factorize(teacher, rank=2)
        recipe = DistillRecipe(start=0.0)
        batch = (x, target, valid)
        distill(teacher, student, partial(tuple, batch), budget=Budget(None, 3), recipe=recipe, criterion=l2)
        results.append(student.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def test_the_default_device_plays_no_part() -> None:
    teacher, batch = network(), (*pair(), None)
    student = factorize(teacher, rank=2)
    recipe, generator = DistillRecipe(orientations=2), torch.Generator().manual_seed(0)
    with torch.device("meta"):
        done = distill(
            teacher, student, lambda: batch, budget=Budget(None, 2), recipe=recipe, criterion=l2, generator=generator
        )
    assert done.steps == 2 and done.loss > 0


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"start": 1.5}, "start: expected a number of at least 0, at most 1, got 1.5"),
        ({"orientations": 9}, "orientations: expected an integer of at least 1, at most 8, got 9"),
        ({"warmup_share": -0.1}, "warmup_share: expected"),
        ({"ema": 1.0}, "ema: expected a number of at least 0, below 1, got 1.0"),
        ({"ema": -1.0}, "ema: expected"),  # an average that runs away
        ({"alignment": -0.1}, "alignment: expected a number of at least 0, got -0.1"),  # away from the teacher
        ({"alignment": float("inf")}, "alignment: expected"),
        ({"lr": "1e-3"}, "lr: expected a number above 0, at most 1, got '1e-3'"),
        ({"evaluations": 2.0}, "evaluations: expected an integer"),
        ({"evaluations": True}, "evaluations: expected an integer"),
        ({"decay": "cos"}, "decay: expected one of cosine, linear, exponential, constant, got 'cos'"),
        ({"points": ("body",)}, "points: expected a sequence of Point"),
        ({"points": Point("body")}, "points: expected a sequence of Point"),
    ],
)
def test_recipe_bounds(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        DistillRecipe(**knobs)


def test_a_point_that_is_none_is_refused() -> None:
    """where="in" compared outputs."""
    with pytest.raises(ValueError, match="where: expected one of input, output, got 'in'"):
        Point("body", where="in")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mapping: expected one of auto, identity, factors, projector, got 'factor'"):
        Point("body", mapping="factor")  # type: ignore[arg-type]
