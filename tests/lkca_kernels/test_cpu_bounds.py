"""The C++ CPU backend touches no byte outside its tensors: each of them ends, or begins, at a page that cannot be read.

A fault ends the process. This finds what AddressSanitizer misses (masked loads are not instrumented) and needs no build
of its own; ``make sanitize`` runs it too.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lkca_kernels import cpu

pytestmark = [
    pytest.mark.skipif(cpu.unavailable() is not None, reason=f"the C++ CPU backend {cpu.unavailable()}"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as Linux has it"),
]
ISAS = cpu.available_isas() if cpu.unavailable() is None else ("absent",)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}
PAGE = mmap.PAGESIZE


def guarded(tensor: Tensor, at_end: bool) -> Tensor:
    """The same values and strides in memory of its own between two pages without any permission."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    nbytes = span * tensor.element_size()
    pages = -(-nbytes // PAGE)
    room = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    for page in (0, pages + 1):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, 0) == 0
    offset = PAGE + (pages * PAGE - nbytes if at_end else 0)
    flat = torch.frombuffer(room, dtype=tensor.dtype, count=span, offset=offset)
    flat.copy_(tensor.as_strided((span,), (1,)))
    return flat.as_strided(tensor.shape, tensor.stride())


@pytest.mark.parametrize("at_end", [True, False])
def test_the_pages_around_do_fault(at_end: bool) -> None:
    tensor = guarded(torch.ones(3, 5).mT, at_end)
    beyond = tensor.data_ptr() + (15 * 4 if at_end else -1)
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        ctypes.string_at(beyond, 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = cpu.use_isa(request.param)
    yield request.param
    cpu.use_isa(before)


def _calls(case: Any, tensors: list[Tensor | None], out: Tensor, mean: Tensor | None, grad: Tensor) -> list[Tensor]:
    """Result and gradients, straight from the backend."""
    forward, backward = (getattr(cpu, f"{case.op}_{way}") for way in ("fwd", "bwd"))
    low_skip = case.upsamples and tensors[-1] is not None and tensors[-1].shape != out.shape
    needs = (*(t is not None for t in tensors[:-1]), low_skip)
    if case.upsamples:
        options = dict(zip(("upscale_factor", "skip_bicubic"), case.raw_arguments, strict=True))
        return [forward(*tensors, **options, out=out), *backward(grad, *tensors, **options, needs=needs)]
    if not case.with_mean:
        result, inputs = forward(*tensors, **case.options, out=out), tensors[:-1]
        return [result, *backward(grad, *inputs, **case.options, needs=(True,) * len(inputs))]
    place = {} if case.op == "channel_gate" else {"out": out}
    result, _ = forward(*tensors, **place)
    return [result, *backward(grad, tensors[0], mean, *tensors[1:5], needs=(True,) * 5)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_outside_the_tensors_is_touched(isa: str, dtype: torch.dtype, case: Any, tools: Any) -> None:
    plain = case.make(torch.float64)
    truth = case.define(tools.leaves(plain))
    grad = torch.randn(truth.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    mean = plain[0].to(dtype).float().mean((2, 3)) if case.with_mean else None
    for layout in ("contiguous", "channels_last", "sliced", "expanded"):
        for at_end in (True, False):
            tensors = [None if t is None else guarded(t, at_end) for t in case.make(dtype, layout=layout)]
            like = tensors[0] if case.op.endswith(("channel_attention", "branch")) else torch.empty(0)
            last = like.ndim == 4 and not like.is_contiguous() and layout == "channels_last"
            memory_format = torch.channels_last if last else torch.contiguous_format
            out = guarded(torch.empty(truth.shape, dtype=dtype).contiguous(memory_format=memory_format), at_end)
            safe_mean = None if mean is None else guarded(mean, at_end)
            result, *_ = _calls(case, tensors, out, safe_mean, guarded(grad, at_end))
            if layout != "expanded":  # whose values are others
                assert tools.rms_ratio(result, truth) < BOUND[dtype]


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32], ids=str)
@pytest.mark.parametrize("s", [2, 3, 4, 5, 6, 8])
def test_stored_rows_touch_nothing_else(isa: str, s: int, dtype: torch.dtype) -> None:
    for at_end in (True, False):
        for w in (1, 17, 32):
            shapes = ((2, 3, 4, w), (5 * s * s, 3), (5 * s * s,), (2, 5, 4, w), (5,), (5,))
            tensors = [guarded(torch.randn(shape), at_end) for shape in shapes]
            out = guarded(torch.zeros(2, 5, 2 * s, w * s, dtype=dtype), at_end)
            cpu.lowrank_pixel_shuffle_stored_fwd(
                *tensors, upscale_factor=s, skip_bicubic="matlab", rows=(1, 3), out=out
            )


@pytest.mark.parametrize("absent", ["B", "C", "R", "h", "w", "K"])
def test_empty_tensors_straight_to_the_library(absent: str, isa: str, typical: Any, case_type: Any) -> None:
    """The Python layer never sends them; another caller may."""
    if absent not in typical.sizes:
        pytest.skip(f"{typical.op} has no {absent}")
    case = case_type(typical.op, {**typical.sizes, absent: 0}, typical.given, typical.options)
    tensors = case.make(torch.float32)
    out = torch.empty_like(case.define(tensors))
    mean = torch.zeros(tensors[0].shape[:2]) if case.with_mean else None
    for gradient in _calls(case, tensors, out, mean, torch.ones_like(out)):
        assert gradient is None or gradient.isfinite().all() or absent in "hw"
