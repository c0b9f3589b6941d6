"""What torch.nn's modules can do, ours can: copies, devices, layouts, tracing, compiling, DDP, foreign weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.nn import (
    ChannelAttention,
    FusedShuffle,
    LargeKernelBlock,
    LocalChannelAttention,
    LowRankConv2d,
    LowRankUpsample,
    PixelShuffleUpsample,
)

MODULES: dict[str, Callable[..., nn.Module]] = {
    "low rank": lambda **kind: LowRankUpsample(6, 4, 2, rank=3, **kind),
    "low rank, odd": lambda **kind: LowRankUpsample(
        6, 4, 3, 5, (3, 5), stride=(1, 2), dilation=2, bias=False, padding_mode="reflect", **kind
    ),
    "full rank": lambda **kind: PixelShuffleUpsample(6, 4, 2, **kind),
    "low-rank convolution": lambda **kind: LowRankConv2d(6, 16, 3, 3, padding=1, **kind),
    "attention": lambda **kind: ChannelAttention(6, reduction=2, **kind),
    "attention without bias": lambda **kind: ChannelAttention(6, hidden_channels=2, bias=False, **kind),
    "local attention": lambda **kind: LocalChannelAttention(6, window=3, **kind),
    "block": lambda **kind: LargeKernelBlock(6, kernel_size=5, window=3, **kind),
}


@pytest.fixture(params=MODULES)
def make(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    torch.manual_seed(0)
    return MODULES[request.param]


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, 6, 8, 7, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_copies_and_describes_itself(make: Callable[..., nn.Module]) -> None:
    module = make()
    twin = copy.deepcopy(module)
    assert torch.equal(twin(image()), module(image()))
    assert all(a is not b for a, b in zip(twin.parameters(), module.parameters(), strict=True))
    assert "channels" in repr(module)


def test_dtype_and_meta_device(make: Callable[..., nn.Module]) -> None:
    assert make(dtype=torch.float64)(image(torch.float64)).dtype == torch.float64
    module = make(device="meta")
    assert all(p.is_meta for p in module.parameters())
    with torch.device("meta"):
        assert all(p.is_meta for p in make().parameters())
    module.to_empty(device="cpu")
    for p in module.parameters():
        nn.init.constant_(p, torch.nan)
    module.reset_parameters()
    assert module(image()).isfinite().all()


def test_channels_last(make: Callable[..., nn.Module]) -> None:
    module = make()
    expected = module(image())
    found = module.to(memory_format=torch.channels_last)(image().to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.sum(), tuple(module.parameters()))
    for gradient, p in zip(gradients, module.parameters(), strict=True):
        assert gradient.stride() == p.stride()  # else DDP warns: a convolution's gradients have them
    contiguous = make()
    gradients = torch.autograd.grad(contiguous(image()).sum(), tuple(contiguous.parameters()))
    assert all(g.stride() == p.stride() for g, p in zip(gradients, contiguous.parameters(), strict=True))


def test_a_shuffle_alone_keeps_channels_last() -> None:
    """A swap must not turn a network's layout: its next convolution would turn it back."""
    layer = PixelShuffleUpsample(6, 4, 2).to(memory_format=torch.channels_last)
    theirs = nn.Sequential(layer.conv, nn.PixelShuffle(2))
    x = image().to(memory_format=torch.channels_last)
    found, expected = layer(x), theirs(x)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()
    assert layer(image()[:, :, :1, :1]).is_contiguous()
    assert layer(x, gate=torch.ones(2, 4)).is_contiguous()


def test_autocast(make: Callable[..., nn.Module]) -> None:
    module = make()
    x = image().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert torch.linalg.norm(y.float() - module(x)) < 0.03 * torch.linalg.norm(module(x))
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())


def test_export(make: Callable[..., nn.Module]) -> None:
    module = make().eval()
    h, w = torch.export.Dim("h", min=5, max=64), torch.export.Dim("w", min=5, max=64)
    program = torch.export.export(module, (image(),), dynamic_shapes=({2: h, 3: w},), strict=False)
    x = torch.rand(2, 6, 9, 11)
    torch.testing.assert_close(program.module()(x), module(x))


def test_compiles_in_one_graph(make: Callable[..., nn.Module]) -> None:
    torch._dynamo.reset()
    module = make()
    x = image().requires_grad_()
    y = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, module(x))
    y.square().sum().backward()
    found = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    module(x).square().sum().backward()
    torch.testing.assert_close(found, [p.grad for p in module.parameters()])


def test_distributed_data_parallel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.Sequential(LargeKernelBlock(6, 5, window=3), ChannelAttention(6), LowRankUpsample(6, 4, 2, 3))
        twin = copy.deepcopy(net)
        parallel = nn.parallel.DistributedDataParallel(net)
        parallel(image()).square().sum().backward()
        twin(image()).square().sum().backward()
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_upsamplers_take_the_arguments_of_a_convolution() -> None:
    torch.manual_seed(0)
    arguments = {"stride": 2, "padding": (2, 1), "dilation": (2, 1), "padding_mode": "replicate"}
    conv = nn.Conv2d(6, 16, (3, 3), **arguments)
    expected = F.pixel_shuffle(conv(image()), 2)
    full = PixelShuffleUpsample(6, 4, 2, (3, 3), **arguments)
    full.load_state_dict(conv.state_dict())  # a plain convolution's names
    torch.testing.assert_close(full(image()), expected)
    assert set(full.state_dict()) == {"conv.weight", "conv.bias"}
    low = LowRankUpsample(6, 4, 2, 16, (3, 3), **arguments)
    with torch.no_grad():
        low.reduce.weight.copy_(conv.weight)
        low.weight.copy_(torch.eye(16))
        low.bias.copy_(conv.bias)
    torch.testing.assert_close(low(image()), expected)
    torch.testing.assert_close(low.merged_weight(), conv.weight)
    two, four, many = (np.uint8(n) for n in (2, 4, 100))  # 100 * 2**2 is more than they hold
    for module in (
        PixelShuffleUpsample(8, many, two, shared_groups=four),
        LowRankUpsample(8, many, two, many, shared_groups=four),
    ):
        assert type(module.upscale_factor) is int
        assert module(image()[:, :1].repeat(1, 8, 1, 1)).shape[1] == 100
    assert type(FusedShuffle(two).upscale_factor) is int
    for wrong in ({"upscale_factor": 1}, {"out_channels": 0}, {"rank": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LowRankUpsample(**{"in_channels": 6, "out_channels": 4, "upscale_factor": 2, "rank": 3, **wrong})


@pytest.mark.parametrize(
    ("first", "second", "linear", "bias"),
    [
        ("fc1", "fc2", False, True),
        ("conv_reduce", "conv_expand", False, True),
        ("conv_du.0", "conv_du.2", False, True),
        ("attention.1", "attention.3", False, True),
        ("fc.0", "fc.2", True, False),
    ],
)
def test_attention_loads_the_usual_squeeze_excite_weights(first: str, second: str, linear: bool, bias: bool) -> None:
    torch.manual_seed(0)
    w1, w2, b1, b2 = torch.randn(2, 6), torch.randn(6, 2), torch.randn(2), torch.randn(6)
    state = {f"{first}.weight": w1, f"{second}.weight": w2}
    if not linear:
        state = {name: weight[:, :, None, None] for name, weight in state.items()}
    if bias:
        state |= {f"{first}.bias": b1, f"{second}.bias": b2}
    wrapped = nn.Sequential(ChannelAttention(6, hidden_channels=2, bias=bias))
    wrapped.load_state_dict({f"0.{name}": value for name, value in state.items()})
    hidden = F.relu(F.linear(image().mean((2, 3)), w1, b1 if bias else None))
    gate = torch.sigmoid(F.linear(hidden, w2, b2 if bias else None))
    torch.testing.assert_close(wrapped(image()), image() * gate[:, :, None, None])
    parts = ("weight", "bias") if bias else ("weight",)
    assert set(wrapped.state_dict()) == {f"0.{layer}.{part}" for layer in ("fc1", "fc2") for part in parts}
