"""An EDSR's upsampling layers fused, then factorised, both measured: ``python examples/drop_in_edsr.py``."""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor, nn

import lkca
from lkca.lowrank import factorize
from lkca.models.edsr import EDSR


def median_ms(network: nn.Module, x: Tensor, repeats: int = 7) -> float:
    with torch.inference_mode():
        network(x)  # warm-up
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            network(x)
            times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[repeats // 2]


def main() -> None:
    torch.manual_seed(0)
    plain = EDSR(bands=31, scale=4, width=32, blocks=4).eval()
    x = torch.rand(1, 31, 32, 32)

    fused = copy.deepcopy(plain)
    report = lkca.replace_modules(fused)  # the same weights, the same result
    print(report)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)

    small = factorize(plain, rank=24)  # another network: distil or fine-tune it
    for name, network in {"plain": plain, "fused": fused, "rank 24": small}.items():
        weights = sum(p.numel() for p in network.parameters())
        print(f"{name:8} {median_ms(network, x):7.2f} ms  {weights:9,} weights")


if __name__ == "__main__":
    main()
