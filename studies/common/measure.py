"""What a network costs: weights, multiplications, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lkca_kernels import use_backend

__all__ = ["macs", "parameters", "seconds", "turns"]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def macs(call: Callable[[], Any]) -> int:
    """Multiply-accumulates of convolutions and matrix products, by torch's counter, in the operators' plain form."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), use_backend("reference"), counter:
        call()
    return counter.get_total_flops() // 2


def turns(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Wall-clock seconds of each, by round; they take turns, so that what else the machine does meets all alike."""
    spent: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for turn in range(rounds + 1):  # the first one warms up
            for mine, call in zip(spent, calls, strict=True):
                begin = time.perf_counter()
                call()
                if turn:
                    mine.append(time.perf_counter() - begin)
    return spent


def seconds(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Least of each one's :func:`turns`."""
    return [min(spent) for spent in turns(calls, rounds)]
