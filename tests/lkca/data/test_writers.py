"""What is written is read back by us and by independent readers: rasterio, SPy, scipy, numpy, GDAL's raw tags."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import scipy.io
import spectral
from affine import Affine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from lkca.data import CubeMeta, Window, create_writer, open_cube, write_cube
from lkca.data.writers import output_meta
from lkca.data.writers.geotiff import create
from lkca.errors import InputError, OutputError

BANDS, ROWS, COLS = 6, 37, 41
STORED = np.random.default_rng(0).integers(1, 9000, (BANDS, ROWS, COLS)).astype(np.int16)
META = CubeMeta(
    wavelengths=np.linspace(420.5, 2445.53, BANDS),
    fwhm=np.linspace(6, 11, BANDS),
    good_bands=np.array([1, 1, 0, 1, 1, 1], dtype=bool),
    nodata=-32768.0,
    scale_factor=1e-4,
    crs=CRS.from_epsg(32633).to_wkt(),
    transform=Affine(30, 0, 364095, 0, -30, 5809965),
    stored_dtype=np.dtype("int16"),
    tags={"start_time": "2022-07-24T10:45:26", "LKCA_MODEL": "m", "description": "a {test}, with\ncommas"},
)
PHYSICAL = (STORED * 1e-4).astype(np.float32)
PHYSICAL[:, 3, 4] = np.nan
STORED[:, 3, 4] = -32768
OUTPUTS = [
    ("x.tif", {}),
    ("x.tif", {"driver": "GTiff"}),
    ("x.tif", {"compress": "deflate"}),
    ("x.tif", {"driver": "GTiff", "compress": "zstd"}),
    ("x.tif", {"interleave": "bip"}),
    ("x.hdr", {}),
    ("x.img", {"interleave": "bil"}),
    ("x.bip", {}),
    ("x", {"driver": "ENVI"}),
    ("x.npz", {}),
    ("x.npz", {"compress": "none"}),
    ("x.mat", {}),
]


def leftovers(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".") or "aux" in file.name]


@pytest.mark.parametrize(("name", "options"), OUTPUTS, ids=str)
def test_everything_survives(tmp_path: Path, name: str, options: dict) -> None:
    report = write_cube(tmp_path / name, PHYSICAL, META, **options)
    assert report.shape == (ROWS, COLS, BANDS)
    assert (report.clipped, report.missing, report.warnings) == (0, BANDS, ())
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in report.files}
    with open_cube(tmp_path / name) as cube:
        assert np.array_equal(cube.read(), PHYSICAL, equal_nan=True)
        meta = cube.meta
        assert meta.stored_dtype == np.int16 and meta.nodata == -32768
        assert meta.scale_factor == pytest.approx(1e-4, rel=1e-12)
        assert np.allclose(meta.wavelengths, META.wavelengths, rtol=1e-9)
        assert np.allclose(meta.fwhm, META.fwhm, rtol=1e-9)
        assert np.array_equal(meta.good_bands, META.good_bands)
        assert meta.transform == META.transform
        assert CRS.from_wkt(meta.crs).to_epsg() == 32633
        assert all(meta.tags[key] == META.tags[key] for key in ("start_time", "LKCA_MODEL"))


@pytest.mark.parametrize("driver", ["COG", "GTiff"])
def test_gdal_tags_of_a_geotiff(tmp_path: Path, driver: str) -> None:
    write_cube(tmp_path / "x.tif", PHYSICAL, META, driver=driver)
    with rasterio.open(tmp_path / "x.tif") as dataset:
        assert np.array_equal(dataset.read(), STORED)
        assert dataset.profile["tiled"] and dataset.block_shapes[0] == (48, 48)
        assert (dataset.nodata, dataset.scales[0], dataset.crs.to_epsg()) == (-32768, 1e-4, 32633)
        assert dataset.transform == META.transform
        assert dataset.tags(1) == {
            "wavelength": "420.5", "wavelength_units": "Nanometers", "fwhm": "6", "bbl": "1",
        }  # fmt: skip
        assert dataset.tags(3)["bbl"] == "0"
        assert dataset.tags(1, ns="IMAGERY") == {"CENTRAL_WAVELENGTH_UM": "0.4205", "FWHM_UM": "0.006"}
        assert driver == "COG" or dataset.tags(ns="ENVI")["wavelength"].startswith("{420.5, ")
        assert dataset.descriptions[0] == "band 1 (420.5 Nanometers)"
        assert dataset.tags()["start_time"] == META.tags["start_time"]


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_spy_reads_the_envi_output(tmp_path: Path, interleave: str) -> None:
    write_cube(tmp_path / "x.hdr", PHYSICAL, META, interleave=interleave)
    image = spectral.open_image(str(tmp_path / "x.hdr"))
    assert image.metadata["interleave"] == interleave
    assert np.array_equal(image.open_memmap(), STORED.transpose(1, 2, 0))
    assert np.allclose(image.load()[5:9, 5:9], PHYSICAL[:, 5:9, 5:9].transpose(1, 2, 0), atol=1e-6)
    assert image.bands.band_unit == "Nanometers"
    assert np.allclose(image.bands.centers, META.wavelengths) and np.allclose(image.bands.bandwidths, META.fwhm)
    assert [float(good) for good in image.metadata["bbl"]] == META.good_bands.tolist()
    assert image.metadata["description"] == "a (test), with commas"


def test_gdal_reads_the_envi_output(tmp_path: Path) -> None:
    write_cube(tmp_path / "x.img", PHYSICAL, META.upsampled(4), interleave="bil")
    with rasterio.open(tmp_path / "x.img") as dataset:
        assert np.array_equal(dataset.read(), STORED)
        assert (dataset.crs.to_epsg(), dataset.nodata) == (32633, -32768)
        assert dataset.transform == Affine(7.5, 0, 364095, 0, -7.5, 5809965)


def test_gdal_and_spy_read_long_lists(tmp_path: Path) -> None:
    """GDAL reads nothing after a header line of more than 10 000 characters, which 426 band names fill easily."""
    names = tuple(f"band {n} (a name, as long as some are)" for n in range(600))
    meta = CubeMeta(
        wavelengths=np.linspace(400.123456, 2500.654321, 600), band_names=names, tags={"note": "a, " * 5000}
    )
    plain = tuple(name.replace(",", ";") for name in names)  # a comma ends a name in a header
    write_cube(tmp_path / "x.img", np.ones((600, 2, 2), np.float32), meta)
    assert max(map(len, (tmp_path / "x.hdr").read_text().splitlines())) < 200
    with rasterio.open(tmp_path / "x.img") as dataset, open_cube(tmp_path / "x.img") as cube:
        assert len(dataset.tags(ns="ENVI")["wavelength"].split(",")) == 600
        assert [
            text.rpartition(" (")[0] if text.endswith("Nanometers)") else text for text in dataset.descriptions
        ] == [*plain]
        assert cube.meta.band_names == plain and np.allclose(cube.meta.wavelengths, meta.wavelengths, rtol=1e-9)
    image = spectral.open_image(str(tmp_path / "x.hdr"))
    assert image.metadata["band names"] == [*plain] and np.allclose(image.bands.centers, meta.wavelengths)


@pytest.mark.parametrize("epsg", [32633, 32733, 26910, 25833, 4326, 4269, 3035, 2263])
@pytest.mark.parametrize(("angle", "height"), [(0.0, 0.5), (25.0, 0.25)])  # GDAL turns no pixels that are not square
def test_envi_map_info_reads_back(tmp_path: Path, epsg: int, angle: float, height: float) -> None:
    transform = Affine.translation(500000, 40) @ Affine.rotation(angle) @ Affine.scale(0.25, -height)
    meta = CubeMeta(crs=CRS.from_epsg(epsg).to_wkt(), transform=transform)
    write_cube(tmp_path / "x.img", PHYSICAL, meta)
    with open_cube(tmp_path / "x.img") as cube, rasterio.open(tmp_path / "x.img") as dataset:
        assert np.allclose(list(cube.meta.transform), list(transform))
        assert np.allclose(list(dataset.transform), list(transform))
        assert CRS.from_wkt(cube.meta.crs).to_epsg() == epsg
        # GDAL reads geographic coordinates in the order longitude, latitude, which EPSG:4326 is not
        assert dataset.crs.to_epsg() == epsg or (epsg in (4326, 4269) and dataset.crs.is_geographic)


@pytest.mark.parametrize(
    ("epsg", "named"),
    [
        (26910, "10, North, North America 1983"),
        (32660, "60, North, WGS-84"),  # this and the others are the last zones
        (32760, "60, South, WGS-84"),
        (26923, "23, North, North America 1983"),
        (26722, "22, North, North America 1927"),
        (25838, "38, North, ETRS89"),
    ],
)
def test_envi_map_info_names_zone_and_datum(tmp_path: Path, epsg: int, named: str) -> None:
    """As GDAL's driver does, so that readers that skip the coordinate system string find the CRS."""
    transform = Affine(1.75, 0, 500000, 0, -1.75, 4100000)
    write_cube(tmp_path / "x.img", PHYSICAL, CubeMeta(crs=CRS.from_epsg(epsg).to_wkt(), transform=transform))
    header = (tmp_path / "x.hdr").read_text()
    assert f"{{UTM, 1, 1, 500000, 4100000, 1.75, 1.75, {named}, units=Meters}}" in header


@pytest.mark.parametrize(("dtype", "predictor"), [("int16", "2"), ("float32", "3")])
def test_packed_samples_are_predicted_by_their_kind(tmp_path: Path, dtype: str, predictor: str) -> None:
    write_cube(tmp_path / "x.tif", PHYSICAL, META, dtype=dtype, driver="GTiff", compress="deflate")
    with rasterio.open(tmp_path / "x.tif") as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == predictor


@pytest.mark.parametrize("driver", ["COG", "GTiff"])
def test_three_bands_of_bytes_are_no_colours(tmp_path: Path, driver: str) -> None:
    write_cube(tmp_path / "x.tif", STORED[:3, 4:] % 256, CubeMeta(), dtype="uint8", driver=driver)
    with rasterio.open(tmp_path / "x.tif") as dataset:
        assert dataset.photometric is None or "RGB" not in str(dataset.photometric)
        assert dataset.colorinterp == (ColorInterp.gray, ColorInterp.undefined, ColorInterp.undefined)


def test_a_geotiff_may_be_larger_than_4_gib(tmp_path: Path) -> None:
    """Whatever it is packed to, which nobody knows when the file is begun."""
    meta = CubeMeta(stored_dtype=np.dtype("float32"))
    create(tmp_path / "x.tif", (33000, 33000, 1), meta, COMPRESS="DEFLATE", SPARSE_OK="TRUE").close()
    assert (tmp_path / "x.tif").read_bytes()[:4] == b"II+\0"  # a BigTIFF


def test_containers_hold_what_they_say(tmp_path: Path) -> None:
    write_cube(tmp_path / "x.npz", PHYSICAL, META)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["cube"], STORED.transpose(1, 2, 0))
        assert np.array_equal(archive["wavelengths_nm"], META.wavelengths)
    write_cube(tmp_path / "plain.npz", PHYSICAL, CubeMeta(), compress="none")
    with np.load(tmp_path / "plain.npz", allow_pickle=False) as archive:
        assert archive["wavelengths_nm"].size == 0 and "fwhm_nm" not in archive
    for name, method in (("x.npz", zipfile.ZIP_DEFLATED), ("plain.npz", zipfile.ZIP_STORED)):
        with zipfile.ZipFile(tmp_path / name) as packed:
            assert {entry.compress_type for entry in packed.infolist()} == {method}
    write_cube(tmp_path / "x.mat", PHYSICAL, META)
    variables = scipy.io.loadmat(tmp_path / "x.mat")
    assert np.array_equal(variables["cube"], STORED.transpose(1, 2, 0))
    assert np.array_equal(variables["wavelength"][:, 0], META.wavelengths)


@pytest.mark.parametrize("name", ["x.mat", "x.npz"])
@pytest.mark.parametrize("wavelengths", [False, True])
@pytest.mark.parametrize(
    "shape", [(6, 9, 7), (6, 9, 6), (9, 6, 7), (9, 6, 6), (6, 6, 6), (6, 1, 9), (1, 3, 4)], ids=str
)
def test_our_own_axes_decide_whatever_the_lengths(
    tmp_path: Path, name: str, wavelengths: bool, shape: tuple[int, int, int]
) -> None:
    meta = CubeMeta(wavelengths=np.linspace(400.0, 900.0, shape[0]) if wavelengths else None)
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    write_cube(tmp_path / name, values, meta)
    with open_cube(tmp_path / name) as cube:
        assert np.array_equal(cube.read(), values) and not cube.warnings
        assert not wavelengths or np.array_equal(cube.meta.wavelengths, meta.wavelengths)
    assert open_cube(tmp_path / name, axes="brc").shape == (shape[2], shape[0], shape[1])


@pytest.mark.parametrize(("name", "options"), OUTPUTS, ids=str)
def test_window_by_window_is_the_same_file(tmp_path: Path, name: str, options: dict) -> None:
    with create_writer(tmp_path / name, (ROWS, COLS, BANDS), META, **options) as writer:
        for row in range(0, ROWS, 16):
            for col in range(0, COLS, 20):
                window = Window(row, col, min(16, ROWS - row), min(20, COLS - col))
                writer.write(window, PHYSICAL[(slice(None), *window.slices)])
        assert not (tmp_path / name).exists()
    assert np.array_equal(open_cube(tmp_path / name).read(), PHYSICAL, equal_nan=True)
    assert writer.report is not None and writer.report.missing == BANDS
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(("name", "options"), OUTPUTS, ids=str)
def test_an_exception_leaves_nothing(tmp_path: Path, name: str, options: dict) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        create_writer(tmp_path / name, (ROWS, COLS, BANDS), META, **options) as writer,
    ):
        writer.write(Window(0, 0, 5, COLS), PHYSICAL[:, :5])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_missing_windows_are_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=f"only {5 * COLS} of {ROWS * COLS} pixels"),
        create_writer(tmp_path / "x.tif", (ROWS, COLS, BANDS), META) as writer,
    ):
        writer.write(Window(0, 0, 5, COLS), PHYSICAL[:, :5])
    assert not list(tmp_path.iterdir())


def test_closing_twice_and_writing_afterwards(tmp_path: Path) -> None:
    writer = create_writer(tmp_path / "x.tif", (ROWS, COLS, BANDS), META)
    writer.write(Window.full(ROWS, COLS), PHYSICAL)
    assert writer.close() is writer.close() is writer.report
    with pytest.raises(OutputError, match="closed"):
        writer.write(Window.full(ROWS, COLS), PHYSICAL)
    with pytest.raises(OutputError, match="closed"):
        writer.adopt(tmp_path / "samples")
    writer.abort()
    assert (tmp_path / "x.tif").exists()


def test_a_cube_of_several_strips(tmp_path: Path) -> None:
    """Four million samples each, which no other cube here has."""
    cube = np.arange(2 * 2000 * 1100, dtype=np.float32).reshape(2, 2000, 1100)
    write_cube(tmp_path / "x.img", cube, CubeMeta())
    assert np.array_equal(np.fromfile(tmp_path / "x.img", np.float32).reshape(cube.shape), cube)


def test_wrong_block_shape(tmp_path: Path) -> None:
    with create_writer(tmp_path / "x.tif", (ROWS, COLS, BANDS), META) as writer:
        with pytest.raises(ValueError, match="expected samples of shape"):
            writer.write(Window(0, 0, 5, 5), PHYSICAL)
        with pytest.raises(InputError, match="outside the scene"):
            writer.write(Window(0, 40, 5, 5), PHYSICAL[:, :5, :5])
        writer.write(Window.full(ROWS, COLS), PHYSICAL)


def test_dtype_choices() -> None:
    as_float = output_meta(META, "float32")
    assert (as_float.scale_factor, as_float.stored_dtype) == (1.0, np.float32) and np.isnan(as_float.nodata)
    kept = output_meta(META, None)
    assert (kept.scale_factor, kept.nodata, kept.stored_dtype) == (1e-4, -32768, np.int16)
    assert output_meta(CubeMeta(stored_dtype=np.dtype("i2")), "float32").nodata is None
    assert output_meta(CubeMeta(stored_dtype=np.dtype("f8"), nodata=-9999.0), None).nodata == -9999
    assert np.isnan(output_meta(CubeMeta(stored_dtype=np.dtype("f8"), nodata=-1e300), None).nodata)
    unsigned = output_meta(META, "uint16")
    assert (unsigned.nodata, unsigned.scale_factor) == (65535, 1e-4)
    assert output_meta(CubeMeta(), None).stored_dtype == np.float32
    assert output_meta(CubeMeta(stored_dtype=np.dtype(">f8")), None).stored_dtype == np.float32
    assert output_meta(CubeMeta(stored_dtype=np.dtype(">i2")), None).stored_dtype == np.dtype("<i2")
    assert output_meta(CubeMeta(stored_dtype=np.dtype("f4")), "int16").nodata == -32768
    assert output_meta(CubeMeta(stored_dtype=np.dtype("u1")), None).nodata is None
    assert output_meta(CubeMeta(stored_dtype=np.dtype("u1"), nodata=-9999.0), None).nodata is None
    assert output_meta(CubeMeta(stored_dtype=np.dtype("u1"), nodata=np.nan), None).nodata == 255
    for wrong in ("complex64", "float16", "S3", "nonsense"):
        with pytest.raises(InputError, match="choose"):
            output_meta(META, wrong)


def test_clipping_is_counted_and_told(tmp_path: Path) -> None:
    array = PHYSICAL.copy()
    array[0, 0, :7] = 5.0  # 50000 counts
    report = write_cube(tmp_path / "x.tif", array, META)
    assert report.clipped == 7
    assert "7 samples were beyond the range of int16" in report.warnings[0]
    assert np.allclose(open_cube(tmp_path / "x.tif").read()[0, 0, :7], 3.2767)


def test_reflectance_as_integers_without_a_scale_is_told(tmp_path: Path) -> None:
    report = write_cube(tmp_path / "x.tif", PHYSICAL, CubeMeta(), dtype="int16")
    assert "only 2 levels of int16" in report.warnings[0]


def test_missing_samples_need_a_nodata_value(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no nodata value.*write a float dtype"):
        write_cube(tmp_path / "x.tif", PHYSICAL, CubeMeta(stored_dtype=np.dtype("int16")))
    assert not list(tmp_path.iterdir())


def test_the_header_of_another_cube_is_not_replaced(tmp_path: Path) -> None:
    write_cube(tmp_path / "x.bsq", PHYSICAL, META)
    for name in ("x.bip", "x.hdr", "x.dat"):
        with pytest.raises(InputError, match=r"header x\.hdr is that of x\.bsq.*remove x\.bsq"):
            write_cube(tmp_path / name, PHYSICAL[:, :8], META, overwrite=True)
    with open_cube(tmp_path / "x.hdr") as cube:
        assert np.array_equal(cube.read(), PHYSICAL, equal_nan=True) and not cube.warnings
    write_cube(tmp_path / "x.bsq", PHYSICAL[:, :8], META, overwrite=True)
    (tmp_path / "x.dat").write_bytes(b"of something else")
    write_cube(tmp_path / "x.bsq", PHYSICAL, META, overwrite=True)
    (tmp_path / "x.bsq").rename(tmp_path / "x.img")
    (tmp_path / "x.hdr").rename(tmp_path / "x.img.hdr")
    with pytest.raises(InputError, match=r"x\.img has another header"):
        write_cube(tmp_path / "x.hdr", PHYSICAL, META, overwrite=True)
    write_cube(tmp_path / "x.img", PHYSICAL, META, overwrite=True)


def test_plain_cube_without_any_metadata(tmp_path: Path) -> None:
    for name in ("x.tif", "x.bsq", "x.npz", "x.mat"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", NotGeoreferencedWarning)
            write_cube(tmp_path / name, PHYSICAL[:, :20, :30], CubeMeta())
        with open_cube(tmp_path / name) as cube:
            assert np.array_equal(cube.read(), PHYSICAL[:, :20, :30], equal_nan=True)
            assert cube.meta.transform is None and cube.meta.wavelengths is None


def test_per_band_scale(tmp_path: Path) -> None:
    meta = META.replace(scale_factor=np.linspace(1e-4, 2e-4, BANDS), offset=0.5)
    for name in ("x.tif", "x.bsq", "x.npz", "x.mat"):
        write_cube(tmp_path / name, PHYSICAL, meta)
        with open_cube(tmp_path / name) as cube:
            assert np.nanmax(np.abs(cube.read() - PHYSICAL)) <= 1.01e-4
            assert np.allclose(cube.meta.scale_factor, meta.scale_factor)


def test_nodata_values_that_the_dtype_cannot_hold(tmp_path: Path) -> None:
    """Such files exist: -9999 in uint16, the lowest double in float32."""
    assert output_meta(CubeMeta(stored_dtype=np.dtype("u2"), nodata=-9999.0), None).nodata is None
    lowest = CubeMeta(stored_dtype=np.dtype("f4"), nodata=-1.7976931348623157e308)
    for name in ("x.tif", "x.img", "x.npz", "x.mat"):
        write_cube(tmp_path / name, PHYSICAL, lowest)
        assert np.array_equal(open_cube(tmp_path / name).read(), PHYSICAL, equal_nan=True)


@pytest.mark.parametrize("name", ["o.tif", "o.hdr", "o.npz", "o.mat"])
@pytest.mark.parametrize(("dtype", "given"), [("int64", None), ("int64", -(2.0**63)), ("uint64", None)])
def test_missing_samples_of_64_bits(tmp_path: Path, dtype: str, given: float | None, name: str) -> None:
    holed = np.full((2, 3, 4), 7, dtype=np.float32)
    holed[:, 1, 2] = np.nan
    stored_dtype = None if given is None else np.dtype(dtype)
    write_cube(tmp_path / name, holed, CubeMeta(nodata=given, stored_dtype=stored_dtype), dtype=dtype)
    with open_cube(tmp_path / name) as back:
        assert back.meta.stored_dtype == dtype and np.array_equal(back.read(), holed, equal_nan=True)


@pytest.mark.parametrize(
    "transform", [Affine(30, 0, 0, 0, 30, 0), Affine(3, -4, 0, 4, -3, 0), Affine(30, 0, 0, 0, 0, 0)], ids=str
)
def test_grids_that_envi_cannot_say_are_told(tmp_path: Path, transform: Affine) -> None:
    """Mirrored, sheared, without height."""
    south_up = META.replace(transform=transform)
    report = write_cube(tmp_path / "x.img", PHYSICAL, south_up)
    assert "mirrored or sheared" in report.warnings[0]
    assert open_cube(tmp_path / "x.img").meta.transform is None
    assert not write_cube(tmp_path / "x.tif", PHYSICAL, south_up).warnings
    assert open_cube(tmp_path / "x.tif").meta.transform == south_up.transform


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=4), st.text(max_size=10))
@example({"bbl": "x", "Header Offset": "9", "file compression": "1"}, "a, b")
def test_no_tag_breaks_a_writer(tmp_path: Path, tags: dict[str, str], name: str) -> None:
    meta = CubeMeta(tags=tags, band_names=(name, "second"), wavelengths=np.array([500.0, 600.0]))
    for file in ("x.tif", "x.img", "x.npz", "x.mat"):
        write_cube(tmp_path / file, PHYSICAL[:2, :4, :4], meta, overwrite=True)
        with open_cube(tmp_path / file) as cube:
            assert np.array_equal(cube.read(), PHYSICAL[:2, :4, :4], equal_nan=True)
            assert np.array_equal(cube.meta.wavelengths, [500, 600])


def test_tags_named_as_parameters_of_rasterio(tmp_path: Path) -> None:
    """They were taken for its own, and all tags went into a domain that a COG has no place for."""
    write_cube(tmp_path / "x.tif", PHYSICAL, CubeMeta(tags={"ns": "elsewhere", "bidx": "3", "sensor": "a"}))
    with open_cube(tmp_path / "x.tif") as cube:
        assert cube.meta.tags == {"NS": "elsewhere", "BIDX": "3", "sensor": "a"}


def test_the_size_that_a_source_states_of_its_array_is_not_carried_to_another(tmp_path: Path) -> None:
    """The shape in an .npz's own JSON went into results of another size."""
    stated = json.dumps({"sensor": "camera", "shape": [4, 5, 3], "dtype": "uint16"})
    np.savez(tmp_path / "a.npz", cube=np.ones((4, 5, 3), np.uint16), meta=stated)
    with open_cube(tmp_path / "a.npz") as cube:
        assert cube.meta.tags == {"sensor": "camera"}


@pytest.mark.parametrize("suffix", [".tif", ".img", ".npz", ".mat"])
@pytest.mark.parametrize("key", ["crs", "gcps_crs"])
def test_a_crs_that_is_none_is_refused_by_every_format(tmp_path: Path, suffix: str, key: str) -> None:
    """GeoTIFF and ENVI passed rasterio's error on; what the others wrote could not be read."""
    with pytest.raises(InputError, match=f"the {key} is 'Mars'; expected WKT"):
        write_cube(tmp_path / f"x{suffix}", np.ones((2, 4, 5), dtype=np.float32), CubeMeta(**{key: "Mars"}))
    assert not list(tmp_path.iterdir())
