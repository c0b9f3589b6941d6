"""The public scenes, ``cave/*.npz`` and ``cubes/*.npz``: how one is read, and which are left for tests and choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lkca.data.degradation import Degradation, crop_to_multiple
from lkca.models.subspace import SpectralSubspace
from lkca_kernels import bicubic_upsample

__all__ = ["TEST", "VALIDATION", "component_images", "read"]

TEST = {"cave": ("beads", "pompoms"), "cubes": ("jasper_ridge", "samson", "abu_airport_4", "enmap_potsdam_c")}
VALIDATION = ("abu_urban_1", "abu_beach_3", "sandiego_a", "sandiego_b")  # of cubes: on which lkca fit was chosen


def read(path: Path) -> Tensor:
    """The file's ``cube``, (rows, cols, bands) there, as (bands, rows, cols) float32 in its own units."""
    with np.load(path) as file:
        return torch.from_numpy(np.moveaxis(file["cube"].astype(np.float32), 2, 0).copy())


def component_images(cube: Tensor, components: int) -> Tensor:
    """(bands, H, W) -> (components, H, W), mean 0: the components of the detail that ×4 degradation takes away."""
    cube = crop_to_multiple(cube, 4)
    detail = cube - bicubic_upsample(Degradation(scale=4).apply(cube)[None], 4)[0]
    space = SpectralSubspace.of(detail.flatten(1), cube.flatten(1).double().mean(1), components)
    return space.encode(cube)
