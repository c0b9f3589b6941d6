"""Drop-in modules that the networks are built from."""

from __future__ import annotations

from lkca.nn.attention import ChannelAttention, LocalChannelAttention
from lkca.nn.blocks import LargeKernelBlock
from lkca.nn.upsample import LowRankUpsample, PixelShuffleUpsample

__all__ = [
    "ChannelAttention",
    "LargeKernelBlock",
    "LocalChannelAttention",
    "LowRankUpsample",
    "PixelShuffleUpsample",
]
