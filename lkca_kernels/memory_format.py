"""How tensors lie in memory: the one rule for results that follow an input's layout, and whether there is any."""

from __future__ import annotations

import torch
from torch import Tensor

from lkca_kernels.tracing import asked_by_the_tracer

__all__ = ["has_memory", "laid_out_like", "memory_format_of"]

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@asked_by_the_tracer  # a level cannot be traced
def _transformed() -> bool:
    """Whether inside torch.func: its vmap knows permutations, but no memory formats."""
    return torch._C._functorch.maybe_current_level() is not None


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor that is dense in that order and not in NCHW order, else contiguous."""
    if x.is_contiguous():
        return torch.contiguous_format
    last = x.permute(_LAST).is_contiguous() if _transformed() else x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def laid_out_like(x: Tensor, result: Tensor) -> Tensor:
    """``result`` (B, C, H, W) in the memory format of ``x``, inside vmap too."""
    memory_format = memory_format_of(x)
    if memory_format is torch.channels_last and _transformed():
        return result.permute(_LAST).contiguous().permute(_FIRST)
    return result.contiguous(memory_format=memory_format)


def has_memory(tensor: Tensor) -> bool:
    """Whether it has an address: no meta tensor, nor fake, nor one that a transform or another tensor stands behind."""
    plain = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ and not torch._is_functional_tensor(tensor)
    return plain and torch._C._has_storage(tensor) and tensor.device.type != "meta"
