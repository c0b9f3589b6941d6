"""What is measured: the upsampling operator, and a whole network."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lkca.bench.baselines import eager_lowrank
from lkca.models import LKCANet, LKCANetConfig
from lkca_kernels import lowrank_pixel_shuffle, use_backend
from lkca_kernels.ops import explain

__all__ = ["Case", "model_case", "operator_case", "preset_network"]


@dataclass(frozen=True)
class Case:
    """``ours(*tensors)`` is served by one of ``backends``; ``eager(*tensors)`` is the same in plain PyTorch, and what
    torch.compile and ONNX Runtime get.

    facts: flops, bytes (of the output), dtype, fresh, for :func:`lkca.bench.least_seconds`. left_out: lkca backends
    that cannot serve, and why.
    """

    name: str
    tensors: tuple[Tensor, ...]
    ours: Callable[..., Tensor]
    backends: tuple[str, ...]
    eager: Callable[..., Tensor]
    facts: dict[str, Any]
    left_out: dict[str, str]


def operator_case(bands: int, scale: int, rank: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Case:
    """``lowrank_pixel_shuffle`` with bias, gate and the bicubic skip of the coarse cube, ``size`` coarse pixels."""
    generator = torch.Generator().manual_seed(0)
    rows, cols = size
    shapes = ((1, rank, rows, cols), (bands * scale**2, rank), (bands * scale**2,), (1, bands), (1, bands, rows, cols))
    tensors = tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    served, left_out = _backends(dtype, scale)
    samples = bands * rows * cols * scale**2
    return Case(
        f"operator: {bands} bands, ×{scale}, rank {rank}, {rows}×{cols} → {rows * scale}×{cols * scale}",
        tensors,
        functools.partial(lowrank_pixel_shuffle, upscale_factor=scale),
        (*served, "reference"),
        functools.partial(eager_lowrank, scale=scale),
        {"flops": 2 * rank * samples, "bytes": samples * dtype.itemsize, "dtype": str(dtype), "fresh": True},
        left_out,
    )


def model_case(net: LKCANet, name: str, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Case:
    """A network's forward pass over one image of ``size`` coarse pixels. Its own reference path is the eager one.

    Its multiplications are those of convolutions and matrix products, without the bicubic skip.
    """
    net = copy.deepcopy(net).eval().requires_grad_(False).to(dtype)
    scale, (rows, cols) = net.config.scale, size
    x = torch.rand(1, net.config.bands, rows, cols, generator=torch.Generator().manual_seed(0)).to(dtype)

    with FlopCounterMode(display=False) as counter, use_backend("reference"), torch.no_grad():
        net.residual(x)
    served, left_out = _backends(dtype, scale)
    nbytes = x.numel() * scale**2 * dtype.itemsize
    return Case(
        f"network: {name}, {net.config.bands} bands, ×{scale}, {rows}×{cols} → {rows * scale}×{cols * scale}",
        (x,),
        net,
        served,
        net,
        {"flops": counter.get_total_flops(), "bytes": nbytes, "dtype": str(dtype), "fresh": True},
        left_out,
    )


def preset_network(preset: str, bands: int, scale: int, rank: int | None = None) -> LKCANet:
    """A network of that size with random weights everywhere: a new one's zeros would hide a wrong result.

    rank: of its upsampler, by default its size's for students. ValueError where the size cannot have it.
    """
    torch.manual_seed(0)
    config = LKCANetConfig.preset(preset, bands=bands, scale=scale)
    net = LKCANet(replace(config, rank=config.student_rank if rank is None else rank))
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net


def _backends(dtype: torch.dtype, scale: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """lkca's compiled CPU backend if it serves such calls; why the others are not measured."""
    left_out = {"triton, cuda": "they serve CUDA tensors, and this measures the CPU"}
    z, weight = torch.zeros(1, 1, 1, 1, dtype=dtype), torch.zeros(scale**2, 1, dtype=dtype)
    reason = explain(lowrank_pixel_shuffle, z, weight, upscale_factor=scale).refusals.get("cpu")
    if reason is None:
        return ("cpu",), left_out
    return (), {"cpu": f"it {reason}", **left_out}
