"""Rows of the upsampled cube as a file stores them: for results that are written and never read again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lkca_kernels import backends, reference
from lkca_kernels.arguments import check_first, integer
from lkca_kernels.autocasting import unautocast
from lkca_kernels.ops import _checks
from lkca_kernels.ops._operator import choose_while_tracing, is_tracing, library, tell_autograd_of
from lkca_kernels.reference.bicubic import Convention

__all__ = ["STORED_DTYPES", "lowrank_pixel_shuffle_stored"]

STORED_DTYPES = (torch.int16, torch.uint16, torch.float32)
_NAME = "lowrank_pixel_shuffle_stored"
_NAMES = ("z", "weight", "bias", "skip", "least", "gain")
library.define(
    f"{_NAME}(Tensor z, Tensor weight, Tensor? bias, Tensor? skip, Tensor? least, Tensor gain, int upscale_factor, "
    "str skip_bicubic, SymInt first, SymInt last, str backend, *, Tensor(a!) out) -> Tensor"
)


def lowrank_pixel_shuffle_stored(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    least: Tensor | None = None,
    gain: Tensor | None = None,
    *,
    upscale_factor: int,
    rows: tuple[int, int] | None = None,
    out: Tensor,
    skip_bicubic: Convention = "matlab",
    backend: str | None = None,
) -> Tensor:
    """Rows of :func:`lkca_kernels.lowrank_pixel_shuffle` as a file stores them, with s = ``upscale_factor``::

        v   = gain[c] * max(least[c], lowrank_pixel_shuffle(z, weight, bias, None, skip)[:, :, s*first:s*last])
        out = v rounded to the nearest integer, halves to even, within the range of its dtype; v itself for float32

    For inference, as whole scenes need it: no gradient, and float32 throughout, autocast or not.

    Args:
        z: (B, R, h, w), float32, any strides, as every other tensor but ``out``.
        weight: (C*s*s, R).
        bias: (C*s*s,), or None.
        skip: (B, C, h, w), of which the bicubic upsampling is added, or None.
        least: (C,), or None for no bound.
        gain: (C,), what turns values into the integers of a file: one over its scale factor. None for 1.
        upscale_factor: integer s, 2 to 2**20 - 1.
        rows: (first, last), of the coarse grid; all rows by default.
        out: contiguous (B, C, (last - first)*s, w*s) of int16, uint16 or float32, takes the result.
        skip_bicubic: see :func:`lkca_kernels.bicubic_upsample`.
        backend: see :func:`lkca_kernels.use_backend`.

    Returns:
        float32 (2,): the smallest and the largest v (rounded for integers, but not cut to their range): what was
        clipped lies beyond it. NaN where any v is not finite; its integer means nothing. (inf, -inf) of no rows.

    Raises:
        TypeError, ValueError: an argument that does not fit, named. BackendError (a ValueError): the backend asked for
            cannot serve the call.
    """
    tensors = (z, weight, bias, skip, least, gain)
    upscale_factor = _checks.checked_factor(upscale_factor)
    first, last = _check(tensors, upscale_factor, rows, skip_bicubic, out)
    if gain is None:
        gain = z.new_ones(weight.shape[0] // upscale_factor**2)
    options = (_checks.constant(upscale_factor), skip_bicubic, first, last)
    choose = choose_while_tracing if is_tracing() else backends.choose
    name = choose(_NAME, z.device, z.dtype, options[0], backend)
    if name == "reference":
        return _serve(z, weight, bias, skip, least, gain, *options, name, out=out)
    found: Tensor = torch.ops.lkca_kernels.lowrank_pixel_shuffle_stored.default(
        z, weight, bias, skip, least, gain, *options, name, out=out
    )
    return found


def _check(
    tensors: tuple[Tensor | None, ...], s: int, rows: tuple[int, int] | None, skip_bicubic: str, out: Tensor
) -> tuple[int, int]:
    z, weight, bias, skip, least, gain = tensors
    check_first("z", z, "(B, R, h, w)")
    assert z is not None
    if z.dtype != torch.float32:
        raise TypeError(f"z: expected float32, got {z.dtype}; the values themselves pass through it")
    if weight is None:
        raise TypeError("weight: expected a tensor (C*s*s, R), got None")
    _checks.check_kinds(_NAMES, tensors)
    (batch, _, h, w), channels = z.shape, _checks.check_second_stage(z, weight, bias, s)
    _checks.check_epilogue(z, channels, None, None, s, skip_bicubic)
    if skip is not None:
        _checks.check_shape("skip", skip, "(B, C, h, w)", (batch, channels, h, w))
    for name, tensor in (("least", least), ("gain", gain)):
        if tensor is not None:
            _checks.check_shape(name, tensor, "(C,)", (channels,))
    if rows is not None and not (isinstance(rows, (tuple, list)) and len(rows) == 2):
        raise TypeError(f"rows: expected two integers (first, last), got {rows!r}")
    first, last = (0, h) if rows is None else (integer("rows", row) for row in rows)
    if not 0 <= first <= last <= h:
        raise ValueError(f"rows: expected (first, last) within 0 and h = {h}, got {rows}")
    shape = (batch, channels, (last - first) * s, w * s)
    _checks.check_out(out, shape, torch.contiguous_format, _NAMES, tensors, STORED_DTYPES)
    return first, last


def _serve(*arguments: Any, out: Tensor) -> Tensor:
    """Tensors, options and backend in the order of the schema."""
    tensors, (s, skip_bicubic, first, last, backend) = arguments[: len(_NAMES)], arguments[len(_NAMES) :]
    backend = backends.resolve(_NAME, tensors[0].device, tensors[0].dtype, s, backend)
    native = backend != "reference" and not _checks.is_empty(tensors)
    function: Any = backends.function(backend, f"{_NAME}_fwd") if native else reference.lowrank_pixel_shuffle_stored
    with unautocast(tensors[0].device.type):
        found: Tensor = function(*tensors, upscale_factor=s, skip_bicubic=skip_bicubic, rows=(first, last), out=out)
    if native:
        tell_autograd_of(out)
    return found


def _fake(z: Tensor, *_: object, out: Tensor) -> Tensor:
    return z.new_empty(2)


library.impl(_NAME, _serve, "CompositeExplicitAutograd")
torch.library.register_fake(f"lkca_kernels::{_NAME}", _fake, lib=library)
