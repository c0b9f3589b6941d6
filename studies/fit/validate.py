"""Gain of the fit recipe over bicubic on the scenes that it was chosen on: ``python -m studies.fit.validate DATA``.

The first 68 % of each scene's rows are fitted, the rest is tested. ``--set name=value`` changes fields of the recipe;
``--init MODEL`` starts from a model's body as ``lkca fit --init`` does.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from lkca.data.degradation import crop_to_multiple, degrade
from lkca.metrics import evaluate
from lkca.models.directory import load_model
from lkca.training import fit
from lkca.training.fit import Recipe
from lkca.training.transfer import backbone
from lkca_kernels import bicubic_upsample
from studies.common.scenes import VALIDATION, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-s", "--scale", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100, help="2: the prior as it is")
    parser.add_argument("--degradation", default="bicubic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, metavar="MODEL")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    recipe = Recipe(**{name: json.loads(value) for name, _, value in (item.partition("=") for item in args.set)})
    init = None if args.init is None else backbone(load_model(args.init))
    rows = []
    for name in sorted(VALIDATION):
        cube = read(args.data / "cubes" / f"{name}.npz")
        cube /= cube.max()
        edge = round(0.68 * cube.shape[1]) // 4 * 4
        cpu = time.process_time()
        result = fit(
            [cube[:, :edge]],
            args.scale,
            minutes=None,
            max_steps=args.steps,
            seed=args.seed,
            degradation=args.degradation,
            recipe=recipe,
            init=init,
        )
        cpu = time.process_time() - cpu
        sharp = crop_to_multiple(cube[:, edge:], args.scale)
        coarse = degrade(sharp, args.scale, args.degradation)[None]
        with torch.no_grad():
            restored = result.net(coarse)[0]
        ours = evaluate(sharp, restored, scale=args.scale)
        base = evaluate(sharp, bicubic_upsample(coarse, args.scale)[0], scale=args.scale)
        rows.append((ours.mpsnr - base.mpsnr, 100 * (ours.sam / base.sam - 1)))
        print(
            f"{name:12} {rows[-1][0]:+.3f} dB  SAM {rows[-1][1]:+.1f} %  rank {result.rank}  {cpu:.0f} CPU s",
            flush=True,
        )
    print("mean         {:+.3f} dB  SAM {:+.1f} %".format(*np.mean(rows, 0)))


if __name__ == "__main__":
    main()
