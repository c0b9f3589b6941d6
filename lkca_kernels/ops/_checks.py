"""Input checks of the operators. Every message names the argument, what it should be and what it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lkca_kernels.arguments import integer, not_dense
from lkca_kernels.memory_format import has_memory, memory_format_of
from lkca_kernels.reference.bicubic import check_convention

_ROWS = torch.contiguous_format
_DENSE = torch.strided
_MOST = 2**20 - 1  # of a scale factor, and of a window's side


def check_kinds(names: Sequence[str], tensors: Sequence[object]) -> None:
    """The tensors that are given are dense and share the dtype and device of the first, itself checked."""
    first = tensors[0]
    assert isinstance(first, Tensor)
    dtype, device = first.dtype, first.device
    for name, tensor in zip(names, tensors):  # noqa: B905  (strict costs a tenth of the check)
        if tensor is None or tensor is first:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.dtype is not dtype:
            raise TypeError(f"{name}: expected {dtype}, the dtype of {names[0]}, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{name}: expected device {device}, the one of {names[0]}, got {tensor.device}")
        if tensor.layout is not _DENSE or tensor.is_nested:
            raise not_dense(name, tensor)


def is_empty(tensors: Iterable[object]) -> bool:
    """Whether one of the tensors among them has no elements: the reference then serves the call, whoever was asked."""
    return any(isinstance(t, Tensor) and t.numel() == 0 for t in tensors)


def check_shape(name: str, tensor: Tensor, meaning: str, expected: tuple[int, ...]) -> None:
    """``tensor`` has shape ``expected``; ``meaning`` spells it."""
    if tensor.shape != expected:
        raise ValueError(f"{name}: expected {meaning} = {expected}, got {tuple(tensor.shape)}")


def checked_factor(upscale_factor: object) -> int:
    """The scale factor, an integer of at least 2, at most 2**20 - 1; Python's where NumPy's was given."""
    factor = integer("upscale_factor", upscale_factor)
    if factor < 2:
        raise ValueError(f"upscale_factor: expected at least 2, got {factor}")
    if factor > _MOST:
        raise ValueError(f"upscale_factor: expected at most {_MOST}, got {factor}")
    return factor


def checked_window(window: object) -> int:
    """The side of a window, an odd integer of at least 1, at most 2**20 - 1; Python's where NumPy's was given."""
    side = integer("window", window)
    if side < 1 or side > _MOST or side % 2 == 0:
        raise ValueError(f"window: expected an odd number from 1 to {_MOST}, got {side}")
    return side


def constant(number: int) -> int:
    """The same number, which a tracer that took it for a symbol has to look at (``int()`` leaves it a symbol)."""
    return len(range(number))


def check_second_stage(z: Tensor, weight: Tensor, bias: Tensor | None, upscale_factor: int) -> int:
    """The shapes of the low-rank layer's second factor and its bias; returns the channels that they make."""
    rank, square, shape = z.shape[1], upscale_factor * upscale_factor, weight.shape
    if len(shape) != 2 or shape[1] != rank or shape[0] % square:
        raise ValueError(
            f"weight: expected (C*s*s, R) with s*s = {square} and R = {rank}, the channels of z, got {tuple(shape)}"
        )
    if bias is not None:
        check_shape("bias", bias, "(C*s*s,)", (shape[0],))
    return shape[0] // square


def check_epilogue(
    first: Tensor,
    channels: int,
    gate: Tensor | None,
    skip: Tensor | None,
    upscale_factor: int,
    skip_bicubic: str,
) -> None:
    """What both upsampling operators ask of gate, skip and the bicubic convention."""
    check_convention("skip_bicubic", skip_bicubic)
    batch, _, h, w = first.shape
    if gate is not None:
        check_shape("gate", gate, "(B, C)", (batch, channels))
    if skip is not None:
        high = (batch, channels, h * upscale_factor, w * upscale_factor)
        if skip.shape != high and skip.shape != (batch, channels, h, w):
            raise ValueError(
                f"skip: expected (B, C, h*s, w*s) = {high} or (B, C, h, w) = {(batch, channels, h, w)}, "
                f"got {tuple(skip.shape)}"
            )


def _end(tensor: Tensor) -> int:
    """Address just past the last byte of a tensor; of an empty one, which is contiguous, its own."""
    if tensor.is_contiguous():
        return tensor.data_ptr() + tensor.nbytes
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()


def check_out(
    out: object,
    shape: tuple[int, ...],
    memory_format: torch.memory_format,
    names: Sequence[str],
    tensors: Sequence[Tensor | None],
    dtypes: Sequence[torch.dtype] | None = None,
) -> None:
    """``out`` can take the result of ``tensors``, called ``names``; its layout fits, it overlaps none of them.

    dtypes: those that it may have, instead of the tensors'. A result in ``out`` has no gradient, so none may be asked
    for.
    """
    first = tensors[0]
    assert first is not None
    alike = first if dtypes is None else first.new_empty(0, dtype=_one_of(dtypes, out))
    check_kinds((names[0], "out"), (alike, out))
    assert isinstance(out, Tensor)
    check_shape("out", out, "the result's shape", shape)
    if not (out.is_contiguous() if memory_format is _ROWS else out.is_contiguous(memory_format=memory_format)):
        raise ValueError(f"out: expected a tensor that is dense in {memory_format}, got strides {out.stride()}")
    grad = torch.is_grad_enabled()
    if grad and out.requires_grad:
        raise ValueError("out: requires a gradient, which a result written in place has not; give a detached tensor")
    located = not torch.compiler.is_compiling() and has_memory(out)
    if located and out.is_neg():
        raise ValueError("out: is a negated view, expected a tensor whose memory holds its values")
    if located and out.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError("out: was made in inference mode, outside of which it cannot be written; give a clone")
    check_apart(out, names, tensors)


def check_apart(out: Tensor, names: Sequence[str], tensors: Sequence[Tensor | None]) -> None:
    """``out`` lies in memory that none of the tensors has, and none of them wants a gradient."""
    grad = torch.is_grad_enabled()
    located = not torch.compiler.is_compiling() and has_memory(out)
    begin, end = (out.data_ptr(), _end(out)) if located else (0, 0)
    for name, tensor in zip(names, tensors):  # noqa: B905  (strict costs a tenth of the check)
        if tensor is None:
            continue
        if grad and tensor.requires_grad:
            raise ValueError(f"out: given while {name} requires a gradient; omit it, or call under torch.no_grad()")
        if located and has_memory(tensor) and tensor.data_ptr() < end and begin < _end(tensor):
            raise ValueError(f"out: overlaps {name} in memory, expected a buffer of its own")


def check_alike(names: Sequence[str], tensors: Sequence[Tensor | None], out: object) -> None:
    """The residual, which comes last, and ``out`` have the shape of the first tensor, and ``out`` its layout."""
    first, residual = tensors[0], tensors[-1]
    assert first is not None
    if residual is not None:
        check_shape("residual", residual, f"the shape of {names[0]}", tuple(first.shape))
    if out is not None:
        check_out(out, tuple(first.shape), memory_format_of(first), names, tensors)


def _one_of(dtypes: Sequence[torch.dtype], out: object) -> torch.dtype:
    """The dtype of ``out``, which is one of them."""
    if not isinstance(out, Tensor):
        raise TypeError(f"out: expected a tensor, got {type(out).__name__}")
    if out.dtype not in dtypes:
        raise TypeError(f"out: expected one of {', '.join(map(str, dtypes))}, got {out.dtype}")
    return out.dtype
