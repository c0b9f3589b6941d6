"""The networks and scenes of the low-rank study: see README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.edsr import EDSR

SCALE = 4
DEGRADE = Degradation(method="bicubic", scale=SCALE).apply
CAVE_HELD_OUT = ("oil_painting", "sponges")  # training scenes of the project, held out of this study's training
AVIRIS = ("abu_airport_1", "abu_airport_2", "abu_airport_3", "abu_urban_4", "abu_urban_5")  # 205 bands each
AVIRIS_HELD_OUT = ("abu_airport_1", "abu_airport_3", "abu_urban_4")  # their last rows
EDGE = 72


def _read(path: Path) -> Tensor:
    with np.load(path) as file:
        return torch.from_numpy(np.moveaxis(file["cube"].astype(np.float32), 2, 0).copy())


def scenes(root: Path, data: str) -> tuple[list[Tensor], list[Tensor]]:
    """Cubes (bands, rows, cols), peak about 1, to train on and held out; the public test scenes are in neither."""
    if data == "cave":
        paths = [p for p in sorted(root.glob("cave/*.npz")) if not any(t in p.stem for t in ("beads", "pompoms"))]
        held = [p for p in paths if any(name in p.stem for name in CAVE_HELD_OUT)]
        return [_read(p) / 4095 for p in paths if p not in held], [_read(p) / 4095 for p in held]
    cubes = {name: _read(root / "cubes" / f"{name}.npz") for name in AVIRIS}
    peak = max(float(torch.quantile(c[:, ::2, ::2].flatten(), 0.999)) for c in cubes.values())
    train = [c[:, :EDGE] / peak if n in AVIRIS_HELD_OUT else c / peak for n, c in cubes.items()]
    return train, [cubes[n][:, EDGE:] / peak for n in AVIRIS_HELD_OUT]


def pairs(cubes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(degraded, sharp) batches of one."""
    return [(DEGRADE(cube[None]), cube[None]) for cube in cubes]


def network(kind: str, bands: int, seed: int = 0) -> nn.Module:
    """``lkcanet``: full rank, one body over all bands. ``edsr``: width 64, 4 blocks."""
    torch.manual_seed(seed)
    if kind == "edsr":
        return EDSR(bands, SCALE, width=64, blocks=4)
    return LKCANet(LKCANetConfig(bands=bands, scale=SCALE, width=64, blocks=4))
