"""What a network costs: weights, multiplications, time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lkca_kernels import use_backend

__all__ = ["macs", "parameters", "seconds"]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def macs(call: Callable[[], Any]) -> int:
    """Multiply-accumulates of convolutions and matrix products, by torch's counter, in the operators' plain form."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), use_backend("reference"), counter:
        call()
    return counter.get_total_flops() // 2


def seconds(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Least wall-clock seconds of each; they take turns, so that what else the machine does meets all alike."""
    least = [math.inf for _ in calls]
    with torch.inference_mode():
        for turn in range(rounds + 1):  # the first one warms up
            for index, call in enumerate(calls):
                begin = time.perf_counter()
                call()
                if turn:
                    least[index] = min(least[index], time.perf_counter() - begin)
    return least
