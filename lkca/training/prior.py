"""Train the shipped prior: ``python -m lkca.training.prior DATA -o lkca/models/prior.safetensors``. docs/fit.md.

DATA holds ``cubes/*.npz`` and ``cave/*.npz`` (``cube``: rows, cols, bands). Every scene is turned into single-channel
images: the principal components of what bicubic misses, and random mixtures of them; photographs that scikit-image
ships and synthetic dead leaves join them. A body shared by all scales and an upsampler per scale learn to restore them.
Test scenes and the scenes that the fit recipe is validated on stay out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import skimage.data
import torch
from torch import Tensor, nn

from lkca.data.degradation import Degradation, crop_to_multiple
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.prior import load_prior
from lkca.nn import PixelShuffleUpsample
from lkca.nn.layout import channels_last
from lkca.training.patches import dihedral
from lkca.training.subspace import SpectralSubspace
from lkca_kernels import bicubic_upsample

__all__ = ["train_prior"]

ARCHITECTURE = {"width": 32, "blocks": 4, "kernel_size": 7, "expansion": 2, "window": 9}
SCALES = {4: 0.45, 2: 0.3, 3: 0.1, 8: 0.15}  # share of the steps; larger first
PATCH = {2: 18, 3: 18, 4: 18, 8: 12}  # low-resolution pixels
BATCH = 16
TEST = ("jasper_ridge", "samson", "abu_airport_4", "enmap_potsdam_c", "beads", "pompoms")
VALIDATION = ("abu_urban_1", "abu_beach_3", "sandiego_a", "sandiego_b")
# Bundled with scikit-image: public domain, CC0 or no known restrictions. Halved to lose their compression's traces.
PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "immunohistochemistry",
    "camera",
    "coins",
    "moon",
    "brick",
    "grass",
    "gravel",
)
FLAT = 0.05  # of an image's RMS detail: patches with less are not blown up to full power


def component_images(cube: Tensor, components: int) -> Tensor:
    """(bands, H, W) -> (components, H, W), mean 0: the components of the detail that ×4 degradation takes away."""
    cube = crop_to_multiple(cube, 4)
    detail = cube - bicubic_upsample(Degradation(scale=4).apply(cube)[None], 4)[0]
    space = SpectralSubspace.of(detail.flatten(1), cube.flatten(1).double().mean(1), components)
    return space.encode(cube)


def dead_leaves(size: int, channels: int, generator: np.random.Generator) -> Tensor:
    """Occluding ellipses and boxes of power-law size, each with a random spectrum and 1/f texture; (channels, n, n)."""
    label = np.full((size, size), -1)
    spectra: list[np.ndarray] = []
    low, high, power = 1.0, size / 3, -1.5
    rows, cols = np.mgrid[:size, :size]
    while (label < 0).any() and len(spectra) < 6000:
        radius = (low**power + generator.random() * (high**power - low**power)) ** (1 / power)
        (y, x), angle, aspect = generator.random(2) * size, generator.random() * np.pi, np.exp(generator.normal() * 0.6)
        reach = int(3 * radius) + 2
        box = np.s_[max(0, int(y) - reach) : int(y) + reach + 1, max(0, int(x) - reach) : int(x) + reach + 1]
        dy, dx = rows[box] - y, cols[box] - x
        u = (dy * np.cos(angle) + dx * np.sin(angle)) / radius / aspect**0.5
        v = (dx * np.cos(angle) - dy * np.sin(angle)) / radius * aspect**0.5
        inside = (u * u + v * v < 1) if generator.random() < 0.4 else (np.maximum(abs(u), abs(v)) < 0.85)
        inside &= label[box] < 0
        if inside.any():
            label[box][inside] = len(spectra)
            spectra.append(generator.normal(size=channels))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    frequency[0, 0] = 1
    texture = np.fft.ifft2(np.fft.fft2(generator.normal(size=(channels, size, size))) / frequency).real
    texture /= texture.std((1, 2), keepdims=True)
    strength = 0.4 * generator.random(len(spectra) + 1)[label]
    image = np.append(np.array(spectra), np.zeros((1, channels)), 0).T[:, label] + strength * texture
    sharp = torch.from_numpy(image.astype(np.float32))
    blurred = nn.functional.avg_pool2d(sharp[None], 3, 1, 1, count_include_pad=False)[0]
    return (sharp + blurred) / 2


def images(root: Path) -> tuple[list[Tensor], list[float], list[str]]:
    """Images, the weight of each in the draw, and the names of the scenes that they come from."""
    result, weights, names = [], [], []

    def add(image: Tensor, weight: float) -> None:
        image = crop_to_multiple(image - image.mean((1, 2), keepdim=True), 4)
        detail = image - bicubic_upsample(Degradation(scale=4).apply(image)[None], 4)[0]
        result.append(image / detail[0].square().mean().sqrt())
        weights.append(weight)

    for path in sorted([*root.glob("cubes/*.npz"), *root.glob("cave/*.npz")]):
        if path.stem in TEST + VALIDATION or any(word in path.stem for word in ("beads", "pompoms")):
            continue
        names.append(path.stem)
        with np.load(path) as file:
            cube = torch.from_numpy(np.moveaxis(file["cube"].astype(np.float32), 2, 0).copy())
        if path.parent.name == "cubes":
            add(component_images(cube, 16), 2.0)
        else:
            image = component_images(cube, 6)
            add(image, 1.0)
            add(nn.functional.avg_pool2d(image[None], 2)[0], 0.5)  # twice as sharp
    for name in PHOTOGRAPHS:
        names.append(f"skimage.data.{name}")
        photograph = torch.from_numpy(np.atleast_3d(getattr(skimage.data, name)()).astype(np.float32)).movedim(2, 0)
        add(component_images(nn.functional.avg_pool2d(photograph[None], 2)[0], photograph.shape[0]), 1.5)
    for seed in range(24):
        add(dead_leaves(160, 6, np.random.default_rng(seed)), 0.3)
    return result, weights, names


def draw(pool: Sequence[Tensor], weights: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """(BATCH, 1, side, side): a component or a mixture of all, any offset, orientation and sign."""

    def integer(end: int) -> int:
        return int(torch.randint(end, (1,), generator=generator))

    batch = []
    for index in torch.multinomial(weights, BATCH, True, generator=generator).tolist():
        image = pool[index]
        channels, height, width = image.shape
        row, col = integer(height - side + 1), integer(width - side + 1)
        patch = image[:, row : row + side, col : col + side]
        if integer(2):
            mix = torch.randn(channels, 1, 1, generator=generator) / torch.arange(1, channels + 1)[:, None, None].sqrt()
            patch = (patch * mix).sum(0, keepdim=True)
        else:
            first = min(integer(channels), integer(channels))  # strong components more often
            patch = patch[first : first + 1]
        patch = dihedral(patch, integer(8))
        batch.append(-patch if integer(2) else patch)
    return torch.stack(batch)


def train_prior(root: Path, out: Path, *, minutes: float, seed: int, lr: float, start_from: Path | None = None) -> None:
    """Train within ``minutes`` of wall-clock time and write ``out`` (also every tenth of the time).

    start_from: a prior to go on from, else random weights.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pool, weight_list, names = images(root)
    weights = torch.tensor(weight_list)
    if start_from is None:
        nets = {s: LKCANet(LKCANetConfig(bands=1, scale=s, shared=True, **ARCHITECTURE)) for s in SCALES}
    else:
        earlier = load_prior(str(start_from))
        nets = {s: earlier.network(s) for s in SCALES}
    one = nets[max(SCALES, key=lambda s: SCALES[s])]
    for net in nets.values():
        net.head, net.body = one.head, one.body
    everything = channels_last(nn.ModuleDict({str(s): net for s, net in nets.items()}))
    parameters: list[Tensor] = list(everything.parameters())  # shared ones once
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-3, betas=(0.9, 0.99))
    average = [p.detach().clone() for p in parameters]
    shares = torch.tensor(list(SCALES.values()))
    scales = list(SCALES)
    losses = dict.fromkeys(scales, 1.0)
    start, steps, due = time.monotonic(), 0, 0.1

    def save() -> None:
        live = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, a in zip(parameters, average, strict=True):
                p.copy_(a)
            state = {k: v.contiguous().clone() for k, v in one.state_dict().items() if k.startswith(("head.", "body."))}
            for s, net in nets.items():
                assert isinstance(net.upsample, PixelShuffleUpsample)
                state[f"tail.{s}"] = net.upsample.conv.weight.detach().contiguous().clone()
            about = {
                "architecture": ARCHITECTURE,
                "scenes": names,
                "steps": steps,
                "seed": seed,
                "started_from": None if start_from is None else dict(earlier.origin),
                "degradation": "bicubic",
            }
            safetensors.torch.save_file(state, out, metadata={"prior": json.dumps(about)})
            for p, v in zip(parameters, live, strict=True):
                p.copy_(v)

    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        scale = scales[int(torch.multinomial(shares, 1, generator=generator))]
        sharp = draw(pool, weights, scale * PATCH[scale], generator)
        coarse = Degradation(scale=scale).apply(sharp)
        target = sharp - bicubic_upsample(coarse, scale)
        power = (target.square().mean((1, 2, 3), keepdim=True) + FLAT**2).sqrt()
        restored = nets[scale].residual((coarse / power).to(memory_format=torch.channels_last))
        loss = (restored - target / power).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        steps += 1
        losses[scale] += 0.01 * (loss.item() - losses[scale])
        with torch.no_grad():
            keep = min(0.998, steps / (steps + 20))
            torch._foreach_lerp_(average, parameters, 1 - keep)
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
