"""Where layers are found in the layouts of known networks, and that what is made of them computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lkca.lowrank import (
    LowRankError,
    analyze,
    factorize,
    factorize_reported,
    load_lowrank,
    merge,
    ranks_of,
    replace_modules,
)
from lkca.lowrank.surgery import copied_model
from lkca.nn import LowRankConv2d, LowRankUpsample

from .layouts import LAYOUTS, EdvrLike, make


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.__name__)
def test_exact_at_full_rank_and_back(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    model, x = make(kind), torch.rand(2, 3, 9, 11)
    names, fused = LAYOUTS[kind]
    state = torch.random.get_rng_state()
    result = factorize_reported(model, rank=1000)
    assert torch.equal(state, torch.random.get_rng_state())
    assert {layer.name for layer in result.layers} == names
    assert {layer.name: layer.rank for layer in result.layers} == ranks_of(result.model)
    assert {layer.name for layer in result.layers if layer.fused} == fused
    for name in names:
        expected = LowRankUpsample if name in fused else LowRankConv2d
        assert isinstance(result.model.get_submodule(name), expected)
    torch.testing.assert_close(result.model(x), model(x), atol=1e-5, rtol=0)

    low = factorize(model, rank=2)
    back = merge(low)
    assert {k: v.shape for k, v in back.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    torch.testing.assert_close(back(x), low(x), atol=1e-5, rtol=0)
    assert (low(x) - model(x)).abs().max() > 1e-4  # rank 2 does lose something

    save_file(low.state_dict(), tmp_path / "low.safetensors")
    loaded = load_lowrank(make(kind), load_file(tmp_path / "low.safetensors"))
    assert torch.equal(loaded(x), low(x))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kept", ["weight norm", "gate", "list", "dictionary"])
def test_models_that_keep_what_they_computed(kept: str) -> None:
    """PyTorch's deepcopy refuses them once they have run with a gradient."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.squeeze, self.expand = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            gate = self.expand(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
            self.seen = {"list": [gate], "dictionary": {"gate": (gate, 1)}}.get(kept, gate)
            return x * gate

    head = nn.Conv2d(3, 8, 3, padding=1)
    first = nn.utils.weight_norm(head) if kept == "weight norm" else nn.Sequential(head, Block())
    model = nn.Sequential(first, nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
    x = torch.rand(1, 3, 9, 11)
    expected = model(x).detach()
    low = factorize(model, rank=1000)
    low(x).sum().backward()
    assert all(p.grad is not None for p in low.parameters())
    torch.testing.assert_close(merge(low)(x), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(load_lowrank(copied_model(model), low.state_dict())(x), expected, atol=1e-5, rtol=0)
    model(x)
    assert set(replace_modules(model).swapped) == ({"1"} if kept == "weight norm" else {"0.1", "1"})
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", ["meta", "cpu"])
def test_a_state_is_loaded_into_a_model_without_values(place: str) -> None:
    """As one is made to be loaded: uninitialised, where memory may hold NaN."""
    model, x = make(EdvrLike), torch.rand(1, 3, 9, 11)
    low = factorize(model, rank=2)
    with torch.device(place):
        empty = EdvrLike()
    if place == "meta":
        with pytest.raises(LowRankError, match=r'meta device.*to_empty\(device="cpu"\)'):
            load_lowrank(empty, low.state_dict())
        with pytest.raises(LowRankError, match=r"0\.weight has no shape yet"):
            load_lowrank(nn.Sequential(nn.LazyConv2d(8, 3)), low.state_dict())
        empty.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.fill_(torch.nan)
    loaded = load_lowrank(empty, low.state_dict())
    assert [type(m) for m in loaded.modules()] == [type(m) for m in low.modules()]
    assert torch.equal(loaded(x), low(x))


@pytest.mark.parametrize("values", [0.0, float("nan")])
def test_what_a_model_holds_before_it_is_loaded_hides_no_wrong_graph(values: float) -> None:
    """A forward that reads the convolution's shape: a shuffle in the same pass would change its results."""

    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.shuffle = nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x)
            return self.shuffle(y) * y.shape[1]

    low, x = factorize(Shaped(), rank=2), torch.rand(1, 3, 9, 11)
    model = Shaped()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(values)
    loaded = load_lowrank(model, low.state_dict())
    assert isinstance(loaded.up, LowRankConv2d)
    assert torch.equal(loaded(x), low(x))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"2.weight": torch.ones(12, 4)}, r"size mismatch for 2.reduce.weight: .*\[3, 8, 3, 3\].*\[4, 8, 3, 3\]"),
        ({"2.weight": torch.ones(12)}, "holds no low-rank layer"),
        ({"4.bias": torch.ones(5)}, r"size mismatch for 4.bias: .*\[5\].*\[3\]"),
        ({"4.bias": None}, 'Missing key.*"4.bias"'),
        ({"5.weight": torch.ones(5)}, 'Unexpected key.*"5.weight"'),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, Tensor | None], reason: str) -> None:
    def network() -> nn.Sequential:
        head, tail, last = (nn.Conv2d(n, m, 3, padding=1) for n, m in ((3, 8), (8, 12), (3, 3)))
        return nn.Sequential(head, nn.ReLU(), tail, nn.PixelShuffle(2), last)

    changed = {**factorize(network(), rank=3).state_dict(), **change}
    state = {key: value for key, value in changed.items() if value is not None}
    model = network()
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    with pytest.raises(LowRankError, match=reason):
        load_lowrank(model, state)
    assert list(model.modules()) == modules
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Packed(nn.Module):
    """Keeps what is no tensor in its state, and by its version tells how, as PyTorch's quantised layers do."""

    _version = 3

    def __init__(self) -> None:
        super().__init__()
        self.packed = (1.5, "per tensor")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}packed"] = self.packed

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *_: Any) -> None:
        self.packed = state[f"{prefix}packed" if metadata.get("version") == 3 else f"{prefix}scale"]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.packed[0]


def test_a_state_s_versions_and_what_is_no_tensor_in_it_count() -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Packed(), nn.Conv2d(8, 12, 3), nn.PixelShuffle(2))

    low, model, x = factorize(network(), rank=3), network(), torch.rand(1, 3, 9, 11)
    low[1].packed = (2.5, "per tensor")
    assert torch.equal(load_lowrank(model, low.state_dict())(x), low(x))
    state = low.state_dict()
    state["0.bias"] = torch.ones(5)
    model = network()
    with pytest.raises(LowRankError, match=r"size mismatch for 0\.bias"):
        load_lowrank(model, state)
    assert model[1].packed == (1.5, "per tensor")


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.__name__)
def test_analysis_tells_shares(kind: Callable[[], nn.Module]) -> None:
    model = make(kind)
    before = copy.deepcopy(model.state_dict())
    found = analyze(model.train(), torch.rand(1, 3, 8, 8))
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert {layer.name for layer in found.layers} == LAYOUTS[kind][0] and not found.skipped
    for layer in found.layers:
        weight = model.get_submodule(layer.name).weight
        assert layer.weight_share == weight.numel() / sum(p.numel() for p in model.parameters())
        assert layer.macs_share is not None and 0 < layer.macs_share <= 1
        torch.testing.assert_close(layer.singular_values, torch.linalg.svdvals(weight.detach().double().flatten(1)))


def test_a_model_that_nothing_can_be_guessed_for_is_told_by_pattern() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))

        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return self.up(x + noise)

    model, inputs = Strange(), (torch.rand(1, 3, 5, 5), torch.rand(1, 3, 5, 5))
    found = analyze(model)
    assert [layer.name for layer in found.layers] == ["up.0"] and found.macs is None
    assert found.unrun is not None and "give example" in found.unrun
    assert str(found).endswith(f"the model was not run, so layers may be missing: {found.unrun}")
    assert str(analyze(nn.Sequential(nn.Conv2d(3, 3, 3)))) == "no convolution feeds a pixel shuffle"
    assert analyze(model, inputs).macs == 12 * 27 * 25
    torch.testing.assert_close(factorize(model, rank=12)(*inputs), model(*inputs), atol=1e-5, rtol=0)


def test_half_a_shared_shuffle_stays_a_shuffle() -> None:
    model, x = make(EdvrLike), torch.rand(1, 3, 6, 6)
    result = factorize_reported(model, rank={"upconv1": 24})
    assert [(layer.name, layer.fused) for layer in result.layers] == [("upconv1", False)]
    torch.testing.assert_close(result.model(x), model(x), atol=1e-5, rtol=0)


def test_a_branch_that_did_not_run_is_told_by_pattern() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shared = nn.PixelShuffle(2)
            self.x2 = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
            self.x4 = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))
            self.a = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), shared)
            self.b = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), shared)
            self.head = "x2"

        def forward(self, x: Tensor) -> Tensor:
            return self.get_submodule(self.head)(x)

    model, x = Heads(), torch.rand(1, 3, 6, 6)
    result = factorize_reported(model, energy=1.0)
    assert {la.name: la.fused for la in result.layers} == {"x2.0": True, "x4.0": True, "a.0": False, "b.0": False}
    for head in ("x2", "x4", "a", "b"):
        model.head = result.model.head = head
        torch.testing.assert_close(result.model(x), model(x), atol=1e-5, rtol=0)


def test_a_sequence_with_a_forward_of_its_own_is_not_told_by_pattern() -> None:
    class Scaled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](self[0](x) * torch.linspace(0.5, 2, 12).view(1, -1, 1, 1))

    class Heads(nn.Module):
        def __init__(self, heads: list[nn.Module]) -> None:
            super().__init__()
            self.heads = nn.ModuleList(heads)
            self.head = 0

        def forward(self, x: Tensor) -> Tensor:
            return self.heads[self.head](x)

    replaced = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    replaced.forward = lambda x: replaced[1](replaced[0](x).flip(1))
    for head in (Scaled(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)), replaced):
        model, x = (
            Heads([nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)), head]),
            torch.rand(1, 3, 6, 6),
        )
        model.head = 1
        expected = model(x)
        model.head = 0  # the other did not run
        report = replace_modules(model)
        assert list(report.swapped) == ["heads.0.0"] and "follow at once" in report.kept["heads.1.0"]
        low = factorize(model, rank=12)
        for net in (model, low):
            net.head = 1
            torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=0)
