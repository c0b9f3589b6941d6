"""What a machine can do at best: measured probes, and the least time that a case could take by them."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

__all__ = ["least_seconds", "probes", "rate_text"]

_SIDE = 2048


def probes(
    dtypes: Iterable[torch.dtype], megabytes: Iterable[float]
) -> Iterator[tuple[str, Callable[[], Any], dict[str, float]]]:
    """(name, call, {"flops"} or {"bytes"} of one call): a matrix product per dtype, three ways to fill memory per size.

    Memory is filled warm (there already), fresh (as PyTorch allocates) and fresh on huge pages, where Linux has them.
    """
    product: dict[str, float] = {"flops": 2 * _SIDE**3}
    for dtype in dtypes:
        a, b = torch.randn(_SIDE, _SIDE).to(dtype), torch.randn(_SIDE, _SIDE).to(dtype)
        yield f"matmul {dtype}", partial(torch.matmul, a, b), product
    for size in megabytes:
        count = max(1, int(size * 250_000))
        warm = torch.zeros(count)
        facts: dict[str, float] = {"bytes": count * 4}
        yield f"write warm {size:g} MB", partial(warm.fill_, 1.0), facts
        yield f"write fresh {size:g} MB", partial(torch.full, (count,), 1.0), facts
        if hasattr(mmap, "MADV_HUGEPAGE"):
            yield f"write fresh huge {size:g} MB", partial(_fill_huge, count), facts


def _fill_huge(count: int) -> torch.Tensor:
    memory = mmap.mmap(-1, count * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory gets none
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).fill_(1.0)


def least_seconds(facts: dict[str, Any], limits: dict[str, dict[str, Any]]) -> float | None:
    """The larger of a case's multiplications at the matrix product's rate and its output's bytes at the fill's rate.

    facts: flops, bytes, dtype (as text), fresh (whether the output is newly allocated: then the faster of the two ways
    to fill fresh memory counts). limits: median seconds, and flops or bytes, by the names of :func:`probes`; of the
    fills, that of the nearest size is taken. None where the case or the limits do not tell.
    """
    matmul = limits.get(f"matmul {facts.get('dtype')}")
    prefixes = ("write fresh", "write fresh huge") if facts.get("fresh") else ("write warm",)
    rates = []
    for prefix in prefixes:
        fills = [v for k, v in limits.items() if k.removeprefix(f"{prefix} ").split(" ")[0].replace(".", "").isdigit()]
        if fills and "bytes" in facts:
            nearest = min(fills, key=lambda v: abs(v["bytes"] - facts["bytes"]))
            rates.append(nearest["bytes"] / nearest["median"])
    if matmul is None or not rates:
        return None
    least: float = max(facts["flops"] * matmul["median"] / matmul["flops"], facts["bytes"] / max(rates))
    return least


def rate_text(name: str, facts: dict[str, Any]) -> str:
    """A measured probe in words: its median seconds as GFLOP/s or GB/s."""
    if "flops" in facts:
        return f"{name} {facts['flops'] / facts['median'] / 1e9:.0f} GFLOP/s"
    return f"{name} {facts['bytes'] / facts['median'] / 1e9:.1f} GB/s"
