"""Autocast: what the operators do with their tensors where it is on, and how the arithmetic inside goes without."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lkca_kernels.tracing import asked_by_the_tracer

__all__ = ["autocast", "unautocast"]

# Looked up once: per call that would cost as much as the questions.
_tracing = torch.compiler.is_compiling
_any_autocast = torch._C._is_any_autocast_enabled
_AUTOCAST_FROM = frozenset({torch.float16, torch.bfloat16, torch.float32})


@asked_by_the_tracer  # torch 2.11 cannot trace the question
def _has_autocast(device: str) -> bool:
    """Whether devices of this type have autocast."""
    return device != "meta" and torch.amp.is_autocast_available(device)


def _autocasts(device: str) -> bool:
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def autocast(first: object, *others: object) -> tuple[Any, ...]:
    """The tensors in the autocast dtype of the first one's device where autocast is on; float64 stays."""
    tensors = (first, *others)
    if not (_tracing() or _any_autocast()) or not isinstance(first, Tensor):
        return tensors
    device = first.device.type
    if not _autocasts(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if isinstance(t, Tensor) and t.dtype in _AUTOCAST_FROM else t for t in tensors)


def unautocast(device: str) -> AbstractContextManager[object]:
    """Inside, autocast is off for devices of this type."""
    return torch.autocast(device, enabled=False) if _autocasts(device) else nullcontext()
