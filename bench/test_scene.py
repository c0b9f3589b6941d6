"""A whole scene, from file to file, beside the network's own rate on tiles in memory: ``pytest bench/test_scene.py``.

Contenders of a group make the same pixels on the same cores, for everything that the process does: as many as the
network has threads (LKCA_BENCH_THREADS), or LKCA_BENCH_CORES. "network N" calls the network on a ready tile of side N
in memory, group by group as scenes do, with one buffer for all results, which are thrown away. "scene" is what lkca
upscale does: read, fill gaps, halo, network, encode, write, and see that the disk has it; as one tile, or in tiles
narrower than the scene. It goes to a new file, since to delete an old one of 600 MB takes a tenth of a second. The
general model is made to fit the scene before, which takes about half a second whatever the scene's size. bench/table.py
gives the share of the network's rate, of the side where it is fastest. "edges missing": a swath turned on its map grid,
a third of whose samples are missing; in uint16 0 stands for them.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from lkca.data import CubeMeta, open_cube, write_cube
from lkca.data.degradation import Degradation
from lkca.data.memory import keep_freed_memory
from lkca.inference import SceneOptions, upscale_scene
from lkca.inference.adapt import adapt
from lkca.inference.bands import BandUpsampler
from lkca.inference.network import for_cpu, last_features
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingRecord
from lkca.models.directory import LoadedModel, describe_architecture
from lkca.models.prior import Prior
from lkca.models.shipped import find_model

BANDS, SCALE = 128, 4
SIDE = int(os.environ.get("LKCA_BENCH_SIDE") or 384)  # of the scene
if SIDE <= 0 or SIDE % 192:
    raise pytest.UsageError(f"LKCA_BENCH_SIDE={SIDE}: expected a multiple of 192")
SIDES = (64, 192)  # of 32 to 384, the network is fastest at one of these
KINDS = ("base", "large", "general")
OUTPUTS = ((".img", "int16", None), (".img", "float32", None), (".tif", "int16", None), (".img", "int16", 192))
SWATHS = ((".img", "int16"), (".tif", "int16"), (".tif", "uint16"))
SAMPLES = BANDS * SIDE**2 * SCALE**2
ROUNDS = 5
# What a scene takes for its file and buffers, touched before each round: a virtual machine may get memory from its host
# then only, ten times slower than one that has it (0.3 GB/s), and give it back some seconds after it is free.
PROVIDED_BYTES = 6 * SAMPLES
Measure = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def cores(threads: int) -> Iterator[None]:
    keep_freed_memory()  # as the command does; huge pages too where this file is run alone
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[: int(os.environ.get("LKCA_BENCH_CORES") or threads)])
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.img", values(), "int16")


@pytest.fixture(scope="module")
def swaths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, samples, angle = tmp_path_factory.mktemp("swath"), values(), np.deg2rad(12)
    rows, cols = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    along, across = rows * np.cos(angle) - cols * np.sin(angle), rows * np.sin(angle) + cols * np.cos(angle)
    samples[:, (np.abs(along) > 0.42 * SIDE) | (np.abs(across) > 0.38 * SIDE)] = np.nan
    return {dtype: write_scene(folder / f"{dtype}.img", samples, dtype) for dtype in ("int16", "uint16")}


def values() -> np.ndarray:
    return np.random.default_rng(0).random((BANDS, SIDE, SIDE), dtype=np.float32)


def write_scene(path: Path, samples: np.ndarray, dtype: str) -> Path:
    nodata = -9999.0 if dtype == "int16" else 0.0
    write_cube(path, samples, CubeMeta(stored_dtype=np.dtype(dtype), scale_factor=1e-4, nodata=nodata))
    return path


def model(kind: str, scene: Path) -> LoadedModel:
    if kind == "general":
        prior = find_model("general", SCALE)
        assert isinstance(prior, Prior)
        with open_cube(scene) as cube:
            return adapt(cube, prior, SCALE)
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig.preset(kind, bands=BANDS, scale=SCALE)).eval().requires_grad_(False)
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=SCALE,
        bands=BandSet(count=BANDS, used=list(range(BANDS))),
        degradation=Degradation(scale=SCALE),
        normalisation=Normalisation(peak=1.0),
        training=TrainingRecord(data=[], seed=0, seconds=0, device="cpu"),
    )
    return LoadedModel(net, config, Path("model"))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_network(measure: Measure, scene: Path, kind: str, side: int) -> None:
    net = model(kind, scene).net
    for_cpu(net)
    x, out = torch.rand(1, BANDS, side, side), torch.empty(1, BANDS, side * SCALE, side * SCALE)

    def run() -> None:
        with torch.inference_mode():
            for _ in range((SIDE // side) ** 2):
                features = last_features(net, x, nullcontext())
                BandUpsampler(net.upsample, features, x)(0, BANDS, out)

    measure(run, f"scene, {kind}", f"network {side}", rounds=ROUNDS, samples=SAMPLES)


@pytest.mark.parametrize(("suffix", "dtype", "tile"), OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_scene(
    measure: Measure, scene: Path, tmp_path: Path, kind: str, suffix: str, dtype: str, tile: int | None
) -> None:
    name = f"scene {suffix} {dtype}" + (f" in tiles of {tile}" if tile else "")
    measure_scene(measure, kind, scene, tmp_path / f"out{suffix}", name, dtype, tile)


@pytest.mark.parametrize(("suffix", "dtype"), SWATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_swath(measure: Measure, swaths: dict[str, Path], tmp_path: Path, kind: str, suffix: str, dtype: str) -> None:
    name = f"scene {suffix} {dtype}, edges missing"
    measure_scene(measure, kind, swaths[dtype], tmp_path / f"out{suffix}", name, dtype)


def measure_scene(
    measure: Measure, kind: str, scene: Path, output: Path, name: str, dtype: str, tile: int | None = None
) -> None:
    loaded, options = model(kind, scene), SceneOptions(overwrite=True, dtype=dtype, tile=tile)

    def run() -> None:
        with open_cube(scene) as cube:
            upscale_scene(cube, output, loaded, options)

    def fresh() -> None:
        output.unlink(missing_ok=True)
        with mmap.mmap(-1, PROVIDED_BYTES) as memory:
            for page in range(0, PROVIDED_BYTES, mmap.PAGESIZE):
                memory[page] = 1

    measure(run, f"scene, {kind}", name, rounds=ROUNDS, setup=fresh, samples=SAMPLES)
