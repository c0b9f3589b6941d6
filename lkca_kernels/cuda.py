"""The CUDA C++ backend: adapters from the contract of lkca_kernels.backends to the operators of ``_C_cuda``.

The kernels take contiguous NCHW tensors; any other layout is copied first, and the result copied back into it. Each
call allocates through torch only and never synchronises, so it can be captured in a CUDA graph; sums are taken in a
fixed order without atomics, so results are deterministic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lkca_kernels import native
from lkca_kernels.backends import ONLY_ON_CPUS
from lkca_kernels.memory_format import memory_format_of

__all__ = [
    "DTYPES",
    "can_run",
    "channel_attention_bwd",
    "channel_attention_fwd",
    "channel_gate_bwd",
    "channel_gate_fwd",
    "local_channel_attention_bwd",
    "local_channel_attention_fwd",
    "lowrank_pixel_shuffle_bwd",
    "lowrank_pixel_shuffle_fwd",
    "pixel_shuffle_epilogue_bwd",
    "pixel_shuffle_epilogue_fwd",
    "unavailable",
]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MAX_SCALE = 64  # weight rows of a tile: kTileRows in csrc/cuda/tile.h
_CAPABILITY = (8, 0)


def unavailable() -> str | None:
    """None where this machine has a CUDA torch, a card and the compiled library, else the reason."""
    if torch.version.cuda is None:
        return f"needs a CUDA build of torch, this is {torch.__version__}"
    if not torch.cuda.is_available():
        return "finds no CUDA device"
    return native.load("cuda")


def can_run(op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int) -> str | None:
    """None where the kernels serve such a call, else the reason."""
    if op in ONLY_ON_CPUS:
        return ONLY_ON_CPUS[op]
    if device.type != "cuda":
        return f"takes CUDA tensors, not {device.type}"
    if dtype not in DTYPES:
        return f"takes float32, float16 and bfloat16, not {dtype}"
    if upscale_factor > _MAX_SCALE:
        return f"takes upscale_factor up to {_MAX_SCALE}, not {upscale_factor}"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        return f"needs compute capability 8.0, {device} has {capability[0]}.{capability[1]}"
    return None


def _ops() -> Any:
    return torch.ops.lkca_cuda


def _plain(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _wanted(tensors: tuple[Tensor | None, ...], needs: tuple[bool, ...]) -> list[Tensor | None]:
    """A contiguous tensor for each gradient that is wanted."""
    return [
        torch.empty_like(t, memory_format=torch.contiguous_format) if need and t is not None else None
        for t, need in zip(tensors, needs, strict=True)
    ]


def _like(gradient: Tensor | None, tensor: Tensor) -> Tensor | None:
    """The gradient in the layout that the contract asks for."""
    return None if gradient is None else gradient.contiguous(memory_format=memory_format_of(tensor))


def _upscaled(x: Tensor, channels: int, upscale_factor: int, out: Tensor | None) -> Tensor:
    if out is not None:
        return out
    return x.new_empty(x.shape[0], channels, x.shape[2] * upscale_factor, x.shape[3] * upscale_factor)


def _skip_gradient(grad_out: Tensor, skip: Tensor | None, upscale_factor: int, skip_bicubic: str) -> Tensor:
    assert skip is not None
    gradient = torch.empty_like(skip, memory_format=torch.contiguous_format)
    _ops().bicubic_skip_bwd(grad_out, upscale_factor, native.CONVENTIONS[skip_bicubic], gradient)
    return gradient.contiguous(memory_format=memory_format_of(skip))


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
    out = _upscaled(z, weight.shape[0] // upscale_factor**2, upscale_factor, out)
    inputs = [_plain(t) for t in (z, weight, bias, gate, skip)]
    _ops().lowrank_pixel_shuffle_fwd(*inputs, upscale_factor, native.CONVENTIONS[skip_bicubic], out)
    return out


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
) -> tuple[Tensor | None, ...]:
    grad_out = grad_out.contiguous()
    tensors = (z, weight, bias, gate)
    gradients = _wanted(tensors, needs[:4])
    if any(gradient is not None for gradient in gradients):
        inputs = [_plain(t) for t in tensors]
        _ops().lowrank_pixel_shuffle_bwd(grad_out, *inputs, upscale_factor, *gradients)
    grad_skip = _skip_gradient(grad_out, skip, upscale_factor, skip_bicubic) if needs[4] else None
    return _like(gradients[0], z), *gradients[1:], grad_skip


def pixel_shuffle_epilogue_fwd(
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    out: Tensor | None = None,
) -> Tensor:
    out = _upscaled(y, y.shape[1] // upscale_factor**2, upscale_factor, out)
    inputs = [_plain(t) for t in (y, gate, skip)]
    _ops().pixel_shuffle_epilogue_fwd(*inputs, upscale_factor, native.CONVENTIONS[skip_bicubic], out)
    return out


def pixel_shuffle_epilogue_bwd(
    grad_out: Tensor,
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    grad_out = grad_out.contiguous()
    grad_y, grad_gate = _wanted((y, gate), needs[:2])
    if grad_y is not None or grad_gate is not None:
        _ops().pixel_shuffle_epilogue_bwd(grad_out, _plain(y), _plain(gate), upscale_factor, grad_y, grad_gate)
    grad_skip = _skip_gradient(grad_out, skip, upscale_factor, skip_bicubic) if needs[2] else None
    return _like(grad_y, y), grad_gate, grad_skip


def _mean_room(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=torch.float32)


def _result_room(x: Tensor, out: Tensor | None) -> Tensor:
    """A contiguous tensor like x to write into: ``out`` itself where it is one."""
    if out is not None and memory_format_of(x) == torch.contiguous_format:
        return out
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _delivered(result: Tensor, x: Tensor, out: Tensor | None) -> Tensor:
    """The result in ``out``, or in the layout of x."""
    if out is not None:
        return out if out is result else out.copy_(result)
    return result.contiguous(memory_format=memory_format_of(x))


def channel_gate_fwd(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    gate, mean = x.new_empty(x.shape[:2]), _mean_room(x)
    _ops().channel_gate_fwd(*[_plain(t) for t in (x, w1, b1, w2, b2)], gate, mean)
    return gate, mean


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
) -> tuple[Tensor | None, ...]:
    gradients = _wanted((x, w1, b1, w2, b2), needs)
    inputs = [_plain(t) for t in (mean, w1, b1, w2, b2)]
    _ops().channel_gate_bwd(grad_gate.contiguous(), list(x.shape), *inputs, *gradients)
    return _like(gradients[0], x), *gradients[1:]


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
    result, mean = _result_room(x, out), _mean_room(x)
    _ops().channel_attention_fwd(*[_plain(t) for t in (x, w1, b1, w2, b2, residual)], result, mean)
    return _delivered(result, x, out), mean


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
) -> tuple[Tensor | None, ...]:
    gradients = _wanted((x, w1, b1, w2, b2), needs)
    inputs = [_plain(t) for t in (grad_out, x, mean, w1, b1, w2, b2)]
    _ops().channel_attention_bwd(*inputs, *gradients)
    return _like(gradients[0], x), *gradients[1:]


def local_channel_attention_fwd(
    x: Tensor, w1: Tensor, w2: Tensor, residual: Tensor | None, *, window: int, out: Tensor | None = None
) -> Tensor:
    result = _result_room(x, out)
    _ops().local_channel_attention_fwd(*[_plain(t) for t in (x, w1, w2, residual)], window, result)
    return _delivered(result, x, out)


def local_channel_attention_bwd(
    grad_out: Tensor, x: Tensor, w1: Tensor, w2: Tensor, *, window: int, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    gradients = _wanted((x, w1, w2), needs)
    if any(needs):
        _ops().local_channel_attention_bwd(*[_plain(t) for t in (grad_out, x, w1, w2)], window, *gradients)
    return _like(gradients[0], x), *gradients[1:]
