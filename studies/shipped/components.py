"""How the general model's components are best found.

``python -m studies.shipped.components DATA [-s 4] [--prior FILE]``: on the AVIRIS scenes that no prior is trained on,
and as a cross-check on four CAVE scenes, which the shipped prior has seen. Each scene is degraded by s; then the
components are the principal ones of

- ``x2``: what the coarse scene loses when it is made twice as coarse (``lkca.inference.adapt``),
- ``xs``: what it loses when it is made s times as coarse,
- ``highpass``: the coarse scene less its 3×3 mean,
- ``variance``: the coarse scene less its mean,
- ``truth``: what the scene itself lost, which no user knows: a bound.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lkca.data.degradation import Degradation, crop_to_multiple
from lkca.lowrank import factorize
from lkca.metrics import evaluate
from lkca.models.prior import load_prior, shipped_prior
from lkca.models.subspace import SpectralSubspace
from lkca_kernels import bicubic_upsample
from studies.common.scenes import VALIDATION, read

CAVE = ("fake_and_real_peppers", "feathers", "oil_painting", "superballs")
COUNTS = (4, 6, 8, 12, 16)


def lost(cube: Tensor, scale: int) -> Tensor:
    cube = crop_to_multiple(cube, scale)
    return cube - bicubic_upsample(Degradation(scale=scale).apply(cube)[None], scale)[0]


def details(sharp: Tensor, coarse: Tensor, scale: int) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    """Name, (bands, rows, cols), and how many components to try."""
    yield "x2", lost(coarse, 2), COUNTS
    yield "xs", lost(coarse, scale), (8,)
    padded = nn.functional.pad(coarse[None], (1, 1, 1, 1), mode="replicate")
    yield "highpass", coarse - nn.functional.avg_pool2d(padded, 3, 1)[0], (8,)
    yield "variance", coarse - coarse.mean((1, 2), keepdim=True), (8,)
    yield "truth", lost(sharp, scale), (8,)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with cubes/ and cave/")
    parser.add_argument("-s", "--scale", type=int, default=4)
    parser.add_argument("--prior", help="instead of the shipped one")
    parser.add_argument("--only", help="one of the ways")
    args = parser.parse_args()
    prior = load_prior(args.prior) if args.prior else shipped_prior()
    assert prior is not None
    net = factorize(prior.network(args.scale), energy=0.99)
    for title, paths in (
        ("AVIRIS", [args.data / f"cubes/{name}.npz" for name in VALIDATION]),
        ("CAVE", [args.data / f"cave/{name}.npz" for name in CAVE]),
    ):
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for path in paths:
            sharp = read(path)
            sharp = crop_to_multiple(sharp / sharp.max(), args.scale)
            coarse = Degradation(scale=args.scale).apply(sharp)
            base = bicubic_upsample(coarse[None], args.scale)[0]
            before = evaluate(sharp, base, scale=args.scale)
            for name, detail, counts in details(sharp, coarse, args.scale):
                if args.only not in (None, name):
                    continue
                for count in counts:
                    space = SpectralSubspace.of(detail.flatten(1), coarse.flatten(1).double().mean(1), count)
                    restored = space.decode_detail(net.residual(space.encode(coarse)[:, None])[:, 0])
                    after = evaluate(sharp, base + restored, scale=args.scale)
                    gain = (after.mpsnr - before.mpsnr, 100 * (after.sam / before.sam - 1))
                    found.setdefault((name, count), []).append(gain)
        print(f"{title} ×{args.scale}: dB, SAM (mean); dB of each scene")
        for (name, count), gains in found.items():
            each = ", ".join(f"{gain:+.2f}" for gain, _ in gains)
            mean, angle = np.mean(gains, 0)
            print(f"| {name} | {count} | {mean:+.3f} | {angle:+.1f} % | {each} |", flush=True)


if __name__ == "__main__":
    main()
