"""Which backend would serve a call, in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lkca_kernels.arguments import check_first
from lkca_kernels.autocasting import autocast
from lkca_kernels.backends import Explanation, explain_call
from lkca_kernels.ops import _checks
from lkca_kernels.ops.channel import channel_attention, channel_gate
from lkca_kernels.ops.epilogue import pixel_shuffle_epilogue
from lkca_kernels.ops.large_kernel import large_kernel_branch
from lkca_kernels.ops.local_attention import local_channel_attention
from lkca_kernels.ops.lowrank import lowrank_pixel_shuffle, lowrank_upsample
from lkca_kernels.ops.lowrank_stored import lowrank_pixel_shuffle_stored

__all__ = ["OPERATORS", "explain"]

OPERATORS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        lowrank_pixel_shuffle,
        lowrank_pixel_shuffle_stored,
        lowrank_upsample,
        pixel_shuffle_epilogue,
        channel_gate,
        channel_attention,
        local_channel_attention,
        large_kernel_branch,
    )
}


def explain(op: str | Callable[..., Tensor], *args: Any, **kwargs: Any) -> Explanation:
    """Say which backend serves ``op(*args, **kwargs)`` here and now, and why each other one does not.

    ``op`` is an operator of this package or its name; the call is not made. Of :func:`lowrank_upsample` it explains the
    second stage. Raises ValueError for an unknown operator or a scale factor below 2, TypeError for arguments that it
    does not take, and BackendError for an unknown backend; a known backend that cannot serve the call is told, not
    raised. Shapes are not checked.
    """
    name = op if isinstance(op, str) else getattr(op, "__name__", repr(op))
    if name not in OPERATORS:
        raise ValueError(f"op: expected one of {', '.join(OPERATORS)}, got {name}")
    signature = inspect.signature(OPERATORS[name])
    arguments = signature.bind(*args, **kwargs).arguments
    first_name = next(iter(signature.parameters))
    first = arguments[first_name]
    if name != "lowrank_pixel_shuffle_stored":  # which stays in float32
        (first,) = autocast(first)
    check_first(first_name, first, "(the first tensor)")
    served = "lowrank_pixel_shuffle" if name == "lowrank_upsample" else name
    factor = _checks.checked_factor(arguments["upscale_factor"]) if "upscale_factor" in arguments else 1
    empty = _checks.is_empty(value for argument, value in arguments.items() if argument != "out")
    return explain_call(served, first.device, first.dtype, factor, arguments.get("backend"), empty=empty)
