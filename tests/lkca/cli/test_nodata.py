"""``lkca upscale`` on scenes with holes and bad bands: what the file stores there reaches nothing else.

Two files that differ only in the code of their missing samples, or in the rubbish of a bad band, must give the same
result: that is the whole of "no bleeding", for bicubic and a network, whatever either does to a valid sample.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from typer.testing import CliRunner

from lkca.cli.app import app
from lkca.data import CubeMeta, open_cube
from lkca.data.degradation import Degradation
from lkca.data.writers.envi import header_text
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingRecord
from lkca.models.directory import describe_architecture, save_model

BANDS, ROWS, COLS, SCALE = 6, 44, 38, 2
BAD, EMPTY = 2, 4
WAVELENGTHS = np.linspace(450.0, 950.0, BANDS)
HOLE = np.zeros((ROWS, COLS), dtype=bool)
HOLE[10:17, 12:30] = HOLE[0, :5] = HOLE[30, 20] = HOLE[::7, 35] = True
GOOD = [band for band in range(BANDS) if band not in (BAD, EMPTY)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights for the good bands: it would spread anything that reached it."""
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(bands=len(GOOD), scale=SCALE, width=6, blocks=2, kernel_size=5, window=3, rank=4))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=SCALE,
        bands=BandSet(count=BANDS, used=GOOD, wavelengths_nm=WAVELENGTHS.tolist()),
        degradation=Degradation(scale=SCALE),
        normalisation=Normalisation(peak=1.0, offset=0.0),
        training=TrainingRecord(data=[], seed=0, seconds=0, device="cpu"),
    )
    return save_model(tmp_path_factory.mktemp("model") / "model", net.eval(), config)


def scene() -> np.ndarray:
    """Reflectance 0.2 to 0.6 with edges, (bands, rows, cols)."""
    rng = np.random.default_rng(0)
    blocks = rng.random((BANDS, -(-ROWS // 4), -(-COLS // 4))).repeat(4, 1).repeat(4, 2)[:, :ROWS, :COLS]
    return 0.2 + 0.4 * blocks


def envi(folder: Path, name: str, dtype: str, nodata: float, rubbish: float = 9000.0) -> Path:
    """The scene as a foreign ENVI file: holes and an empty band hold ``nodata``, a bad band holds ``rubbish``."""
    scale = 1e-4 if np.dtype(dtype).kind == "i" else 1.0
    stored = np.rint(scene() / scale) if scale < 1 else scene()
    stored[BAD] = rubbish * np.sign(np.random.default_rng(1).random((ROWS, COLS)) - 0.5)
    stored[:, HOLE] = stored[EMPTY] = nodata
    stored.astype(dtype).tofile(folder / f"{name}.img")
    meta = CubeMeta(
        wavelengths=WAVELENGTHS, good_bands=np.arange(BANDS) != BAD, nodata=nodata, scale_factor=scale,
        stored_dtype=np.dtype(dtype), interleave="bsq",
    )  # fmt: skip
    (folder / f"{name}.hdr").write_text(header_text((ROWS, COLS, BANDS), meta))
    return folder / f"{name}.hdr"


def upscale(source: Path, output: Path, model: Path | None, *options: str) -> str:
    how = ["--bicubic", "-s", str(SCALE)] if model is None else ["-m", str(model)]
    command = ["upscale", "-i", str(source), "-o", str(output), *how, "--tile", "16", *options]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stderr


@pytest.mark.parametrize("suffix", [".tif", ".img"])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("network", [False, True], ids=["bicubic", "network"])
def test_nothing_bleeds(tmp_path: Path, model: Path, network: bool, dtype: str, suffix: str) -> None:
    cubes = []
    for name, nodata, rubbish in (("a", -9999.0, 9000.0), ("b", 32000.0, 31.0)):
        upscale(envi(tmp_path, name, dtype, nodata, rubbish), tmp_path / f"{name}x{suffix}", model if network else None)
        with open_cube(tmp_path / f"{name}x{suffix}") as cube:
            cubes.append(cube.read())
            assert cube.meta.nodata == nodata
            assert np.flatnonzero(~cube.good_bands).tolist() == [BAD, EMPTY]  # as bbl says, and as is seen
        with rasterio.open(tmp_path / f"{name}x{suffix}") as dataset:  # and so GDAL sees it
            hidden = dataset.read(1, masked=True).mask
            assert np.array_equal(hidden, HOLE.repeat(SCALE, 0).repeat(SCALE, 1))
    first, second = cubes
    hole = np.broadcast_to(HOLE.repeat(SCALE, 0).repeat(SCALE, 1), first.shape).copy()
    hole[EMPTY] = True
    assert np.array_equal(np.isnan(first), hole) and np.array_equal(np.isnan(second), hole)
    assert np.array_equal(first[GOOD], second[GOOD], equal_nan=True)
    if not network:
        assert np.nanmin(first[GOOD]) > 0.1 and np.nanmax(first[GOOD]) < 0.7  # bicubic overshoots edges by some percent
    assert np.nanmax(np.abs(first[BAD])) > 0.8  # the bad band is kept as it is


def test_clipped_samples_are_counted_and_told(tmp_path: Path) -> None:
    """Edges near the end of the range: bicubic overshoots it."""
    stored = np.rint(scene() * 400).astype(np.uint8)  # 80 to 240 of 255
    stored[:, HOLE] = 0
    stored.tofile(tmp_path / "x.img")
    meta = CubeMeta(nodata=0.0, scale_factor=1 / 400, stored_dtype=np.dtype("uint8"), interleave="bsq")
    (tmp_path / "x.hdr").write_text(header_text((ROWS, COLS, BANDS), meta))
    upscale(tmp_path / "x.hdr", tmp_path / "exact.tif", None, "--dtype", "float32")
    told = upscale(tmp_path / "x.hdr", tmp_path / "bytes.tif", None)
    with open_cube(tmp_path / "exact.tif") as exact, open_cube(tmp_path / "bytes.tif") as clipped:
        codes = exact.read().astype(np.float64) * 400
        found = clipped.read().astype(np.float64) * 400
    beyond = int(np.count_nonzero(np.rint(codes) > 255))
    words = (
        r"bytes\.tif: (\d+) samples were beyond the range of uint8 and were clipped; a wider integer or a float dtype"
    )
    match = re.search(words, told)
    assert match and int(match[1]) == beyond > 0
    assert np.nanmax(np.abs(found - np.clip(codes, 1, 255))) < 0.5001  # to the nearest code
    assert np.array_equal(np.isnan(found), np.isnan(codes))


def test_samples_that_were_clipped_to_few_levels_need_no_smaller_scale_factor(tmp_path: Path) -> None:
    """It would clip more of them."""
    stored = np.full((ROWS, COLS, BANDS), 1000, dtype=np.int16)
    np.save(tmp_path / "x.npy", stored)
    told = upscale(tmp_path / "x.npy", tmp_path / "x.tif", None, "--dtype", "uint8")
    assert "were clipped; " in told and "scale factor" not in told


@pytest.mark.parametrize("dtype", ["int16", "uint8"])
def test_nan_becomes_nodata_and_never_a_number(tmp_path: Path, dtype: str) -> None:
    array = (scene() * 200).astype(np.float32)
    array[:, HOLE] = np.nan
    np.save(tmp_path / "x.npy", array.transpose(1, 2, 0))
    upscale(tmp_path / "x.npy", tmp_path / "x.tif", None, "--dtype", dtype)
    with rasterio.open(tmp_path / "x.tif") as dataset:
        assert dataset.nodata == {"int16": -32768, "uint8": 255}[dtype]
        masked = dataset.read(masked=True) * dataset.scales[0]
    assert np.array_equal(masked.mask, np.broadcast_to(HOLE.repeat(SCALE, 0).repeat(SCALE, 1), masked.shape))
    assert masked.min() > 20 and masked.max() < 140
