"""Networks of every kind over five bands, scenes with holes, and a runner of processes that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lkca.data import CubeMeta, write_cube
from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingRecord
from lkca.models.directory import LoadedModel, describe_architecture, save_model

BANDS = 5
WAVELENGTHS = np.linspace(450.0, 650.0, BANDS)
KINDS: dict[str, dict[str, Any]] = {
    "full rank": {},
    "low rank": {"rank": 3},
    "shared body": {"components": 2, "shared": True, "rank": 4},
    "components": {"components": 3, "rank": 3},
    "no attention": {"window": 0},
}


def make_model(
    kind: str = "low rank", scale: int = 2, used: Sequence[int] = range(BANDS), *, bands: int = BANDS, **sizes: Any
) -> LoadedModel:
    torch.manual_seed(0)
    sizes = {"width": 4, "blocks": 2, "kernel_size": 5, "window": 3, **KINDS[kind], **sizes}
    net = LKCANet(LKCANetConfig(bands=len(used), scale=scale, **sizes))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=scale,
        bands=BandSet(count=bands, used=list(used), wavelengths_nm=WAVELENGTHS.tolist() if bands == BANDS else None),
        degradation=Degradation(scale=scale),
        normalisation=Normalisation(peak=2.0, offset=0.1),
        training=TrainingRecord(data=[], seed=0, seconds=0, device="cpu"),
    )
    return LoadedModel(net.eval(), config, Path("model"))


def make_scene(rows: int = 61, cols: int = 53) -> np.ndarray:
    """float32 (bands, rows, cols) with a hole, a swath's empty corner, a lost band, lone samples."""
    rng = np.random.default_rng(0)
    cube = rng.random((BANDS, rows, cols), dtype=np.float32) + 0.1
    cube[:, 13:22, 20:31] = np.nan
    cube[:, np.add.outer(np.arange(rows), np.arange(cols)) < 25] = np.nan
    cube[2, rows // 2 :, cols // 3 :] = np.nan
    cube[rng.random(cube.shape) < 0.01] = np.nan
    return cube


@pytest.fixture
def model_of() -> Callable[..., LoadedModel]:
    return make_model


@pytest.fixture
def holed_scene() -> np.ndarray:
    return make_scene()


@pytest.fixture
def meta() -> CubeMeta:
    return CubeMeta(wavelengths=WAVELENGTHS)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A scene stored as int16 in which some results are clipped, and a model directory."""
    folder = tmp_path_factory.mktemp("files")
    meta = CubeMeta(wavelengths=WAVELENGTHS, scale_factor=5e-5, nodata=-1.0, stored_dtype=np.dtype(np.int16))
    write_cube(folder / "scene.img", make_scene(), meta)
    model = make_model()
    return folder / "scene.img", save_model(folder / "model", model.net, model.config)


Ends = list[list[tuple[int, str]]]


@pytest.fixture(scope="session")
def forks() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("forks.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def in_processes(files: tuple[Path, Path], forks: subprocess.Popen[str]) -> Callable[..., Ends]:
    """Runs steps of processes (see forks.py) on the scene of ``files``, or a folder of scenes; (exit code, message or
    report) of each."""

    def run(
        output: Path,
        steps: list[list[dict[str, Any]]],
        *,
        folder: Path | None = None,
        delay: float = 0.0,
        late: float = 60.0,
        **options: Any,
    ) -> Ends:
        source, model = files
        job = {
            "source": str(folder or source), "output": str(output), "model": str(model), "options": options,
            "delay": delay, "late": late, "steps": steps,
        }  # fmt: skip
        assert forks.stdin is not None and forks.stdout is not None
        forks.stdin.write(json.dumps(job) + "\n")
        forks.stdin.flush()
        ends: Ends = json.loads(forks.stdout.readline())
        return ends

    return run
