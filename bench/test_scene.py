"""A whole scene, from file to file, beside the network's own rate on tiles in memory: ``pytest bench/test_scene.py``.

Contenders of a group do the same pixels. "network" calls the network on ready tiles in memory, of the side that is
fastest among several, and throws its results away; "network, buffer" does so with one buffer for all results, as scenes
do. "scene" is lkca upscale: read, fill gaps, halo, network, encode, journal, write. Rates are Msamples of the result a
second (extra_info: samples).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lkca.data import CubeMeta, open_cube, write_cube
from lkca.data.degradation import Degradation
from lkca.inference import SceneOptions, upscale_scene
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingRecord
from lkca.models.directory import LoadedModel, describe_architecture

BANDS, SCALE, ROWS, COLS = 128, 4, 384, 384
SIDES = (32, 64, 96, 128, 192)
NETWORKS = {"full rank": {}, "low rank": {"rank": 32}}
SAMPLES = BANDS * ROWS * COLS * SCALE**2
Measure = Callable[..., None]


def network(kind: str) -> LKCANet:
    torch.manual_seed(0)
    config = LKCANetConfig(bands=BANDS, scale=SCALE, width=32, blocks=4, **NETWORKS[kind])
    return LKCANet(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.img"
    values = np.random.default_rng(0).random((BANDS, ROWS, COLS), dtype=np.float32)
    write_cube(path, values, CubeMeta(stored_dtype=np.dtype(np.int16), scale_factor=1e-4, nodata=-9999.0))
    return path


def tiles(net: LKCANet, side: int, *, buffer: bool) -> Callable[[], None]:
    """One pass over as many pixels as the scene has."""
    x = torch.rand(1, BANDS, side, side)
    out = torch.empty(1, BANDS, side * SCALE, side * SCALE) if buffer else None
    count = ROWS * COLS // side**2

    def run() -> None:
        with torch.inference_mode():
            for _ in range(count):
                net.upsample(net.features(x), skip=x, out=out)

    return run


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("buffer", [False, True], ids=["fresh", "buffer"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_network(measure: Measure, kind: str, side: int, buffer: bool) -> None:
    contender = f"network {side}" + (", buffer" if buffer else "")
    samples = SAMPLES // (ROWS * COLS) * (ROWS * COLS // side**2) * side**2
    measure(tiles(network(kind), side, buffer=buffer), f"scene, {kind}", contender, rounds=3, samples=samples)


@pytest.mark.parametrize(("suffix", "dtype"), [(".img", "int16"), (".img", "float32"), (".tif", "int16")])
@pytest.mark.parametrize("kind", NETWORKS)
def test_scene(measure: Measure, scene: Path, tmp_path: Path, kind: str, suffix: str, dtype: str) -> None:
    net = network(kind)
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=SCALE,
        bands=BandSet(count=BANDS, used=list(range(BANDS))),
        degradation=Degradation(scale=SCALE),
        normalisation=Normalisation(peak=1.0),
        training=TrainingRecord(data=[], seed=0, seconds=0, device="cpu"),
    )
    model, options = LoadedModel(net, config, Path("model")), SceneOptions(overwrite=True, dtype=dtype)

    def run() -> None:
        with open_cube(scene) as cube:
            upscale_scene(cube, tmp_path / f"out{suffix}", model, options)

    measure(run, f"scene, {kind}", f"scene {suffix} {dtype}", rounds=3, samples=SAMPLES)
