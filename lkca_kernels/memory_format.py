"""The one rule for the layout of results that follow an input's layout."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["memory_format_of"]


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor that is dense in that order and not in NCHW order, else contiguous."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last
