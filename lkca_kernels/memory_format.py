"""How tensors lie in memory: the one rule for results that follow an input's layout, and whether there is any."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["has_memory", "laid_out_like", "memory_format_of"]

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor that is dense in that order and not in NCHW order, else contiguous."""
    if x.is_contiguous() or not x.permute(_LAST).is_contiguous():  # vmap knows no memory formats, but permutations
        return torch.contiguous_format
    return torch.channels_last


def laid_out_like(x: Tensor, result: Tensor) -> Tensor:
    """``result`` (B, C, H, W) in the memory format of ``x``, inside vmap too."""
    if memory_format_of(x) is torch.contiguous_format:
        return result.contiguous()
    return result.permute(_LAST).contiguous().permute(_FIRST)


def has_memory(tensor: Tensor) -> bool:
    """Whether it has an address: no meta tensor, nor fake, nor one that a transform or another tensor stands behind."""
    plain = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ and not torch._is_functional_tensor(tensor)
    return plain and torch._C._has_storage(tensor) and tensor.device.type != "meta"
