"""Train one network of the study for some minutes.

``python -m studies.lowrank.train DATA cave|aviris lkcanet|edsr -o FILE``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import safetensors.torch
import torch

from lkca.lowrank.search import psnr_function
from lkca.training.loop import Schedule, train_loop
from lkca.training.patches import PatchSampler, Scene
from lkca.training.progress import Budget
from lkca_kernels import bicubic_upsample
from studies.lowrank.networks import DEGRADE, SCALE, network, pairs, scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder with cave/ and cubes/")
    parser.add_argument("data", choices=("cave", "aviris"))
    parser.add_argument("kind", choices=("lkcanet", "edsr"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    args = parser.parse_args()

    cubes, held = scenes(args.root, args.data)
    net = network(args.kind, cubes[0].shape[0])
    sampler = PatchSampler(
        [Scene(c, torch.ones_like(c[0], dtype=torch.bool)) for c in cubes],
        SCALE,
        DEGRADE,
        patch=16,
        batch=4,
        generator=torch.Generator().manual_seed(0),
    )

    def loss(position: float) -> torch.Tensor:
        degraded, sharp, _ = sampler.draw()
        value: torch.Tensor = (net(degraded) - sharp).abs().mean()
        return value

    began = time.process_time()
    done = train_loop(net, loss, Schedule(0.0, 1.0, lr=1e-3, weight_decay=1e-4), Budget(60 * args.minutes, None))
    psnr = psnr_function(pairs(held), net)
    print(
        f"{args.data} {args.kind}: {done.steps} steps, {time.process_time() - began:.0f} CPU s, "
        f"loss {done.loss:.4f}, held-out PSNR {psnr(net):.2f} dB, bicubic {psnr(_Bicubic()):.2f} dB"
    )
    safetensors.torch.save_file({k: v.contiguous() for k, v in net.state_dict().items()}, args.output)


class _Bicubic(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return bicubic_upsample(x, SCALE)


if __name__ == "__main__":
    main()
