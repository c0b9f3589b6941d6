from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lkca
from lkca.lowrank import LowRankError, analyze, factorize, merge
from lkca.nn import ChannelAttention, FusedShuffle, PixelShuffleUpsample

from .layouts import Result, Slotted


class TorchvisionLike(nn.Module):
    def __init__(self, c: int = 8, activation: type[nn.Module] = nn.ReLU, scale: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1)
        self.activation, self.scale_activation = activation(), scale()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class RcanLike(nn.Module):
    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_du = nn.Sequential(nn.Conv2d(c, 2, 1), nn.ReLU(True), nn.Conv2d(2, c, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(self.avg_pool(x))


class SenetLike(nn.Module):
    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(c, 2, bias=False), nn.ReLU(), nn.Linear(2, c, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None].expand_as(x)


class MaxPooled(RcanLike):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(F.adaptive_max_pool2d(x, 1))


class Crossed(RcanLike):
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x * self.conv_du(self.avg_pool(x if context is None else context))


class Variadic(RcanLike):
    def forward(self, *xs: Tensor) -> Tensor:
        return xs[0] * self.conv_du(self.avg_pool(xs[-1]))


class Counting(RcanLike):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(x)


class Dropping(RcanLike):
    def forward(self, x: Tensor) -> Tensor:
        return x * F.dropout(self.conv_du(self.avg_pool(x)), 0.5, self.training)


class Adapted(nn.Conv2d):
    """A low-rank adapter, which starts as nothing."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Parameter(torch.rand(1, sizes[0])), nn.Parameter(torch.zeros(sizes[1], 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.conv2d(x, (self.up @ self.down)[:, :, None, None])


class Net(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.block = block
        self.up = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.block(self.head(x)))


@pytest.mark.parametrize("kind", [TorchvisionLike, RcanLike, SenetLike])
def test_swaps_without_changing_outputs(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = Net(kind()).eval(), torch.rand(2, 3, 6, 5)
    model.block.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    seen: list[torch.Size] = []
    expected = model(x)
    weights = model.up[0].weight.clone()
    report = lkca.replace_modules(model)
    assert report.swapped == {"block": "ChannelAttention", "up.0": "PixelShuffleUpsample"} and not report.kept
    assert isinstance(model.block, ChannelAttention) and not model.block.training
    assert isinstance(model.up[0], PixelShuffleUpsample) and isinstance(model.up[1], FusedShuffle)
    assert torch.equal(model.up[0].conv.weight, weights)
    seen.clear()
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)
    assert seen == [(2, 8, 6, 5)]
    assert "block: now ChannelAttention" in str(report)
    assert not lkca.replace_modules(model).swapped

    low = factorize(model, rank=12)
    for back in (merge(model), merge(low), merge(low, inplace=True)):
        assert isinstance(back.up[0], nn.Conv2d) and type(back.up[1]) is nn.PixelShuffle
        torch.testing.assert_close(back(x), expected, atol=1e-5, rtol=0)
    assert back is low


def test_what_computes_something_else_stays_with_a_reason() -> None:
    blocks: dict[str, nn.Module] = {
        "silu": TorchvisionLike(activation=nn.SiLU),
        "hard": TorchvisionLike(scale=nn.Hardsigmoid),
        "max": MaxPooled(),
        "mlp": nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1)),
    }
    hooked = RcanLike()
    hooked.conv_du[0].register_forward_hook(lambda m, i, o: None)
    blocks["hooked"] = hooked
    for name, block in blocks.items():
        model, x = Net(block), torch.rand(1, 3, 6, 5)
        expected = model(x)
        report = lkca.replace_modules(model, x)
        assert list(report.swapped) == ["up.0"], name
        assert ("hooks" if name == "hooked" else "something else") in report.kept["block"], name
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)


class OfOneSize(RcanLike):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-2:] == (6, 5), "made for 6 x 5"
        return super().forward(x)


class Casting(RcanLike):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def test_a_block_that_cannot_be_tried_says_why() -> None:
    """Its error's name alone told nothing."""
    for block, says in ((OfOneSize(), "made for 6 x 5"), (Casting(), "in torch.float64 (RuntimeError: ")):
        assert says in lkca.replace_modules(Net(block), torch.rand(1, 3, 6, 5)).kept["block"]


@pytest.mark.parametrize("value", [0.0, 1e-6, float("nan")])
def test_a_block_is_known_whatever_its_weights_are_now(value: float) -> None:
    """With zeros at the end (where a training starts) a hard sigmoid gives what a sigmoid gives, 0.5."""
    for block, swapped in (
        (TorchvisionLike(), True),
        (TorchvisionLike(scale=nn.Hardsigmoid), False),
        (TorchvisionLike(activation=nn.SiLU), False),
        (MaxPooled(), False),
    ):
        model = Net(block)
        for parameter in block.parameters():
            nn.init.constant_(parameter, value)
        assert ("block" in lkca.replace_modules(model, torch.rand(1, 3, 6, 5)).swapped) is swapped


def test_what_a_swap_would_lose_stays_with_a_reason() -> None:
    """Blocks that compute the same on an image in eval mode, as they are."""
    adapted = RcanLike()
    adapted.conv_du[0] = Adapted(8, 2, 1)
    listening = RcanLike()
    listening.conv_du[0].register_full_backward_pre_hook(lambda m, g: None)
    replaced, inside = RcanLike().double(), RcanLike().double()  # a copy in float64 would run the old object's
    replaced.forward = replaced.forward
    inside.conv_du[0].forward = inside.conv_du[0].forward
    first, second = RcanLike(), RcanLike()
    second.conv_du[2].weight = first.conv_du[2].weight
    for block, reason in (
        (Crossed(), "more than an image"),
        (Variadic(), "more than an image"),
        (Counting(), "buffers would be lost"),
        (listening, "hooks on its inner modules"),
        (replaced, "its forward has been replaced"),
        (inside, "its forward has been replaced"),
        (Dropping(), "something else than x · sigmoid(W2 relu(W1 mean(x) + b1) + b2), in training"),
        (adapted, r"its Adapted holds parameters of its own (down, up)"),
    ):
        report = lkca.replace_modules(Net(block).to(next(block.parameters()).dtype))
        assert list(report.swapped) == ["up.0"] and reason in report.kept["block"]
    report = lkca.replace_modules(Net(nn.Sequential(first, second)))
    assert list(report.swapped) == ["up.0"]
    assert "tied" in report.kept["block.0"] and "tied" in report.kept["block.1"]


class Detached(RcanLike):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(self.avg_pool(x)).detach()


class InPlace(RcanLike):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.conv_du(self.avg_pool(x)))


class Checkpointed(RcanLike):
    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = checkpoint(lambda t: self.conv_du(self.avg_pool(t)), x, use_reentrant=True)
        return x * gate


def test_a_block_with_another_gradient_stays() -> None:
    report = lkca.replace_modules(Net(Detached()))
    assert list(report.swapped) == ["up.0"] and "another gradient" in report.kept["block"]
    heard: list[nn.Module] = []
    for block in (InPlace(), Checkpointed()):
        block.register_full_backward_hook(lambda m, _, __: heard.append(m))
        block.register_full_backward_pre_hook(lambda m, _: heard.append(m))
        assert list(lkca.replace_modules(Net(block)).swapped) == ["block", "up.0"]
        assert not heard
        with torch.inference_mode():
            assert list(lkca.replace_modules(Net(type(block)())).swapped) == ["block", "up.0"]


class Listed(nn.Module):
    """A model that runs its modules by references of its own, which a swap of submodules does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.block = nn.Conv2d(3, 8, 3, padding=1), SenetLike()
        self.up, self.shuffle = nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
        self.steps = [self.head, self.block, self.up, self.shuffle]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


def test_modules_that_the_model_calls_by_references_of_its_own_stay() -> None:
    model, x = Listed(), torch.rand(1, 3, 6, 5)
    modules = list(model.modules())
    report = lkca.replace_modules(model)
    assert not report.swapped and set(report.kept) == {"block", "up"}
    assert all("reference of its own" in reason for reason in report.kept.values())
    for rank in (1, 12):
        with pytest.raises(LowRankError, match=r"up: .*reference of its own"):
            factorize(model, rank=rank, inplace=True)
    assert list(model.modules()) == modules
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "form", [Result, Slotted, lambda image: SimpleNamespace(image=image)], ids=["dataclass", "slots", "object"]
)
def test_a_result_of_any_form_is_compared(form: Any) -> None:
    class Shaped(Net):
        def forward(self, x: Tensor) -> Any:
            y = self.up[0](self.block(self.head(x)))
            return form(self.up[1](y) * y.shape[1])

    model, x = Shaped(RcanLike()), torch.rand(1, 3, 6, 5)
    expected = model(x).image
    report = lkca.replace_modules(model)
    assert list(report.swapped) == ["block"] and "up.0" in report.kept
    torch.testing.assert_close(model(x).image, expected, atol=1e-5, rtol=1e-5)


class Counted(Net):
    """Gives the number of its calls, too, and may look into its block or at the shape before the shuffle."""

    def __init__(self, looks: str = "") -> None:
        super().__init__(RcanLike())
        self.looks, self.calls = looks, 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        x = self.block(self.head(x)) + (self.block.conv_du[0].bias.sum() if self.looks == "block" else 0)
        y = self.up[0](x)
        return self.up[1](y) * (y.shape[1] if self.looks == "shape" else 1), self.calls


def test_what_a_model_does_not_give_alike_twice_is_not_compared() -> None:
    x = torch.rand(1, 3, 6, 5)
    for looks, swapped in (("", ["block", "up.0"]), ("block", ["up.0"]), ("shape", ["block"])):
        model = Counted(looks)
        expected, low = model(x)[0], factorize(model, rank=12)
        assert isinstance(low.up[1], nn.PixelShuffle) is (looks == "shape")
        assert list(lkca.replace_modules(model).swapped) == swapped
        for result in (low(x)[0], model(x)[0]):
            torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


class Sized(Counted):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[0] * self.up[0].kernel_size[0], self.calls


def test_a_forward_that_reads_a_layer_is_seen_beside_what_does_not_repeat() -> None:
    with pytest.raises(LowRankError, match="uses more of them"):
        factorize(Sized(), rank=1)


class Merging(nn.Conv2d):
    """Adds its adapter to its kernel for inference and takes it out again for training, as loralib's layers do."""

    merged = False

    def train(self, mode: bool = True) -> nn.Module:
        self.merged = not mode
        return super().train(mode)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_that_acts_on_its_mode_is_left_in_it(frozen: bool) -> None:
    model = nn.Sequential(Merging(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
    model[0].train(not frozen)
    for change in (analyze, lkca.replace_modules):
        change(model)
        assert model.training and model[1].training
        assert model[0].training is not frozen and model[0].merged is frozen


class Frozen(nn.Conv2d):
    """Is in eval mode for good once it was asked for a mode, as pretrained encoders are."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


def test_a_layer_that_refuses_training_is_left_as_it_was() -> None:
    model = nn.Sequential(Frozen(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
    analyze(model)
    assert all(module.training for module in model.modules())


def test_a_block_is_swapped_within_what_holds_it_alone() -> None:
    """Lists are walked through and sequences indexed by the model: they stay, and so does what adds to the block."""

    class Adding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = RcanLike()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    class Walking(nn.Module):
        def __init__(self, blocks: nn.Module) -> None:
            super().__init__()
            self.blocks = blocks

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks.values() if isinstance(self.blocks, nn.ModuleDict) else self.blocks:
                x = block(x)
            return x

    for block, inner in (
        (Adding(), "inner"),
        (nn.Sequential(RcanLike()), "0"),
        (Walking(nn.Sequential(RcanLike())), "blocks.0"),
        (Walking(nn.ModuleList([RcanLike()])), "blocks.0"),
        (Walking(nn.ModuleDict({"a": RcanLike()})), "blocks.a"),
    ):
        model, x = Net(block), torch.rand(1, 3, 6, 5)
        expected = model(x)
        report = lkca.replace_modules(model)
        assert list(report.swapped) == [f"block.{inner}", "up.0"] and not report.kept
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)
        assert str(lkca.replace_modules(model)) == "nothing to swap"


class Reading(nn.Module):
    """A model that uses more of its block than the block's result."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.block = RcanLike()
        self.block.strength = 0.5
        self.up = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        if self.reads == "layers":
            x = x * self.block.conv_du(x.mean((2, 3), keepdim=True))
        else:
            x = self.block(x) * getattr(self.block, "strength", 1.0)
        return self.up(x)


@pytest.mark.parametrize("reads", ["layers", "attribute"])
def test_a_block_that_the_model_looks_into_stays(reads: str) -> None:
    model, x = Reading(reads), torch.rand(1, 3, 6, 5)
    expected = model(x)
    for example in (None, x):
        report = lkca.replace_modules(model, example)
        assert "more of it than its result" in report.kept["block"] and "block" not in report.swapped
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)


class Several(nn.Module):
    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RcanLike() for _ in range(3))
        self.blocks[0].strength = 0.5
        self.reads, self.calls = reads, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for block in self.blocks:
            x = block(x)
        return x * getattr(self.blocks[0], "strength", 1.0) if self.reads else x + self.calls


@pytest.mark.parametrize("reads", [False, True])
def test_one_block_that_is_looked_into_keeps_no_other(reads: bool) -> None:
    """Nor does a model whose results differ each time keep any."""
    report = lkca.replace_modules(Several(reads), torch.rand(1, 8, 6, 5))
    assert list(report.swapped) == [f"blocks.{k}" for k in range(3) if k or not reads]
    assert list(report.kept) == (["blocks.0"] if reads else [])


def test_an_example_that_does_not_fit_changes_nothing() -> None:
    model = Net(RcanLike())
    with pytest.raises(RuntimeError, match="channels"):
        lkca.replace_modules(model, torch.rand(1, 5, 6, 5))
    assert type(model.block) is RcanLike


def test_an_upsampler_with_something_in_between_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2))
    report = lkca.replace_modules(model)
    assert not report.swapped and "relu" in report.kept["0"]


def test_gradients_go_on() -> None:
    torch.manual_seed(0)
    model, x = Net(SenetLike()), torch.rand(1, 3, 6, 5)
    model(x).square().sum().backward()
    expected = [p.grad.norm() for n, p in model.named_parameters() if "weight" in n]
    model.zero_grad()
    lkca.replace_modules(model)
    model(x).square().sum().backward()
    found = [p.grad.norm() for n, p in model.named_parameters() if "weight" in n]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [TorchvisionLike, SenetLike])
def test_an_optimiser_made_before_goes_on(kind: type[nn.Module]) -> None:
    model, x = Net(kind()), torch.rand(1, 3, 6, 5)
    model(x).sum().backward()
    before = list(model.parameters())
    lkca.replace_modules(model)
    linear = 2 * (kind is SenetLike)  # two weights, of other shapes now
    assert sum(all(p is not q for q in before) for p in model.parameters()) == linear
    assert sum(p.grad is None for p in model.parameters()) == linear
    calls: list[str] = []
    model.up[0].register_forward_hook(lambda m, i, o: calls.append("once"))
    model(x)
    assert calls == ["once"]


def test_the_default_device_plays_no_part() -> None:
    model = Net(RcanLike())
    with torch.device("meta"):
        assert list(lkca.replace_modules(model).swapped) == ["block", "up.0"]
