"""Operators of light hyperspectral super-resolution. Depends on torch (Triton where present), never on lkca.

Importing asks no device and loads no library.
"""

from __future__ import annotations

from lkca_kernels.backends import (
    BackendError,
    Explanation,
    available_backends,
    keep_operators,
    register_backend,
    use_backend,
)
from lkca_kernels.ops import (
    channel_attention,
    channel_gate,
    explain,
    large_kernel_branch,
    local_channel_attention,
    lowrank_pixel_shuffle,
    lowrank_pixel_shuffle_stored,
    lowrank_upsample,
    pixel_shuffle_epilogue,
)
from lkca_kernels.reference.bicubic import bicubic_upsample

__all__ = [
    "BackendError",
    "Explanation",
    "available_backends",
    "bicubic_upsample",
    "channel_attention",
    "channel_gate",
    "explain",
    "keep_operators",
    "large_kernel_branch",
    "local_channel_attention",
    "lowrank_pixel_shuffle",
    "lowrank_pixel_shuffle_stored",
    "lowrank_upsample",
    "pixel_shuffle_epilogue",
    "register_backend",
    "use_backend",
]
