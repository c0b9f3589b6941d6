"""NetCDF: what attributes say of missing samples, signs, CRS and place, and what other readers make of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from rasterio.crs import CRS

from lkca import upscale
from lkca.data import open_cube

from .samples import CUBE

UTM = {  # zone 11 north, as files before CF 1.7 describe it
    "grid_mapping_name": "transverse_mercator", "scale_factor_at_central_meridian": 0.9996, "false_easting": 500000.0,
    "longitude_of_central_meridian": -117.0, "latitude_of_projection_origin": 0.0, "false_northing": 0.0,
    "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563,
}  # fmt: skip
GRID = (30.0, 0.0, 500000.0, 0.0, -30.0, 4000000.0)


def _write(
    file: Path, stored: np.ndarray, attrs: dict[str, Any], mapping: dict[str, Any] | None = None, unit: str | None = "m"
) -> Path:
    """A cube of bands, rows and columns on GRID; unit: of its coordinates, None where it has none."""
    with h5py.File(file, "w") as h5:
        data = h5.create_dataset("reflectance", data=stored)
        data.attrs.update(attrs)
        size = 1000.0 if unit == "km" else 1.0
        y, x = (4000000 - 30 * (np.arange(12) + 0.5)) / size, (500000 + 30 * (np.arange(9) + 0.5)) / size
        for axis, (name, values) in enumerate({"band": np.arange(5.0), "y": y, "x": x}.items()):
            h5[name] = values
            h5[name].make_scale(name)
            if axis and unit is None:
                continue
            data.dims[axis].attach_scale(h5[name])
            if axis:
                h5[name].attrs["units"] = unit
        if mapping is not None:
            data.attrs["grid_mapping"], h5["crs"] = "crs", 0
            h5["crs"].attrs.update(mapping)
    return file


@pytest.mark.parametrize(
    ("dtype", "attrs", "nodata"),
    [
        ("f4", {"_FillValue": np.nan, "missing_value": -9999.0}, -9999.0),
        ("i2", {"_FillValue": -8888, "missing_value": -9999}, -8888.0),
        ("i4", {"missing_value": [-9999, -8888]}, -9999.0),
        ("i2", {"_FillValue": 10**6, "Data_Ignore_Value": "-9999", "nodata": -8888.0}, -9999.0),
    ],
)
def test_several_values_for_missing_samples(tmp_path: Path, dtype: str, attrs: dict[str, Any], nodata: float) -> None:
    """Only the first of them was missing: the others were reflectance, and NaN hid the one that mattered."""
    stored = CUBE.astype(dtype)
    stored[:, 2, 3] = -9999
    if "-8888" in str(attrs):
        stored[1, 4, 5] = -8888
    file = _write(tmp_path / "x.nc", stored, attrs)
    expected = np.where(stored < 0, np.nan, stored).astype(np.float32)
    with open_cube(file) as cube:
        assert np.array_equal(cube.read(), expected, equal_nan=True)
        assert (cube.meta.nodata, cube.meta.stored_dtype) == (nodata, np.dtype(dtype))
    upscale(file, "bicubic", scale=2, output=tmp_path / "x2.img")
    with open_cube(tmp_path / "x2.img") as finer:
        assert np.array_equal(np.isnan(finer.read()[:, ::2, ::2]), np.isnan(expected))
        assert (finer.meta.nodata, finer.meta.stored_dtype) == (nodata, np.dtype(dtype))
    if "_FillValue" in attrs and dtype == "i2":  # what is said with --nodata counts instead of the file's first
        with open_cube(file, nodata=1.0) as cube:
            assert np.isnan(cube.read()[stored == 1]).all()


@pytest.mark.parametrize("attrs", [{}, {"missing_value": -9999.0}])
@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8"])
def test_samples_that_were_never_written(tmp_path: Path, dtype: str, attrs: dict[str, float]) -> None:
    """Of a variable without _FillValue they hold the netCDF library's own, 1e37, which went through the model."""
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        data = h5.create_dataset(
            "reflectance", CUBE.shape, dtype, chunks=(5, 4, 3), fillvalue=np.dtype(dtype).type(9.969209968386869e36)
        )
        data[:, :8] = CUBE[:, :8]
        data.attrs.update(attrs)
    with open_cube(tmp_path / "x.nc", axes="brc") as cube:
        assert np.array_equal(cube.read()[:, :8], CUBE[:, :8]) and np.isnan(cube.read()[:, 8:]).all()
        assert cube.meta.nodata == attrs.get("missing_value", 9.969209968386869e36)  # as GDAL has it


@pytest.mark.parametrize(
    ("dtype", "attrs", "fill"),
    [
        ("i2", {}, -32767),
        ("u2", {}, 65535),
        (">i4", {"missing_value": -9999}, -2147483647),
        ("i2", {"_Unsigned": "true"}, -32767),
        ("u1", {}, None),  # of bytes each value may be meant
        ("i2", {"_FillValue": np.int16(-1)}, None),
    ],
)
def test_integers_that_were_never_written(tmp_path: Path, dtype: str, attrs: dict[str, Any], fill: int | None) -> None:
    """They were reflectance of -32767: the netCDF library names its own value in no attribute."""
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        library = {"u1": 255, "u2": 65535, "i2": -32767, ">i4": -2147483647}[dtype]
        data = h5.create_dataset("reflectance", CUBE.shape, dtype, chunks=(5, 4, 3), fillvalue=library)
        data[:, :8] = CUBE[:, :8] % 250
        data.attrs.update(attrs)
    with open_cube(tmp_path / "x.nc", axes="brc") as cube:
        assert np.array_equal(cube.read()[:, :8], CUBE[:, :8] % 250)
        assert np.isnan(cube.read()[:, 8:]).all() == (fill is not None)
        upscale(cube, "bicubic", scale=2, output=tmp_path / "x2.img")
    with open_cube(tmp_path / "x2.img") as finer:
        assert np.isnan(finer.read()[:, 16:]).all() == (fill is not None)


def test_a_fill_value_beside_that_of_the_library(tmp_path: Path) -> None:
    """That nothing names it is still told."""
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        data = h5.create_dataset("reflectance", CUBE.shape, "i2", fillvalue=-32767)
        data[...] = CUBE
        data[:, :3], data[:, 3] = -9999, -32767
    with open_cube(tmp_path / "x.nc", axes="brc") as cube:
        assert any("hold -9999, far from all others" in words for words in cube.warnings), cube.warnings


@pytest.mark.parametrize(
    ("dtype", "attrs", "low", "high"),
    [
        ("i2", {"valid_range": np.array([999, 3000], np.int16)}, 999, 3000),
        ("i2", {"valid_min": 998.5, "_FillValue": np.int16(-1)}, 999, np.inf),
        ("u2", {"valid_max": np.uint16(3000), "scale_factor": 0.01}, -np.inf, 3000),  # in packed units
        ("f4", {"valid_range": [999.0, 3000.1]}, 999, np.float32(3000.1)),  # which is more than 3000.1
        ("i2", {"valid_range": [0.0, 0.5], "scale_factor": 0.01}, -np.inf, np.inf),  # of what units?
        ("i2", {"valid_range": [0.0, 0.5], "Scale_Factor": 100.0}, -np.inf, np.inf),
        ("f4", {"valid_range": [0, 0]}, -np.inf, np.inf),  # somebody's default
        ("i2", {"valid_min": 0, "valid_max": 0}, -np.inf, np.inf),
        ("u2", {"valid_range": [0, 65535]}, -np.inf, np.inf),
        ("i2", {"valid_range": [3000, 999]}, -np.inf, np.inf),
        ("i2", {"valid_range": "none", "valid_min": [np.nan]}, -np.inf, np.inf),
    ],
)
def test_the_valid_range(tmp_path: Path, dtype: str, attrs: dict[str, Any], low: float, high: float) -> None:
    """Samples beyond it are missing; they went through the model."""
    stored = CUBE.astype(dtype)
    stored[1, 2, 3] = 3000.1
    valid = (stored >= low) & (stored <= high)
    factor = np.float32(attrs.get("scale_factor", 1 / attrs.get("Scale_Factor", 1.0)))
    file = _write(tmp_path / "x.nc", stored, attrs)
    with open_cube(file) as cube:
        np.testing.assert_allclose(cube.read(), np.where(valid, stored * factor, np.nan), rtol=1e-6)
        assert cube.meta.stored_dtype == np.dtype(dtype)
    upscale(file, "bicubic", scale=2, output=tmp_path / "x2.img")
    with open_cube(tmp_path / "x2.img") as finer:
        assert np.array_equal(np.isnan(finer.read()[:, ::2, ::2]), ~valid)
    with open_cube(file, nodata=1.0) as cube:  # the range may be wrong too
        assert np.array_equal(np.isnan(cube.read()), stored == 1)


@pytest.mark.parametrize("attrs", [{}, {"valid_range": np.array([0, 1], np.int8)}])
def test_samples_that_are_true_or_false(tmp_path: Path, attrs: dict[str, Any]) -> None:
    """The file was said to be damaged."""
    with open_cube(_write(tmp_path / "x.nc", CUBE > 1000, attrs)) as cube:
        assert np.array_equal(cube.read(), CUBE > 1000)


def test_half_precision(tmp_path: Path) -> None:
    """The netCDF library's value for samples that were never written is beyond it: numpy warned of the overflow."""
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["reflectance"] = CUBE.astype(np.float16)
    with open_cube(tmp_path / "x.h5", axes="brc") as cube:
        assert np.array_equal(cube.read(), CUBE.astype(np.float16))


def test_unsigned_samples(tmp_path: Path) -> None:
    """They were read as negative ones."""
    unsigned = CUBE.copy()
    unsigned[:, 1] += 40000
    unsigned[:, 2, 3] = 65535
    attrs = {"_Unsigned": "true", "_FillValue": np.int16(-1), "valid_range": np.array([0, -2], np.int16)}
    for named in (attrs, {name: value for name, value in attrs.items() if name != "valid_range"}):
        with open_cube(_write(tmp_path / "x.nc", unsigned.view(np.int16), named)) as cube:
            assert np.array_equal(cube.read(), np.where(unsigned == 65535, np.nan, unsigned), equal_nan=True)
            assert (cube.meta.nodata, cube.meta.stored_dtype) == (65535.0, np.dtype(np.uint16))


@pytest.mark.parametrize("unit", ["m", "km"])
@pytest.mark.parametrize(
    "mapping", [UTM, {"crs_wkt": CRS.from_epsg(32611).to_wkt()}, {"spatial_ref": "damaged", **UTM}]
)
def test_the_crs_of_a_grid_mapping(tmp_path: Path, mapping: dict[str, Any], unit: str) -> None:
    """By its parameters too, which were not read; coordinates in kilometres put the scene a thousand times too near."""
    with open_cube(_write(tmp_path / "x.nc", CUBE, {}, mapping, unit)) as cube:
        assert cube.meta.crs is not None and CRS.from_wkt(cube.meta.crs) == CRS.from_epsg(32611)
        assert np.allclose(list(cube.meta.transform)[:6], GRID)
        assert not cube.warnings


@pytest.mark.parametrize(
    ("mapping", "epsg"),
    [
        ({"grid_mapping_name": "lambert_azimuthal_equal_area", "latitude_of_projection_origin": 52.0,
          "longitude_of_projection_origin": 10.0, "false_easting": 4321000.0, "false_northing": 3210000.0}, 3035),
        ({"grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 0.0,
          "standard_parallel": -71.0, "latitude_of_projection_origin": -90.0, "false_easting": 0.0}, 3031),
        ({"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [49.0, 44.0], "false_easting": 700000.0,
          "longitude_of_central_meridian": 3.0, "latitude_of_projection_origin": 46.5, "false_northing": 6600000.0},
         2154),
    ],
)  # fmt: skip
def test_projections(tmp_path: Path, mapping: dict[str, Any], epsg: int) -> None:
    from rasterio.warp import transform

    mapping = {**mapping, "semi_major_axis": 6378137.0, "inverse_flattening": 298.257222101}
    with open_cube(_write(tmp_path / "x.nc", CUBE, {}, mapping)) as cube:
        assert cube.meta.crs is not None
        wgs84, north = CRS.from_epsg(4326), -80.0 if epsg == 3031 else 50.0
        found = transform(wgs84, CRS.from_wkt(cube.meta.crs), [5.0], [north])
        assert np.allclose(found, transform(wgs84, CRS.from_epsg(epsg), [5.0], [north]), atol=1.0)


def test_a_sphere_as_gdal_writes_it(tmp_path: Path) -> None:
    """Its inverse flattening of 0 lost MODIS's grid its CRS."""
    mapping = {"grid_mapping_name": "sinusoidal", "semi_major_axis": 6371007.181, "inverse_flattening": 0.0}
    with open_cube(_write(tmp_path / "x.nc", CUBE, {}, mapping)) as cube:
        assert cube.meta.crs is not None and not cube.warnings
        assert CRS.from_wkt(cube.meta.crs) == CRS.from_string("+proj=sinu +R=6371007.181 +units=m")


@pytest.mark.parametrize(
    "mapping",
    [
        {"grid_mapping_name": "vertical_perspective"},
        {"grid_mapping_name": "polar_stereographic", "standard_parallel": -71.0},  # of no pole: PROJ takes the equator
    ],
)
def test_an_unknown_grid_mapping_is_named(tmp_path: Path, mapping: dict[str, Any]) -> None:
    mapping = {**mapping, "semi_major_axis": 6378137.0}
    with open_cube(_write(tmp_path / "x.nc", CUBE, {}, mapping)) as cube:
        assert cube.meta.crs is None and cube.meta.transform is not None
        assert "grid mapping, crs, is none that can be read" in cube.warnings[0]


def test_the_transform_that_gdal_writes(tmp_path: Path) -> None:
    """Where no coordinates tell the place: of a turned grid there are none."""
    turned = (500000.0, 25.0, 15.0, 4000000.0, 15.0, -25.0)  # GDAL's order
    mapping = {**UTM, "GeoTransform": " ".join(map(str, turned)) + " "}
    with open_cube(_write(tmp_path / "x.nc", CUBE, {}, mapping, unit=None), axes="brc") as cube:
        assert cube.meta.transform is not None and cube.meta.transform.to_gdal() == turned
    with open_cube(_write(tmp_path / "y.nc", CUBE, {}, mapping)) as cube:  # coordinates count more: they follow a cut
        assert np.allclose(list(cube.meta.transform)[:6], GRID)


@pytest.mark.filterwarnings("ignore:variable 'reflectance' has multiple fill values")
def test_as_xarray_decodes_it(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    stored = CUBE.astype(np.int16)
    stored[:, 2, 3], stored[1, 4, 5] = -9999, -8888
    attrs = {"_FillValue": -8888, "missing_value": -9999, "scale_factor": 1e-4, "add_offset": -0.1}
    array = xarray.Variable(("band", "y", "x"), stored, attrs)
    decoded = xarray.conventions.decode_cf_variable("reflectance", array)
    with open_cube(_write(tmp_path / "x.nc", stored, attrs)) as cube:
        np.testing.assert_allclose(cube.read(), decoded.values, rtol=1e-5, atol=1e-7)
