"""Numbers that callers give: Python's, NumPy's, and what a tracer has in their place."""

from __future__ import annotations

import operator

import torch

__all__ = ["integer"]


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
