"""Tensors for the operators, how far their results may be from the exact ones, and the comparison."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# RMS error relative to the float64 reference on the same (rounded) inputs. float32: sums of up to some thousand
# products, 2^-24 each, growing like their square root. 16 bits: half an ulp of the result (2^-11, 2^-8 at most; a
# single element may have it all), and again half an ulp where a 16-bit value goes into the sum.
BOUND = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
# Gradient of z or x: gate * weight is rounded to 16 bits before the sum, and in the smallest shapes the sum cancels.
FIRST = {torch.float32: 2e-6, torch.float16: 2**-8, torch.bfloat16: 2**-5}


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rms(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    scale = expected.square().mean().sqrt().clamp_min(1e-12)
    return float((value.double() - expected).square().mean().sqrt() / scale)


def with_sentinels(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A NaN-filled tensor inside a larger one, and the larger one."""
    count = torch.Size(shape).numel()
    room = torch.full((count + 64,), 77.0, dtype=dtype)
    out = room[32 : 32 + count].view(shape)
    out.fill_(float("nan"))
    return out, room


def upsampling_inputs(
    shape: tuple[int, ...], skip: str, dtype: torch.dtype, full: bool
) -> tuple[list[Tensor | None], str]:
    b, c, r, h, w, s = shape
    bias = random(c * s * s, dtype=dtype, seed=3) if full else None
    gate = random(b, c, dtype=dtype, seed=4) if full else None
    size = (b, c, h * s, w * s) if skip == "hr" else (b, c, h, w)
    added = None if skip == "none" else random(*size, dtype=dtype, seed=5)
    z, weight = random(b, r, h, w, dtype=dtype, seed=1), random(c * s * s, r, dtype=dtype, seed=2)
    return [z, weight, bias, gate, added], "torch" if skip == "torch" else "matlab"


def doubles(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.double().requires_grad_() for t in tensors]


def check_gradients(
    got: tuple[Tensor | None, ...], tensors: list[Tensor | None], dtype: torch.dtype, cancelled: int = 1
) -> None:
    """``cancelled``: how much smaller than its terms a sum in float32 may be."""
    for i, (value, expected) in enumerate(zip(got, (None if t is None else t.grad for t in tensors), strict=False)):
        assert (value is None) == (expected is None), i
        if value is not None and expected is not None:
            assert value.dtype == dtype
            error = rms(value, expected)
            bound = (FIRST if i == 0 else BOUND)[dtype] * (cancelled if dtype == torch.float32 else 1)
            assert error < bound, f"gradient {i}: {error:.2e}"


def attention_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    b, c, k, h, w = shape
    sizes = [(b, c, h, w), (k, c), (k,), (c, k), (c,)]
    return [random(*size, dtype=dtype, seed=seed) for seed, size in enumerate(sizes)]


def local_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor | None]:
    b, c, k, h, w, _ = shape
    x, residual = (random(b, c, h, w, dtype=dtype, seed=seed) for seed in (0, 3))
    scale = c**-0.5  # logits of about 1: gates that are neither 0 nor 2
    w1, w2 = (random(*size, dtype=dtype, seed=i) * scale for i, size in ((1, (k, c)), (2, (c, k))))
    return [x, w1, w2, residual]
