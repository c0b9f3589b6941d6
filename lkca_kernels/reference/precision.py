"""Storage and arithmetic precision: 16-bit tensors are computed in float32."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

__all__ = ["widen"]


@overload
def widen(tensor: Tensor) -> Tensor: ...
@overload
def widen(tensor: None) -> None: ...
@overload
def widen(tensor: Tensor | None) -> Tensor | None: ...
def widen(tensor: Tensor | None) -> Tensor | None:
    """A float16 or bfloat16 tensor as float32; any other as it is."""
    if tensor is None or tensor.dtype not in (torch.float16, torch.bfloat16):
        return tensor
    return tensor.float()
