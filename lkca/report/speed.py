"""How long one pass of a network takes here, beside bicubic."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lkca.models import LKCANet
from lkca.nn import LowRankUpsample
from lkca_kernels import bicubic_upsample
from lkca_kernels.backends import choose, use_backend

__all__ = ["Speed", "Timing", "measure_speed"]

_SIDE = 32  # coarse pixels per side
_ROUNDS = 7


@dataclass(frozen=True)
class Timing:
    """Median seconds of one pass, and the backend that served its upsampling."""

    name: str
    served_by: str
    seconds: float


@dataclass(frozen=True)
class Speed:
    """timings: bicubic first. side: coarse pixels. device, threads: where and on how many."""

    timings: tuple[Timing, ...]
    bands: int
    scale: int
    side: int
    rounds: int
    device: str
    threads: int

    @property
    def fine_pixels(self) -> int:
        """Pixels of the output."""
        return (self.side * self.scale) ** 2


def measure_speed(net: LKCANet, device: torch.device) -> Speed:
    """Times bicubic, the network, and the network in plain PyTorch where another backend serves it.

    Random input (1, bands, 32, 32) in float32; the candidates take turns, so that what else the machine does meets
    all of them alike. The network is left on the CPU.
    """
    net = net.to(device)
    bands, scale = net.config.bands, net.config.scale
    x = torch.rand(1, bands, _SIDE, _SIDE, device=device)
    op = "lowrank_pixel_shuffle" if isinstance(net.upsample, LowRankUpsample) else "pixel_shuffle_epilogue"
    served_by = choose(op, device, x.dtype, scale, None)
    runs: list[tuple[str, str, Callable[[], object]]] = [
        ("bicubic", "reference", lambda: bicubic_upsample(x, scale)),
        ("model", served_by, lambda: net(x)),
    ]
    if served_by != "reference":
        runs.append(("model, plain PyTorch", "reference", lambda: _in_pytorch(net, x)))
    seconds: list[list[float]] = [[] for _ in runs]
    try:
        with torch.inference_mode():
            for number in range(_ROUNDS + 1):  # the first one warms up
                for taken, (_, _, run) in zip(seconds, runs, strict=True):
                    start = time.perf_counter()
                    run()
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    if number:
                        taken.append(time.perf_counter() - start)
    finally:
        net.to("cpu")
    timings = tuple(
        Timing(name, backend, statistics.median(taken)) for taken, (name, backend, _) in zip(seconds, runs, strict=True)
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    return Speed(timings, bands, scale, _SIDE, _ROUNDS, name, torch.get_num_threads())


def _in_pytorch(net: LKCANet, x: torch.Tensor) -> torch.Tensor:
    with use_backend("reference"):
        result: torch.Tensor = net(x)
    return result
