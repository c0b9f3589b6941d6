"""Operator arguments at random: whatever they are, a call returns what the reference does, or names what is wrong."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import lkca_kernels as k

# Fixed cases in CI; LKCA_FUZZ_EXAMPLES asks for that many, other ones each time (make fuzz).
EXAMPLES = int(os.environ.get("LKCA_FUZZ_EXAMPLES") or 0)
FIXED = settings(
    max_examples=EXAMPLES or 120,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
FLOATING = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OTHERS = [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
SIZES = st.integers(0, 5)
UPSAMPLING = ["lowrank_pixel_shuffle", "lowrank_upsample", "pixel_shuffle_epilogue"]
OPERATORS = [*UPSAMPLING, "channel_gate", "channel_attention", "local_channel_attention", "large_kernel_branch"]


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, *, finite: bool = False) -> Any:
    """Mostly a tensor of this shape and dtype in any layout; else a near miss."""
    fault = draw(st.sampled_from([None] * 24 + ["rank", "size", "dtype", "device", "sparse", "none", "list", "huge"]))
    if fault == "none":
        return None
    if fault == "list":
        return [1.0, 2.0]
    if fault == "huge":
        return torch.zeros(1, dtype=dtype).expand(tuple(max(n, 1) * 2**24 for n in shape[:2]) + shape[2:])
    if fault == "rank":
        shape = shape[1:] if draw(st.booleans()) else (1, *shape)
    if fault == "size" and shape:
        at = draw(st.integers(0, len(shape) - 1))
        shape = (*shape[:at], shape[at] + draw(st.sampled_from([1, -1, 7])) * (shape[at] > 0), *shape[at + 1 :])
    if fault == "dtype":
        dtype = draw(st.sampled_from(OTHERS + FLOATING))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))), dtype=torch.float64)
    if not finite and draw(st.booleans()) and values.numel():
        values.view(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e30]))
    tensor = (values > 0 if dtype == torch.bool else values.nan_to_num() if dtype == torch.int64 else values).to(dtype)
    if fault == "device":
        return tensor.to("meta")
    if fault == "sparse":
        return tensor.to_sparse() if dtype in FLOATING[:2] else tensor
    if not tensor.ndim:
        return tensor
    layout = draw(st.sampled_from(["plain", "plain", "channels_last", "reversed", "offset", "stride 0"]))
    if layout == "channels_last" and tensor.ndim == 4:
        return tensor.to(memory_format=torch.channels_last)
    if layout == "reversed":
        return tensor.permute(*reversed(range(tensor.ndim))).contiguous().permute(*reversed(range(tensor.ndim)))
    if layout == "offset":
        return torch.cat([tensor.flatten()[:0], torch.ones(3).to(dtype), tensor.flatten()])[3:].view(shape)
    if layout == "stride 0" and tensor.numel():
        return tensor.flatten()[:1].expand(shape)
    return tensor


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, list[Any], dict[str, Any]]:
    """An operator, its tensors and its options."""
    op = draw(st.sampled_from(OPERATORS))
    dtype = draw(st.sampled_from(FLOATING))
    b, c, r, h, w = (draw(SIZES) for _ in range(5))
    s = draw(st.integers(2, 4))
    optional = [draw(st.booleans()) for _ in range(3)]
    if op == "local_channel_attention":
        shapes: list[tuple[int, ...]] = [(b, c, h, w), (r, c), (c, r), *[(b, c, h, w)] * optional[0]]
        odd = [1, 3, 5, 9, 31] * 4
        options: dict[str, Any] = {
            "window": draw(st.sampled_from([*odd, 0, -1, 2, 3.0, True, "3", None, 2**40, 2**70]))
        }
    elif op == "large_kernel_branch":
        kernel = [draw(st.sampled_from([1, 3, 5, 7, 7, 9, 11, 2])) for _ in range(2)]
        shapes = [(b, c, h, w), (c, 1, *kernel), (r, c), (c, r), *[(b, c, h, w)] * optional[0]]
        options = {}
    elif op.startswith("channel"):
        shapes = [(b, c, h, w), (r, c), (r,), (c, r), (c,)]
        if op == "channel_attention" and optional[0]:
            shapes.append((b, c, h, w))
        options = {}
    else:
        first = {
            "lowrank_pixel_shuffle": [(b, r, h, w), (c * s * s, r)],
            "lowrank_upsample": [(b, 2, h, w), (r, 2, 3, 1), (c * s * s, r)],
            "pixel_shuffle_epilogue": [(b, c * s * s, h, w)],
        }[op]
        f = s if draw(st.booleans()) else 1
        tail = [] if op == "pixel_shuffle_epilogue" else [(c * s * s,)]
        shapes = [*first, *tail, (b, c), (b, c, h * f, w * f)]
        wrong = [s] * 20 + [0, -1, 1, 2.0, True, "2", None, 2**40, 2**70, 1025]
        options = {"upscale_factor": draw(st.sampled_from(wrong))}
        options["skip_bicubic"] = draw(st.sampled_from(["matlab"] * 9 + ["torch"] * 9 + ["cubic", None, 3]))
    # What a kernel that is not finite makes of the zeros around an image, PyTorch's own convolutions do not agree on.
    depthwise = 1 if op == "large_kernel_branch" else None
    made = [draw(tensors(shape, dtype, finite=i == depthwise)) for i, shape in enumerate(shapes)]
    if op in UPSAMPLING:
        for i, given_one in enumerate(optional[: len(made) - len(first)]):
            made[len(first) + i] = made[len(first) + i] if given_one else None
    return op, made, options


def _outcome(op: str, arguments: list[Any], options: dict[str, Any], **how: Any) -> Tensor | str:
    try:
        return getattr(k, op)(*arguments, **options, **how)
    except (TypeError, ValueError) as error:
        assert str(error).partition(":")[0] != "", error
        return type(error).__name__
    except RuntimeError as error:  # torch's own word for memory that is not there
        if "allocat" in str(error) or "Storage size" in str(error) or "overflow" in str(error):
            return "memory"
        raise


def _assert_near(found: Tensor, expected: Tensor) -> None:
    bound = {torch.float64: 1e-12, torch.float32: 1e-4}.get(found.dtype, 0.1)
    scale = expected.double().nan_to_num(0, 0, 0).abs().max() if expected.numel() else 0
    torch.testing.assert_close(found, expected, rtol=bound, atol=float(bound * (1 + scale)), equal_nan=True)


@FIXED
@given(calls())
def test_backends_agree_or_refuse_alike(call: tuple[str, list[Any], dict[str, Any]]) -> None:
    op, arguments, options = call
    expected = _outcome(op, arguments, options, backend="reference")
    found = _outcome(op, arguments, options)
    if isinstance(expected, str) or isinstance(found, str):
        assert expected == found
        return
    assert (found.shape, found.dtype, found.device) == (expected.shape, expected.dtype, expected.device)
    if found.device.type != "meta":
        _assert_near(found, expected)


@st.composite
def places(draw: st.DrawFn, result: Tensor, arguments: list[Any]) -> tuple[Tensor, list[Any]]:
    """Somewhere for a result, mostly where it must not go, and the arguments, one of which may lie there too."""
    like, n = torch.full_like(result, 7), result.numel()
    place = draw(st.sampled_from(["own", "inside", "inside", "inside", "same", "expanded", "turned", "dtype", "meta"]))
    if place == "inside":
        at = draw(st.sampled_from([i for i, tensor in enumerate(arguments) if tensor is not None]))
        size = arguments[at].numel()
        room = torch.full((2 * n + size,), 7, dtype=result.dtype)
        begin = draw(st.integers(0, n + size))
        moved = room[n : n + size].view(arguments[at].shape).copy_(arguments[at])
        return room[begin : begin + n].view(result.shape), [*arguments[:at], moved, *arguments[at + 1 :]]
    if place == "same":
        alike = [tensor for tensor in arguments if tensor is not None and tensor.shape == result.shape]
        return (alike[0] if alike else like), arguments
    if place == "expanded" and n:
        return like.flatten()[:1].expand(result.shape), arguments
    if place == "turned":
        return like.mT.contiguous().mT, arguments
    if place == "dtype":
        return like.to(draw(st.sampled_from([*OTHERS, *FLOATING]))), arguments
    return (like.to("meta") if place == "meta" else like), arguments


@FIXED
@given(calls(), st.data())
def test_a_result_lies_in_out_or_out_is_refused(
    call: tuple[str, list[Any], dict[str, Any]], data: st.DataObject
) -> None:
    """Whatever memory ``out=`` has: no input is written, nor a part of a result."""
    op, arguments, options = call
    expected = _outcome(op, arguments, options, backend="reference")
    if op == "channel_gate" or isinstance(expected, str) or expected.device.type == "meta":
        return
    out, arguments = data.draw(places(expected, arguments))
    given_ones = [tensor for tensor in arguments if tensor is not None]
    for backend in (None, "reference"):
        before = [tensor.clone() for tensor in (*given_ones, out)]
        try:
            found = getattr(k, op)(*arguments, **options, backend=backend, out=out)
        except (TypeError, ValueError) as error:
            assert str(error).startswith("out: ")
        else:
            assert found is out
            _assert_near(out, expected)
            before.pop()
        if out.device.type != "meta":
            for tensor, copy in zip((*given_ones, out), before, strict=False):
                torch.testing.assert_close(tensor, copy, rtol=0, atol=0, equal_nan=True)
