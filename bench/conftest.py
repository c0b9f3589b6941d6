"""Settings and helpers of the benchmarks: ``make bench``, or ``pytest bench --benchmark-only``.

Every group holds one case: ours beside eager PyTorch, torch.compile and ONNX Runtime in the same run, on the same
tensors, with LKCA_BENCH_THREADS threads (default: all cores). Each result carries what bench/table.py needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

THREADS = int(os.environ.get("LKCA_BENCH_THREADS", os.cpu_count() or 1))


@pytest.fixture(scope="session", autouse=True)
def threads() -> int:
    torch.set_num_threads(THREADS)
    return THREADS


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., None]:
    """``measure(f, group, contender, rounds=…, **facts)``: time f(), one call per round, after two warm-up calls."""

    def run(f: Callable[[], Any], group: str, contender: str, *, rounds: int = 15, **facts: float | str) -> None:
        benchmark.group = group
        benchmark.extra_info.update(contender=contender, threads=THREADS, torch=torch.__version__, **facts)
        benchmark.pedantic(f, rounds=rounds, warmup_rounds=2, iterations=1)

    return run
