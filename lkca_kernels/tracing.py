"""What torch.compile is told of functions that it cannot trace, or should not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["asked_by_the_tracer"]

F = TypeVar("F", bound=Callable[..., Any])


def asked_by_the_tracer(function: F) -> F:
    """The tracer calls ``function`` and takes its answer for a constant, instead of tracing it.

    So does ``torch.compiler.assume_constant_result``, but it imports the whole of dynamo and Triton.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
