"""Training steps as ``lkca train`` takes them, against plain PyTorch: ``python bench/training.py``.

Two copies of a network take the same steps on the same patches in turn, so that what else runs on the machine meets
both: "lkca" with its operators and the losses' written-out derivatives, "plain" with the operators' reference and the
losses as one would write them. Printed: the least CPU time of a step (forward, loss, backward, AdamW, average), its
ratio, and how far the two loss curves part. LKCA_BENCH_THREADS sets the threads (default 1:
CPU time adds up over them).
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lkca.data.degradation import Degradation
from lkca.losses import WeightedLoss
from lkca.models import LKCANet, LKCANetConfig
from lkca.nn import LowRankUpsample
from lkca.nn.layout import channels_last
from lkca.training.config import DEFAULT_LOSS
from lkca.training.optimise import Average, adamw
from lkca_kernels import use_backend

Loss = Callable[[Tensor, Tensor], Tensor]


def plain_loss(weights: dict[str, float], unit: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The losses of lkca.losses in plain PyTorch, differentiated by autograd."""

    def angle(x: Tensor, y: Tensor) -> Tensor:
        chord = torch.linalg.vector_norm(F.normalize(x, dim=1) - F.normalize(y, dim=1), dim=1)
        return 2 / math.pi * torch.asin((0.5 * chord).clamp(max=1 - 1e-6)).mean()

    def squared(x: Tensor, y: Tensor) -> Tensor:
        return (((x - y) / unit[:, None, None]) ** 2).mean()

    terms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": squared, "sam": angle}
    return lambda x, y: sum((weight * terms[name](x, y) for name, weight in weights.items()), torch.zeros(()))


def step(net: LKCANet, optimiser: torch.optim.Optimizer, average: Average, loss: Loss, sharp: Tensor) -> float:
    """One step as ``lkca train`` takes it."""
    coarse = Degradation(scale=net.config.scale).apply(sharp).contiguous(memory_format=torch.channels_last)
    value = loss(net(coarse), sharp)
    value.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    average.update(net, 100)
    return value.item()


def compare(config: LKCANetConfig, weights: dict[str, float], *, batch: int, patch: int, steps: int) -> str:
    torch.manual_seed(0)
    first = channels_last(LKCANet(config))
    assert isinstance(first.upsample, LowRankUpsample)
    torch.nn.init.normal_(first.upsample.weight, std=0.1)  # as lkca.training.start leaves it: there, and not trained
    torch.nn.init.zeros_(first.upsample.reduce.weight)
    for fixed in (first.project, first.upsample.weight):
        fixed.requires_grad_(False)
    tools = {}
    unit = torch.linspace(0.01, 0.03, config.bands)
    for name, loss in (("auto", WeightedLoss(weights, unit)), ("reference", plain_loss(weights, unit))):
        net = copy.deepcopy(first)
        tools[name] = (net, adamw(net, 2e-4, 1e-4), Average(net, 0.999), loss)
    times: dict[str, list[float]] = {name: [] for name in tools}
    losses: dict[str, list[float]] = {name: [] for name in tools}
    side = patch * config.scale
    coarse_scene = torch.rand(batch, config.bands, patch // 2, patch // 2)
    for number in range(steps + 2):
        sharp = F.interpolate(coarse_scene.roll(number, 0), size=side, mode="bicubic").clamp(0, 1)
        sharp = sharp + 0.02 * torch.randn(batch, 1, side, side, generator=torch.Generator().manual_seed(number))
        for name in tools:
            start = time.process_time()
            with use_backend(name):
                losses[name].append(step(*tools[name], sharp))
            if number >= 2:  # warm
                times[name].append(time.process_time() - start)
    ours, reference = (1000 * min(times[name]) for name in tools)
    apart = max(abs(a / b - 1) for a, b in zip(losses["auto"], losses["reference"], strict=True))
    return f"| {ours:.0f} | {reference:.0f} | {reference / ours:.2f}× | {apart:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("-s", "--scale", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("LKCA_BENCH_THREADS") or 1))
    print(f"{args.preset} ×{args.scale}, {args.batch} patches of {args.patch}×{args.patch}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
    print("| bands | rank | loss | lkca, ms | plain, ms | ratio | losses part by |")
    print("|---|---|---|---|---|---|---|")
    for bands in (31, 128):
        teacher = LKCANetConfig.preset(args.preset, bands=bands, scale=args.scale)
        for rank in (teacher.rank, teacher.student_rank):
            for weights in ({"l1": 1.0}, DEFAULT_LOSS):
                config = replace(teacher, rank=rank)
                result = compare(config, weights, batch=args.batch, patch=args.patch, steps=args.steps)
                print(f"| {bands} | {rank} | {' + '.join(weights)} {result}", flush=True)


if __name__ == "__main__":
    main()
