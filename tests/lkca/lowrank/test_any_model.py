"""What factorisation keeps, how ranks are chosen, and what calibration gains, on a model that is not LKCA-Net."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lkca
from lkca.data.degradation import Degradation
from lkca.lowrank import (
    Factoriser,
    LowRankError,
    Moments,
    analyze,
    effective_rank,
    factorize,
    factorize_reported,
    load_lowrank,
    merge,
    ranks_of,
    singular_values,
    spectrum,
    stable_rank,
)
from lkca.lowrank.layers import Layer
from lkca.lowrank.moments import collect_moments
from lkca.lowrank.search import for_budget, for_psnr_drop, psnr_function
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.edsr import EDSR
from lkca.nn import LowRankConv2d, LowRankUpsample, PixelShuffleUpsample


def small(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 32, 3, padding=1, bias=bias), nn.PixelShuffle(2)),
        nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, bias=bias), nn.PixelShuffle(2)),
    )


def images(count: int = 6) -> Tensor:
    """Smooth, bright, correlated channels: inputs whose covariance is far from white."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 1, 5, 5, generator=generator) + 0.1 * torch.rand(count, 3, 5, 5, generator=generator)
    return nn.functional.interpolate(coarse, size=(16, 16), mode="bicubic")


def test_keeps_mode_dtype_gradients_and_hooks() -> None:
    model = small().double()
    model[2][0].weight.requires_grad_(False)
    model[3].eval()
    calls: list[str] = []
    model[2][0].register_forward_hook(lambda m, i, o: calls.append(f"conv {tuple(o.shape)}"))
    model[3].register_forward_pre_hook(lambda m, i: calls.append("before"))
    x = torch.rand(1, 3, 4, 4).double()
    low = factorize(model, rank=1000)
    calls.clear()  # the hooks are the copy's too
    torch.testing.assert_close(low(x), model(x))
    assert calls == ["conv (1, 32, 4, 4)", "before"] * 2
    assert low.training and not low[3].training and not low[3][0].training
    assert all(p.dtype == torch.float64 for p in low.parameters())
    assert not low[2][0].weight.requires_grad and low[3][0].weight.requires_grad
    low(x).sum().backward()
    assert low[3][0].reduce.weight.grad is not None and low[2][0].weight.grad is None
    assert low[2][0].bias.requires_grad
    merged = merge(low)  # that model's bias learns on, its weight does not
    assert merged[2][0].bias.requires_grad and not merged[2][0].weight.requires_grad
    assert factorize(model, rank=2) is not model and ranks_of(model) == {}
    assert factorize(model, rank=2, inplace=True) is model and ranks_of(model) == {"2.0": 2, "3.0": 2}


@pytest.mark.parametrize("way", ["convolutions", "fused modules", "loaded"])
def test_within_a_channels_last_network_the_layout_stays(way: str) -> None:
    """The next convolution would turn it back. What the last layer gives is contiguous, at the operator's speed."""
    model = small()
    expected = factorize(model, rank=3)
    if way == "fused modules":
        lkca.replace_modules(model)
    low = load_lowrank(model, expected.state_dict()) if way == "loaded" else factorize(model, rank=3)
    low.to(memory_format=torch.channels_last)
    inner: list[Tensor] = []
    low[2].register_forward_hook(lambda m, i, o: inner.append(o))
    x = images(2).to(memory_format=torch.channels_last)
    found = low(x)
    torch.testing.assert_close(found, expected(x.contiguous()))
    assert inner[0].is_contiguous(memory_format=torch.channels_last)
    assert found.is_contiguous()
    low(x.contiguous()[:, :, :1, :1])  # both at once: contiguous counts
    assert inner[1].is_contiguous()


def test_a_head_that_did_not_run_is_taken_for_the_last_layer() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3 * s * s, 3), nn.PixelShuffle(s)) for s in (2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.heads[0](x)

    low = factorize(TwoHeads(), rank=2)
    assert [head[0].keeps_layout for head in low.heads] == [False, False]


def test_bfloat16_keeps_its_dtype() -> None:
    low = factorize(small().bfloat16(), rank=3)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}


def test_energy_and_budget_choose_ranks() -> None:
    model = small()
    found = analyze(model)
    for share in (0.3, 0.7, 1.0):
        result = factorize_reported(model, energy=share)
        for layer, seen in zip(result.layers, found.layers, strict=True):
            assert layer.energy >= share - 1e-9
            assert layer.rank == 1 or float(seen.energy_curve[layer.rank - 2]) < share
    whole = sum(layer.weights for layer in found.layers)
    half = factorize_reported(model, budget=0.5)
    assert half.layers == factorize_reported(model, budget=whole // 2).layers
    spent = sum(layer.weights[1] for layer in half.layers)
    assert whole / 2 - (72 + 32) <= spent <= whole / 2
    assert spent == sum(p.numel() for n, p in half.model.named_parameters() if n[0] in "23" and not n.endswith("bias"))
    assert factorize_reported(model, budget=spent).layers == half.layers  # exactly so many may be had
    for budget in (1, 10):  # weights; 1 is no share
        with pytest.raises(LowRankError, match=f"{budget} weights do not hold rank 1"):
            factorize(model, budget=budget)
    for budget in (-3.0, float("nan"), float("inf")):
        with pytest.raises(LowRankError, match="budget: expected a number of weights or a share, above 0"):
            factorize(model, budget=budget)


def test_the_smallest_rank_within_a_psnr_drop() -> None:
    torch.manual_seed(3)
    model = small()
    with torch.no_grad():  # a kernel of rank 4 with a little noise
        kernel = torch.randn(32, 4) @ torch.randn(4, 72) * 0.1 + 1e-3 * torch.randn(32, 72)
        model[2][0].weight.copy_(kernel.reshape(32, 8, 3, 3))
    x = images()
    target = model(x) + 0.05 * torch.randn(6, 3, 64, 64)

    @torch.no_grad()
    def psnr(net: nn.Module) -> float:
        return float(-10 * (net(x) - target).square().mean((2, 3)).log10().mean())

    result = factorize_reported(model, max_psnr_drop=0.05, calibration=list(zip(x, target, strict=True)))
    ranks = {layer.name: layer.rank for layer in result.layers}
    drop = psnr(model.eval()) - psnr(result.model.eval())
    assert drop <= 0.05 and result.psnr_drop == pytest.approx(drop, abs=1e-4)
    assert ranks["2.0"] <= 4
    tried = {t["2.0"]: lost for t, lost in result.trials if list(t) == ["2.0"]}  # the heaviest layer, tried alone
    assert tried.get(ranks["2.0"] - 1, 1.0) > 0.025 >= tried[ranks["2.0"]]
    assert factorize(model, max_psnr_drop=1e-9, validation=lambda net: 30.0, layers=["3.0"])[3][0].rank == 1
    with pytest.raises(LowRankError, match="pairs"):
        factorize(model, max_psnr_drop=0.1, calibration=x)
    with pytest.raises(LowRankError, match="no rank that saves"):
        factorize(model, max_psnr_drop=0.1, validation=lambda net: float(len(ranks_of(net)) == 0))


def test_a_layer_leaves_the_next_its_share_of_the_drop() -> None:
    model = small()
    light, heavy, square = (
        Layer("light", model[3][0], 2),
        Layer("heavy", model[2][0], 2),
        Layer("", nn.Conv2d(4, 4, 1), 2),
    )

    def search(*layers: Layer) -> tuple[Any, ...]:
        lost = lambda ranks: sum(1 / rank for rank in ranks if rank is not None)  # noqa: E731
        return for_psnr_drop(layers, lambda ranks: ranks, lambda ranks: 40 - lost(ranks), 0.5)

    ranks, drop, trials = search(light, heavy)
    assert (ranks, drop) == ([4, 4], 0.5) and set(trials[0][0]) == {"heavy"}
    assert search(square)[:2] == ([None], 0)  # whose rank 2 costs as much as the whole kernel


def test_a_budget_goes_where_a_weight_holds_most_energy() -> None:
    light, heavy = Layer("light", nn.Conv2d(2, 8, 1), 2), Layer("heavy", small()[2][0], 2)  # 10, 104 weights a rank
    values = torch.tensor([2.0, 1.0]), torch.cat([torch.ones(2), torch.zeros(30)])
    assert for_budget([light, heavy], values, 10 + 104 + 104) == [2, 1]
    assert for_budget([light, heavy], values, 10 + 104) == [1, 1]


def test_psnr_is_the_mean_over_channels() -> None:
    x = torch.rand(1, 2, 4, 4)
    wrong = x + torch.tensor([0.1, 0.001]).view(2, 1, 1)
    for model in (nn.Identity(), nn.Dropout()):  # as in eval mode
        assert psnr_function([(x, wrong)], model)(model.train()) == pytest.approx((20 + 60) / 2, abs=1e-2)


@pytest.mark.parametrize("bias", [True, False])
def test_calibrated_factors_are_optimal_for_the_outputs(bias: bool) -> None:
    model, x = small(bias), images(40)
    layer = Layer("2.0", model[2][0], 2)
    hidden = model[1](model[0](x)).detach()
    with torch.no_grad():
        full = model[2][0](hidden).double()

    def lost(low: nn.Module) -> float:
        with torch.no_grad():
            y = low.get_submodule("2.0")
            z = y.reduce(hidden)
            found = nn.functional.conv2d(z, y.weight[:, :, None, None], y.bias)
        return float((found - full).square().sum() / full.square().sum())

    moments = collect_moments(model, [layer], x)[0]
    expected = singular_values(layer.matrix(), moments, centred=bias)
    found = analyze(model, calibration=x).layers[0]
    torch.testing.assert_close(found.data_singular_values, expected)
    shares = expected.square().cumsum(0) / expected.square().sum()
    assert [c.data_energy for c in found.candidates] == [
        pytest.approx(float(shares[c.rank - 1])) for c in found.candidates
    ]
    for rank in (1, 2, 4, 8):
        plain, data = (factorize(model, rank={"2.0": rank}, calibration=c) for c in (None, x))
        assert lost(data) < 0.9 * lost(plain)
        tail = expected[rank:].square().sum() / (full.square().sum() / full[:, 0].numel())
        assert lost(data) == pytest.approx(float(tail), rel=0.05)  # moments come from a sample of the patches
    for exact in (factorize(model, rank=32, calibration=x), factorize(model, energy=1.0, calibration=x)):
        torch.testing.assert_close(exact(x), model(x), atol=1e-5, rtol=0)


def test_moments_are_those_of_the_patches() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), padding_mode="reflect").double()
    net, x = nn.Sequential(nn.Dropout(), conv), torch.randn(2, 3, 7, 6).double()  # in train mode
    moments = collect_moments(net, [Layer("0", conv, 1)], [x[:1], (x[1:], None)])[0]
    y = (conv(x) - conv.bias[:, None, None]).detach()
    mean = y.transpose(0, 1).flatten(1).mean(1)
    torch.testing.assert_close(conv.weight.detach().flatten(1) @ moments.mean, mean)
    power = conv.weight.detach().flatten(1)
    torch.testing.assert_close((power @ moments.second @ power.T).trace(), y.square().mean((0, 2, 3)).sum())
    variance = y.var((0, 2, 3), correction=0).sum()
    torch.testing.assert_close((power @ moments.covariance @ power.T).trace(), variance)
    assert moments.count == y[:, 0].numel()
    with pytest.raises(LowRankError, match="no run reached"):
        collect_moments(net, [Layer("0", nn.Conv2d(3, 4, 3), 1)], x)
    with pytest.raises(LowRankError, match="not finite"):
        collect_moments(net, [Layer("0", conv, 1)], x / 0)


def test_factors_of_equal_norms() -> None:
    """Of any component neither side dwarfs the other; a kernel of zeros, as training starts from, divides by none."""
    left, right, _ = Factoriser.of(torch.randn(12, 8)).at(5)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))
    assert not any(part.any() for part in Factoriser.of(torch.zeros(12, 8)).at(5)[1:])


def test_full_rank_survives_a_singular_covariance() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(12, 8).double()
    direction = torch.randn(8).double()
    moments = Moments(direction, torch.outer(direction, direction) * 2, 10)  # data that move along one line
    left, right, _ = Factoriser.of(matrix, moments).at(8)
    torch.testing.assert_close(left @ right, matrix)
    left, right, correction = Factoriser.of(matrix, moments).at(1)
    torch.testing.assert_close(left @ right @ direction + correction, matrix @ direction)


def test_the_spectrum_of_what_has_no_kernel_is_refused() -> None:
    """A low-rank layer has a weight too, but that is its last factor alone."""
    for layer in (LowRankUpsample(3, 3, 2, 4), nn.Linear(3, 4), small()):
        with pytest.raises(
            TypeError, match=f"layer: expected nn.Conv2d or PixelShuffleUpsample, got {type(layer).__name__}"
        ):
            spectrum(layer)  # type: ignore[arg-type]


def test_ranks_of_known_spectra() -> None:
    assert stable_rank(torch.ones(7)) == pytest.approx(7) and effective_rank(torch.ones(7)) == pytest.approx(7)
    assert stable_rank(torch.tensor([2.0, 0, 0])) == 1 and effective_rank(torch.tensor([2.0, 0, 0])) == pytest.approx(1)
    assert stable_rank(torch.zeros(3)) == 0 == effective_rank(torch.zeros(3))


def test_analysis_counts_the_whole_network(tmp_path: Path) -> None:
    net = EDSR(bands=5, scale=4, width=6, blocks=1)
    found = analyze(net, torch.rand(1, 5, 8, 8), ranks=[3])
    assert [layer.name for layer in found.layers] == ["upsample.0", "upsample.2"]
    pixels = 8 * 8
    convs = 9 * (5 * 6 + 3 * 6 * 6 + 6 * 24) * pixels + 9 * 6 * 24 * 4 * pixels + 9 * 6 * 5 * 16 * pixels
    assert found.macs == convs
    first = found.layers[0]
    assert first.macs_share == pytest.approx(9 * 6 * 24 * pixels / convs)
    assert first.break_even == (54 * 24 - 1) // (54 + 24) == 16
    candidate = first.candidates[0]
    assert (candidate.rank, candidate.weights) == (3, 3 * (54 + 24))
    assert candidate.energy == pytest.approx(float(first.energy_curve[2]))
    low = analyze(factorize(net, rank=3), torch.rand(1, 5, 8, 8))
    assert low.layers[0].rank == 3 and low.layers[0].weights == candidate.weights and low.layers[0].break_even == 2
    assert low.macs == convs - 9 * 6 * 24 * 5 * pixels + candidate.macs * 5 * pixels
    assert low.layers[0].macs_share == pytest.approx(candidate.macs * pixels / low.macs)
    with pytest.raises(LowRankError, match="already"):
        factorize(factorize(net, rank=3), rank=3)
    lower = factorize(factorize(net, rank=8), rank=3)  # truncating in two steps is truncating once
    x = torch.rand(1, 5, 6, 6)
    torch.testing.assert_close(lower(x), factorize(net, rank=3)(x), atol=1e-5, rtol=0)
    assert [type(module) for module in merge(lower).modules()] == [type(module) for module in net.modules()]
    assert found.plot(tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert found.as_dict()["layers"][0]["candidates"][0]["rank"] == 3 and "upsample.0" in str(found)


def test_a_layer_of_ours_alone() -> None:
    torch.manual_seed(0)
    layer, x = PixelShuffleUpsample(6, 4, 2), torch.rand(1, 6, 5, 5)
    low = factorize(layer, rank=16, calibration=x)
    assert isinstance(low, LowRankUpsample) and isinstance(layer, PixelShuffleUpsample)
    torch.testing.assert_close(low(x), layer(x), atol=1e-5, rtol=0)
    back = merge(factorize(layer, rank=5))
    assert isinstance(back, PixelShuffleUpsample)
    torch.testing.assert_close(back(x), factorize(layer, rank=5)(x), atol=1e-5, rtol=0)
    assert analyze(layer).layers[0].full_rank == 16
    with pytest.raises(LowRankError, match="single layer"):
        factorize(layer, rank=2, inplace=True)


@pytest.mark.parametrize(("rank", "macs"), [((), 2 * 4 * 27), ((12,), 12 * 27 + 8 * 12)], ids=["full", "low"])
def test_groups_that_share_a_convolution(rank: tuple[int, ...], macs: int) -> None:
    """Each costs its own pass; the bias of all is corrected, so that the mean of the outputs stays."""
    torch.manual_seed(0)
    layer = (LowRankUpsample if rank else PixelShuffleUpsample)(6, 2, 2, *rank, shared_groups=2).double()
    x = (torch.rand(4, 3, 9, 9).double() + 1).repeat(1, 2, 1, 1)

    def weights(model: nn.Module) -> int:
        return sum(p.numel() for name, p in model.named_parameters() if not name.endswith("bias"))

    found = analyze(layer, x).layers[0]
    assert (found.macs, found.groups, found.in_channels, found.weights) == (macs, 2, 6, weights(layer))
    assert found.weight_share == weights(layer) / sum(p.numel() for p in layer.parameters())
    assert analyze(layer, x, ranks=[3]).layers[0].candidates[0].rank == 4  # of both together
    low = factorize_reported(nn.Sequential(layer), rank=2, calibration=x)
    assert low.layers[0].weights == (weights(layer), weights(low.model))
    torch.testing.assert_close(low.model(x).mean((0, 2, 3)), layer(x).mean((0, 2, 3)))


@pytest.mark.parametrize(
    ("layer", "full"), [(LowRankUpsample(1, 3, 2, 11), 9), (LowRankConv2d(3, 4, 3, 8), 4)], ids=["inputs", "outputs"]
)
def test_a_rank_beyond_that_of_the_kernel(layer: nn.Module, full: int) -> None:
    """More components than the kernel has inputs or outputs: their singular values were asked for, which are not."""
    model = nn.Sequential(layer, nn.PixelShuffle(2)) if isinstance(layer, LowRankConv2d) else nn.Sequential(layer)
    x = torch.rand(1, layer.reduce.in_channels, 6, 6)
    found = analyze(model, x).layers[0]
    assert found.full_rank == full and found.break_even <= full and len(found.singular_values) == full
    low = factorize_reported(model, budget=0.9, example=x)
    assert low.layers[0].rank == full
    torch.testing.assert_close(low.model(x), model(x), atol=1e-5, rtol=0)


class OneSize(nn.Module):
    """Takes images of 20 × 20 pixels alone, which no guess has."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.net = nn.Parameter(torch.rand(3, 20, 20)), small()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x + self.place)
        return y


def test_the_first_calibration_image_is_the_example() -> None:
    model, x = OneSize().double(), torch.rand(2, 3, 20, 20)  # another dtype than the model's
    for calibration in (x, x[0], [x], [(x[0], None)], iter(x)):
        found = analyze(model, calibration=calibration)
        assert [layer.name for layer in found.layers] == ["net.2.0", "net.3.0"]
        assert found.example_shape == (1, 3, 20, 20) and found.layers[0].data_singular_values is not None
    assert list(ranks_of(factorize(model, rank=2, calibration=x))) == ["net.2.0", "net.3.0"]
    assert analyze(model).macs is None  # no guess fits


def test_the_default_device_plays_no_part() -> None:
    model, x = small(), images(20)  # more patches than are taken of a call
    with torch.device("meta"):
        low = factorize(model, rank=32, calibration=x)
        found = analyze(model)
        replaced = lkca.replace_modules(copy.deepcopy(model))
    torch.testing.assert_close(low(x), model(x), atol=1e-5, rtol=0)
    assert [layer.name for layer in found.layers] == list(replaced.swapped) == ["2.0", "3.0"]


def test_a_model_without_values_is_named() -> None:
    with torch.device("meta"):
        model = small()
    for call in (analyze, lkca.replace_modules, lambda net: factorize(net, rank=2)):
        with pytest.raises(LowRankError, match=r"its parameter 0\.weight is on the meta device"):
            call(model)


def test_a_model_without_shapes_is_named() -> None:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.LazyConv2d(2, 1), nn.ReLU(), nn.LazyConv2d(8, 1), nn.Sigmoid())
    model = nn.Sequential(gate, nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
    for call in (analyze, lkca.replace_modules):
        with pytest.raises(LowRankError, match=r"its parameter 0\.1\.weight has no shape yet .* run the model once"):
            call(model)


class Lambda(nn.Module):
    """What it keeps of itself in a function a copy shares with it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.shuffle = nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)
        self.tail = lambda x: self.shuffle(self.up(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(x)


def test_a_copy_that_runs_the_model_itself_is_named() -> None:
    """It was said to have a functional or transposed convolution."""
    model, x = Lambda(), torch.rand(1, 3, 8, 8)
    with pytest.raises(LowRankError, match=r"a copy runs the model's own layers.* inplace=True"):
        factorize(model, rank=2, example=x)
    expected = model(x)
    low = factorize(model, rank=12, example=x, inplace=True)
    assert list(ranks_of(low)) == ["up"]
    torch.testing.assert_close(low(x), expected, atol=1e-5, rtol=0)


def test_bad_arguments() -> None:
    model, x = small(), torch.rand(1, 3, 8, 8)
    y = model(x).detach()
    for arguments, says in (
        ({}, "either rank or energy"),
        ({"rank": 2, "energy": 0.5}, "one of"),
        ({"rank": 0}, "positive"),
        ({"rank": 2.5}, "integer"),
        ({"energy": 1.5}, r"\(0, 1\]"),
        ({"rank": {"nowhere": 2}}, "no such upsampling layer; there are: 2.0, 3.0"),
        ({"rank": 2, "calibration": []}, "no image"),
        ({"rank": 2, "calibration": ["x"]}, "expected tensors"),
        ({"max_psnr_drop": 0.0, "validation": lambda net: 1.0}, "above 0"),
        ({"max_psnr_drop": 0.1, "calibration": [(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))]}, "its target is"),
        ({"rank": 2, "layers": "2.0"}, r"layers: expected a sequence of names, got '2.0'; give \['2.0'\]"),
        ({"rank": 2, "layers": []}, "layers: names no layer"),
        ({"rank": {}}, "rank: names no layer"),
        ({"max_psnr_drop": 0.1, "validation": lambda net: math.nan}, "validation: the model's PSNR is nan"),
        ({"max_psnr_drop": 0.1, "validation": [(x, y / 0)]}, "validation: the model's PSNR is -?(nan|inf)"),
        ({"max_psnr_drop": 0.1, "calibration": [(x, y)]}, r"the model gives its targets to \d+ dB: .* the truth"),
    ):
        with pytest.raises(LowRankError, match=says):
            factorize(model, **arguments)
    for ranks in (3, "3"):
        with pytest.raises(LowRankError, match="ranks: expected a sequence of integers"):
            analyze(model, ranks=ranks)
    with pytest.raises(LowRankError, match="single layer"):
        factorize(nn.Conv2d(3, 12, 3), rank=2)
    low = LKCANet(LKCANetConfig(bands=4, scale=2, rank=2))
    with pytest.raises(LowRankError, match=r"has rank 2 already; factorise to a lower one\)$"):
        factorize(low, rank=2)
    with pytest.raises(LowRankError, match="Module"):
        factorize(torch.rand(3), rank=2)
    with pytest.raises(LowRankError, match="no low-rank layer"):
        merge(model)


def test_a_rank_may_be_numpy_s() -> None:
    ranks = {name: np.int64(rank) for name, rank in ranks_of(factorize(small(), rank=np.uint8(2))).items()}
    assert set(ranks.values()) == {2} and ranks_of(factorize(small(), rank=ranks)) == ranks
    assert '"rank": 3' in json.dumps(analyze(small(), ranks=np.arange(1, 4)).as_dict())


@pytest.mark.realdata
def test_calibration_loses_less_on_a_real_scene(real_data: Path) -> None:
    """Random features of a real scene, one half to calibrate, the other to measure."""
    with np.load(real_data / "cubes" / "abu_urban_2.npz") as file:
        cube = torch.from_numpy(np.moveaxis(file["cube"].astype(np.float32), 2, 0).copy())[None, :, :96, :96] / 6000
    torch.manual_seed(0)
    net = EDSR(cube.shape[1], 4, width=16, blocks=1)
    low = Degradation(method="bicubic", scale=4).apply(cube)
    known, unseen = low[..., :12, :], low[..., 12:, :]
    with torch.no_grad():
        expected = net(unseen)
        for rank in (4, 8, 16, 32):
            plain, data = (factorize(net, rank=rank, calibration=c, example=known) for c in (None, known))
            errors = [(candidate(unseen) - expected).square().mean() for candidate in (plain, data)]
            assert errors[1] < 0.7 * errors[0]


def test_calibration_through_a_convolution_of_single_images() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.shuffle = nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.shuffle(self.up(image)) for image in x])

    torch.manual_seed(0)
    single = Single()
    batched = nn.Sequential(single.up, nn.PixelShuffle(2))
    found, expected = (factorize(m, rank=3, calibration=images(1)) for m in (single, batched))
    torch.testing.assert_close(found.up.merged_weight(), expected[0].merged_weight())
