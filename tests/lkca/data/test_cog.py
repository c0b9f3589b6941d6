"""A .tif is a valid cloud-optimised GeoTIFF, its overviews keep nodata out, and making it takes little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.env import get_gdal_config

from lkca.data import CubeMeta, Window, create_writer, open_cube, write_cube
from lkca.data.codec import Encoder
from lkca.data.gdal import bounded_cache
from lkca.data.writers import geotiff
from lkca.errors import OutputError

TOOLS = str(Path(__file__).parents[2] / "tools")
SIZE, BANDS = 1100, 2
META = CubeMeta(
    wavelengths=np.array([500.0, 600.0]),
    crs=CRS.from_epsg(32633).to_wkt(),
    transform=Affine(30, 0, 364095, 0, -30, 5809965),
    tags={"start_time": "2022-07-24T10:45:26", "LKCA_MODEL": "m"},
)


def ramp() -> np.ndarray:
    """Reflectance that rises along the columns, with one row in three missing and a hole of 64 x 64."""
    cube = np.broadcast_to(np.linspace(0.2, 0.5, SIZE, dtype=np.float32), (BANDS, SIZE, SIZE)).copy()
    cube[:, ::3] = np.nan
    cube[:, 512:576, 512:576] = np.nan
    return cube


@pytest.mark.parametrize(
    "options", [{}, {"compress": "deflate"}, {"compress": "zstd", "interleave": "bip"}, {"dtype": "int16"}], ids=str
)
def test_rio_cogeo_finds_nothing_to_say(tmp_path: Path, options: dict) -> None:
    cogeo = pytest.importorskip("rio_cogeo", reason="rio-cogeo is in the extra 'test'")
    meta = META.replace(scale_factor=1e-4, nodata=-32768.0) if "dtype" in options else META
    report = write_cube(tmp_path / "x.tif", ramp(), meta, **options)
    assert report.driver == "COG" and [file.name for file in tmp_path.iterdir()] == ["x.tif"]
    assert cogeo.cog_validate(tmp_path / "x.tif", strict=True, quiet=True) == (True, [], [])
    with rasterio.open(tmp_path / "x.tif") as dataset:
        assert dataset.overviews(1) == dataset.overviews(2) == [2, 4, 8]
        assert dataset.block_shapes == [(256, 256)] * BANDS
        assert dataset.compression == (
            rasterio.enums.Compression[options["compress"]] if "compress" in options else None
        )
        assert dataset.interleaving.value == ("PIXEL" if "interleave" in options else "BAND")
        assert (dataset.crs.to_epsg(), dataset.transform) == (32633, META.transform)
        assert dataset.tags(2)["wavelength"] == "600"
        assert dataset.tags(2, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"] == "0.6"
        assert dataset.tags()["LKCA_MODEL"] == "m"
    with open_cube(tmp_path / "x.tif") as cube:
        np.testing.assert_allclose(cube.read(), ramp(), atol=0.5e-4 if "dtype" in options else 0)


def test_a_plain_geotiff_is_none(tmp_path: Path) -> None:
    """The validator can say no, so its yes above means something."""
    cogeo = pytest.importorskip("rio_cogeo", reason="rio-cogeo is in the extra 'test'")
    write_cube(tmp_path / "x.tif", ramp(), META, driver="GTiff")
    valid, _, remarks = cogeo.cog_validate(tmp_path / "x.tif", strict=True, quiet=True)
    assert not valid and "overviews" in " ".join(remarks).lower()


@pytest.mark.parametrize("nodata", [-9999.0, None, 0.0])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_overviews_average_valid_samples_only(tmp_path: Path, nodata: float | None, dtype: str) -> None:
    """Every second sample below an overview pixel may be missing: what it stores must not pull the mean."""
    scale = 1.0 if dtype == "float32" else 1e-4
    if nodata is None and dtype == "int16":
        nodata = -32768.0
    array = ramp()
    write_cube(tmp_path / "x.tif", array, META.replace(nodata=nodata, scale_factor=scale), dtype=dtype)
    for level, factor in enumerate((2, 4, 8)):
        with rasterio.open(tmp_path / "x.tif", overview_level=level) as overview:
            found = overview.read(1, masked=True).astype(np.float64) * scale
        full = array[0, : SIZE // factor * factor, : SIZE // factor * factor]
        blocks = full.reshape(SIZE // factor, factor, SIZE // factor, factor)
        count = np.isfinite(blocks).sum((1, 3))
        expected = np.nansum(blocks, (1, 3)) / np.maximum(count, 1)
        inner = (slice(0, SIZE // factor), slice(0, SIZE // factor))
        if factor == 2:  # coarser overviews are made from finer ones: equal weights of unequal numbers of samples
            np.testing.assert_array_equal(found.mask[inner], count == 0)
            np.testing.assert_allclose(
                found.data[inner][count > 0], expected[count > 0], atol=1.01 * scale * 1e-4 ** (scale == 1)
            )
        assert found.mask.any() and found.min() >= 0.2 - 1e-4 and found.max() <= 0.5 + 1e-4


def test_making_a_cog_takes_little_memory(tmp_path: Path) -> None:
    """A cube of 512 MiB, written by rows of tiles, is never held whole beside what writing it takes."""
    code = """
import sys
import numpy as np
from peak import peak_bytes
from lkca.data import CubeMeta, Window, create_writer
base = peak_bytes()
block = np.ones((128, 256, 1024), np.float32)
with create_writer(sys.argv[1], (1024, 1024, 128), CubeMeta()) as writer:
    for row in range(0, 1024, 256):
        writer.write(Window(row, 0, 256, 1024), block)
print((peak_bytes() - base) >> 20)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "x.tif")]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": TOOLS})
    assert run.returncode == 0, run.stderr
    with rasterio.open(tmp_path / "x.tif") as dataset:
        assert dataset.overviews(128) == [2, 4]
        assert dataset.read(128, window=((1000, 1024), (1000, 1024))).min() == 1
    # the block itself and its encoded copy are 2 x 128 MiB, GDAL's cache is 256 MiB at most
    assert int(run.stdout) < 560, run.stdout


@pytest.mark.parametrize(("nodata", "dtype", "gaps"), [
    (-32768.0, "int16", False), (2000.0, "int16", True), (None, "float32", False), (-9999.0, "float32", True),
    (None, "int16", False),
])  # fmt: skip
def test_overviews_without_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodata: float | None, dtype: str, gaps: bool
) -> None:
    """Where nothing is missing GDAL need not look for it, unless a mean of samples may be the nodata value."""
    asked: list[bool] = []
    copy = geotiff.copy_as_cog

    def spy(*arguments: object, gaps: bool, **options: object) -> None:
        asked.append(gaps)
        copy(*arguments, gaps=gaps, **options)  # type: ignore[arg-type]

    cube = np.random.default_rng(0).uniform(0.1, 0.3, (2, 600, 700)).astype(np.float32)
    meta = META.replace(nodata=nodata, stored_dtype=np.dtype(dtype), scale_factor=1e-4 if dtype == "int16" else 1.0)
    monkeypatch.setattr(geotiff, "copy_as_cog", spy)
    write_cube(tmp_path / "x.tif", cube, meta)
    monkeypatch.setattr(geotiff, "copy_as_cog", lambda *a, gaps, **o: copy(*a, gaps=True, **o))
    write_cube(tmp_path / "y.tif", cube, meta)
    assert asked == [gaps]
    for level in ({}, {"overview_level": 0}, {"overview_level": 1}):
        with rasterio.open(tmp_path / "x.tif", **level) as quick, rasterio.open(tmp_path / "y.tif", **level) as slow:
            assert quick.nodata == slow.nodata or np.isnan([quick.nodata, slow.nodata]).all()
            np.testing.assert_allclose(quick.read(), slow.read(), rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "int16"}, {"dtype": "uint8"}, {"compress": "deflate", "dtype": "uint16"}], ids=str
)
def test_a_cog_of_a_flat_file_is_the_same(tmp_path: Path, options: dict) -> None:
    """Byte by byte that of the same samples written window by window; the flat file stays, and nothing else does."""
    shape = (600, 700, 3)
    array = np.random.default_rng(0).uniform(0.1, 0.2, (3, 600, 700)).astype(np.float32)
    if not options:
        array[:, 100:300, :50] = np.nan
    meta = META.replace(wavelengths=np.array([500.0, 600.0, 700.0]), fwhm=np.full(3, 9.5), scale_factor=1e-3)
    samples, results = tmp_path / "a&b ü", []
    for name in ("written.tif", "adopted.tif"):
        with create_writer(tmp_path / name, shape, meta, **options) as writer:
            encoder = Encoder(writer.meta)
            stored = encoder.encode(array)
            writer.count(encoder.counts())
            if name == "written.tif":
                writer.write_stored(Window(0, 0, 600, 700), stored)
            else:
                assert writer.adopts and not writer.keeps
                stored.tofile(samples)
                writer.adopt(samples)
        results.append((tmp_path / name).read_bytes())
    assert results[0] == results[1]
    assert {file.name for file in tmp_path.iterdir()} == {"written.tif", "adopted.tif", samples.name}
    with rasterio.open(tmp_path / "adopted.tif") as dataset:
        assert dataset.overviews(1) == [2, 4] and "RGB" not in str(dataset.photometric)
        assert dataset.tags(3, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"] == "0.7"


def test_a_flat_file_that_is_lost(tmp_path: Path) -> None:
    """The samples vanish before the copy: an error that names the output, which does not appear."""
    writer = create_writer(tmp_path / "x.tif", (600, 700, 2), META)
    samples = tmp_path / "samples"
    np.zeros((2, 600, 700), np.float32).tofile(samples)
    writer.adopt(samples)
    samples.unlink()
    with pytest.raises(OutputError, match=r"x\.tif: could not be written"):
        writer.close()
    assert not list(tmp_path.iterdir())


def test_gdal_caches_blocks(tmp_path: Path) -> None:
    """Windows that share blocks do not compress them anew; what a caller allows GDAL is not exceeded."""
    cube = np.random.default_rng(0).normal(size=(8, 300, 300)).astype(np.float32)
    write_cube(tmp_path / "whole.tif", cube, CubeMeta(), driver="GTiff", compress="deflate")
    options = {"driver": "GTiff", "compress": "deflate"}
    with create_writer(tmp_path / "parts.tif", (300, 300, 8), CubeMeta(), **options) as writer:
        for row in range(0, 300, 50):
            writer.write(Window(row, 0, 50, 300), cube[:, row : row + 50])
    assert (tmp_path / "parts.tif").stat().st_size < 1.1 * (tmp_path / "whole.tif").stat().st_size
    for allowed, kept in ((64 << 20, 64 << 20), (1 << 30, 256 << 20)):
        with rasterio.Env(GDAL_CACHEMAX=allowed), bounded_cache():
            assert get_gdal_config("GDAL_CACHEMAX") == kept
