"""The operators: signature, checks, schema, fake version, autograd and autocast."""

from __future__ import annotations

from lkca_kernels.ops.channel import channel_attention, channel_gate
from lkca_kernels.ops.epilogue import pixel_shuffle_epilogue
from lkca_kernels.ops.explain import explain
from lkca_kernels.ops.large_kernel import large_kernel_branch
from lkca_kernels.ops.local_attention import local_channel_attention
from lkca_kernels.ops.lowrank import lowrank_pixel_shuffle, lowrank_upsample
from lkca_kernels.ops.lowrank_stored import lowrank_pixel_shuffle_stored

__all__ = [
    "channel_attention",
    "channel_gate",
    "explain",
    "large_kernel_branch",
    "local_channel_attention",
    "lowrank_pixel_shuffle",
    "lowrank_pixel_shuffle_stored",
    "lowrank_upsample",
    "pixel_shuffle_epilogue",
]
