"""Scenes to learn from, and patches of them: drawn one after the other, or each by the seed and its number alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lkca.data.window import Window
from lkca.errors import InputError
from lkca.inference.fill import fill_missing

__all__ = [
    "PatchDataset",
    "PatchSampler",
    "Scene",
    "SourceScene",
    "dihedral",
    "fill_invalid",
    "micro_batches",
    "undo_dihedral",
]

_TRIES = 20  # for a patch of which half is valid


@dataclass(frozen=True)
class SourceScene:
    """A scene that is read by windows.

    shape: (bands, rows, cols). read: window -> float32 (bands, h, w), normalised, NaN where missing.
    """

    name: str
    shape: tuple[int, int, int]
    read: Callable[[Window], np.ndarray]

    def whole(self) -> Scene:
        """All of it in memory, filled (:func:`fill_invalid`)."""
        return Scene(*fill_invalid(torch.from_numpy(self.read(Window.full(*self.shape[1:])))))


@dataclass(frozen=True)
class Scene:
    """A scene in memory.

    image: (channels, H, W) without NaN. valid: (H, W) bool, False where the samples were filled in.
    """

    image: Tensor
    valid: Tensor


def fill_invalid(cube: Tensor) -> tuple[Tensor, Tensor]:
    """(bands, H, W) on the CPU, filled as a scene that is upscaled is: what is not finite becomes the nearest finite
    sample of its band. Also (H, W) bool: every band was finite there.

    A band without any finite sample becomes 0, and no pixel is valid: of a cut it may lack what the scene has.
    """
    filled, _ = fill_missing(cube.numpy())
    return torch.from_numpy(filled), cube.isfinite().all(0)


def dihedral(image: Tensor, element: int) -> Tensor:
    """One of the square's eight symmetries (0..7) of (..., H, W)."""
    image = torch.rot90(image, element % 4, (-2, -1))
    return image.flip(-1) if element >= 4 else image


def undo_dihedral(image: Tensor, element: int) -> Tensor:
    """Inverse of :func:`dihedral`."""
    image = image.flip(-1) if element >= 4 else image
    return torch.rot90(image, -(element % 4), (-2, -1))


class PatchSampler:
    """Draws batches (degraded, sharp, valid) of patches at any pixel offset, in any of the eight orientations.

    Each patch is cropped first and degraded then: offsets that are no multiple of the scale give new sub-pixel phases,
    and the patch's border is a scene's border. A scene is chosen by its number of pixels: for a batch, or where
    ``mixed`` for each patch (the scenes must then have one number of channels). Patches are ``patch`` low-resolution
    pixels wide, or as wide as the scene allows; where mixed, as the smallest one allows.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        scale: int,
        degrade: Callable[[Tensor], Tensor],
        *,
        patch: int,
        batch: int,
        generator: torch.Generator,
        mixed: bool = False,
    ) -> None:
        self._scenes = [s for s in scenes if min(s.image.shape[1:]) >= scale and s.valid.any()]
        if not self._scenes:
            raise ValueError(f"no scene holds a valid {scale} x {scale} block")
        self._scale = scale
        self._degrade = degrade
        self._patch = patch
        self._batch = batch
        self._generator = generator
        self._mixed = mixed
        self._pixels = torch.tensor([float(s.valid.sum()) for s in self._scenes], dtype=torch.float32)

    def _integer(self, end: int) -> int:
        return int(torch.randint(end, (1,), generator=self._generator))

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, p, p), (B, C, s*p, s*p), (B, 1, s*p, s*p) bool."""
        count = self._batch if self._mixed else 1
        chosen = torch.multinomial(self._pixels, count, True, generator=self._generator).tolist()
        scenes = [self._scenes[index] for index in chosen] * (self._batch // count)
        among = self._scenes if self._mixed else scenes
        side = self._scale * min(self._patch, *(n // self._scale for scene in among for n in scene.image.shape[1:]))
        images, masks = [], []
        for scene in scenes:
            height, width = scene.image.shape[1:]
            row, col = self._integer(height - side + 1), self._integer(width - side + 1)
            element = self._integer(8)
            images.append(dihedral(scene.image[:, row : row + side, col : col + side], element))
            masks.append(dihedral(scene.valid[None, row : row + side, col : col + side], element))
        sharp = torch.stack(images)
        return self._degrade(sharp), sharp, torch.stack(masks)


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """Item g: (sharp (bands, side, side) float32 without NaN, valid (1, side, side) bool), a function of seed and g.

    So any process can draw any of them, in any order: a resumed run sees what an unbroken one would have, and two
    processes what one would.

    The scene is drawn by its number of pixels, the corner at any pixel (hence any sub-pixel phase of the coarse grid),
    the orientation among the square's eight. InputError where a scene is smaller than a patch.
    """

    def __init__(self, scenes: Sequence[SourceScene], side: int, seed: int) -> None:
        for scene in scenes:
            if min(scene.shape[1:]) < side:
                raise InputError(
                    f"{scene.name}: has {scene.shape[1]} x {scene.shape[2]} pixels to train on, a patch "
                    f"{side} x {side}; lower 'patch' or leave the scene out"
                )
        self._scenes = list(scenes)
        pixels = np.array([scene.shape[1] * scene.shape[2] for scene in scenes], dtype=float)
        self._cumulative = np.cumsum(pixels) / pixels.sum()
        self._side = side
        self._seed = seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = np.random.Generator(np.random.Philox(key=np.array([self._seed, index], dtype=np.uint64)))
        for _ in range(_TRIES):
            scene = self._scenes[int(np.searchsorted(self._cumulative, draw.random(), side="right"))]
            row = int(draw.integers(scene.shape[1] - self._side + 1))
            col = int(draw.integers(scene.shape[2] - self._side + 1))
            element = int(draw.integers(8))
            sharp = torch.from_numpy(scene.read(Window(row, col, self._side, self._side)))
            filled, valid = fill_invalid(sharp)
            if valid.float().mean() >= 0.5:
                break
        return dihedral(filled, element).contiguous(), dihedral(valid[None], element).contiguous()


def micro_batches(
    dataset: PatchDataset, *, batch: int, accumulate: int, steps: range, rank: int, world: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of patches for one process: ``accumulate`` of them for each of ``steps``.

    Step t takes the patches t * batch ... (t + 1) * batch - 1; each process its share of every part.
    InputError where ``batch`` does not divide evenly.
    """
    if batch % (accumulate * world):
        raise InputError(
            f"batch: {batch} patches cannot be shared by {world} processes in {accumulate} parts; "
            f"give a multiple of {accumulate * world}"
        )
    size = batch // (accumulate * world)
    indices = (
        list(range(first, first + size))
        for t in steps
        for first in (t * batch + part * size * world + rank * size for part in range(accumulate))
    )
    return iter(DataLoader(dataset, batch_sampler=indices, num_workers=workers, generator=torch.Generator()))
