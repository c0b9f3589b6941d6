"""lkca.upscale gives back what it got: arrays, tensors, DataArrays."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from rasterio.crs import CRS

import lkca
from lkca.data import Cube, CubeMeta
from lkca.errors import InputError
from lkca.inference import SceneOptions
from lkca.models.directory import LoadedModel

xarray = pytest.importorskip("xarray")


@pytest.fixture
def scene() -> np.ndarray:
    return np.random.default_rng(0).random((5, 12, 9), dtype=np.float32) + 0.1


def test_tensors(scene: np.ndarray, model_of: Callable[..., LoadedModel]) -> None:
    expected = lkca.upscale(scene, model_of())
    assert isinstance(expected, np.ndarray) and expected.dtype == np.float32
    negative = (
        torch.complex(torch.from_numpy(scene), torch.from_numpy(-scene)).conj().imag
    )  # a view with a sign of its own
    for tensor in (torch.from_numpy(scene), torch.from_numpy(scene).double().requires_grad_(), negative):
        result = lkca.upscale(tensor, model_of())
        assert isinstance(result, torch.Tensor) and result.dtype == torch.float32
        assert np.array_equal(result.numpy(), expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (torch.Tensor.to_sparse, "stored as torch.sparse_coo; give a dense one"),
        (lambda tensor: tensor.to("meta"), "a meta tensor, without values; give a dense one"),
        (lambda tensor: tensor * 1j, "complex; give real values"),
    ],
)
def test_tensors_without_plain_values(scene: np.ndarray, change: Callable[[torch.Tensor], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        lkca.upscale(change(torch.from_numpy(scene)), "bicubic", scale=2)


def as_data_array(scene: np.ndarray) -> xarray.DataArray:
    _, rows, cols = scene.shape
    return xarray.DataArray(
        scene.transpose(1, 2, 0),
        dims=("y", "x", "band"),
        coords={
            "y": ("y", 5000.0 - 30 * (np.arange(rows) + 0.5), {"units": "m"}),
            "x": 100.0 + 30 * (np.arange(cols) + 0.5),
            "wavelength": ("band", np.linspace(0.45, 0.65, 5), {"units": "um"}),
            "spatial_ref": ((), 0, {"crs_wkt": "…", "GeoTransform": "100 30 0 5000 0 -30"}),
            "lat": (("y", "x"), np.add.outer(50 - 1e-3 * np.arange(rows), 1e-4 * np.arange(cols))),
            "name": ("x", [f"column {col}" for col in range(cols)]),
        },
        name="reflectance",
        attrs={"sensor": "a sensor", "res": (30.0, 30.0), "transform": (30.0, 0.0, 100.0, 0.0, -30.0, 5000.0)},
    )


def test_data_arrays(scene: np.ndarray, model_of: Callable[..., LoadedModel]) -> None:
    source = as_data_array(scene)
    result = lkca.upscale(source, model_of())
    assert result.dims == source.dims and result.name == source.name and result.attrs["sensor"] == "a sensor"
    assert result.attrs["res"] == (15, 15) and result.attrs["transform"] == (15, 0, 100, 0, -15, 5000)
    assert np.array_equal(result.transpose("band", "y", "x"), lkca.upscale(scene, model_of()))
    np.testing.assert_allclose(result.y, 5000 - 15 * (np.arange(24) + 0.5))
    np.testing.assert_allclose(result.x, 100 + 15 * (np.arange(18) + 0.5))
    assert result.y.attrs == {"units": "m"}
    xarray.testing.assert_identical(result.wavelength.variable, source.wavelength.variable)
    assert result.spatial_ref.attrs["GeoTransform"] == "100 15 0 5000 0 -15"
    np.testing.assert_allclose(result.lat[1:-1:2, 0], source.lat[:-1, 0] - 0.25e-3 - 0.25e-4, rtol=0, atol=1e-9)
    assert result.lat.dims == ("y", "x") and "name" not in result.coords


def test_missing_values_of_data_arrays(scene: np.ndarray) -> None:
    source = as_data_array(scene)
    source[2, 3] = -9999.0
    source.attrs["_FillValue"] = -9999.0
    result = lkca.upscale(source, "bicubic", scale=2)
    assert (result[4:6, 6:8] == -9999).all() and int((result == -9999).sum()) == 4 * 5
    assert float(result.where(result != -9999).min()) > 0


def test_wavelengths_of_data_arrays_are_compared(scene: np.ndarray, model_of: Callable[..., LoadedModel]) -> None:
    source = as_data_array(scene)
    with pytest.raises(InputError, match=r"lies at 550\.0 nm, the model's at 450\.0 nm"):
        lkca.upscale(source.assign_coords(wavelength=("band", np.linspace(550, 750, 5))), model_of())


def test_widths_and_bad_bands_of_data_arrays(scene: np.ndarray, tmp_path: Path) -> None:
    """As EMIT's products name them. A bad band went through the network, with the weight of a good one."""
    source, good = as_data_array(scene), np.array([1, 1, 0, 1, 1])
    source[:, :, 2] = 10 * np.random.default_rng(1).random((12, 9))
    spectral = {
        "wavelengths": source.wavelength,
        "fwhm": ("band", np.full(5, 0.01)),
        "good_wavelengths": ("band", good),
    }
    source = source.drop_vars("wavelength").assign_coords(spectral)
    bands_first = np.ascontiguousarray(source.transpose("band", "y", "x"))
    expected = lkca.upscale(Cube.from_array(bands_first, CubeMeta(good_bands=good > 0)), scale=2)
    result = lkca.upscale(source, scale=2)
    assert np.array_equal(result.transpose("band", "y", "x"), expected)
    xarray.testing.assert_identical(result.good_wavelengths.variable, source.good_wavelengths.variable)
    lkca.upscale(source, scale=2, output=tmp_path / "o.tif")
    with lkca.open_cube(tmp_path / "o.tif") as cube:
        np.testing.assert_allclose(cube.meta.wavelengths, np.linspace(450, 650, 5))
        np.testing.assert_allclose(cube.meta.fwhm, 10)
        assert cube.good_bands.tolist() == (good > 0).tolist()


def test_spectral_lists_as_rioxarray_has_them(scene: np.ndarray, tmp_path: Path) -> None:
    """Of an ENVI file the bad bands are a text among the attributes; of a GeoTIFF those are its first band's, and the
    wavelengths stand in the bands' names alone. Either was overlooked."""
    along = {"wavelength": ("band", np.linspace(0.45, 0.65, 5)), "fwhm": ("band", np.full(5, 0.01))}
    names = tuple(f"band {band + 1} ({nm:g} Nanometers)" for band, nm in enumerate(np.linspace(450, 650, 5)))
    envi = xarray.DataArray(scene, dims=("band", "y", "x"), coords=along)
    envi.attrs |= {"bbl": "1, 1, 0, 1, 1", "wavelength_units": "Micrometers", "wavelength": 0.45, "long_name": names}
    tiff = xarray.DataArray(scene, dims=("band", "y", "x"))
    tiff.attrs |= {"bbl": "1", "wavelength": "450", "wavelength_units": "Nanometers", "fwhm": "9", "long_name": names}
    for array, good in ((envi, [True, True, False, True, True]), (tiff, [True] * 5)):
        lkca.upscale(array, "bicubic", scale=2, output=tmp_path / "o.tif", overwrite=True)
        with lkca.open_cube(tmp_path / "o.tif") as cube:
            np.testing.assert_allclose(cube.meta.wavelengths, np.linspace(450, 650, 5))
            assert cube.good_bands.tolist() == good and (cube.meta.fwhm is None) == (array is tiff)
    bare = xarray.DataArray(scene, dims=("band", "y", "x"), attrs={"bbl": "of no numbers", "long_name": "radiance"})
    assert lkca.upscale(bare, "bicubic", scale=2).attrs == bare.attrs


def test_a_time_of_one_step_stays(scene: np.ndarray) -> None:
    """It was refused."""
    plain = as_data_array(scene).assign_coords(time=np.datetime64("2024-05-01", "ns"))
    timed = plain.expand_dims({"level": [3], "time": [plain.time.values]}).transpose("y", "time", "x", "band", "level")
    result, expected = (lkca.upscale(array, "bicubic", scale=2) for array in (timed, plain))
    assert result.dims == timed.dims and result.time.values == timed.time.values and result.level.values == [3]
    xarray.testing.assert_identical(result.isel(time=0, level=0, drop=True), expected.drop_vars("time"))
    described = timed.assign_coords(orbit=("time", ["A"]), angle=(("y", "time"), np.ones((timed.sizes["y"], 1))))
    result = lkca.upscale(described, "bicubic", scale=2)  # these lost the time
    assert (result.orbit.dims, result.angle.dims) == (("time",), ("y", "time"))
    with pytest.raises(InputError, match="has dimensions time, y, x, and none is known to be its bands"):
        lkca.upscale(plain.isel(band=0).expand_dims("time"), "bicubic", scale=2)
    with pytest.raises(InputError, match="has dimensions time, y, x, band; expected bands, rows, columns"):
        lkca.upscale(xarray.concat([plain, plain], "time"), "bicubic", scale=2)


@pytest.mark.parametrize("unit", ["nm", "um"])
def test_names_of_bands_reach_the_file(scene: np.ndarray, tmp_path: Path, unit: str) -> None:
    """They were lost; widths in units of their own, beside wavelengths that stand in the names alone, were taken for
    nm."""
    names = [f"reflectance {nm / (1000 if unit == 'um' else 1):g} {unit}" for nm in np.linspace(450, 650, 5)]
    widths = ("band", np.full(5, 0.01), {"units": "micrometers"})
    listed = xarray.DataArray(scene, dims=("band", "y", "x"), coords={"fwhm": widths}, attrs={"long_name": names})
    labelled = xarray.DataArray(scene, dims=("band", "y", "x"), coords={"band": names, "fwhm": widths})
    aside = xarray.DataArray(scene, dims=("band", "y", "x"), coords={"name": ("band", np.array(names, object))})
    for array in (listed, labelled, aside.assign_coords(fwhm=widths, band=range(5))):
        lkca.upscale(array, "bicubic", scale=2, output=tmp_path / "o.img", overwrite=True)
        with lkca.open_cube(tmp_path / "o.img") as cube:
            assert cube.meta.band_names == tuple(names)
            np.testing.assert_allclose(cube.meta.wavelengths, np.linspace(450, 650, 5))
            np.testing.assert_allclose(cube.meta.fwhm, 10)


def test_a_file_of_a_data_array_lies_where_it_does(scene: np.ndarray, tmp_path: Path) -> None:
    """CRS and transform as rioxarray writes them; after a selection its GeoTransform is still that of the whole."""
    source = as_data_array(scene)
    source.spatial_ref.attrs["crs_wkt"] = CRS.from_epsg(32610).to_wkt()
    source.encoding["_FillValue"] = -1.0
    selected = source.isel(x=slice(2, None), y=slice(3, None))
    row = source.isel(y=slice(3, 4))
    for array, corner in ((source, (100, 5000)), (selected, (160, 4910)), (row, (100, 4910))):
        array.encoding = source.encoding
        file = tmp_path / f"{array.sizes['x']}_{array.sizes['y']}.tif"
        lkca.upscale(array, "bicubic", scale=2, output=file)
        with lkca.open_cube(file) as cube:
            assert cube.summary()["crs"] == "EPSG:32610" and cube.meta.wavelengths is not None
            assert cube.meta.transform == Affine(15, 0, corner[0], 0, -15, corner[1])
            assert cube.meta.nodata == -1
    plain = xarray.DataArray(scene, dims=("band", "y", "x"), coords={"y": np.arange(12), "x": np.arange(9)})
    lkca.upscale(plain, "bicubic", scale=2, output=tmp_path / "plain.tif")
    with lkca.open_cube(tmp_path / "plain.tif") as cube:
        assert cube.meta.crs is None and cube.meta.transform is None
    bare = source.drop_vars(["x", "y", "spatial_ref"])
    bare.attrs |= {"GeoTransform": "(100, 30, 4, 5000, -2, -30)", "crs": np.arange(3), "nodata": None}
    bare.attrs["transform"] = (30.0, 4.0, 100.0, -2.0, -30.0, 5000.0)
    bare.encoding["_FillValue"] = None
    finer = lkca.upscale(bare, "bicubic", scale=2).attrs
    assert finer["GeoTransform"] == "100 15 2 5000 -1 -15" and finer["transform"] == (15, 2, 100, -1, -15, 5000)
    bare.attrs["GeoTransform"] = "of no numbers"
    assert lkca.upscale(bare, "bicubic", scale=2).attrs["GeoTransform"] == "of no numbers"
    with pytest.raises(InputError, match=r"pick the cube with dataset\[NAME\], of 'reflectance'"):
        lkca.upscale(source.to_dataset(), "bicubic", scale=2)  # type: ignore[call-overload]


def test_a_grid_without_coordinates_lies_where_its_geotransform_says(scene: np.ndarray, tmp_path: Path) -> None:
    """As rioxarray opens rotated grids; xarray counts the pixels of a dimension that has no coordinate."""
    turned = Affine.translation(5000, 4000) @ Affine.rotation(30) @ Affine.scale(30, -30)
    place = {"crs_wkt": CRS.from_epsg(32610).to_wkt(), "GeoTransform": " ".join(map(str, turned.to_gdal()))}
    source = xarray.DataArray(scene, dims=("band", "y", "x"), coords={"spatial_ref": ((), 0, place)})
    lkca.upscale(source, "bicubic", scale=2, output=tmp_path / "o.tif")
    with lkca.open_cube(tmp_path / "o.tif") as cube:
        assert list(cube.meta.transform) == pytest.approx(list(turned @ Affine.scale(0.5)))


def test_ground_control_points_of_data_arrays(scene: np.ndarray, tmp_path: Path) -> None:
    """As rioxarray keeps them, beside a geotransform that says nothing."""
    features = [
        {
            "properties": {"id": str(row), "info": "", "row": row, "col": 9.0},
            "geometry": {"coordinates": [13.0, 52.0 - row]},
        }
        for row in (0.0, 6.0, 12.0)
    ]
    place = {"crs_wkt": CRS.from_epsg(4326).to_wkt(), "GeoTransform": "0.0 1.0 0.0 0.0 0.0 1.0"}
    place["gcps"] = json.dumps({"features": features})
    source = xarray.DataArray(scene, dims=("band", "y", "x"), coords={"spatial_ref": ((), 0, place)})
    finer = json.loads(lkca.upscale(source, "bicubic", scale=2).spatial_ref.attrs["gcps"])["features"]
    assert [(of["properties"]["row"], of["properties"]["col"]) for of in finer] == [(0, 18), (12, 18), (24, 18)]
    assert [of["geometry"] for of in finer] == [of["geometry"] for of in features]
    lkca.upscale(source, "bicubic", scale=2, output=tmp_path / "o.tif")
    with lkca.open_cube(tmp_path / "o.tif") as cube:
        assert [(point.row, point.col, point.y) for point in cube.meta.gcps] == [
            (0, 18, 52),
            (12, 18, 46),
            (24, 18, 40),
        ]
        assert CRS.from_wkt(cube.meta.gcps_crs) == CRS.from_epsg(4326)
    source.spatial_ref.attrs["gcps"] = "none"
    assert lkca.upscale(source, "bicubic", scale=2).spatial_ref.attrs["gcps"] == "none"


@pytest.mark.parametrize("by_band", [False, True])
def test_packed_values_of_data_arrays(scene: np.ndarray, tmp_path: Path, by_band: bool) -> None:
    """As rioxarray opens integers: the model and a file have the physical values, a DataArray is packed again."""
    factors = np.array([1e-4, 2e-4, 1e-4, 1e-4, 4e-4]) if by_band else np.full(5, 1e-4)
    packing = {"scales": tuple(factors), "add_offset": 0.1} if by_band else {"scale_factor": 1e-4, "add_offset": 0.1}
    packed = np.rint((scene - 0.1) / factors[:, None, None]).astype(np.int16)
    packed[:, 2, 3] = -9999
    source = xarray.DataArray(packed, dims=("band", "y", "x"), attrs={"_FillValue": np.array([-9999]), **packing})
    physical = np.where(packed == -9999, np.nan, packed * factors[:, None, None] + 0.1)
    expected = lkca.upscale(physical, "bicubic", scale=2)
    result = lkca.upscale(source, "bicubic", scale=2)
    assert result.attrs == source.attrs and (result[:, 4:6, 6:8] == -9999).all()
    unpacked = result.where(result != -9999).to_numpy() * factors[:, None, None] + 0.1
    np.testing.assert_allclose(unpacked, expected, atol=1e-6)
    lkca.upscale(source, "bicubic", scale=2, output=tmp_path / "o.tif")
    with lkca.open_cube(tmp_path / "o.tif") as cube:
        np.testing.assert_allclose(cube.read(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("attrs", "says"),
    [({"scale_factor": 0.0}, "scale_factor is 0.0"), ({"add_offset": math.nan}, "add_offset is nan"),
     ({"scales": (1e-4, 2e-4)}, "scales has 2 numbers for 5 bands"), ({"nodata": "none"}, "nodata is 'none'")],
)  # fmt: skip
def test_attributes_of_data_arrays_that_cannot_be(scene: np.ndarray, attrs: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        lkca.upscale(xarray.DataArray(scene, dims=("band", "y", "x"), attrs=attrs), "bicubic", scale=2)


def test_a_nodata_value_that_is_text(scene: np.ndarray) -> None:
    scene[:, 2, 3] = -9999
    source = xarray.DataArray(scene, dims=("band", "y", "x"), attrs={"missing_value": "-9999"})
    result = lkca.upscale(source, "bicubic", scale=2)
    assert (result[:, 4:6, 6:8] == -9999).all() and result.where(result != -9999).min() > -1


def test_dimensions_by_name(scene: np.ndarray) -> None:
    pace = ("wavelength_3d", "number_of_lines", "pixels_per_line")  # known in files too
    for dims in (("wavelength", "lat", "lon"), ("bands", "rows", "cols"), pace):
        result = lkca.upscale(xarray.DataArray(scene, dims=dims), "bicubic", scale=3)
        assert result.dims == dims and result.shape == (5, 36, 27)
    with pytest.raises(InputError, match="none is known to be its rows"):
        lkca.upscale(xarray.DataArray(scene, dims=("band", "p", "x")), "bicubic", scale=2)
    with pytest.raises(InputError, match="expected bands, rows, columns"):
        lkca.upscale(xarray.DataArray(scene[0], dims=("y", "x")), "bicubic", scale=2)


def test_other_kinds() -> None:
    with pytest.raises(InputError, match="a list cannot be upscaled"):
        lkca.upscale([[1.0]], "bicubic", scale=2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="nonsense"):
        lkca.upscale(Cube.from_array(np.zeros((2, 3, 3)), CubeMeta()), "bicubic", nonsense=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 1}, "the scale factor is 1; expected a whole number from 2"),
        ({"scale": 2.5}, "the scale factor is 2.5; expected"),
        ({"scale": "4"}, "the scale factor is '4'; expected"),
        ({"scale": True}, "the scale factor is True; expected"),
        ({"scale": 2, "tile": 0}, "the tile is 0; expected a whole number from 1"),
        ({"scale": 2, "tile": -3}, "the tile is -3; expected"),
        ({"scale": 2, "tile": True}, "the tile is True; expected"),
        ({"scale": 2, "roi": (0, 10, 0, 10)}, "the roi is (0, 10, 0, 10); expected text such as '0:200,100:400'"),
        ({"scale": 2, "memory": 2e9}, "the memory is 2000000000.0; expected text such as '2G'"),
        ({"scale": 2, "dtype": "int16", "resume": True}, "resume, dtype: of no use without an output file"),
        ({"scale": 2, "preview": "a.png"}, "preview: of no use without an output file"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        lkca.upscale(np.ones((2, 5, 4), dtype=np.float32), "bicubic", **options)


def test_a_part_of_a_dataarray_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    xarray = pytest.importorskip("xarray")
    source = xarray.DataArray(np.ones((3, 5, 4), dtype=np.float32), dims=("band", "y", "x"))
    monkeypatch.setattr("lkca.inference.kinds.Task", None)
    with pytest.raises(InputError, match="select the part first"):
        lkca.upscale(source, "bicubic", scale=2, roi="0:2,:")


def test_numbers_of_numpy_are_plain_ones_in_a_journal() -> None:
    options = SceneOptions(scale=np.int64(2), tile=np.int32(8))  # type: ignore[arg-type]
    assert json.dumps([options.scale, options.tile]) == "[2, 8]"


def test_paths_may_be_strings(tmp_path: Path) -> None:
    report = lkca.upscale(
        np.ones((3, 5, 4), dtype=np.float32),
        "bicubic",
        scale=2,
        dtype=np.float64,
        output=f"{tmp_path}/x.img",
        preview=f"{tmp_path}/x.png",
    )
    assert report.output == tmp_path / "x.img" and (tmp_path / "x.png").stat().st_size > 0


def test_the_general_model_where_none_is_named() -> None:
    """As on the command line; None, which might mean anything, is refused."""
    x = np.random.default_rng(0).random((5, 40, 36), dtype=np.float32) + 0.1
    result = lkca.upscale(x, scale=2)
    assert np.array_equal(result, lkca.upscale(x, "general", scale=2))
    assert not np.array_equal(result, lkca.upscale(x, "bicubic", scale=2))
    with pytest.raises(InputError, match="give -s with one of"):
        lkca.upscale(x)
    with pytest.raises(InputError, match=r"the model is None; leave it out for the general model, or give 'bicubic'"):
        lkca.upscale(x, None, scale=2)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"^int is no model; .*the scale factor is a keyword, scale=4"):
        lkca.upscale(x, 2)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("dtype", "top", "factor"),
    [
        ("int16", 1, 1e-4),
        ("uint8", 1, 0.01),
        ("int16", 2, 1e-3),  # 1e-4 would take most of the range
        ("int16", 20000, 1),
        ("uint8", 1500, 10),
        ("int16", 2e5, 10),
        ("uint8", 258, 1),  # rounded to tens all samples would lose more than the few that are clipped
    ],
)
def test_floats_that_become_integers_keep_their_digits(tmp_path: Path, dtype: str, top: float, factor: float) -> None:
    x = np.random.default_rng(0).random((5, 12, 9), dtype=np.float32) * np.float32(top)
    x[:, 2:4, 3:5] = np.nan
    report = lkca.upscale(x, "bicubic", scale=2, dtype=dtype, output=tmp_path / "x.img")
    assert any(f"with the scale factor {factor}" in words for words in report.notes) == (factor != 1)
    few = np.rint(x * np.float32(200 / top))
    counts = lkca.upscale(few, "bicubic", scale=2, dtype=dtype, output=tmp_path / "counts.img")
    assert not any("with the scale factor" in words for words in counts.notes)
    with lkca.open_cube(tmp_path / "x.img") as cube:
        assert cube.meta.stored_dtype == dtype and cube.meta.scale_factor == factor
        expected = lkca.upscale(x, "bicubic", scale=2)
        if dtype == "uint8":
            expected = expected.clip(0, 254 * factor)
        np.testing.assert_allclose(cube.read(), expected, atol=0.51 * factor)


def test_the_scale_of_stored_floats_is_that_of_good_bands_of_either_sign(tmp_path: Path) -> None:
    """Where there is one it stays."""
    values = np.stack([np.full((8, 8), -0.9), np.full((8, 8), 1e6)])
    floats = {"stored_dtype": np.dtype(np.float32), "good_bands": np.array([True, False])}
    for changes, factor in (({}, 1e-4), ({"scale_factor": 0.5}, 0.5), ({"offset": 0.5}, 1.0)):
        cube = Cube.from_array(values, CubeMeta(**floats, **changes))
        lkca.upscale(cube, "bicubic", scale=2, dtype="int16", output=tmp_path / "x.tif", overwrite=True)
        with lkca.open_cube(tmp_path / "x.tif") as written:
            assert written.meta.scale_factor == factor


def test_memory_that_does_not_suffice_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lkca.inference.plan.available_memory", lambda: 0)
    with pytest.raises(InputError, match=r"smallest tiles .* close other programs, or say with --memory"):
        lkca.upscale(np.zeros((3, 20, 20), np.float32), "bicubic", scale=2)
