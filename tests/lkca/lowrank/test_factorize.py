from __future__ import annotations

import pytest
import torch
from torch import nn

from lkca.lowrank import (
    LowRankError,
    analyze,
    break_even_rank,
    energy_curve,
    factorize,
    factorize_reported,
    rank_for_energy,
    singular_values,
    spectrum,
    stable_rank,
)
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.lkcanet import lift


def trained(**changes: object) -> LKCANet:
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(**{"bands": 4, "scale": 2, "width": 6, "blocks": 1, "window": 3, **changes}))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return net.double()


@pytest.mark.parametrize("shared", [False, True])
def test_full_rank_is_exact_and_truncation_is_the_best_of_its_rank(shared: bool) -> None:
    net = trained(shared=shared)
    x = torch.rand(1, net.config.bands, 5, 4).double()
    exact = factorize(net, energy=1.0)
    torch.testing.assert_close(exact(x), net(x))

    groups = net.config.groups
    result = factorize_reported(net, rank=2 * groups)
    low = result.model
    assert low.upsample.rank == 2 * groups and torch.equal(low.features(x), net.features(x))
    lost = (low.upsample.merged_weight() - exact.upsample.merged_weight()).square().sum()
    values = spectrum(net.upsample).singular_values
    torch.testing.assert_close(lost, groups * values[2:].square().sum())  # Eckart-Young, each group
    assert result.layers[0].energy == pytest.approx(float(energy_curve(values)[1]))


def test_a_budget_of_a_kernel_of_groups() -> None:
    """Each of its 4 groups has a component more, 54 + 64 weights, or none has."""
    net = trained(shared=True)
    ranks = [factorize_reported(net, budget=budget).layers[0].rank for budget in (235, 236, 10_000)]
    assert ranks == [4, 8, 16]


def test_a_lifted_network_is_factorised_too() -> None:
    net = lift(trained(), torch.rand(6).double(), torch.randn(4, 6).double(), torch.randn(6, 4).double())
    x = torch.rand(1, 6, 5, 4).double()
    torch.testing.assert_close(factorize(net, rank=4 * 2**2)(x), net(x))  # the synthesis bounds the rank


def test_energy_chooses_the_smallest_rank() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])
    torch.testing.assert_close(energy_curve(values), torch.tensor([9.0, 13.0, 14.0, 14.0]).double() / 14)
    assert [rank_for_energy(values, e) for e in (0.5, 9 / 14, 0.9, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_for_energy(torch.tensor([3.0, 1.0, 1.0]).double().sqrt(), 0.6) == 1  # in binary just less
    assert rank_for_energy(torch.zeros(3), 0.9) == 1 and energy_curve(torch.zeros(3)).tolist() == [1, 1, 1]
    for call in (energy_curve, stable_rank, lambda none: rank_for_energy(none, 0.9)):
        for values in (torch.empty(0), torch.ones(2, 2)):
            with pytest.raises(ValueError, match="values: expected singular values"):
                call(values)
    with pytest.raises(ValueError, match="energy"):
        rank_for_energy(torch.ones(3), 0.0)


def test_the_rank_that_pays() -> None:
    for rows, columns in ((12, 9), (5, 1), (64, 576), (4, 4), (2, 3)):
        rank = break_even_rank(rows, columns)
        assert rank * (rows + columns) < rows * columns <= (rank + 1) * (rows + columns)
    for rows, columns in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="rows, columns: expected at least 1"):
            break_even_rank(rows, columns)


def test_refusals() -> None:
    net = trained(shared=True)
    with pytest.raises(ValueError, match="either"):
        factorize(net)
    with pytest.raises(ValueError, match="multiple of the 4 groups"):
        factorize(net, rank=5)
    with pytest.raises(ValueError, match="already"):
        factorize(factorize(net, rank=4), rank=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_kernel_that_is_not_finite_is_told(value: float) -> None:
    """As after a training that diverged; LAPACK's failure named no layer."""
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    net[0].weight.data[0, 0, 0, 0] = value
    for call in (lambda: analyze(net), lambda: factorize(net, rank=2)):
        with pytest.raises(LowRankError, match="layer '0': its weight holds values that are not finite"):
            call()
    for call in (lambda: spectrum(net[0]), lambda: singular_values(net[0].weight.detach().flatten(1))):
        with pytest.raises(ValueError, match="values that are not finite"):
            call()
