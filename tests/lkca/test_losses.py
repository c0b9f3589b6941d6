"""Losses: hand-computed values, gradients by finite differences, and finite ones at every kink."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lkca.losses import SpectralGradientLoss, WeightedLoss, charbonnier_loss, gradient_loss, l1_loss, l2_loss, sam_loss
from lkca.metrics import evaluate

LOSSES = {
    "l1": l1_loss,
    "l2": l2_loss,
    "charbonnier": charbonnier_loss,
    "sam": sam_loss,
    "gradient": gradient_loss,
    "sum": SpectralGradientLoss(0.5, 0.1),
}

CASES = ("equal", "proportional", "zeros", "zero prediction", "zero target", "opposite", "tiny")


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixel(*spectrum: float) -> Tensor:
    return torch.tensor(spectrum, dtype=torch.float64).view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ((1, 0), (0, 2), 0.5),
        ((1, 1), (3, 3), 0.0),
        ((1, 0), (1, 1), 0.25),
        ((1, 0), (-1, 0), 1.0),
        ((1, 1e-7), (1, 0), 1e-7 / math.pi),  # acos of a cosine would say 0
        ((0, 0), (1, 1), 0.0),
        ((1, 1), (0, 0), 0.0),
        ((2e-4, 0), (0, 2e-4), 0.5),
        ((5e-5, 0), (0, 5e-5), 0.0),  # dark
    ],
)
def test_sam_of_known_angles(x: tuple, y: tuple, expected: float) -> None:
    assert float(sam_loss(pixel(*x), pixel(*y))) == pytest.approx(
        expected, rel=1e-6, abs=1e-3 if expected == 1 else 1e-15
    )


def test_sam_is_the_metric_in_other_units() -> None:
    x, y = rand(1, 5, 9, 8) + 0.1, rand(1, 5, 9, 8, seed=1) + 0.1
    assert float(sam_loss(x, y)) * 180 == pytest.approx(evaluate(y[0], x[0], scale=2).sam, abs=1e-9)


def test_squared_error_in_units_of_each_band() -> None:
    x, y = pixel(2, 4, 6), pixel(1, 2, 3)
    assert float(l2_loss(x, y)) == pytest.approx(14 / 3)
    unit = torch.tensor([1.0, 4.0, 2.0])
    assert float(l2_loss(x, y, unit=unit)) == pytest.approx((1 + 1 / 4 + 9 / 4) / 3)
    assert float(WeightedLoss({"l2": 2.0, "l1": 1.0}, unit)(x, y)) == pytest.approx(7 / 3 + 2)
    with pytest.raises(ValueError, match="one per band"):
        l2_loss(x, y, unit=unit[:2])


def test_gradient_magnitude_by_hand() -> None:
    x = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    x[0, 1, 0, 0], x[0, 0, 1, 0], x[0, 0, 0, 1] = 3.0, 4.0, 12.0
    assert float(gradient_loss(x, torch.zeros_like(x))) == pytest.approx(math.sqrt(169 + 1e-6) - 1e-3)


def test_gradient_does_not_see_an_offset_nor_a_mirror_image_of_the_values() -> None:
    x = rand(2, 4, 6, 5)
    assert float(gradient_loss(x + 0.7, x)) < 1e-12
    assert float(gradient_loss(-x, x)) < 1e-12


def test_l1_and_charbonnier_by_hand() -> None:
    x, y = pixel(1.0, 2.0), pixel(1.5, 1.0)
    assert float(l1_loss(x, y)) == pytest.approx(0.75)
    assert float(charbonnier_loss(x, y, eps=0.5)) == pytest.approx((math.sqrt(0.5) + math.sqrt(1.25)) / 2)
    assert float(charbonnier_loss(x, x)) == pytest.approx(1e-3)


def test_the_sum_is_the_weighted_sum_of_its_terms() -> None:
    x, y = rand(2, 4, 6, 5), rand(2, 4, 6, 5, seed=1)
    loss = SpectralGradientLoss(0.5, 0.1)
    expected = l1_loss(x, y) + 0.5 * sam_loss(x, y) + 0.1 * gradient_loss(x, y)
    torch.testing.assert_close(loss(x, y), expected)
    assert set(loss.terms(x, y)) == {"l1", "sam", "gradient"}
    assert set(SpectralGradientLoss(0, 0).terms(x, y)) == {"l1"}
    assert SpectralGradientLoss().weights == {"l1": 1, "sam": 0.3, "gradient": 0.1}
    named = WeightedLoss({"charbonnier": 2.0, "sam": 0.0, "gradient": 0.5})
    torch.testing.assert_close(named(x, y), 2 * charbonnier_loss(x, y) + 0.5 * gradient_loss(x, y))


@pytest.mark.parametrize("name", LOSSES)
def test_the_size_of_a_batch_or_patch_plays_no_part(name: str) -> None:
    x, y = rand(2, 4, 6, 5), rand(2, 4, 6, 5, seed=1)
    loss = LOSSES[name](x, y)
    torch.testing.assert_close(LOSSES[name](x.repeat(3, 1, 1, 1), y.repeat(3, 1, 1, 1)), loss)
    if name in ("l1", "l2", "charbonnier", "sam"):  # the others see neighbours, of which the copies have others
        torch.testing.assert_close(LOSSES[name](x.repeat(1, 1, 2, 3), y.repeat(1, 1, 2, 3)), loss)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_away_from_kinks(name: str) -> None:
    x, y = rand(2, 3, 4, 3) + 0.2, rand(2, 3, 4, 3, seed=1) + 0.2
    assert torch.autograd.gradcheck(lambda t: LOSSES[name](t, y), (x.requires_grad_(),))


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives(name: str) -> None:
    """By both arguments; of a sum a term without one would be missed silently."""
    x, y = rand(2, 3, 4, 3) + 0.2, rand(2, 3, 4, 3, seed=1) + 0.2
    assert torch.autograd.gradgradcheck(LOSSES[name], (x.requires_grad_(), y.requires_grad_()))
    first, again = (torch.autograd.grad(LOSSES[name](x, y * x), x, create_graph=graph)[0] for graph in (False, True))
    torch.testing.assert_close(first, again)  # where one is made of the other


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["other", "equal", "zeros", "opposite", "proportional"])
def test_torch_func_and_batched_gradients(name: str, case: str) -> None:
    y = rand(2, 3, 4, 3)
    x = {
        "other": rand(2, 3, 4, 3, seed=1),
        "equal": y.clone(),
        "zeros": torch.zeros_like(y),
        "opposite": -y,
        "proportional": 0.5 * y,
    }[case]
    loss = LOSSES[name]
    leaf = x.clone().requires_grad_()
    value = loss(leaf, y)
    (expected,) = torch.autograd.grad(value, leaf, create_graph=True)
    (once,) = torch.autograd.grad(loss(leaf, y), leaf)
    same = {"atol": 1e-7, "rtol": 1e-6}
    torch.testing.assert_close(expected, once, **same)
    torch.testing.assert_close(torch.func.grad(loss)(x, y), once, **same)
    found, tangent = torch.func.jvp(lambda t: loss(t, y), (x,), (y,))
    torch.testing.assert_close(found, value.detach(), **same)
    torch.testing.assert_close(tangent, (once * y).sum(), **same)
    each = torch.func.vmap(lambda a, b: loss(a[None], b[None]))(x, y)
    torch.testing.assert_close(each, torch.stack([loss(a[None], b[None]) for a, b in zip(x, y, strict=True)]), **same)
    (batched,) = torch.autograd.grad(loss(leaf, y), leaf, torch.tensor([1.0, 2.0]).double(), is_grads_batched=True)
    torch.testing.assert_close(batched, torch.stack([once, 2 * once]), **same)
    again = loss(leaf, y)
    mapped = torch.func.vmap(lambda grad: torch.autograd.grad(again, leaf, grad, retain_graph=True)[0])
    torch.testing.assert_close(mapped(torch.tensor([1.0, 2.0]).double()), torch.stack([once, 2 * once]), **same)


@pytest.mark.parametrize("name", ["sam", "gradient"])
def test_torch_func_within_a_compiled_function(name: str) -> None:
    loss: Any = LOSSES[name]
    x, y = rand(2, 3, 4, 3), rand(2, 3, 4, 3, seed=1)

    def transformed(x: Tensor, y: Tensor) -> tuple[Any, ...]:
        slope = torch.func.grad(loss)
        each = torch.func.vmap(lambda a, b: loss(a[None], b[None]))
        return slope(x, y), each(x, y), *torch.func.jvp(lambda t: slope(t, y), (x,), (y,))

    compiled = torch.compile(transformed, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), transformed(x, y))


@pytest.mark.parametrize("name", ["sam", "gradient"])
def test_what_is_no_number_is_told_everywhere(name: str) -> None:
    x, y = rand(2, 3, 4, 3), rand(2, 3, 4, 3, seed=1)
    x[0, 1, 2, 1] = math.nan
    each = torch.func.vmap(lambda a, b: LOSSES[name](a[None], b[None]))(x, y)
    assert LOSSES[name](x, y).isnan() and each.isnan().tolist() == [True, False]


def test_both_arguments_get_a_gradient() -> None:
    x, y = rand(2, 3, 4, 3) + 0.2, rand(2, 3, 4, 3, seed=1) + 0.2
    for name in ("sam", "gradient"):
        both = (x.clone().requires_grad_(), y.clone().requires_grad_())
        assert torch.autograd.gradcheck(LOSSES[name], both)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_finite_and_bounded(name: str, dtype: torch.dtype, case: str) -> None:
    y = rand(1, 4, 3, 3).to(dtype)
    x = {
        "equal": y.clone(),
        "proportional": 0.5 * y,
        "zeros": torch.zeros_like(y),
        "zero prediction": torch.zeros_like(y),
        "zero target": y.clone(),
        "opposite": -y,
        "tiny": torch.full_like(y, 1e-7),
    }[case]
    if case in ("zeros", "zero target"):
        y = torch.zeros_like(y)
    x = x.requires_grad_()
    loss = LOSSES[name](x, y)
    loss.backward()
    assert loss.isfinite() and loss >= 0 and x.grad is not None
    # one of 9 pixels, norm at least 1e-4 and so a slope of at most 1/1e-4; far less wherever the pixel is not dark
    assert x.grad.isfinite().all() and x.grad.abs().max() < 1e3


def test_equal_spectra_have_no_gradient_and_descent_turns_a_spectrum() -> None:
    x, y = rand(1, 4, 3, 3), rand(1, 4, 3, 3, seed=1)
    same = x.clone().requires_grad_()
    sam_loss(same, x).backward()
    assert same.grad is not None and same.grad.abs().max() < 1e-6
    moving = x.clone().requires_grad_()
    before = sam_loss(moving, y)
    before.backward()
    assert moving.grad is not None
    assert sam_loss(moving.detach() - 0.1 * moving.grad, y) < before


@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_is_computed_in_float32(name: str) -> None:
    x, y = rand(1, 4, 8, 8).bfloat16(), rand(1, 4, 8, 8, seed=1).bfloat16()
    loss = LOSSES[name](x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), LOSSES[name](x.double(), y.double()), rtol=1e-5, atol=0)


def test_bad_arguments_are_told() -> None:
    for x, y in ((rand(1, 2, 3, 3), rand(1, 2, 3, 4)), (rand(2, 3, 3), rand(2, 3, 3))):
        with pytest.raises(ValueError, match=r"must both be \(B, C, H, W\)"):
            l1_loss(x, y)
    with pytest.raises(ValueError, match="at least 2 bands"):
        gradient_loss(rand(1, 1, 3, 3), rand(1, 1, 3, 3))
    with pytest.raises(ValueError, match="gradient_weight must be"):
        SpectralGradientLoss(0.3, -0.1)
    for weights, words in (({"l3": 1.0}, "'l3' is unknown"), ({"l1": 0.0}, "no term"), ({"l1": math.inf}, "l1_weight")):
        with pytest.raises(ValueError, match=words):
            WeightedLoss(weights)
