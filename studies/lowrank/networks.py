"""The networks and scenes of the low-rank study: see README.md."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.edsr import EDSR
from studies.common.scenes import TEST, read

SCALE = 4
DEGRADE = Degradation(method="bicubic", scale=SCALE).apply
CAVE_HELD_OUT = ("oil_painting", "sponges")  # training scenes of the project, held out of this study's training
AVIRIS = ("abu_airport_1", "abu_airport_2", "abu_airport_3", "abu_urban_4", "abu_urban_5")  # 205 bands each
AVIRIS_HELD_OUT = ("abu_airport_1", "abu_airport_3", "abu_urban_4")  # their last rows
EDGE = 72


def scenes(root: Path, data: str) -> tuple[list[Tensor], list[Tensor]]:
    """Cubes (bands, rows, cols), peak about 1, to train on and held out; the public test scenes are in neither."""
    if data == "cave":
        cubes = {p.stem: read(p) / 4095 for p in sorted(root.glob("cave/*.npz")) if p.stem not in TEST["cave"]}
        return [c for n, c in cubes.items() if n not in CAVE_HELD_OUT], [cubes[n] for n in CAVE_HELD_OUT]
    cubes = {name: read(root / "cubes" / f"{name}.npz") for name in AVIRIS}
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
