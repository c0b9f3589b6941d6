"""Layers and models that are left as they are, and why: what they compute would be lost or changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import l1_unstructured

from lkca.lowrank import (
    LowRankError,
    analyze,
    factorize,
    merge,
    replace_modules,
)
from lkca.nn import FusedShuffle, LowRankConv2d, LowRankUpsample, PixelShuffleUpsample


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


def test_a_pixel_shuffle_that_does_more_stays() -> None:
    model, x = nn.Sequential(nn.LazyLinear(2), conv(), doubled(nn.PixelShuffle(2))), torch.rand(1, 3, 6, 6)
    low = factorize(model, rank=12)[1:]  # the lazy layer takes no guess
    torch.testing.assert_close(low(x), model[1:](x), atol=1e-5, rtol=0)
