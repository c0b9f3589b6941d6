"""The C++ CPU backend: adapters from the backend contract (:mod:`lkca_kernels.backends`) to csrc/cpu."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from lkca_kernels.backends import BackendError
from lkca_kernels.native import CONVENTIONS, library_path, load

__all__ = [
    "DTYPES",
    "available_isas",
    "can_run",
    "channel_attention_bwd",
    "channel_attention_fwd",
    "channel_gate_bwd",
    "channel_gate_fwd",
    "isa",
    "large_kernel_branch_bwd",
    "large_kernel_branch_fwd",
    "local_channel_attention_bwd",
    "local_channel_attention_fwd",
    "lowrank_pixel_shuffle_bwd",
    "lowrank_pixel_shuffle_fwd",
    "lowrank_pixel_shuffle_stored_fwd",
    "pixel_shuffle_epilogue_bwd",
    "pixel_shuffle_epilogue_fwd",
    "unavailable",
    "use_huge_pages",
    "use_isa",
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_SCALE = 1024  # kMaxScale in csrc/cpu/operators.h

Gradients = tuple[Tensor | None, ...]


class _Operators:
    """The default overloads of ``torch.ops.lkca_cpu``, looked up once: per call that would cost microseconds."""

    def __getattr__(self, name: str) -> Any:
        reason = load("cpu")
        if reason is not None:
            raise RuntimeError(f"the C++ CPU backend {reason}")
        try:
            operator = getattr(torch.ops.lkca_cpu, name).default
        except AttributeError as error:
            raise AttributeError(
                f"{library_path('cpu')} has no {name}: it was built from older sources; build it again"
            ) from error
        setattr(self, name, operator)
        return operator


_ops = _Operators()


def unavailable() -> str | None:
    """None where the compiled library is there and loads, else the reason."""
    return load("cpu")


def can_run(op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int) -> str | None:
    """None where the backend serves such a call, else the reason."""
    if device.type != "cpu":
        return f"serves CPU tensors, not {device.type}"
    if op == "lowrank_pixel_shuffle_stored" and dtype != torch.float32:
        return f"serves float32 there, not {dtype}"
    if dtype not in DTYPES:
        return f"serves float32, bfloat16 and float16, not {dtype}"
    if upscale_factor > _MAX_SCALE:
        return f"serves upscale_factor up to {_MAX_SCALE}, not {upscale_factor}"
    _check_environment()
    return None


@cache
def _check_environment() -> None:
    """BackendError where LKCA_CPU_ISA or LKCA_HUGE_PAGES, which C++ else reads within a call, holds what it refuses."""
    try:
        isa()
        _ops.huge_pages()
    except RuntimeError as error:  # torch puts function, file and line before C++'s words
        raise BackendError("LKCA_" + str(error).rpartition("LKCA_")[2]) from error


def isa() -> str:
    """Name of the kernels in use: avx512_amx, avx512_bf16, avx512, avx2 or generic (LKCA_CPU_ISA)."""
    return str(_ops.isa())


def available_isas() -> tuple[str, ...]:
    """Kernels that this processor can run, best first."""
    return tuple(str(_ops.available_isas()).split(", "))


def use_isa(name: str) -> str:
    """Switch the whole process to other kernels ("auto" is the best); returns the name of those before."""
    return str(_ops.use_isa(name))


def use_huge_pages(setting: str) -> str:
    """Huge pages behind fresh outputs: "auto", "0" or "1" (environment: LKCA_HUGE_PAGES); returns the old setting."""
    return str(_ops.use_huge_pages(setting))


def _bits(needs: tuple[bool, ...]) -> int:
    return sum(bool(need) << bit for bit, need in enumerate(needs))


def lowrank_pixel_shuffle_fwd(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    out: Tensor | None = None,
) -> Tensor:
    result: Tensor = _ops.lowrank_pixel_shuffle_fwd(
        z, weight, bias, gate, skip, upscale_factor, CONVENTIONS[skip_bicubic], out
    )
    return result


def lowrank_pixel_shuffle_bwd(
    grad_out: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    needs: tuple[bool, ...],
) -> Gradients:
    result: Gradients = _ops.lowrank_pixel_shuffle_bwd(
        grad_out, z, weight, bias, gate, skip, upscale_factor, CONVENTIONS[skip_bicubic], _bits(needs)
    )
    return result


def lowrank_pixel_shuffle_stored_fwd(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    least: Tensor | None,
    gain: Tensor,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    rows: tuple[int, int],
    out: Tensor,
) -> Tensor:
    result: Tensor = _ops.lowrank_pixel_shuffle_stored(
        z, weight, bias, skip, least, gain, upscale_factor, CONVENTIONS[skip_bicubic], *rows, out
    )
    return result


def pixel_shuffle_epilogue_fwd(
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    out: Tensor | None = None,
) -> Tensor:
    result: Tensor = _ops.pixel_shuffle_epilogue_fwd(y, gate, skip, upscale_factor, CONVENTIONS[skip_bicubic], out)
    return result


def pixel_shuffle_epilogue_bwd(
    grad_out: Tensor,
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    needs: tuple[bool, ...],
) -> Gradients:
    result: Gradients = _ops.pixel_shuffle_epilogue_bwd(
        grad_out, y, gate, skip, upscale_factor, CONVENTIONS[skip_bicubic], _bits(needs)
    )
    return result


def channel_gate_fwd(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _ops.channel_gate_fwd(x, w1, b1, w2, b2)
    return result


def channel_gate_bwd(
    grad_gate: Tensor,
    x: Tensor,
    mean: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    needs: tuple[bool, ...],
) -> Gradients:
    result: Gradients = _ops.channel_gate_bwd(grad_gate, x, mean, w1, b1, w2, b2, _bits(needs))
    return result


def channel_attention_fwd(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    residual: Tensor | None,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _ops.channel_attention_fwd(x, w1, b1, w2, b2, residual, out)
    return result


def channel_attention_bwd(
    grad_out: Tensor,
    x: Tensor,
    mean: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    needs: tuple[bool, ...],
) -> Gradients:
    result: Gradients = _ops.channel_attention_bwd(grad_out, x, mean, w1, b1, w2, b2, _bits(needs))
    return result


def local_channel_attention_fwd(
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    residual: Tensor | None,
    *,
    window: int,
    out: Tensor | None = None,
) -> Tensor:
    result: Tensor = _ops.local_channel_attention_fwd(x, w1, w2, residual, window, out)
    return result


def local_channel_attention_bwd(
    grad_out: Tensor, x: Tensor, w1: Tensor, w2: Tensor, *, window: int, needs: tuple[bool, ...]
) -> Gradients:
    result: Gradients = _ops.local_channel_attention_bwd(grad_out, x, w1, w2, window, _bits(needs))
    return result


def large_kernel_branch_fwd(
    x: Tensor,
    depthwise: Tensor,
    expand: Tensor,
    contract: Tensor,
    residual: Tensor | None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    result: Tensor = _ops.large_kernel_branch_fwd(x, depthwise, expand, contract, residual, out)
    return result


def large_kernel_branch_bwd(
    grad_out: Tensor, x: Tensor, depthwise: Tensor, expand: Tensor, contract: Tensor, *, needs: tuple[bool, ...]
) -> Gradients:
    result: Gradients = _ops.large_kernel_branch_bwd(grad_out, x, depthwise, expand, contract, _bits(needs))
    return result
