"""What callers give: images, and numbers of Python, of NumPy, or what a tracer has in their place."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

__all__ = ["check_first", "integer", "not_dense"]

_FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def check_first(name: str, tensor: object, shape: str) -> None:
    """``tensor`` is a dense floating tensor with the four dimensions that ``shape`` names.

    Raises TypeError or ValueError that names it.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor {shape}, got {type(tensor).__name__}")
    if tensor.dtype not in _FLOATING:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {tensor.dtype}")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise not_dense(name, tensor)
    if tensor.ndim != 4:
        raise ValueError(f"{name}: expected 4 dimensions {shape}, got {tuple(tensor.shape)}")


def not_dense(name: str, tensor: Tensor) -> TypeError:
    """The error for a sparse tensor, one in a library's own layout, or a nested one."""
    kind = "a nested one" if tensor.is_nested else f"layout {tensor.layout}"
    return TypeError(f"{name}: expected a dense tensor, got {kind}")


def integer(name: str, value: object) -> int:
    """``value`` as an integer; a symbol stays one. Raises TypeError that names the argument for what is none."""
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
