from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import l1_unstructured

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
from lkca.nn import FusedShuffle, LowRankConv2d, LowRankUpsample, PixelShuffleUpsample

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


class Between(nn.Module):
    def __init__(self, conv: nn.Module, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.between = conv, between
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.between(self.conv(x)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.up(x))


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3, padding=1)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.b(x), 2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3, padding=1)
        self.b = nn.Conv2d(3, 12, 3, padding=1)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.a(x), 2) + F.interpolate(self.b(x)[:, :3], scale_factor=2)


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(12, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.conv2d(x, self.w, padding=1), 2)


class ByLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.up(x.movedim(1, -1)).movedim(-1, 1), 2)


class Same(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class OwnFull(PixelShuffleUpsample):
    def forward(self, x: Tensor, **others: Any) -> Tensor:
        return 2 * super().forward(x, **others)


class OwnLow(LowRankUpsample):
    def forward(self, x: Tensor, **others: Any) -> Tensor:
        return 2 * super().forward(x, **others)


class OwnConv(LowRankConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OwnShuffle(FusedShuffle):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Named(LowRankUpsample):
    """A class that computes what its base does."""


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 12, 3, padding=1)


def doubled(module: nn.Module) -> nn.Module:
    """Its forward replaced, as accelerate's hooks do it."""
    old = module.forward
    module.forward = lambda x: 2 * old(x)
    return module


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "relu": (lambda: Between(conv(), nn.ReLU()), "relu between"),
    "in-place": (lambda: Between(conv(), nn.LeakyReLU(0.1, inplace=True)), "leaky_relu between"),
    "hand-made swish": (lambda: Between(conv(), lambda y: y * torch.sigmoid(y)), "sigmoid between"),
    "square": (lambda: Between(conv(), lambda y: y * y), "product of two feature maps"),
    "norm": (lambda: Between(conv(), nn.GroupNorm(3, 12)), "between the convolution and the shuffle"),
    "regrouped": (lambda: Between(conv(), lambda y: y.unflatten(1, (2, 6)).transpose(1, 2).flatten(1, 2)), "reshape"),
    "channels cut": (lambda: Between(nn.Conv2d(3, 16, 1), lambda y: y[:, :12]), "reshape"),
    "concatenated": (lambda: Between(nn.Conv2d(3, 6, 1), lambda y: torch.cat([y, y], 1)), "concatenation"),
    "reused": (Twice, "called 2 times"),
    "shared": (TwoNames, "registered as a and b"),
    "tied": (Tied, "tied"),
    "grouped": (lambda: Between(nn.Conv2d(4, 12, 3, padding=1, groups=2), nn.Identity()), "grouped"),
    "replaced forward": (lambda: Between(doubled(conv()), nn.Identity()), "forward has been replaced"),
    "replaced, ours": (lambda: nn.Sequential(doubled(PixelShuffleUpsample(3, 3, 2))), "been replaced"),
    "replaced, low-rank": (
        lambda: nn.Sequential(doubled(LowRankUpsample(3, 3, 2, 4))),
        "been replaced",
    ),
    "derived, ours": (lambda: nn.Sequential(OwnFull(3, 3, 2)), "a OwnFull, which computes something else"),
    "derived, low-rank": (lambda: nn.Sequential(OwnLow(3, 3, 2, 4)), "a OwnLow, which"),
    "derived, convolution": (
        lambda: nn.Sequential(OwnConv(3, 12, 3, 4), nn.PixelShuffle(2)),
        "a OwnConv, which",
    ),
    "weight norm": (lambda: Between(weight_norm(conv()), nn.Identity()), "norm"),
    "old weight norm": (lambda: Between(nn.utils.weight_norm(conv()), nn.Identity()), "norm"),
    "weight norm, low-rank": (lambda: nn.Sequential(weight_norm(LowRankUpsample(3, 3, 2, 4))), "norm"),
    "old weight norm, low-rank": (lambda: nn.Sequential(nn.utils.weight_norm(LowRankUpsample(3, 3, 2, 4))), "norm"),
    "pruned bias": (lambda: Between(l1_unstructured(conv(), "bias", 0.3), nn.Identity()), "pruning"),
    "functional": (Raw, "functional or transposed"),
    "transposed": (lambda: Between(nn.ConvTranspose2d(3, 12, 1), nn.Identity()), "functional or transposed"),
    "linear": (ByLinear, "does not come from a convolution"),
    "subclass": (lambda: Between(Same(3, 12, 3, padding=1), nn.Identity()), "Same"),
    "no shuffle": (lambda: nn.Sequential(nn.Conv2d(3, 12, 3), nn.Upsample(scale_factor=2)), "no convolution"),
    "compiled": (lambda: torch.compile(nn.Sequential(conv(), nn.PixelShuffle(2)), backend="eager"), "torch.compile"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    make_model, reason = REFUSED[case]
    model = make_model()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(LowRankError, match=reason):
        factorize(model, rank=2, inplace=True)
    assert names == [name for name, _ in model.named_modules()]


@pytest.mark.parametrize(
    "change", [lambda net: factorize(net, rank=2), replace_modules, merge], ids=["factorize", "replace", "merge"]
)
def test_a_model_whose_training_is_distributed_is_refused(
    change: Callable[[nn.Module], object], tmp_path: Path
) -> None:
    """Its new parameters would not be averaged over the processes nor sharded, and steps failed."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(conv(), nn.PixelShuffle(2)))
        with pytest.raises(LowRankError, match=r"DistributedDataParallel.*give its \.module"):
            change(wrapped)
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        sharded = fully_shard(nn.Sequential(conv(), nn.PixelShuffle(2)), mesh=mesh)
        with pytest.raises(LowRankError, match="sharded by FSDP"):
            change(sharded)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("place", ["0", "0.reduce", "1"])
def test_merge_refuses_a_replaced_forward(place: str) -> None:
    model = factorize(nn.Sequential(conv(), nn.PixelShuffle(2)), rank=2)
    doubled(model.get_submodule(place))
    with pytest.raises(LowRankError, match=rf"model: {place[0]} cannot be merged: its forward has been replaced"):
        merge(model)


MERGE_REFUSED: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "low-rank": (lambda: [OwnLow(3, 3, 2, 4)], "0 cannot be merged: a OwnLow, which computes something else"),
    "convolution": (lambda: [OwnConv(3, 12, 3, 4), nn.PixelShuffle(2)], "0 cannot be merged: a OwnConv, which"),
    "shuffle": (lambda: [LowRankUpsample(3, 3, 2, 4), OwnShuffle(2)], "1 cannot be merged: a OwnShuffle, which"),
    "inner convolution": (lambda: [within(LowRankUpsample(3, 3, 2, 4))], "0 cannot be merged: a Same, which"),
    "weight norm": (lambda: [weight_norm(LowRankUpsample(3, 3, 2, 4))], "0 cannot be merged: its weight or bias"),
    "pruned": (lambda: [l1_unstructured(LowRankUpsample(3, 3, 2, 4), "bias", 0.3)], "0 cannot be merged: its weight"),
    "replaced": (
        lambda: [wrapped(LowRankUpsample(3, 3, 2, 4))],
        "0 cannot be merged: its convolution has been replaced",
    ),
    "hooks within": (lambda: [hooked(LowRankUpsample(3, 3, 2, 4))], "0 cannot be merged: hooks on its inner"),
    "hooks within, convolution": (lambda: [hooked(LowRankConv2d(3, 12, 3, 4))], "0 cannot be merged: hooks on"),
}


def within(layer: LowRankUpsample) -> nn.Module:
    layer.reduce = Same(3, 4, 3, padding=1, bias=False)
    return layer


def wrapped(layer: LowRankUpsample) -> nn.Module:
    """As adapters (LoRA) wrap a convolution."""
    layer.reduce = nn.Sequential(layer.reduce)
    return layer


def hooked(layer: LowRankUpsample | LowRankConv2d) -> nn.Module:
    layer.reduce.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


@pytest.mark.parametrize("case", MERGE_REFUSED)
def test_merge_refuses_what_would_be_lost(case: str) -> None:
    make, reason = MERGE_REFUSED[case]
    with pytest.raises(LowRankError, match=f"model: {reason}"):
        merge(nn.Sequential(*make()))


def test_a_layer_whose_convolution_was_replaced_is_told() -> None:
    model = nn.Sequential(wrapped(LowRankUpsample(3, 3, 2, 4)))
    reason = "its convolution has been replaced by a Sequential"
    assert analyze(model).skipped == {"0": reason}
    with pytest.raises(LowRankError, match=f"'0': {reason}"):
        factorize(model, rank=2)


def test_merge_refuses_hooks_within_what_was_replaced() -> None:
    model = replace_modules(nn.Sequential(conv(), nn.PixelShuffle(2))).model
    model.get_submodule("0.conv").register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(LowRankError, match="model: 0 cannot be merged: hooks on its inner"):
        merge(model)


def test_a_derived_class_with_its_base_s_forward() -> None:
    model, x = nn.Sequential(Named(3, 3, 2, 4)), torch.rand(1, 3, 5, 5)
    for changed in (factorize(model, energy=1.0), merge(model)):
        torch.testing.assert_close(changed(x), model(x))


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


def test_a_pixel_shuffle_that_does_more_stays() -> None:
    model, x = nn.Sequential(nn.LazyLinear(2), conv(), doubled(nn.PixelShuffle(2))), torch.rand(1, 3, 6, 6)
    low = factorize(model, rank=12)[1:]  # the lazy layer takes no guess
    torch.testing.assert_close(low(x), model[1:](x), atol=1e-5, rtol=0)


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
