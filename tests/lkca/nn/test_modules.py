from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune

from lkca.nn import (
    ChannelAttention,
    LargeKernelBlock,
    LocalChannelAttention,
    LowRankConv2d,
    LowRankUpsample,
    PixelShuffleUpsample,
)
from lkca_kernels import bicubic_upsample
from lkca_kernels.backends import use_backend


@pytest.mark.parametrize("groups", [1, 2])
def test_low_rank_upsample_equals_its_merged_convolution(groups: int) -> None:
    torch.manual_seed(0)
    low = LowRankUpsample(6, 4, 3, rank=10, shared_groups=groups).double()
    x, gate, lr = torch.rand(2, 6, 4, 5).double(), torch.rand(2, 4).double(), torch.rand(2, 4, 4, 5).double()
    plain = F.pixel_shuffle(F.conv2d(x, low.merged_weight(), low.bias, padding=1), 3)
    torch.testing.assert_close(low(x), plain)
    expected = gate[:, :, None, None] * plain + bicubic_upsample(lr, 3)
    torch.testing.assert_close(low(x, skip=lr, gate=gate), expected)

    with pytest.raises(ValueError, match="rank: expected a multiple"):
        LowRankUpsample(6, 4, 3, rank=9, shared_groups=2)

    full = PixelShuffleUpsample(6, 4, 3).double()
    with torch.no_grad():
        full.conv.weight.copy_(low.merged_weight())
        full.conv.bias.copy_(low.bias)
    torch.testing.assert_close(full(x, skip=lr, gate=gate), expected)


def test_channel_attention_is_squeeze_and_excitation() -> None:
    torch.manual_seed(0)
    assert ChannelAttention(3, reduction=4).fc1.out_channels == 1
    se = ChannelAttention(8, reduction=2)
    x, residual = torch.randn(2, 8, 5, 3), torch.randn(2, 8, 5, 3)
    gate = torch.sigmoid(se.fc2(F.relu(se.fc1(x.mean((2, 3), keepdim=True)))))
    torch.testing.assert_close(se(x), x * gate)
    torch.testing.assert_close(se(x, residual), x * gate + residual)
    for kind in (ChannelAttention, LocalChannelAttention):
        with pytest.raises(ValueError, match="reduction: expected at least 1, got 0"):
            kind(8, reduction=0)


def test_local_attention_starts_as_identity_and_ignores_the_scale() -> None:
    torch.manual_seed(0)
    attention = LocalChannelAttention(8, window=5)
    x = torch.randn(1, 8, 6, 7)
    torch.testing.assert_close(attention(x), x)
    torch.nn.init.normal_(attention.fc2.weight)
    assert (attention(x) - x).abs().max() > 0.01
    for backend in ("auto", "reference"):
        with use_backend(backend):
            torch.testing.assert_close(attention(1000 * x), 1000 * attention(x))
            torch.testing.assert_close(attention(1e-9 * x), 1e-9 * attention(x), rtol=1e-4, atol=0)
    assert attention(torch.zeros_like(x)).eq(0).all()
    inside = F.avg_pool2d(x.abs(), 5, stride=1, padding=2, count_include_pad=False)
    gate = 2 * torch.sigmoid(attention.fc2(F.relu(attention.fc1(inside / inside.mean(1, keepdim=True)))))
    torch.testing.assert_close(attention(x), x * gate)
    with pytest.raises(ValueError, match="window"):
        LocalChannelAttention(8, window=4)


def test_block_is_homogeneous_and_copies() -> None:
    torch.manual_seed(0)
    block = LargeKernelBlock(4, kernel_size=5, window=3)
    torch.nn.init.normal_(block.attention.fc2.weight)
    x = torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(block(7 * x), 7 * block(x))
    torch.testing.assert_close(copy.deepcopy(block)(x), block(x))
    assert block.halo == 2 + 1
    with pytest.raises(ValueError, match="kernel_size"):
        LargeKernelBlock(4, kernel_size=4)
    with pytest.raises(ValueError, match="expansion"):
        LargeKernelBlock(4, expansion=0)


def test_the_last_factor_starts_as_a_convolution_of_torch() -> None:
    torch.manual_seed(0)
    layer = LowRankUpsample(6, 4, 2, rank=3)
    torch.manual_seed(0)
    reduce, last = torch.nn.Conv2d(6, 3, 3, bias=False), torch.nn.Conv2d(3, 16, 1)
    assert torch.equal(layer.reduce.weight, reduce.weight)
    assert torch.equal(layer.weight, last.weight[:, :, 0, 0]) and torch.equal(layer.bias, last.bias)


def test_block_starts_near_the_identity() -> None:
    torch.manual_seed(0)
    block = LargeKernelBlock(4, kernel_size=7, window=3, device="meta").to_empty(device="cpu")
    block.reset_parameters()
    for given in (block, LargeKernelBlock(4, kernel_size=7, window=3)):
        x = torch.randn(2, 4, 9, 9)
        blurred = given.depthwise(x)
        assert torch.corrcoef(torch.stack([blurred.flatten(), x.flatten()]))[0, 1] > 0.95
        assert (given(x) - x).std() < 0.5 * x.std()


class Doubled(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(x)


@pytest.mark.parametrize("kind", [ChannelAttention, LocalChannelAttention])
def test_attention_takes_its_layers_as_they_are(kind: type[torch.nn.Module]) -> None:
    """A replaced layer, a hook or a parametrisation has its say; such a step equals the operator's."""
    torch.manual_seed(0)
    attention, x = kind(8), torch.randn(2, 8, 6, 7)
    torch.nn.init.normal_(attention.fc2.weight)
    seen: list[torch.Tensor] = []
    expected = attention(x, residual=x)
    with attention.fc1.register_forward_hook(lambda module, inputs, output: seen.append(output)):
        torch.testing.assert_close(attention(x, residual=x), expected)
    assert len(seen) == 1
    with torch.autocast("cpu", dtype=torch.bfloat16), attention.fc1.register_forward_hook(lambda *_: None):
        assert attention(x).dtype == torch.bfloat16 and attention(x[:0]).shape == (0, 8, 6, 7)
    wrapped = copy.deepcopy(attention)
    wrapped.fc1 = Doubled(wrapped.fc1)
    plain = copy.deepcopy(attention)
    plain.fc1.weight.data.mul_(2)
    if plain.fc1.bias is not None:
        plain.fc1.bias.data.mul_(2)
    torch.testing.assert_close(wrapped(x), plain(x))
    repr(wrapped)
    torch.nn.utils.prune.identity(attention.fc1, "weight")
    for _ in range(2):  # the second backward would need the first one's graph
        attention(x).square().sum().backward()


@pytest.mark.parametrize("window", [0, 3])
def test_block_takes_its_parts_as_they_are(window: int) -> None:
    """In one operator by default; step by step for a hook, and with a part that was replaced."""
    torch.manual_seed(0)
    block = LargeKernelBlock(5, kernel_size=3, window=window)
    x = torch.randn(2, 5, 7, 6)
    with torch.no_grad():
        expected = x + block.attention(block.contract(torch.relu(block.expand(block.depthwise(x)))))
        torch.testing.assert_close(block(x), expected)
        seen: list[torch.Tensor] = []
        with block.expand.register_forward_hook(lambda module, inputs, output: seen.append(output)):
            torch.testing.assert_close(block(x), expected)
        hook = block.depthwise.register_full_backward_pre_hook(lambda module, grad: seen.append(grad[0]))
        with hook, torch.enable_grad():
            block(x).sum().backward()
        assert [tuple(t.shape) for t in seen] == [(2, 10, 7, 6), (2, 5, 7, 6)]
        narrow, block.depthwise = block.depthwise, torch.nn.Conv2d(5, 5, 3, padding=2, dilation=2, groups=5)
        wide = x + block.attention(block.contract(torch.relu(block.expand(block.depthwise(x)))))
        torch.testing.assert_close(block(x), wide)
        block.depthwise = narrow
        torch.testing.assert_close(block(x), expected)
        block.activation = torch.nn.Tanh()
        assert not torch.allclose(block(x), expected)
    with torch.no_grad():
        inference = LargeKernelBlock(5, kernel_size=3, window=window)
        answer = inference(x)
    torch.testing.assert_close(inference(x.requires_grad_()), answer)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: ChannelAttention(8.0), "channels"),
        (lambda: ChannelAttention(8, 2.5), "reduction"),
        (lambda: ChannelAttention(8, hidden_channels=2.0), "hidden_channels"),
        (lambda: LocalChannelAttention(8, 9.0), "window"),
        (lambda: LargeKernelBlock(8, 7.0), "kernel_size"),
        (lambda: LargeKernelBlock(8, window=9.0), "window"),
        (lambda: LowRankConv2d(8, 8, 3, 2.0), "rank"),
        (lambda: LowRankConv2d(8, 8.0, 3, 2), "out_channels"),
    ],
)
def test_sizes_that_are_no_integers_are_named(make: Any, argument: str) -> None:
    with pytest.raises(TypeError, match=f"^{argument}: expected an integer, got float"):
        make()


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: ChannelAttention(8, hidden_channels=0), "hidden_channels"),
        (lambda: ChannelAttention(8, hidden_channels=-1), "hidden_channels"),
        (lambda: LocalChannelAttention(0), "channels"),
        (lambda: LargeKernelBlock(-8), "channels"),
        (lambda: LowRankConv2d(8, 8, 3, 0), "rank"),
        (lambda: LowRankConv2d(8, 0, 3, 2), "out_channels"),
    ],
)
def test_sizes_below_one_are_named(make: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected at least 1"):
        make()


def test_numpy_s_kernel_sizes() -> None:
    for kernel in (np.int64(5), (np.int8(5), 3)):
        for layer in (PixelShuffleUpsample(4, 3, 2, kernel), LowRankUpsample(4, 3, 2, 2, kernel, dilation=np.int64(2))):
            assert layer(torch.rand(1, 4, 9, 11)).shape == (1, 3, 18, 22)


def test_an_upsampler_s_input_is_named() -> None:
    for layer in (PixelShuffleUpsample(4, 2, 2), LowRankUpsample(4, 2, 2, 2)):
        with pytest.raises(ValueError, match=r"^x: expected 4 dimensions \(B, in_channels, h, w\), got \(4, 9, 11\)"):
            layer(torch.rand(4, 9, 11))
