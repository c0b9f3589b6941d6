"""Input checks of the operators. Every message names the argument, what it should be and what it is."""

from __future__ import annotations

import torch
from torch import Tensor

from lkca_kernels.reference.bicubic import KEYS_A

FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def check_first(name: str, tensor: object, shape: str) -> None:
    """``tensor`` is a dense floating tensor with the four dimensions that ``shape`` names."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor {shape}, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {tensor.dtype}")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")
    if tensor.ndim != 4:
        raise ValueError(f"{name}: expected 4 dimensions {shape}, got {tuple(tensor.shape)}")


def check_kind(name: str, tensor: object, like_name: str, like: Tensor) -> None:
    """``tensor`` is a tensor of the dtype, device and layout of ``like``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name}: expected {like.dtype}, the dtype of {like_name}, got {tensor.dtype}")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected device {like.device}, the one of {like_name}, got {tensor.device}")


def check_shape(name: str, tensor: Tensor, meaning: str, expected: tuple[int, ...]) -> None:
    """``tensor`` has shape ``expected``; ``meaning`` spells it."""
    if tensor.shape != expected:
        raise ValueError(f"{name}: expected {meaning} = {expected}, got {tuple(tensor.shape)}")


def check_factor(upscale_factor: object) -> None:
    """The scale factor is an integer of at least 2."""
    if not isinstance(upscale_factor, (int, torch.SymInt)) or isinstance(upscale_factor, bool):
        raise TypeError(f"upscale_factor: expected an integer, got {type(upscale_factor).__name__}")
    if upscale_factor < 2:
        raise ValueError(f"upscale_factor: expected at least 2, got {upscale_factor}")


def check_epilogue(
    first_name: str,
    first: Tensor,
    channels: int,
    gate: Tensor | None,
    skip: Tensor | None,
    upscale_factor: int,
    skip_bicubic: str,
) -> None:
    """What both upsampling operators ask of gate, skip and the bicubic convention."""
    if skip_bicubic not in KEYS_A:
        raise ValueError(f"skip_bicubic: expected 'matlab' or 'torch', got {skip_bicubic!r}")
    batch, _, h, w = first.shape
    if gate is not None:
        check_kind("gate", gate, first_name, first)
        check_shape("gate", gate, "(B, C)", (batch, channels))
    if skip is not None:
        check_kind("skip", skip, first_name, first)
        high = (batch, channels, h * upscale_factor, w * upscale_factor)
        if skip.shape != high and skip.shape != (batch, channels, h, w):
            raise ValueError(
                f"skip: expected (B, C, h*s, w*s) = {high} or (B, C, h, w) = {(batch, channels, h, w)}, "
                f"got {tuple(skip.shape)}"
            )


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Byte addresses [begin, end) that the elements of a non-empty tensor span."""
    begin = tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()


def check_out(
    out: object,
    first_name: str,
    first: Tensor,
    shape: tuple[int, ...],
    memory_format: torch.memory_format,
    inputs: dict[str, Tensor | None],
) -> None:
    """``out`` can take the result: kind, shape and layout fit, it overlaps no input, and no gradient is asked for."""
    check_kind("out", out, first_name, first)
    assert isinstance(out, Tensor)
    check_shape("out", out, "the result's shape", shape)
    if not out.is_contiguous(memory_format=memory_format):
        raise ValueError(f"out: expected a tensor that is dense in {memory_format}, got strides {out.stride()}")
    if torch.is_grad_enabled():
        for name, tensor in (*inputs.items(), ("out", out)):
            if tensor is not None and tensor.requires_grad:
                raise ValueError(f"out: given while {name} requires a gradient; omit it, or call under torch.no_grad()")
    if torch.compiler.is_compiling() or out.numel() == 0 or type(out) is not Tensor or out.device.type == "meta":
        return
    begin, end = _extent(out)
    for name, tensor in inputs.items():
        if tensor is not None and tensor.numel():
            first_byte, past = _extent(tensor)
            if first_byte < end and begin < past:
                raise ValueError(f"out: overlaps {name} in memory, expected a buffer of its own")
