"""What a machine can do at best: measured probes, and the least time that a case could take by them."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

__all__ = ["least_seconds", "probes", "rate_text"]

_SIDE, _SMALL = 2048, 256  # of the matrices
_LONGEST = 2.0  # seconds of a product


def probes(
    dtypes: Iterable[torch.dtype], megabytes: Iterable[float]
) -> Iterator[tuple[str, Callable[[], Any], dict[str, float]]]:
    """(name, call, {"flops"} or {"bytes"} of one call): a matrix product per dtype, three ways to fill memory per size.

    Memory is filled warm (there already), fresh (as PyTorch allocates) and fresh on huge pages, where Linux has them.
    """
    for dtype in dtypes:
        side = _side(dtype)
        a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
        yield f"matmul {dtype}", partial(torch.matmul, a, b), {"flops": 2 * side**3}
    for size in megabytes:
        count = max(1, int(size * 250_000))
        warm = torch.zeros(count)
        facts: dict[str, float] = {"bytes": count * 4}
        yield f"write warm {size:g} MB", partial(warm.fill_, 1.0), facts
        yield f"write fresh {size:g} MB", partial(torch.full, (count,), 1.0), facts
        if hasattr(mmap, "MADV_HUGEPAGE"):
            yield f"write fresh huge {size:g} MB", partial(_fill_huge, count), facts


def _side(dtype: torch.dtype) -> int:
    """Of the matrices: small ones where the product of large ones would take too long, as of float16 on processors that
    do not compute in it."""
    small, seconds = torch.randn(_SMALL, _SMALL).to(dtype), []
    for _ in range(3):
        start = time.perf_counter()
        torch.matmul(small, small)
        seconds.append(time.perf_counter() - start)
    return _SIDE if min(seconds) * (_SIDE / _SMALL) ** 3 < _LONGEST else _SMALL


def _fill_huge(count: int) -> torch.Tensor:
    memory = mmap.mmap(-1, count * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory gets none
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).fill_(1.0)


def least_seconds(facts: dict[str, Any], limits: dict[str, dict[str, Any]]) -> float | None:
    """The larger of a case's multiplications at the matrix product's rate and its output's bytes at the fill's rate.

    facts: flops, bytes, dtype (as text), fresh (whether the output is newly allocated: then the faster of the two ways
    to fill fresh memory counts). limits: median seconds, and flops or bytes, by the names of :func:`probes`; of the
    fills, that of the nearest size is taken; for 16-bit floats, the faster of their product and float32's. None where
    the case or the limits do not tell.
    """
    half = facts.get("dtype") in ("torch.float16", "torch.bfloat16")  # which may be computed in float32
    names = (f"matmul {facts.get('dtype')}", *(["matmul torch.float32"] if half else []))
    products = [limits[name] for name in names if name in limits]
    prefixes = ("write fresh", "write fresh huge") if facts.get("fresh") else ("write warm",)
    rates = []
    for prefix in prefixes:
        fills = [v for k, v in limits.items() if k.removeprefix(f"{prefix} ").split(" ")[0].replace(".", "").isdigit()]
        if fills and "bytes" in facts:
            nearest = min(fills, key=lambda v: abs(v["bytes"] - facts["bytes"]))
            rates.append(nearest["bytes"] / nearest["median"])
    if not products or not rates:
        return None
    product = min(found["median"] / found["flops"] for found in products)
    least: float = max(facts["flops"] * product, facts["bytes"] / max(rates))
    return least


def rate_text(name: str, facts: dict[str, Any]) -> str:
    """A measured probe in words: its median seconds as GFLOP/s or GB/s."""
    if "flops" in facts:
        return f"{name} {facts['flops'] / facts['median'] / 1e9:.0f} GFLOP/s"
    return f"{name} {facts['bytes'] / facts['median'] / 1e9:.1f} GB/s"
