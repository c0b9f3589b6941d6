"""Train the shipped prior: ``python -m studies.prior DATA -o lkca/models/prior.safetensors``. docs/fit.md.

DATA holds ``cubes/*.npz`` and ``cave/*.npz`` (``cube``: rows, cols, bands). Every scene is turned into single-channel
images: the principal components of what bicubic misses, and random mixtures of them; photographs that scikit-image
ships and synthetic dead leaves join them. A body shared by all scales and an upsampler per scale learn to restore them.
Test scenes and the scenes that the fit recipe is validated on stay out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.prior import load_prior
from lkca.nn import PixelShuffleUpsample
from lkca.nn.layout import channels_last
from lkca.training.optimise import Average, adamw, rate_factor, set_rate
from lkca.training.progress import Budget
from lkca_kernels import bicubic_upsample
from studies.prior.images import draw, images

ARCHITECTURE = {"width": 32, "blocks": 4, "kernel_size": 7, "expansion": 2, "window": 9}
SCALES = {4: 0.45, 2: 0.3, 3: 0.1, 8: 0.15}  # share of the steps; larger first
PATCH = {2: 24, 3: 24, 4: 24, 8: 12}  # low-resolution pixels
FLAT = 0.05  # of an image's RMS detail: patches with less are not blown up to full power


def train_prior(root: Path, out: Path, *, minutes: float, seed: int, lr: float, start_from: Path | None = None) -> None:
    """Train within ``minutes`` of wall-clock time and write ``out`` (also every tenth of the time).

    start_from: a prior to go on from, else random weights.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pool, weight_list, scenes = images(root)
    before: list[dict[str, int]] = []  # the runs that this one goes on from, oldest first
    weights = torch.tensor(weight_list)
    if start_from is None:
        nets = {s: LKCANet(LKCANetConfig(bands=1, scale=s, shared=True, **ARCHITECTURE)) for s in SCALES}
    else:
        earlier = load_prior(str(start_from))
        nets = {s: earlier.network(s) for s in SCALES}
        scenes = list(dict.fromkeys((*earlier.origin["scenes"], *scenes)))
        before = [*earlier.origin["before"], {key: earlier.origin[key] for key in ("steps", "seed")}]
    one = nets[max(SCALES, key=lambda s: SCALES[s])]
    for net in nets.values():
        net.head, net.body = one.head, one.body
    tails = {f"tail {s}": net.upsample for s, net in nets.items()}
    parts = channels_last(nn.ModuleDict({"head": one.head, "body": one.body, **tails}))  # what is shared, once
    optimiser = adamw(parts, lr, weight_decay=1e-3)
    average = Average(parts, 0.998, ramp=20)
    shares = torch.tensor(list(SCALES.values()))
    scales = list(SCALES)
    losses = dict.fromkeys(scales, 1.0)
    budget, steps, due = Budget(60 * minutes, None), 0, 0.1

    def save() -> None:
        with average.inside(parts):
            state = {k: v.contiguous().clone() for k, v in one.state_dict().items() if k.startswith(("head.", "body."))}
            for s, net in nets.items():
                assert isinstance(net.upsample, PixelShuffleUpsample)
                state[f"tail.{s}"] = net.upsample.conv.weight.detach().contiguous().clone()
            about = {
                "architecture": ARCHITECTURE,
                "scenes": scenes,
                "steps": steps,
                "seed": seed,
                "before": before,
                "degradation": "bicubic",
            }
            safetensors.torch.save_file(state, out, metadata={"prior": json.dumps(about)})

    while (done := budget.fraction) < 1:
        set_rate(optimiser, lr * rate_factor(done, steps, warmup=50))
        scale = scales[int(torch.multinomial(shares, 1, generator=generator))]
        sharp = draw(pool, weights, scale * PATCH[scale], generator)
        coarse = Degradation(scale=scale).apply(sharp)
        target = sharp - bicubic_upsample(coarse, scale)
        power = (target.square().mean((1, 2, 3), keepdim=True) + FLAT**2).sqrt()
        restored = nets[scale].residual((coarse / power).to(memory_format=torch.channels_last))
        loss = (restored - target / power).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimiser.step()
        steps += 1
        losses[scale] += 0.01 * (loss.item() - losses[scale])
        average.update(parts, steps)
        if done >= due:
            due += 0.1
            save()
            print(f"{steps} steps, {60 * minutes * done:.0f} s, loss {losses}", flush=True)
    save()
    print(f"{steps} steps, loss {losses}, {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with cubes/ and cave/")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--start-from", type=Path, help="a prior to go on from")
    args = parser.parse_args()
    train_prior(args.data, args.output, minutes=args.minutes, seed=args.seed, lr=args.lr, start_from=args.start_from)


if __name__ == "__main__":
    main()
