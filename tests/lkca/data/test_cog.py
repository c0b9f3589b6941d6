"""A .tif is a valid cloud-optimised GeoTIFF, its overviews keep nodata out, and making it takes little memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.env import get_gdal_config

from lkca.data import CubeMeta, CubeWriter, Window, create_writer, open_cube, write_cube
from lkca.data.codec import Encoder
from lkca.data.gdal import bounded_cache
from lkca.data.window import pieces
from lkca.data.writers import cog
from lkca.data.writers.geotiff import Kind
from lkca.data.writers.overviews import halve
from lkca.errors import InputError, OutputError

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


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("shape", [(513, 770), (257, 1100), (1025, 300)], ids=str)
def test_overviews_are_gdals(tmp_path: Path, dtype: str, shape: tuple[int, int]) -> None:
    """GDAL's own averages of the same samples, of each level from the one before; sizes that do not halve evenly."""
    top = {"uint8": 255, "int16": 30000}.get(dtype, 60000)
    least = 1 if dtype[0] == "u" else -top
    array = np.random.default_rng(0).integers(least, top, (2, *shape)).astype(np.float32)
    meta = CubeMeta(nodata=0.0 if least == 1 else -32768.0 - (top == 60000) * 60000)
    write_cube(tmp_path / "x.tif", array, meta, dtype=dtype)
    write_cube(tmp_path / "plain.tif", array, meta, dtype=dtype, driver="GTiff")
    with rasterio.open(tmp_path / "x.tif") as made:
        factors = made.overviews(1)
    with rasterio.open(tmp_path / "plain.tif", "r+") as plain:
        plain.build_overviews(factors, rasterio.enums.Resampling.average)
    for level in range(len(factors)):
        with (
            rasterio.open(tmp_path / "x.tif", overview_level=level) as made,
            rasterio.open(tmp_path / "plain.tif", overview_level=level) as plain,
        ):
            assert made.shape == plain.shape
            found, expected = (each.read(2).astype(np.float64) for each in (made, plain))
            assert np.abs(found - expected).max() <= (1e-6 * top if dtype[0] == "f" else level + 1)
            assert abs((found - expected).mean()) < 0.3  # halves of negative samples are rounded away from 0 by GDAL


@pytest.mark.parametrize("code", [None, 5.0, np.nan])
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "uint64", "float32", "float64"])
def test_halves(dtype: str, code: float | None) -> None:
    """Against a sum in Python, at the ends of the type's range too."""
    if dtype[0] != "f" and code is not None and np.isnan(code):
        return
    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    if kind.kind == "f":
        samples = rng.normal(5, 2, (2, 6, 8)).astype(kind)
        samples[0, :2, :2] = np.finfo(kind).max
    else:
        samples = rng.integers(0, 12, (2, 6, 8)).astype(kind)
        samples[0, :2, :2], samples[0, 2:4, :2] = np.iinfo(kind).max, np.iinfo(kind).min
    assert_halved(samples, None if code is None else code + 99)  # nothing is missing
    if code is not None:
        samples[1, 2:4, 4:6] = code
        samples[1, 3:6, 1:3] = code
        samples[1, :2, 4:6] = [[code - 1, code + 1], [code, code]]  # whose mean would be the code
        assert_halved(samples, code)


@pytest.mark.parametrize("dtype", ["int16", "int64", "float32"])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_what_is_missing_elsewhere_does_not_change_a_mean(dtype: str, share: float) -> None:
    """Nor how much: few fours are averaged on their own, many with all others. Float64 would round means of int64."""
    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    top = np.iinfo(kind).max if kind.kind == "i" else 1000
    samples = (rng.integers(top // 2, top, (40, 60)) if kind.kind == "i" else rng.normal(5, 2, (40, 60))).astype(kind)
    samples[rng.random(samples.shape) < share] = -1
    found = halve(samples, -1.0)
    for row, col in np.ndindex(found.shape):
        alone = halve(samples[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].copy(), -1.0)
        assert found[row, col] == alone[0, 0]


def assert_halved(samples: np.ndarray, code: float | None) -> None:
    found = halve(samples, code)
    assert found.dtype == samples.dtype and found.shape == (2, 3, 4)
    own = None if code is None else samples.dtype.type(code) if samples.dtype.kind == "f" else int(code)
    for band, row, col in np.ndindex(found.shape):
        four = samples[band, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].ravel().tolist()
        valid = [value for value in four if own is None or (value == value and value != own)]
        stored = found[band, row, col].item()
        if not valid:
            assert stored == own or stored != stored
            continue
        mean = sum(Fraction(value) for value in valid) / len(valid)
        if samples.dtype.kind == "f":
            assert stored == pytest.approx(float(mean), rel=4 * float(np.finfo(samples.dtype).eps)) and stored != own
        else:
            expected = math.floor(mean + Fraction(1, 2))
            assert stored == pytest.approx(expected + (expected == own), rel=1e-15, abs=0)  # float64 of 64 bits


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "int16"}, {"dtype": "uint8"}, {"compress": "deflate", "dtype": "uint16"}], ids=str
)
def test_a_cog_of_a_file_of_samples_is_the_same(tmp_path: Path, options: dict) -> None:
    """Byte by byte that of the same samples written by the writer; no other file stays but that of the samples."""
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
                assert writer.keeps == ("compress" not in options)
                fill(samples, writer, stored)
                writer.adopt(samples)
        results.append((tmp_path / name).read_bytes())
    assert results[0] == results[1]
    assert {file.name for file in tmp_path.iterdir()} == {"written.tif", "adopted.tif", samples.name}
    with rasterio.open(tmp_path / "adopted.tif") as dataset:
        assert dataset.overviews(1) == [2, 4] and "RGB" not in str(dataset.photometric)
        assert dataset.tags(3, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"] == "0.7"


def fill(samples: Path, writer: CubeWriter, stored: np.ndarray) -> None:
    """Windows of odd sizes, each band for itself."""
    assert writer.layout is not None
    with samples.open("wb") as file:
        file.truncate(writer.layout.nbytes)
        for band in range(len(stored)):
            for window in pieces(Window.full(*stored.shape[1:]), 77, 301):
                part = stored[(slice(band, band + 1), *window.slices)]
                for start, run in writer.layout.parts(window, band, part):
                    file.seek(start)
                    file.write(run.tobytes())


def test_a_file_of_samples_that_is_lost(tmp_path: Path) -> None:
    """They vanish, or are not whole: an error that names the output, which does not appear."""
    for damage in ("lost", "short"):
        writer = create_writer(tmp_path / "x.tif", (600, 700, 2), META)
        samples = tmp_path / "samples"
        if damage == "short":
            fill(samples, writer, np.zeros((2, 600, 700), np.float32))
            os.truncate(samples, samples.stat().st_size // 2)
        writer.adopt(samples)
        with pytest.raises(OutputError, match=r"x\.tif: could not be written"):
            writer.close()
        samples.unlink(missing_ok=True)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("compress", [None, "deflate"])
def test_where_files_have_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: str | None) -> None:
    """On a file system without links the samples become the output when it is whole; a copy leaves them."""

    def refuse(*names: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    stored = np.random.default_rng(0).random((2, 300, 40), dtype=np.float32)
    writer = create_writer(tmp_path / "x.tif", (300, 40, 2), META, compress=compress)
    fill(tmp_path / "samples", writer, stored)
    writer.adopt(tmp_path / "samples")
    writer.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == (["samples"] if compress else []) + ["x.tif"]
    with rasterio.open(tmp_path / "x.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), stored)


def test_another_run_begins_anew_meanwhile(tmp_path: Path) -> None:
    """It has a file of its own under that name: it stays as it is, and this output is of the samples that it was."""
    stored, samples = np.random.default_rng(0).random((2, 300, 40), dtype=np.float32), tmp_path / "samples"
    writer = create_writer(tmp_path / "x.tif", (300, 40, 2), META)
    fill(samples, writer, stored)
    writer.adopt(samples)
    samples.unlink()
    samples.write_bytes(b"theirs")
    writer.close()
    assert samples.read_bytes() == b"theirs" and len(list(tmp_path.iterdir())) == 2
    with rasterio.open(tmp_path / "x.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), stored)


def test_samples_beyond_the_type_do_not_spread(tmp_path: Path) -> None:
    """Infinite ones, of doubles that float32 cannot hold; the size is odd, so that some weights are 0."""
    cube = np.ones((1, 301, 301), dtype=np.float32)
    cube[0, 0, 0] = cube[0, 100, 100] = cube[0, 300, 300] = np.inf
    with create_writer(tmp_path / "x.tif", (301, 301, 1), CubeMeta()) as writer:
        writer.write_stored(Window(0, 0, 301, 301), cube)
    with rasterio.open(tmp_path / "x.tif", overview_level=0) as overview:
        found = overview.read(1)
    assert (found == 1).all()


def test_overviews_are_described_as_the_full_size(tmp_path: Path) -> None:
    write_cube(tmp_path / "x.tif", ramp(), META.replace(nodata=-7.0), dtype="float32")
    with rasterio.open(tmp_path / "x.tif") as full, rasterio.open(f"GTIFF_DIR:2:{tmp_path / 'x.tif'}") as half:
        assert half.shape == (SIZE // 2, SIZE // 2) and half.nodatavals == full.nodatavals == (-7.0, -7.0)
        for name in ("colorinterp", "dtypes", "block_shapes", "interleaving", "compression", "photometric"):
            assert getattr(half, name) == getattr(full, name), name


@pytest.mark.parametrize(("bands", "kind"), [(5, 42), (6, 43)])
def test_offsets_are_as_wide_as_they_must_be(tmp_path: Path, bands: int, kind: int) -> None:
    """Around 4 GB; nothing is reserved before the first samples come."""
    meta = CubeMeta(stored_dtype=np.dtype(np.int16))
    backend = cog.CogBackend(tmp_path / "x.tif", (16384, 16384, bands), meta, Kind("BAND", {}))
    assert (backend.layout.nbytes > 4e9) == (kind == 43) and backend._head(backend.layout)[2] == kind


def test_64_bit_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As files beyond 4 GB have them."""
    cogeo = pytest.importorskip("rio_cogeo", reason="rio-cogeo is in the extra 'test'")
    write_cube(tmp_path / "classic.tif", ramp(), META)
    monkeypatch.setattr(cog, "_CLASSIC_BYTES", 1000)
    write_cube(tmp_path / "big.tif", ramp(), META)
    assert [(tmp_path / name).read_bytes()[2] for name in ("classic.tif", "big.tif")] == [42, 43]
    assert cogeo.cog_validate(tmp_path / "big.tif", strict=True, quiet=True) == (True, [], [])
    for level in ({}, {"overview_level": 2}):
        with (
            rasterio.open(tmp_path / "classic.tif", **level) as classic,
            rasterio.open(tmp_path / "big.tif", **level) as big,
        ):
            assert classic.tags() == big.tags() and classic.tags(2) == big.tags(2)
            assert str(classic.profile) == str(big.profile)
            np.testing.assert_array_equal(classic.read(), big.read())


def test_what_an_earlier_run_began(tmp_path: Path) -> None:
    """Its samples stay where they are, though this one's description is longer; where it is too long, it says so."""
    shape, samples = (300, 40, 2), tmp_path / "samples"
    first = create_writer(tmp_path / "x.tif", shape, META.replace(tags={"LKCA_COMMAND": "a"}))
    stored = np.random.default_rng(0).random((2, 300, 40), dtype=np.float32)
    fill(samples, first, stored)
    begun = first.layout
    first.abort()
    assert begun is not None
    for length in (2000, 20000):
        meta = META.replace(tags={"LKCA_COMMAND": length * "b"})
        writer = create_writer(tmp_path / "x.tif", shape, meta)
        if length == 20000:
            with pytest.raises(InputError, match=r"x\.tif: what describes it .* repeat that command with --resume"):
                writer.lay_out(begun)
            writer.abort()
            break
        writer.lay_out(begun)
        writer.adopt(samples)
        writer.close()
        with rasterio.open(tmp_path / "x.tif") as dataset:
            np.testing.assert_array_equal(dataset.read(), stored)
            assert dataset.tags()["LKCA_COMMAND"] == length * "b" and dataset.overviews(1) == [2]
        (tmp_path / "x.tif").unlink()
        fill(samples, first, stored)
    assert list(tmp_path.iterdir()) == [samples]


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
