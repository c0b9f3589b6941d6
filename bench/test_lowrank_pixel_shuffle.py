"""lowrank_pixel_shuffle with gate, bias and skip: the heart of the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import lkca_kernels
from lkca.bench.baselines import CONTENDERS, compiled, eager_lowrank, onnx_call


@dataclass(frozen=True)
class Case:
    channels: int
    scale: int
    rank: int
    size: int  # of the low-resolution image
    skip: str = "high"
    out: bool = False
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        where = "out=" if self.out else "fresh"
        kind = "" if self.skip == "high" else " bicubic skip"
        half = "" if self.dtype == torch.float32 else f" {str(self.dtype)[6:]}"
        return f"{self.channels}, {self.scale}, {self.rank}, {self.size}×{self.size} {where}{kind}{half}"

    def tensors(self) -> list[Tensor]:
        torch.manual_seed(0)
        c, s, r, n = self.channels, self.scale, self.rank, self.size
        big = n * s if self.skip == "high" else n
        shapes = [(1, r, n, n), (c * s * s, r), (c * s * s,), (1, c), (1, c, big, big)]
        return [torch.randn(shape).to(self.dtype) for shape in shapes]

    def output(self) -> Tensor:
        n = self.size * self.scale
        return torch.zeros(1, self.channels, n, n, dtype=self.dtype)

    def facts(self) -> dict[str, Any]:
        samples = self.channels * (self.size * self.scale) ** 2
        return {
            "flops": 2 * self.rank * samples,
            "bytes": samples * self.dtype.itemsize,
            "fresh": not self.out,
            "dtype": str(self.dtype),
        }


CASES = [
    Case(128, 4, 32, 32),
    Case(128, 4, 32, 128),
    Case(128, 4, 32, 128, out=True),
    Case(102, 4, 16, 128),
    Case(48, 8, 16, 64),
    Case(128, 4, 32, 128, skip="low"),
    Case(128, 4, 32, 128, skip="low", out=True),
    Case(128, 4, 32, 128, dtype=torch.bfloat16),
    Case(128, 4, 32, 128, out=True, dtype=torch.bfloat16),
]


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(measure: Callable[..., None], threads: int, case: Case, contender: str) -> None:
    tensors, scale = case.tensors(), case.scale
    out = case.output() if case.out else None
    plain = partial(eager_lowrank, scale=scale)
    f: Callable[[], Any]
    if contender == "lkca":
        f = lambda: lkca_kernels.lowrank_pixel_shuffle(*tensors, upscale_factor=scale, out=out)  # noqa: E731
    elif contender == "eager":
        f = (lambda: plain(*tensors)) if out is None else (lambda: out.copy_(plain(*tensors)))
    elif contender == "compile":
        function = compiled(plain, out)
        f = lambda: function(*tensors)  # noqa: E731
    else:
        if case.dtype != torch.float32:
            pytest.skip("ONNX Runtime's CPU provider has no bfloat16 convolution")
        f = onnx_call(plain, tensors, threads, out)
    with torch.inference_mode():
        measure(f, f"forward {case}", contender, rounds=15 if contender == "lkca" else 7, **case.facts())


@pytest.mark.parametrize("contender", CONTENDERS[:3])
@pytest.mark.parametrize("skip", ("high", "low"))
def test_forward_backward(measure: Callable[..., None], contender: str, skip: str) -> None:
    case = Case(128, 4, 32, 64, skip=skip)
    tensors = [t.requires_grad_() for t in case.tensors()]
    grad = torch.randn_like(case.output())
    plain = partial(eager_lowrank, scale=case.scale)

    def ours(*args: Tensor) -> Tensor:
        return lkca_kernels.lowrank_pixel_shuffle(*args, upscale_factor=case.scale)

    forward: Callable[..., Tensor]
    forward = ours if contender == "lkca" else plain if contender == "eager" else compiled(plain, None)
    facts = case.facts() | {"flops": 3 * case.facts()["flops"]}
    measure(
        lambda: torch.autograd.grad(forward(*tensors), tensors, grad),
        f"forward + backward {case}",
        contender,
        rounds=15 if contender == "lkca" else 7,
        **facts,
    )


@pytest.mark.parametrize("contender", ("lkca", "one eager op"))
def test_tiny_call(measure: Callable[..., None], contender: str) -> None:
    """What a call costs where there is nothing to compute: thousand calls per round."""
    tensors = Case(1, 2, 1, 1).tensors()

    def calls() -> None:
        if contender == "lkca":
            for _ in range(1000):
                lkca_kernels.lowrank_pixel_shuffle(*tensors, upscale_factor=2)
        else:
            for _ in range(1000):
                torch.add(tensors[0], tensors[0])

    with torch.inference_mode():
        measure(calls, "1000 tiny calls", contender)
