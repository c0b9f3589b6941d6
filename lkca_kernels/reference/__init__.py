"""What each operator means, in plain PyTorch: any device, any floating dtype, differentiable any number of times."""

from __future__ import annotations

from lkca_kernels.reference.bicubic import Convention, bicubic_upsample
from lkca_kernels.reference.channel import channel_attention, channel_gate, channel_mean
from lkca_kernels.reference.epilogue import pixel_shuffle_epilogue
from lkca_kernels.reference.large_kernel import large_kernel_branch
from lkca_kernels.reference.local_attention import local_channel_attention, surroundings
from lkca_kernels.reference.lowrank import lowrank_pixel_shuffle, lowrank_pixel_shuffle_stored

__all__ = [
    "Convention",
    "bicubic_upsample",
    "channel_attention",
    "channel_gate",
    "channel_mean",
    "large_kernel_branch",
    "local_channel_attention",
    "lowrank_pixel_shuffle",
    "lowrank_pixel_shuffle_stored",
    "pixel_shuffle_epilogue",
    "surroundings",
]
