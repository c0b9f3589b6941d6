"""Memory does not grow, however often operators are called, differentiated, given out=, or refuse."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lkca_kernels as k

CALLS = 10_000
STATM = Path("/proc/self/statm")
BACKENDS = [name for name in ("reference", "cpu") if name in k.available_backends()]

z = torch.randn(1, 3, 4, 5)
weight, bias, gate = torch.randn(8, 3), torch.randn(8), torch.randn(1, 2)
skip, out = torch.randn(1, 2, 4, 5), torch.empty(1, 2, 8, 10)
x = torch.randn(2, 3, 4, 5)
gate_weights = (torch.randn(2, 3), torch.randn(2), torch.randn(3, 2), torch.randn(3))


def _gradients(backend: str) -> None:
    leaves = [t.detach().requires_grad_() for t in (z, weight, bias, gate, skip)]
    k.lowrank_pixel_shuffle(*leaves, upscale_factor=2, backend=backend).sum().backward()


def _attention(backend: str) -> None:
    leaf = x.detach().requires_grad_()
    k.channel_attention(leaf, *gate_weights, backend=backend).sum().backward()


def _out(backend: str) -> None:
    k.lowrank_pixel_shuffle(z, weight, bias, gate, skip, upscale_factor=2, backend=backend, out=out)


def _refused(backend: str) -> None:
    with contextlib.suppress(ValueError):
        k.lowrank_pixel_shuffle(z, weight, bias[:7], upscale_factor=2, backend=backend)
    with contextlib.suppress(RuntimeError):  # past the Python checks: the library throws
        if backend == "cpu":
            torch.ops.lkca_cpu.lowrank_pixel_shuffle_fwd(z, weight, bias[:7], None, None, 2, 0, None)


@pytest.mark.skipif(not STATM.exists(), reason="reads /proc/self/statm")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", [_gradients, _attention, _out, _refused], ids=lambda call: call.__name__[1:])
def test_memory_does_not_grow(call: Callable[[str], None], backend: str) -> None:
    """``CALLS`` of the C++ backend over the four tests: what a leak of 80 bytes a call would leave is seen."""

    def resident() -> int:
        gc.collect()
        return int(STATM.read_text().split()[1]) * 4096

    calls = CALLS // (4 if backend == "cpu" else 40)
    for _ in range(calls // 4):
        call(backend)
    before = resident()
    for _ in range(calls):
        call(backend)
    assert resident() - before < 192 << 10
