"""Scenes to learn from, and pairs of degraded and sharp patches drawn from them at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lkca.data.window import Window
from lkca.inference.fill import fill_missing

__all__ = ["PatchSampler", "Scene", "SourceScene", "dihedral", "fill_invalid", "undo_dihedral"]


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
