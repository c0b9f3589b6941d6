"""Storage and arithmetic precision: 16-bit tensors are computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["widen"]


def widen(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """float16 and bfloat16 tensors as float32; others as they are."""
    return tuple(
        t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t  # fmt: skip
        for t in tensors
    )
