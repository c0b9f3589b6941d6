"""Settings and helpers of the benchmarks: ``make bench``, or ``pytest bench --benchmark-only``.

Every group holds one case: ours beside eager PyTorch, torch.compile and ONNX Runtime in the same run, on the same
tensors, with LKCA_BENCH_THREADS threads (default: all cores). Each result carries what bench/table.py needs.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

THREADS = int(os.environ.get("LKCA_BENCH_THREADS") or os.cpu_count() or 1)
_WARM_UP = 1.5  # seconds


@pytest.fixture(scope="session", autouse=True)
def threads() -> int:
    torch.set_num_threads(THREADS)
    return THREADS


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., None]:
    """``measure(f, group, contender, rounds=…, setup=…, **facts)``: time f(), one call per round, after 1.5 s of calls;
    setup() comes before each round, not timed.

    Two to sixty calls: in a virtual machine the first results land on pages that the host has yet to provide, which on
    huge pages takes up to seven times as long as the operator itself (pixel_shuffle_epilogue: 36 ms, then 5), and goes
    on until all memory that the system deals out in turn has been used (128×128 fresh: 35 to 55 ms for 25 calls, 23
    after 40). For the same reason a result is dropped before the next call, within the time: pytest-benchmark would
    hold it, so that the next one lands on other pages.
    """

    def run(
        f: Callable[[], Any],
        group: str,
        contender: str,
        *,
        rounds: int = 15,
        setup: Callable[[], None] | None = None,
        **facts: float | str,
    ) -> None:
        benchmark.group = group
        benchmark.extra_info.update(contender=contender, threads=THREADS, torch=torch.__version__, **facts)

        def call() -> None:
            f()

        call()  # what is built at the first call
        begin = time.perf_counter()
        call()
        calls = math.ceil(_WARM_UP / max(time.perf_counter() - begin, 1e-6))
        benchmark.pedantic(call, setup=setup, rounds=rounds, warmup_rounds=min(60, calls), iterations=1)

    return run
