"""The operators: one file each, with signature, checks, schema, fake version, autograd and autocast."""

from __future__ import annotations

from lkca_kernels.ops.channel import channel_attention, channel_gate
from lkca_kernels.ops.upsample import lowrank_pixel_shuffle, lowrank_upsample, pixel_shuffle_epilogue

__all__ = [
    "channel_attention",
    "channel_gate",
    "lowrank_pixel_shuffle",
    "lowrank_upsample",
    "pixel_shuffle_epilogue",
]
