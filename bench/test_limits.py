"""What the machine can do at best, measured in the same run: the limits that bench/table.py divides by."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import pytest
import torch

SIZES = (8, 32, 51, 107, 134)  # MB of the outputs of the cases; the table takes the nearest


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_matmul(measure: Callable[..., None], dtype: torch.dtype) -> None:
    a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    measure(lambda: a @ b, "limits", f"matmul {dtype}", flops=2 * 2048**3)


@pytest.mark.parametrize("megabytes", SIZES)
def test_write_warm(measure: Callable[..., None], megabytes: int) -> None:
    values = torch.zeros(megabytes * 250_000)
    measure(lambda: values.fill_(1.0), "limits", f"write warm {megabytes} MB", bytes=values.numel() * 4)


@pytest.mark.parametrize("megabytes", SIZES)
def test_write_fresh(measure: Callable[..., None], megabytes: int) -> None:
    """As PyTorch allocates."""
    count = megabytes * 250_000
    measure(lambda: torch.full((count,), 1.0), "limits", f"write fresh {megabytes} MB", bytes=count * 4)


@pytest.mark.parametrize("megabytes", SIZES)
def test_write_fresh_huge(measure: Callable[..., None], megabytes: int) -> None:
    """On fresh memory for which huge pages were asked."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("huge pages can be asked for on Linux only")
    count = megabytes * 250_000

    def write() -> Any:
        memory = mmap.mmap(-1, count * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory gets none
        memory.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(memory, dtype=torch.float32).fill_(1.0)

    measure(write, "limits", f"write fresh huge {megabytes} MB", bytes=count * 4)
