from __future__ import annotations

import pytest
import torch

from lkca.lowrank import energy_curve, factorize, rank_for_energy, spectrum
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
@pytest.mark.parametrize("lifted", [False, True])
def test_full_rank_is_exact_and_truncation_is_the_best_of_its_rank(shared: bool, lifted: bool) -> None:
    net = trained(shared=shared)
    if lifted:
        net = lift(net, torch.rand(6).double(), torch.randn(4, 6).double(), torch.randn(6, 4).double())
    x = torch.rand(1, net.config.bands, 5, 4).double()
    torch.testing.assert_close(factorize(net, energy=1.0)(x), net(x))

    groups = net.config.groups
    low = factorize(net, rank=2 * groups)
    assert low.upsample.rank == 2 * groups and torch.equal(low.features(x), net.features(x))
    values = spectrum(net.upsample, groups).singular_values
    lost = (low.upsample.merged_weight() - factorize(net, energy=1.0).upsample.merged_weight()).square().sum()
    torch.testing.assert_close(lost, values[:, 2:].square().sum())  # Eckart-Young, group by group


def test_energy_chooses_the_smallest_rank() -> None:
    values = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 1.0]])
    torch.testing.assert_close(energy_curve(values), torch.tensor([18.0, 20.0, 21.0]).double() / 21)
    assert [rank_for_energy(values, e) for e in (0.5, 18 / 21, 0.9, 20 / 21, 0.96, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_for_energy(torch.zeros(1, 3), 0.9) == 1
    with pytest.raises(ValueError, match="energy"):
        rank_for_energy(values, 0.0)


def test_refusals() -> None:
    net = trained(shared=True)
    with pytest.raises(ValueError, match="either"):
        factorize(net)
    with pytest.raises(ValueError, match="multiple of the 4 groups"):
        factorize(net, rank=5)
    with pytest.raises(ValueError, match="already"):
        factorize(factorize(net, rank=4), rank=4)
