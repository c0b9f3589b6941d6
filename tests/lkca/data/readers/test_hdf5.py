"""HDF5 and NetCDF4: where scale, place and spectral lists stand by the conventions."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from rasterio.crs import CRS

from lkca.data import Window, open_cube
from lkca.errors import InputError

from .samples import CUBE, NM, RCB


def test_netcdf_conventions(tmp_path: Path) -> None:
    file = tmp_path / "x.nc"
    stored = CUBE.astype(np.int16)
    stored[1, 2, 3] = -32768
    with h5py.File(file, "w") as h5:
        data = h5.create_dataset("reflectance", data=stored, chunks=(2, 5, 5), compression="gzip")
        data.attrs.update(
            {"scale_factor": 0.5, "add_offset": 1.0, "_FillValue": np.int16(-32768), "grid_mapping": "crs"}
        )
        h5["wavelength"] = NM / 1000
        h5["wavelength"].attrs["units"] = "um"
        h5["y"] = 4000000 - 30 * (np.arange(12) + 0.5)
        h5["x"] = 500000 + 30 * (np.arange(9) + 0.5)
        for axis, name in enumerate(("wavelength", "y", "x")):
            h5[name].make_scale(name)
            data.dims[axis].attach_scale(h5[name])
        h5["crs"] = 0
        h5["crs"].attrs["crs_wkt"] = CRS.from_epsg(32610).to_wkt()
        h5.attrs["title"] = "a test"
    with open_cube(file) as cube:
        expected = np.where(stored == -32768, np.nan, stored * 0.5 + 1)
        assert np.array_equal(cube.read(), expected.astype(np.float32), equal_nan=True)
        assert np.allclose(cube.meta.wavelengths, NM)
        assert np.allclose(list(cube.meta.transform)[:6], [30, 0, 500000, 0, -30, 4000000])
        assert (cube.format, cube.summary()["crs"]) == ("NetCDF4", "EPSG:32610")
        assert cube.meta.tags["title"] == "a test" and not cube.warnings


def _in_degrees(h5: h5py.File, name: str, units: tuple[str, str]) -> h5py.Dataset:
    """A cube with coordinate variables, of latitude and longitude in these units."""
    data = h5.create_dataset(name, data=CUBE)
    h5["band"], h5["lat"], h5["lon"] = NM, 50 - 0.1 * np.arange(12), 10 + 0.1 * np.arange(9)
    for axis, dimension in enumerate(("band", "lat", "lon")):
        h5[dimension].make_scale(dimension)
        data.dims[axis].attach_scale(h5[dimension])
    h5["lat"].attrs["units"], h5["lon"].attrs["units"] = units
    return data


@pytest.mark.parametrize(
    ("units", "mapping", "epsg"),
    [
        (("degrees_north", "degrees_east"), None, 4326),
        (("degree_N", "degreesE"), {"grid_mapping_name": "latitude_longitude", "semi_major_axis": 6378137.0}, 4326),
        (("degrees_north", "degrees_east"), {"grid_mapping_name": "latitude_longitude", "earth_radius": 6371e3}, None),
        (("degrees_north", "degrees_east"), {"grid_mapping_name": "rotated_latitude_longitude"}, None),
        (("degrees", "degrees"), None, None),
        (("degrees_east", "degrees_north"), None, None),
    ],
)
def test_netcdf_degrees(tmp_path: Path, units: tuple[str, str], mapping: dict | None, epsg: int | None) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        data = _in_degrees(h5, "reflectance", units)
        if mapping is not None:
            data.attrs["grid_mapping"], h5["crs"] = "crs", 0
            h5["crs"].attrs.update(mapping)
    with open_cube(tmp_path / "x.nc") as cube:
        assert cube.summary()["crs"] == (None if epsg is None else f"EPSG:{epsg}")
        assert np.allclose(list(cube.meta.transform)[:6], [0.1, 0, 9.95, 0, -0.1, 50.05])


def test_uneven_coordinates_are_no_grid(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        _in_degrees(h5, "reflectance", ("degrees_north", "degrees_east"))
        h5["lon"][4] += 0.03
    with open_cube(tmp_path / "x.nc") as cube:
        assert cube.meta.transform is None


def test_spectral_lists_are_those_of_the_cubes_group(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        for group, first in (("swir", 1000), ("vnir", 0)):
            h5[f"{group}/cube"], h5[f"{group}/bands/wavelength"] = RCB, NM + first
    for group, first in (("swir", 1000), ("vnir", 0)):
        with open_cube(f"{tmp_path / 'x.h5'}::/{group}/cube") as cube:
            assert np.array_equal(cube.meta.wavelengths, NM + first)


@pytest.mark.parametrize(
    ("mapping", "place", "epsg"),
    [("/crs", "crs", 4258), ("../crs", "crs", 4258), ("crs", "g/crs", 4258), ("m/crs", "g/m/crs", 4258),
     ("crs", "other/crs", None), ("crs: lat lon other: y x", "g/crs", 4258)],
)  # fmt: skip
@pytest.mark.parametrize("group", [False, True])
def test_grid_mapping_by_path(tmp_path: Path, mapping: str, place: str, epsg: int | None, group: bool) -> None:
    """One that was not found made degrees of ETRS89 those of WGS 84."""
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        data = _in_degrees(h5, "g/reflectance", ("degrees_north", "degrees_east"))
        data.attrs["grid_mapping"] = mapping
        node = h5.create_group(place) if group else h5.create_dataset(place, data=0)
        node.attrs["crs_wkt"] = CRS.from_epsg(4258).to_wkt()
    with open_cube(tmp_path / "x.nc") as cube:
        assert cube.summary()["crs"] == (None if epsg is None else f"EPSG:{epsg}")
        assert cube.meta.transform is not None


def test_a_map_info_that_is_not_known_matters_only_without_another_crs(tmp_path: Path) -> None:
    for wkt in (None, CRS.from_epsg(32610).to_wkt()):
        with h5py.File(tmp_path / "x.h5", "w") as h5:
            data = h5.create_dataset("reflectance", data=CUBE)
            data.dims[0].label, data.dims[1].label, data.dims[2].label = "band", "y", "x"
            h5["Map_Info"] = "Robinson, 1, 1, 10, 50, 30, 30, WGS-84"
            if wkt is not None:
                data.attrs["grid_mapping"], h5["crs"] = "crs", 0
                h5["crs"].attrs["crs_wkt"] = wkt
        with open_cube(tmp_path / "x.h5", axes="brc") as cube:
            assert any("the cube has no CRS" in words for words in cube.warnings) == (wkt is None)
            assert (cube.meta.crs is None) == (wkt is None) and cube.meta.transform.a == 30


def test_hdf5_attributes_that_are_no_lists_of_bands(tmp_path: Path) -> None:
    """As long as the rows, or single numbers of a cube of one row: the datasets and their units stay."""
    for rows, fwhm in ((12, 9.0), (1, 9.0), (1, np.array([9.0]))):
        with h5py.File(tmp_path / "x.h5", "w") as h5:
            cube = h5.create_dataset("cube", data=RCB[:rows])
            h5["wavelength"], h5["fwhm"] = 1e7 / NM, np.full(5, 5.0)
            h5["wavelength"].attrs["units"] = "cm-1"
            cube.attrs["wavelengths"], cube.attrs["fwhm"] = np.arange(1.0, rows + 1), fwhm
        with open_cube(tmp_path / "x.h5", axes="rcb" if rows == 12 else None) as opened:
            assert opened.shape == (rows, 9, 5) and np.allclose(opened.meta.wavelengths, NM)
            assert np.allclose(opened.meta.fwhm, 5 * NM**2 / 1e7)


def test_hdf5_wavelengths_of_the_cube_go_before_datasets(tmp_path: Path) -> None:
    """By whatever name; units of the dataset are not theirs. A cube of one band has a list of one."""
    for bands in (5, 1):
        with h5py.File(tmp_path / "x.h5", "w") as h5:
            cube = h5.create_dataset("cube", data=RCB[..., :bands])
            h5["wavelength"] = np.full(bands, 5000.0)
            h5["wavelength"].attrs["units"] = "cm-1"
            cube.attrs["wavelengths"] = NM[:bands]
        with open_cube(tmp_path / "x.h5") as opened:
            assert opened.shape == (12, 9, bands) and np.array_equal(opened.meta.wavelengths, NM[:bands])


@pytest.mark.parametrize("name", ["scale_factor", "Scale_Factor"])
def test_hdf5_scales_by_band(tmp_path: Path, name: str) -> None:
    """The first number of a list was the scale of all bands, without a word."""
    scale, offset = np.array([0.5, 1, 2, 4, 8]), np.arange(5.0)
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        cube = h5.create_dataset("cube", data=CUBE)
        cube.attrs[name], cube.attrs["add_offset"] = scale, offset
    factor = 1 / scale if name == "Scale_Factor" else scale
    with open_cube(tmp_path / "x.h5", axes="brc") as opened:
        expected = CUBE * factor[:, None, None] + offset[:, None, None]
        assert np.allclose(opened.read(), expected) and np.array_equal(opened.meta.scale_factor, factor)
    for values in ([3.0, 3.0], scale[:4]):
        with h5py.File(tmp_path / "x.h5", "a") as h5:
            h5["cube"].attrs[name], h5["cube"].attrs["add_offset"] = values, 0.0
        if len(values) == 2:  # all the same: as good as one
            with open_cube(tmp_path / "x.h5", axes="brc") as opened:
                assert opened.meta.scale_factor == (3.0 if name == "scale_factor" else 1 / 3.0)
        else:
            with pytest.raises(InputError, match=f"{name} lists 4 numbers for 5 bands; expected one or 5"):
                open_cube(tmp_path / "x.h5", axes="brc")


@pytest.mark.parametrize("name", ["scale_factor", "add_offset"])
def test_an_infinite_scale_is_refused(tmp_path: Path, name: str) -> None:
    """It was taken for no scale at all."""
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        cube = h5.create_dataset("cube", data=CUBE)
        cube.attrs[name], cube.attrs["_FillValue"] = np.inf, np.inf
    with pytest.raises(InputError, match=r"(scale factor|offset) is inf"):
        open_cube(tmp_path / "x.h5", axes="brc")
    with h5py.File(tmp_path / "x.h5", "a") as h5:
        del h5["cube"].attrs[name]
    with open_cube(tmp_path / "x.h5", axes="brc") as opened:  # such a nodata value is no sample's
        assert np.array_equal(opened.read(), CUBE)


@pytest.mark.parametrize("units", ["nm", "um", "1", None])
def test_netcdf_band_coordinate(tmp_path: Path, units: str | None) -> None:
    values = NM / 1000 if units == "um" else NM
    with h5py.File(tmp_path / "x.nc", "w") as file:
        cube = file.create_dataset("reflectance", data=CUBE)
        file["channel"] = values
        file["channel"].make_scale("channel")
        cube.dims[0].attach_scale(file["channel"])
        if units is not None:
            file["channel"].attrs["units"] = units
    with open_cube(tmp_path / "x.nc", axes="brc") as opened:
        if units in ("nm", "um"):
            np.testing.assert_allclose(opened.meta.wavelengths, NM)
        else:  # of a time or a number nobody says that it is a wavelength, so there is nothing to warn of
            assert opened.meta.wavelengths is None and opened.warnings == ()


@pytest.mark.parametrize("count", [7, 12])
def test_a_list_of_another_length_among_the_cubes_attributes_is_told(tmp_path: Path, count: int) -> None:
    """Also where it is as long as another axis."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["cube"] = CUBE
        file["cube"].attrs["wavelength"] = np.linspace(400, 700, count)
    with open_cube(tmp_path / "x.h5", axes="brc") as opened:
        assert opened.meta.wavelengths is None
        assert [f"wavelength lists {count} values for 5 bands" in note for note in opened.warnings] == [True]
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["wl"] = NM
    with open_cube(tmp_path / "x.h5", axes="brc") as opened:
        np.testing.assert_allclose(opened.meta.wavelengths, NM)
        assert opened.warnings == ()


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((1, 5, 12, 9), ("time", "band", "y", "x")),
        ((12, 1, 9, 5), ("y", "time", "x", "band")),
        ((1, 12, 9, 1, 5), ("time", "lat", "lon", "level", "wavelength")),
    ],
)
def test_a_time_of_one_step(tmp_path: Path, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    """As xarray writes cubes with a time, which were refused."""
    order = [
        role for role in "".join({"band": "b", "wavelength": "b", "y": "r", "lat": "r"}.get(n, "c") for n in names)
    ]
    kept = [role for role, size in zip(order, shape, strict=True) if size > 1]
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        stored = CUBE.transpose(["brc".index(role) for role in kept]).reshape(shape)
        data = h5.create_dataset("reflectance", data=stored, chunks=tuple(min(size, 4) for size in shape))
        for axis, (name, size) in enumerate(zip(names, shape, strict=True)):
            h5[name] = 100 - 2.0 * np.arange(size) if name in ("y", "lat") else 400 + 10.0 * np.arange(size)
            h5[name].make_scale(name)
            data.dims[axis].attach_scale(h5[name])
    with open_cube(tmp_path / "x.nc") as cube:
        assert np.array_equal(cube.read(), CUBE)
        assert np.array_equal(cube.read(Window(2, 1, 3, 4), [4, 1]), CUBE[[4, 1], 2:5, 1:5])
        assert list(cube.meta.transform)[:6] == [10, 0, 395, 0, -2, 101]
        assert (cube.meta.wavelengths is None) == ("band" in names)
    with h5py.File(tmp_path / "x.nc", "a") as h5:
        h5["other"] = RCB + 1  # an array of three axes goes before it
    with open_cube(tmp_path / "x.nc") as other, open_cube(tmp_path / "x.nc::/reflectance") as named:
        assert np.array_equal(other.read(), CUBE + 1) and np.array_equal(named.read(), CUBE)


def test_a_coordinate_that_was_deleted(tmp_path: Path) -> None:
    """The axis still refers to it; the file was said to be damaged."""
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        h5["reflectance"], h5["beside"] = RCB, RCB[None, None]
        for axis, (name, size) in enumerate({"y": 12, "x": 9, "wavelength": 5}.items()):
            h5[name] = 400.0 + 100 * np.arange(size)
            h5[name].make_scale(name)
            h5["reflectance"].dims[axis].attach_scale(h5[name])
            h5["beside"].dims[axis + 2].attach_scale(h5[name])
        del h5["x"]
    with open_cube(f"{tmp_path / 'x.nc'}::reflectance") as cube:
        assert np.array_equal(cube.read(), CUBE)
        assert np.array_equal(cube.meta.wavelengths, NM)


def test_named_axes_of_length_1_count(tmp_path: Path) -> None:
    """Of one band at several times that axis was left out, and the times were taken for rows; one band at one time was
    refused."""
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        for name, times in (("single", 1), ("series", 3)):
            h5[name] = np.arange(times * 20.0).reshape(times, 1, 4, 5)
            for axis, dim in enumerate(("time", "band", "y", "x")):
                h5[name].dims[axis].label = dim
    with open_cube(f"{tmp_path / 'x.nc'}::single") as cube:
        assert np.array_equal(cube.read(), np.arange(20).reshape(1, 4, 5))
    with pytest.raises(InputError, match="is an array of 3x1x4x5; a cube has three axes"):
        open_cube(f"{tmp_path / 'x.nc'}::series")


def test_widths_in_units_of_their_own(tmp_path: Path) -> None:
    """They were taken to be in those of the wavelengths."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["cube"], file["wavelength"], file["fwhm"] = RCB, NM, np.full(5, 0.009)
        file["wavelength"].attrs["units"], file["fwhm"].attrs["units"] = "nm", "um"
    with open_cube(tmp_path / "x.h5") as opened:
        np.testing.assert_allclose(opened.meta.wavelengths, NM)
        np.testing.assert_allclose(opened.meta.fwhm, 9)


_REFERENCES = h5py.vlen_dtype(h5py.ref_dtype)
_NO_AXES = {  # where HDF5's own functions end the process
    "DIMENSION_LIST": (b"\xff", np.array([1, 2, 2**40]), h5py.Empty("f8"), "reference", "group", "null", "none"),
    "DIMENSION_LABELS": (2.0, np.arange(3.0), b"x", h5py.Empty("f8"), "reference"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in _NO_AXES.items() for value in values])
def test_axes_that_are_described_in_other_types(tmp_path: Path, name: str, value: object) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        data = _in_degrees(h5, "reflectance", ("degrees_north", "degrees_east"))
        targets = {"reference": data.ref, "group": h5.create_group("g").ref, "null": h5py.Reference()}
        del data.attrs["DIMENSION_LIST"]
        if isinstance(value, str) and value == "reference":
            data.attrs.create(name, np.array([data.ref] * 3, dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
        elif isinstance(value, str):
            lists = np.empty(3, dtype=object)
            for axis in range(3):
                lists[axis] = np.array([targets[value]] if value in targets else [], dtype=h5py.ref_dtype)
            data.attrs.create(name, lists, dtype=_REFERENCES)
        else:
            data.attrs[name] = value
    with open_cube(tmp_path / "x.nc", axes="brc") as cube:
        assert np.array_equal(cube.read(), CUBE) and cube.meta.transform is None


def test_wavelengths_in_no_unit_of_theirs_are_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["cube"], h5["wavelength"] = RCB, NM
        h5["wavelength"].attrs["units"] = "furlongs"
    with open_cube(tmp_path / "x.h5") as cube:
        assert cube.meta.wavelengths is None
        assert "its wavelengths (units: furlongs) are none that can be in nm" in cube.warnings[0]
