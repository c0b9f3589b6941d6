"""The recipes of docs/cluster.md, as they stand there: their file is what the whole scene in one piece gives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import lkca
from lkca.data import open_cube, synthetic_scene, write_cube
from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingRecord
from lkca.models.directory import describe_architecture, save_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
BANDS, SCALE = 8, 2


def run(scheduler: str) -> None:
    found = re.search(rf"## {scheduler}.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert found
    exec(compile(found[1], str(PAGE), "exec"), {"__name__": "recipe"})


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scene.tif, with shadow and holes, and model, in the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(bands=BANDS, scale=SCALE, width=6, blocks=2, kernel_size=5, window=3, rank=4))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with synthetic_scene(rows=100, cols=260, bands=BANDS, seed=0) as scene:
        array, meta = scene.read(), scene.meta
    assert meta.wavelengths is not None
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=SCALE,
        bands=BandSet(count=BANDS, used=list(range(BANDS)), wavelengths_nm=meta.wavelengths.tolist()),
        degradation=Degradation(scale=SCALE),
        normalisation=Normalisation(peak=1.0, offset=0.0),
        training=TrainingRecord(data=[], seed=0, seconds=0, device="cpu"),
    )
    save_model("model", net.eval(), config)
    array[:, :, :110] *= 1e-3  # whole tiles of deep shadow
    array[:, 60:68, 55:70] = np.nan  # a hole across the tiles' edges
    array[:, :, 200:] = np.nan  # whole tiles of nothing, margins too
    write_cube("scene.tif", array, meta.replace(nodata=None, scale_factor=1.0, stored_dtype=np.dtype("float32")))


def check(output: str) -> None:
    whole = lkca.upscale("scene.tif", "model")
    with open_cube("scene.tif") as source, open_cube(output) as cube:
        tiled = cube.read()
        assert cube.meta.transform == source.meta.upsampled(SCALE).transform
    assert np.array_equal(np.isnan(tiled), np.isnan(whole)) and np.isnan(whole).any()
    assert np.nanmax(np.abs(tiled - whole)) <= 1e-5 * np.nanmax(np.abs(whole))
    assert [file.name for file in Path().glob("*sharp*")] == [output]


def test_dask_gives_what_the_whole_scene_gives(scene: None) -> None:
    dask = pytest.importorskip("dask", reason="dask is in the extra 'test'")
    with dask.config.set(scheduler="threads", num_workers=2):
        run("Dask")
    check("sharp_by_dask.tif")


def test_ray_gives_what_the_whole_scene_gives(scene: None) -> None:
    ray = pytest.importorskip("ray", reason="ray is large and in no extra: pip install 'ray[data]'")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        run("Ray Data")
    finally:
        ray.shutdown()
    check("sharp_by_ray.tif")
