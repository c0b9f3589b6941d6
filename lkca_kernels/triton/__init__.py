"""Triton backend: fused forward and backward kernels for GPUs.

The contract is that of `lkca_kernels.backends`. Importing this package does not import Triton; the first call does.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from .support import can_run, unavailable

_HOMES = {
    "lowrank_pixel_shuffle_fwd": "lowrank_fwd",
    "lowrank_pixel_shuffle_bwd": "lowrank_bwd",
    "pixel_shuffle_epilogue_fwd": "epilogue",
    "pixel_shuffle_epilogue_bwd": "epilogue",
    "channel_gate_fwd": "channel",
    "channel_gate_bwd": "channel",
    "channel_attention_fwd": "channel",
    "channel_attention_bwd": "channel",
    "local_channel_attention_fwd": "local_attention",
    "local_channel_attention_bwd": "local_attention",
}

__all__ = [
    "can_run",
    "unavailable",
    *_HOMES,
]


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    result: Callable[..., Any] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return result
