"""Where the Triton backend can run, decided without importing Triton where it is absent."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec

import torch

from lkca_kernels.backends import ONLY_ON_CPUS, BackendError

__all__ = ["DTYPES", "can_run", "interpreted", "tuning_asked_for", "unavailable"]

_MINIMUM = (3, 6)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter (``TRITON_INTERPRET=1`` when it was imported)."""
    return bool(import_module("triton").knobs.runtime.interpret)


def tuning_asked_for() -> bool:
    """Whether ``LKCA_TRITON_TUNE`` is 1; BackendError where it is neither that nor 0, empty or unset."""
    value = os.environ.get("LKCA_TRITON_TUNE") or "0"
    if value not in ("0", "1"):
        raise BackendError(f"LKCA_TRITON_TUNE={value}: expected 1 or 0")
    return value == "1"


def unavailable() -> str | None:
    """None where Triton 3.6 or newer and a CUDA device (or the interpreter) are there, else the reason."""
    if find_spec("triton") is None:
        return "needs Triton, which is not installed"
    version = import_module("triton").__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM:
        return f"needs Triton {'.'.join(map(str, _MINIMUM))} or newer, found {version}"
    if not interpreted() and not torch.cuda.is_available():
        return "needs a GPU that torch can use (or TRITON_INTERPRET=1, which computes on the CPU, slowly)"
    return None


def can_run(op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int) -> str | None:
    """None where the kernels serve such a call, else the reason."""
    if op in ONLY_ON_CPUS:
        return ONLY_ON_CPUS[op]
    if dtype not in DTYPES:
        return f"serves float32, float16 and bfloat16, not {dtype}"
    if upscale_factor > 256:
        return f"serves scale factors up to 256, not {upscale_factor}: a tile holds all phases of a row"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if torch.version.hip is None and major < 8:
            return f"needs compute capability 8.0 or higher, {torch.cuda.get_device_name(device)} has {major}.{minor}"
    elif device.type != "cpu" or not interpreted():
        return f"serves CUDA tensors, not {device.type} (CPU tensors with TRITON_INTERPRET=1)"
    if dtype == torch.bfloat16 and interpreted():
        return "serves no bfloat16 in Triton's interpreter, whose bfloat16 arithmetic is wrong"
    tuning_asked_for()  # a wrong value raises here, not in the middle of a call
    return None
