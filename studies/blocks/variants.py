"""LKCA-Nets of other blocks than the library's; what won is in ``lkca.nn``, what lost is here alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lkca.config import StrictModel
from lkca.models import LKCANet, LKCANetConfig
from lkca.nn import ChannelAttention, LargeKernelBlock

__all__ = ["Row", "build"]


class Row(StrictModel):
    """One network. attention: side of the window, 0 for none, or "global" for squeeze and excitation. attended: of how
    many blocks, from the last one back.

    identity: the kernels start near the identity, as the library's do, or else as PyTorch's convolutions do.
    """

    title: str
    kernel: int | Literal["decomposed", "parallel"] = 7
    attention: int | Literal["global"] = 9
    attended: int | None = None
    width: int = Field(default=32, ge=1)
    blocks: int = Field(default=4, ge=1)
    components: int = Field(default=8, ge=1)
    long_skip: bool = True
    identity: bool = True
    activation: Literal["relu", "leaky_relu", "gelu"] = "relu"


class NoLongSkip(LKCANet):
    """F_N = LKB_N(… LKB_1(F_0)), without F_0 once more."""

    def backbone(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(self.head(x))
        return result


class StepByStep(nn.ReLU):
    """No plain ReLU to the library's block, which so computes its parts one by one, as it does those of other rows.

    Its operator for all of them at once would let the rows that it serves train longer than those that it does not.
    """


class Parallel(nn.ModuleList):
    """Depthwise 3×3, 5×5 and 7×7 convolutions of one input, (B, C, H, W) -> (B, 3C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(depthwise(channels, size) for size in (3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([one(x) for one in self], 1)


def depthwise(channels: int, size: int, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (size // 2)
    return nn.Conv2d(channels, channels, size, padding=padding, dilation=dilation, groups=channels, bias=False)


@torch.no_grad()
def near_identity(module: nn.Module) -> None:
    """Every convolution within, as the library starts its large kernel."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.mul_(0.1)
            conv.weight += nn.init.dirac_(torch.empty_like(conv.weight), groups=conv.groups)


def decomposed(channels: int) -> nn.Sequential:
    """The 23×23 kernel of the Visual Attention Network (Guo et al. 2023), without its product with the input."""
    return nn.Sequential(
        depthwise(channels, 5), depthwise(channels, 7, dilation=3), nn.Conv2d(channels, channels, 1, bias=False)
    )


def build(config: LKCANetConfig, row: Row) -> LKCANet:
    """The network of ``row``; ``config`` says its bands and scale."""
    config = replace(
        config,
        width=row.width,
        blocks=row.blocks,
        kernel_size=row.kernel if isinstance(row.kernel, int) else 7,
        window=row.attention if isinstance(row.attention, int) else 0,
        attended=row.attended,
    )
    net = (LKCANet if row.long_skip else NoLongSkip)(config)
    for block in net.body:
        assert isinstance(block, LargeKernelBlock)
        if not row.identity:
            block.depthwise.reset_parameters()
        if row.kernel == "decomposed":
            block.depthwise = decomposed(row.width)  # type: ignore[assignment]
            near_identity(block.depthwise)
        if row.kernel == "parallel":
            block.depthwise = Parallel(row.width)  # type: ignore[assignment]
            near_identity(block.depthwise)
            block.expand = nn.Conv2d(3 * row.width, block.expand.out_channels, 1, bias=False)
        if row.attention == "global":
            block.contract = nn.Sequential(block.contract, ChannelAttention(row.width))  # type: ignore[assignment]
        other = {"leaky_relu": nn.LeakyReLU(0.1), "gelu": nn.GELU()}.get(row.activation)
        block.activation = other or StepByStep()  # type: ignore[assignment]
    return net
