"""Drop-in modules that the networks are built from."""

from __future__ import annotations

from lkca.nn.attention import ChannelAttention, LocalChannelAttention
from lkca.nn.blocks import LargeKernelBlock
from lkca.nn.upsample import FusedShuffle, LowRankConv2d, LowRankUpsample, PixelShuffleUpsample

__all__ = [
    "ChannelAttention",
    "FusedShuffle",
    "LargeKernelBlock",
    "LocalChannelAttention",
    "LowRankConv2d",
    "LowRankUpsample",
    "PixelShuffleUpsample",
]
