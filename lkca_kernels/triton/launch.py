"""Every Triton launch goes through here, so that the ahead-of-time report sees exactly what a call would launch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Launch",
    "full_precision",
    "launch",
    "precision",
    "product_precision",
    "record_launches",
    "skip_kind",
    "streaming_multiprocessors",
    "strides",
]


@dataclass(frozen=True)
class Launch:
    """One kernel launch: the jitted function, its argument values by name, and the compile options."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int


_recorder: ContextVar[list[Launch] | None] = ContextVar("lkca_triton_recorder", default=None)


@contextmanager
def record_launches() -> Iterator[list[Launch]]:
    """Collect the launches made inside instead of running them; outputs stay unwritten (use meta tensors)."""
    launches: list[Launch] = []
    token = _recorder.set(launches)
    try:
        yield launches
    finally:
        _recorder.reset(token)


def launch(
    kernel: Any, programs: int, arguments: dict[str, Any], *, device: torch.device, num_warps: int, num_stages: int = 1
) -> None:
    """Run ``kernel`` over a one-dimensional grid on ``device``'s current stream; no programs, no launch.

    The grid has one dimension because y and z stop at 65535 blocks. Raises ValueError past 2**31 - 1 programs.
    """
    if programs == 0:
        return
    if programs >= 2**31:
        raise ValueError(f"{kernel.__name__}: {programs} programs exceed the grid limit of 2**31 - 1; split the batch")
    recorder = _recorder.get()
    if recorder is not None:
        recorder.append(Launch(kernel, programs, arguments, num_warps, num_stages))
        return
    # Triton launches on the current device, which need not be the tensors' own.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](**arguments, num_warps=num_warps, num_stages=num_stages)


def precision(dtype: torch.dtype) -> str:
    """``input_precision`` of ``tl.dot``: PyTorch's own float32 matmul setting decides between ieee and tf32."""
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def product_precision(dtype: torch.dtype) -> str:
    """As `precision`, but float32's own precision from the tensor cores: "tf32x3" instead of "ieee".

    Three products of tf32 parts leave out what is below 2**-21 of each term, less than float32 sums lose by rounding,
    and take a fraction of the time. Only NVIDIA's compiler knows them.
    """
    usual = precision(dtype)
    return full_precision(dtype) if usual == "ieee" else usual


def full_precision(dtype: torch.dtype) -> str:
    """`product_precision` where PyTorch's setting is "ieee"."""
    return "tf32x3" if dtype == torch.float32 and torch.version.hip is None else "ieee"


@lru_cache
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def streaming_multiprocessors(device: torch.device) -> int:
    """How many programs run side by side; 132 (H100) where there is no card to ask, 2 in the interpreter."""
    if device.type == "cuda":
        return _multiprocessors(torch.cuda.current_device() if device.index is None else device.index)
    return 132 if device.type == "meta" else 2


def skip_kind(skip: Tensor | None, low_res: tuple[int, int], skip_bicubic: str) -> str:
    """ "none", "hr", or for an LR skip the bicubic convention."""
    if skip is None:
        return "none"
    return skip_bicubic if tuple(skip.shape[-2:]) == low_res else "hr"


def strides(name: str, tensor: Tensor | None, dims: str) -> dict[str, int]:
    """Kernel arguments ``<name>_s<dim>``; zeros for an absent tensor."""
    values = tensor.stride() if tensor is not None else (0,) * len(dims)
    return {f"{name}_s{dim}": value for dim, value in zip(dims, values, strict=True)}
