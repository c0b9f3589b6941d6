"""How tensors lie in memory: the one rule for results that follow an input's layout, and whether there is any."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["has_memory", "memory_format_of"]


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor that is dense in that order and not in NCHW order, else contiguous."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def has_memory(tensor: Tensor) -> bool:
    """Whether it has an address: no meta tensor, nor fake, nor one that a transform or another tensor stands behind."""
    plain = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ and not torch._is_functional_tensor(tensor)
    return plain and torch._C._has_storage(tensor) and tensor.device.type != "meta"
