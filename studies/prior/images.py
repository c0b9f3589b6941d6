"""What the prior is trained on: single-channel images of scenes, of photographs, and of nothing that exists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from torch import Tensor, nn

from lkca.data.degradation import Degradation, crop_to_multiple
from lkca.training.patches import dihedral
from lkca_kernels import bicubic_upsample
from studies.common.scenes import TEST, VALIDATION, component_images, read

__all__ = ["draw", "images"]

BATCH = 16
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
        if path.stem in (*TEST[path.parent.name], *VALIDATION):
            continue
        names.append(path.stem)
        cube = read(path)
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
