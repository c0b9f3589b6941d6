"""The public scenes, ``cave/*.npz`` and ``cubes/*.npz``: how one is read, and which are left for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["TEST", "read"]

TEST = {"cave": ("beads", "pompoms"), "cubes": ("jasper_ridge", "samson", "abu_airport_4", "enmap_potsdam_c")}


def read(path: Path) -> Tensor:
    """The file's ``cube``, (rows, cols, bands) there, as (bands, rows, cols) float32 in its own units."""
    with np.load(path) as file:
        return torch.from_numpy(np.moveaxis(file["cube"].astype(np.float32), 2, 0).copy())
