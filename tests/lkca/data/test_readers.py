"""Axes, companions and conventions of the containers, on files made here."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io
from affine import Affine

from lkca.data import Window, open_cube, write_cube
from lkca.data.readers.arrays import guess_axes
from lkca.errors import InputError

CUBE = np.random.default_rng(0).integers(1, 4000, (5, 12, 9)).astype(np.uint16)  # bands, rows, cols
RCB = CUBE.transpose(1, 2, 0)
NM = np.linspace(400, 800, 5)


@pytest.mark.parametrize(
    ("shape", "counts", "axes"),
    [
        ((100, 100, 191), set(), "rcb"),
        ((191, 100, 100), set(), "brc"),
        ((100, 191, 100), set(), None),
        ((100, 191, 100), {191}, "rbc"),
        ((100, 120, 100), {100}, None),
        ((100, 100, 120), {100}, None),
        ((610, 340, 103), set(), "rcb"),
        ((64, 64, 64), {64}, None),
        ((64, 64, 64), set(), None),
        ((64, 96, 218), set(), "rcb"),
        ((103, 610, 340), set(), None),
        ((103, 610, 340), {103}, "brc"),
        ((64, 700, 900), set(), None),
        ((218, 64, 96), set(), "rcb"),
    ],
)
def test_axes_by_the_stated_rule(shape: tuple[int, ...], counts: set[int], axes: str | None) -> None:
    if axes is None:
        with pytest.raises(InputError, match="--axes"):
            guess_axes(shape, "x.mat", counts)
    else:
        assert guess_axes(shape, "x.mat", counts)[0] == axes


def test_a_guess_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 9), dtype=np.uint8))
    with open_cube(tmp_path / "x.npy") as cube:
        assert cube.shape == (4, 6, 9)
        assert "--axes" in cube.warnings[0]
    assert open_cube(tmp_path / "x.npy", axes="brc").shape == (6, 9, 4)
    assert not open_cube(tmp_path / "x.npy", axes="rcb").warnings
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 6), dtype=np.uint8))  # 4 bands, or as many bands as columns
    with open_cube(tmp_path / "x.npy") as cube:
        assert cube.shape == (6, 6, 4) and "bands, rows, columns" in cube.warnings[0]


@pytest.mark.parametrize("axes", ["rcb", "brc", "rbc", "crb", "bcr", "cbr"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5", ".v73.mat"])
def test_axes_override(tmp_path: Path, axes: str, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    array = np.ascontiguousarray(CUBE.transpose(["brc".index(axis) for axis in axes]))
    if suffix == ".npy":
        np.save(file, array)
    elif suffix == ".npz":
        np.savez(file, cube=array)
    elif suffix == ".mat":
        scipy.io.savemat(file, {"cube": array})
    elif suffix == ".h5":
        with h5py.File(file, "w") as h5:
            h5["cube"] = array
    else:
        write_v73(file, {"cube": array})
    with open_cube(file, axes=axes.upper()) as cube:
        assert cube.shape == (12, 9, 5)
        assert np.array_equal(cube.read(), CUBE)
        assert np.array_equal(cube.read(Window(2, 1, 3, 4), [4, 1]), CUBE[[4, 1], 2:5, 1:5])


def write_v73(file: Path, variables: dict[str, np.ndarray]) -> None:
    names = {"f8": "double", "f4": "single", "u2": "uint16", "u1": "uint8"}
    with h5py.File(file, "w", userblock_size=512) as h5:
        for name, value in variables.items():
            h5[name] = value.T  # MATLAB stores columns first, HDF5 shows the axes reversed
            h5[name].attrs["MATLAB_class"] = np.bytes_(names[value.dtype.str[1:]])
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


@pytest.mark.parametrize("write", [write_v73, scipy.io.savemat])
def test_matlab_companions_and_choice(tmp_path: Path, write: Callable[[Path, dict[str, np.ndarray]], None]) -> None:
    file = tmp_path / "x.mat"
    write(file, {
        "HSI": RCB, "gt": np.ones((12, 9)), "Wavelength": NM[:, None] / 1000, "bbl": np.uint8([[1, 1, 0, 1, 1]]),
        "other": np.ones((4, 3)),
    })  # fmt: skip
    with open_cube(file) as cube:
        assert cube.source.endswith("::HSI")
        assert np.allclose(cube.meta.wavelengths, NM)
        assert cube.good_bands.tolist() == [True, True, False, True, True]
        assert np.array_equal(cube.read(), CUBE)
    with pytest.raises(InputError, match="HSI 12x9x5, gt 12x9"):
        open_cube(f"{file}::nothing")
    assert open_cube(file, variable="hsi").shape == (12, 9, 5)
    with pytest.raises(InputError, match="give the picture size"):
        open_cube(f"{file}::gt")


@pytest.mark.parametrize("write", [write_v73, scipy.io.savemat])
def test_matlab_2d(tmp_path: Path, write: Callable[[Path, dict[str, np.ndarray]], None]) -> None:
    file = tmp_path / "x.mat"
    pixels = CUBE.transpose(0, 2, 1).reshape(5, 108)  # columns first
    write(file, {"Y": pixels.astype(np.float64)})
    assert np.array_equal(open_cube(file, shape=(12, 9)).read(), CUBE)
    write(file, {"Y": np.ascontiguousarray(pixels.T).astype(np.float64)})
    assert np.array_equal(open_cube(file, shape=(12, 9)).read(), CUBE)
    with pytest.raises(InputError, match="--shape ROWS,COLS"):
        open_cube(file)
    with pytest.raises(InputError, match="10 rows x 10 columns are 100 pixels"):
        open_cube(f"{file}::Y", shape=(10, 10))
    write(file, {"Y": pixels.astype(np.float64), "nRow": np.array([[12.0]]), "nCol": np.array([[9.0]])})
    assert np.array_equal(open_cube(file).read(), CUBE)


def test_two_cubes_are_not_guessed(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"a": RCB, "b": RCB})
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["vnir/cube"], h5["swir/cube"] = RCB, RCB
    np.savez(tmp_path / "x.npz", a=RCB, b=RCB)
    for name, choices in (("x.mat", "a 12x9x5, b"), ("x.h5", "/swir/cube 12x9x5, /vnir"), ("x.npz", "a 12x9x5, b")):
        with pytest.raises(InputError, match=choices):
            open_cube(tmp_path / name)
    assert open_cube(f"{tmp_path / 'x.mat'}::b").shape == (12, 9, 5)
    assert open_cube(f"{tmp_path / 'x.h5'}::/swir/cube").shape == (12, 9, 5)
    assert open_cube(tmp_path / "x.npz", variable="a").shape == (12, 9, 5)


def test_matlab_objects_and_complex_are_refused(tmp_path: Path) -> None:
    cells = np.empty((2, 2), dtype=object)
    cells[:] = "x"
    scipy.io.savemat(tmp_path / "x.mat", {"cells": cells, "z": RCB.astype(complex), "s": {"a": 1}})
    with pytest.raises(InputError, match="'cells' is a cell, not a numeric array"):
        open_cube(tmp_path / "x.mat", variable="cells")
    with pytest.raises(InputError, match="'z' is a complex double, not a numeric array"):
        open_cube(tmp_path / "x.mat", variable="z")
    scipy.io.savemat(tmp_path / "s.mat", {"scene": {"data": RCB}})
    for options in ({}, {"variable": "scene"}):
        with pytest.raises(InputError, match=r"struct scene is not looked into: .*cube = scene\.FIELD; save"):
            open_cube(tmp_path / "s.mat", **options)


def test_matlab_samples_of_unknown_type_are_refused(tmp_path: Path) -> None:
    """scipy 1.17 follows the type as an index, unchecked, and ends the process."""
    for compress in (False, True):
        scipy.io.savemat(tmp_path / "x.mat", {"cube": RCB}, do_compression=compress)
        raw = (tmp_path / "x.mat").read_bytes()
        variable = zlib.decompress(raw[136:]) if compress else raw[128:]
        at = variable.index(b"cube") + 4
        for unknown in (0, 8, 11, 14, 30, 200, 60000):
            spoiled = variable[:at] + unknown.to_bytes(4, "little") + variable[at + 4 :]
            if compress:
                stream = zlib.compress(spoiled)
                spoiled = struct.pack("<II", 15, len(stream)) + stream
            (tmp_path / "x.mat").write_bytes(raw[:128] + spoiled)
            with pytest.raises(InputError, match=f"unknown type {unknown}; it is damaged"):
                open_cube(tmp_path / "x.mat")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", cube=objects)
    with pytest.raises(InputError, match=r"x\.npy"):
        open_cube(tmp_path / "x.npy")
    with pytest.raises(InputError, match="no 3-D numeric array"):
        open_cube(tmp_path / "x.npz")


def test_netcdf_conventions(tmp_path: Path) -> None:
    from rasterio.crs import CRS

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


@pytest.mark.parametrize(
    ("mapping", "place", "epsg"),
    [("/crs", "crs", 4258), ("../crs", "crs", 4258), ("crs", "g/crs", 4258), ("m/crs", "g/m/crs", 4258),
     ("crs", "other/crs", None), ("crs: lat lon other: y x", "g/crs", 4258)],
)  # fmt: skip
@pytest.mark.parametrize("group", [False, True])
def test_grid_mapping_by_path(tmp_path: Path, mapping: str, place: str, epsg: int | None, group: bool) -> None:
    """One that was not found made degrees of ETRS89 those of WGS 84."""
    from rasterio.crs import CRS

    with h5py.File(tmp_path / "x.nc", "w") as h5:
        data = _in_degrees(h5, "g/reflectance", ("degrees_north", "degrees_east"))
        data.attrs["grid_mapping"] = mapping
        node = h5.create_group(place) if group else h5.create_dataset(place, data=0)
        node.attrs["crs_wkt"] = CRS.from_epsg(4258).to_wkt()
    with open_cube(tmp_path / "x.nc") as cube:
        assert cube.summary()["crs"] == (None if epsg is None else f"EPSG:{epsg}")
        assert cube.meta.transform is not None


def test_a_map_info_that_is_not_known_matters_only_without_another_crs(tmp_path: Path) -> None:
    from rasterio.crs import CRS

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


def test_emit_layout(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        h5["reflectance"] = RCB.astype(np.float32)
        h5["sensor_band_parameters/wavelengths"] = NM
        h5["sensor_band_parameters/fwhm"] = np.full(5, 8.5)
        h5["reflectance"].attrs["fwhm"] = 9.0  # no list
        h5["sensor_band_parameters/good_wavelengths"] = np.array([1, 1, 1, 0, 1.0])
        h5["location/glt_x"] = np.zeros((12, 9))
    with open_cube(tmp_path / "x.nc") as cube:
        assert np.array_equal(cube.meta.wavelengths, NM) and cube.meta.fwhm[0] == 8.5
        assert np.flatnonzero(~cube.good_bands).tolist() == [3]
        assert np.array_equal(cube.read(), CUBE)


def test_tanager_layout(tmp_path: Path) -> None:
    """The spectral lists are attributes of the cube, whose first axis holds the bands."""
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        cube = h5.create_dataset("HDFEOS/SWATHS/HYP/Data Fields/surface_reflectance", data=CUBE)
        cube.attrs["wavelengths"], cube.attrs["fwhm"] = NM, np.full(5, 5.5)
        cube.attrs["good_wavelengths"], cube.attrs["_FillValue"] = np.array([1, 1, 1, 0, 1]), np.uint16(0)
        cube.attrs["applied_radiometric_coefficients"] = np.ones(65)
        h5["HDFEOS/SWATHS/HYP/Geolocation Fields/Latitude"] = np.zeros((12, 9))
    with open_cube(tmp_path / "x.h5") as opened:
        assert opened.shape == (12, 9, 5) and not opened.warnings
        assert np.array_equal(opened.meta.wavelengths, NM) and opened.meta.fwhm[0] == 5.5
        assert np.flatnonzero(~opened.good_bands).tolist() == [3]
        assert "applied_radiometric_coefficients" not in opened.meta.tags  # no part of a long list


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


@pytest.mark.parametrize(
    ("zone", "change", "epsg"),
    [
        ("13", {}, 32613),
        ("-56", {}, 32756),
        ("13", {"SphereCode=12": "SphereCode=0"}, None),
        ("13", {"HE5_GCTP_UTM": "HE5_GCTP_GEO"}, None),
        ("13", {"XDim=9": "XDim=8"}, None),
        ("61", {}, None),
        ("13", {'"HYP"': '"OTHER"'}, None),
        ("13", {"(500010.00,": "(,"}, None),
        ("13", {"(500280.00,": "(500010.00,"}, None),
        ("13", {"3999660.00": "4000020.00"}, None),
        ("13", {"ZoneCode": "GridOrigin=HE5_HDFE_GD_LL\n\tZoneCode"}, None),
        ("13", {"ZoneCode": "GridOrigin=HE5_HDFE_GD_UL\n\tZoneCode"}, 32613),
    ],
)
@pytest.mark.parametrize("code", [None, "32612"])
def test_place_of_an_hdfeos_grid(
    tmp_path: Path, zone: str, change: dict[str, str], epsg: int | None, code: str | None
) -> None:
    lines = [
        "GROUP=GridStructure", "GROUP=GRID_1", 'GridName="B"', "XDim=9", "END_GROUP=GRID_1", "GROUP=GRID_2",
        'GridName="HYP"', "XDim=9", "YDim=12", "UpperLeftPointMtrs=(500010.00,4000020.00)",
        "LowerRightMtrs=(500280.00,3999660.00)", "Projection=HE5_GCTP_UTM", f"ZoneCode={zone}", "SphereCode=12",
        "END_GROUP=GRID_2", "END_GROUP=GridStructure",
    ]  # fmt: skip
    text = "\n\t".join(lines)
    for old, new in change.items():
        text = text.replace(old, new)
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        cube = h5.create_dataset("HDFEOS/GRIDS/HYP/Data Fields/surface_reflectance", data=CUBE)
        cube.attrs["wavelengths"] = NM
        h5["HDFEOS INFORMATION/StructMetadata.0"] = np.bytes_(text)
        if code is not None:
            h5["EPSG Code"] = np.bytes_(code)
    with open_cube(tmp_path / "x.h5") as opened:
        if epsg is None:
            assert opened.meta.transform is None
            assert opened.summary()["crs"] == (None if code is None else f"EPSG:{code}")  # another's word stays
        else:
            assert list(opened.meta.transform)[:6] == [30, 0, 500010, 0, -30, 4000020]
            assert opened.summary()["crs"] == f"EPSG:{epsg}"


def test_aviris3_layout(tmp_path: Path) -> None:
    """The cube stands in a group, its grid mapping and its map coordinates in the root."""
    from rasterio.crs import CRS

    with h5py.File(tmp_path / "x.nc", "w") as h5:
        cube = h5.create_dataset("reflectance/reflectance", data=CUBE)
        h5["reflectance/wavelength"] = NM
        h5["northing"], h5["easting"] = 4000000 - 5 * (np.arange(12) + 0.5), 500000 + 5 * (np.arange(9) + 0.5)
        for axis, name in enumerate(("reflectance/wavelength", "northing", "easting")):
            h5[name].make_scale(name)
            cube.dims[axis].attach_scale(h5[name])
        cube.attrs["grid_mapping"], h5["transverse_mercator"] = "transverse_mercator", 0
        h5["transverse_mercator"].attrs["spatial_ref"] = CRS.from_epsg(32611).to_wkt()
    with open_cube(tmp_path / "x.nc") as opened:
        assert opened.summary()["crs"] == "EPSG:32611" and not opened.warnings
        assert np.allclose(list(opened.meta.transform)[:6], [5, 0, 500000, 0, -5, 4000000])


@pytest.mark.parametrize("corners", ["centres", "edges", "other", None])
def test_prisma_layout(tmp_path: Path, corners: str | None) -> None:
    """Rows, bands, columns; two bands not measured; level 2 has a range and, as 2D, a place; level 1 a radiance."""
    name, nm = "HDFEOS/SWATHS/PRS_HCO/Data Fields/VNIR_Cube", np.array([0, 0, *NM[2::-1]])
    with h5py.File(tmp_path / "x.he5", "w") as h5:
        h5[name] = CUBE.transpose(1, 0, 2)
        h5[name.replace("VNIR", "SWIR")] = CUBE
        h5.attrs["List_Cw_Vnir"], h5.attrs["List_Fwhm_Vnir"] = nm.astype(np.float32), np.where(nm > 0, 9.5, 0)
        if corners is None:
            h5.attrs["ScaleFactor_Vnir"], h5.attrs["Offset_Vnir"] = 100.0, 2.0
        else:
            h5.attrs["L2ScaleVnirMin"], h5.attrs["L2ScaleVnirMax"] = np.float32(0.25), np.float32(0.75)
            cols, rows = {"centres": (8, 11), "edges": (9, 12), "other": (9, 13)}[corners]
            h5.attrs["Epsg_Code"] = np.uint32(32633)
            h5.attrs["Product_ULcorner_easting"], h5.attrs["Product_ULcorner_northing"] = 300000.0, 5000000.0
            h5.attrs["Product_LRcorner_easting"] = 300000.0 + 30 * cols
            h5.attrs["Product_LRcorner_northing"] = 5000000.0 - 30 * rows
    with open_cube(f"{tmp_path / 'x.he5'}::{name}") as cube:
        assert cube.shape == (12, 9, 3) and np.allclose(cube.meta.wavelengths, NM[2::-1]) and cube.meta.fwhm[0] == 9.5
        scale, offset = (0.01, -2.0) if corners is None else (0.5 / 65535, 0.25)
        assert np.allclose(cube.read(), CUBE[2:] * scale + offset)
        assert cube.meta.nodata == (None if corners is None else 0)
        assert bool(cube.warnings) == (corners == "other")
        assert cube.summary()["crs"] == ("EPSG:32633" if corners in ("centres", "edges") else None)
        if cube.meta.transform is not None:
            half = 15 if corners == "centres" else 0
            assert list(cube.meta.transform)[:6] == [30, 0, 300000 - half, 0, -30, 5000000 + half]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ScaleFactor_Vnir": None}, "InputError: .*ScaleFactor_Vnir of the file's root is missing"),
        ({"ScaleFactor_Vnir": 0.0}, "InputError: .*ScaleFactor_Vnir of the file's root is 0"),
        ({"Offset_Vnir": np.nan}, "InputError: .*Offset_Vnir of the file's root is nan"),
        ({"L2ScaleVnirMax": 0.5}, "InputError: .*L2ScaleVnirMin of the file's root is missing"),
        ({"Epsg_Code": 0}, "there is no Epsg_Code 0; the cube has no place"),
        ({"Epsg_Code": np.nan}, "there is no Epsg_Code nan; the cube has no place"),
        ({"Product_ULcorner_easting": np.nan}, "its corners do not fit .* the cube has no place"),
        ({"List_Fwhm_Vnir": None}, ""),
        ({}, ""),
    ],
)
def test_prisma_attributes_that_are_missing_or_impossible(tmp_path: Path, change: dict, message: str) -> None:
    attributes = {
        "List_Cw_Vnir": NM, "List_Fwhm_Vnir": np.full(5, 9.5), "ScaleFactor_Vnir": 100.0, "Offset_Vnir": 0.0,
        "Epsg_Code": 32633, "Product_ULcorner_easting": 3e5, "Product_ULcorner_northing": 5e6,
        "Product_LRcorner_easting": 3e5 + 270, "Product_LRcorner_northing": 5e6 - 360,
    }  # fmt: skip
    with h5py.File(tmp_path / "x.he5", "w") as h5:
        h5["VNIR_Cube"] = CUBE.transpose(1, 0, 2)
        h5.attrs.update({key: value for key, value in (attributes | change).items() if value is not None})
    if message.startswith("InputError: "):
        with pytest.raises(InputError, match=message.removeprefix("InputError: ")):
            open_cube(tmp_path / "x.he5")
        return
    with open_cube(tmp_path / "x.he5") as cube:
        assert cube.meta.scale_factor == 0.01 and np.array_equal(cube.meta.wavelengths, NM)
        assert (cube.meta.fwhm is None) == ("List_Fwhm_Vnir" in change)
        assert (cube.meta.transform is None) == (cube.meta.crs is None) == bool(message)
        assert bool(cube.warnings) == bool(message) and re.search(message, "".join(cube.warnings))


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


def test_pace_layout(tmp_path: Path) -> None:
    """Its dimensions are the root's, without values; the wavelengths' values stand in a group under the same name."""
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        cube = h5.create_dataset("geophysical_data/rhos", data=RCB)
        for axis, (name, size) in enumerate((("number_of_lines", 12), ("pixels_per_line", 9), ("wavelength_3d", 5))):
            h5.create_dataset(name, (size,), ">f4").make_scale(
                f"This is a netCDF dimension but not a netCDF variable.{size:10d}"
            )
            cube.dims[axis].attach_scale(h5[name])
        h5["zzz_band_parameters/wavelength_3d"], h5["zzz_band_parameters/wavelength"] = NM, np.arange(7.0)
    with open_cube(tmp_path / "x.nc") as opened:
        assert opened.shape == (12, 9, 5) and not opened.warnings
        assert np.array_equal(opened.meta.wavelengths, NM)


def write_tiff(file: Path, array: np.ndarray, **options) -> rasterio.io.DatasetWriter:
    return rasterio.open(
        file, "w", driver="GTiff", count=array.shape[0], height=array.shape[1], width=array.shape[2],
        dtype=array.dtype, transform=Affine(2, 0, 100, 0, -2, 200), **options,
    )  # fmt: skip


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"M\xfcnchen.npy")
    file.write_bytes(b"x")
    with pytest.raises(InputError, match="not UTF-8; rename it"):
        open_cube(file)


@pytest.mark.parametrize("bands", [1, 2])
def test_tiff_pages_beyond_the_first_are_told(tmp_path: Path, bands: int) -> None:
    """Bands as pages, which GDAL reads one by one, were a cube of one band; a second picture was left out unsaid."""
    file = tmp_path / "x.tif"
    for first in range(0, 4, bands):
        page = CUBE[first : first + bands]
        with write_tiff(file, page, APPEND_SUBDATASET="YES" if first else "NO") as dataset:
            dataset.write(page)
    if bands == 1:
        with pytest.raises(InputError, match=r"holds 4 pages .*stack them.*gdal_translate GTIFF_DIR:1:x\.tif one\.tif"):
            open_cube(file)
    else:
        with open_cube(file) as cube:
            assert np.array_equal(cube.read(), CUBE[:2]) and "2 pages; the first is read" in cube.warnings[0]


def test_only_a_tiff_has_pages(tmp_path: Path) -> None:
    with write_tiff(tmp_path / "x.tif", CUBE[:1]) as dataset:
        dataset.write(CUBE[:1])
    parts = "".join(f'<MDI key="SUBDATASET_{i}_NAME">x{i}</MDI>' for i in (1, 2))
    (tmp_path / "x.vrt").write_text(
        f'<VRTDataset rasterXSize="9" rasterYSize="12"><Metadata domain="SUBDATASETS">{parts}</Metadata>'
        '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename relativeToVRT="1">x.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with open_cube(tmp_path / "x.vrt") as cube:
        assert np.array_equal(cube.read(), CUBE[:1]) and not cube.warnings


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
        else:
            assert opened.meta.wavelengths is None


def test_geotiff_spectral_places(tmp_path: Path) -> None:
    with write_tiff(tmp_path / "imagery.tif", CUBE) as dataset:
        dataset.write(CUBE)
        for band in range(5):
            dataset.update_tags(band + 1, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=str(NM[band] / 1000), FWHM_UM=str(0.01))
    with write_tiff(tmp_path / "envi.tif", CUBE) as dataset:
        dataset.write(CUBE)
        lists = {"wavelength": "{" + ",".join(map(str, NM / 1000)) + "}", "bbl": "{1,0,1,1,1}"}
        dataset.update_tags(ns="ENVI", wavelength_units="Micrometers", **lists)
    with write_tiff(tmp_path / "description.tif", CUBE) as dataset:
        dataset.write(CUBE)
        for band in range(5):
            dataset.set_band_description(band + 1, f"{NM[band]} nm")
    with write_tiff(tmp_path / "none.tif", CUBE) as dataset:
        dataset.write(CUBE)
    for name in ("imagery", "envi", "description"):
        with open_cube(tmp_path / f"{name}.tif") as cube:
            assert np.allclose(cube.meta.wavelengths, NM), name
            assert cube.meta.transform == Affine(2, 0, 100, 0, -2, 200)
            assert cube.good_bands.all() == (name != "envi")
    assert np.allclose(open_cube(tmp_path / "imagery.tif").meta.fwhm, 10)
    assert open_cube(tmp_path / "none.tif").meta.wavelengths is None


def test_geotiff_scales_mask_and_nodata_per_band(tmp_path: Path) -> None:
    with write_tiff(tmp_path / "x.tif", CUBE, nodata=65535) as dataset:
        dataset.write(CUBE)
        dataset.scales, dataset.offsets = (0.1, 0.2, 0.3, 0.4, 0.5), (1.0,) * 5
        mask = np.full((12, 9), 255, dtype=np.uint8)
        mask[3, 4] = 0
    with open_cube(tmp_path / "x.tif") as cube:
        expected = CUBE * np.array([0.1, 0.2, 0.3, 0.4, 0.5])[:, None, None] + 1
        assert np.allclose(cube.read(), expected, rtol=1e-6)
        assert np.allclose(cube.select([3, 1]).read(), expected[[3, 1]], rtol=1e-6)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), write_tiff(tmp_path / "m.tif", CUBE) as dataset:
        dataset.write(CUBE)
        dataset.write_mask(mask)
    with open_cube(tmp_path / "m.tif") as cube:
        assert np.argwhere(~cube.valid_mask()).tolist() == [[3, 4]]
        assert cube.meta.stored_dtype == np.uint16
        write_cube(tmp_path / "out.tif", cube.read(), cube.meta)
        with rasterio.open(tmp_path / "out.tif") as dataset:
            assert set(dataset.dtypes) == {"uint16"} and dataset.nodata == 65535
            assert np.array_equal(dataset.read(), np.where(mask, CUBE, 65535))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), write_tiff(tmp_path / "m0.tif", CUBE, nodata=0) as dataset:
        dataset.write(CUBE)
        dataset.write_mask(mask)
    with open_cube(tmp_path / "m0.tif") as cube:
        assert cube.meta.nodata == 0 and np.argwhere(~cube.valid_mask()).tolist() == [[3, 4]]


def test_bands_with_different_nodata_values(tmp_path: Path) -> None:
    """A value that is nodata in one band is a sample in another: only a VRT can say so."""
    bands = ""
    for band, nodata in enumerate((None, -1, -2), start=1):
        samples = np.array([[[-1, -2, 5]]], dtype=np.int16)
        with write_tiff(tmp_path / f"{band}.tif", samples) as dataset:
            dataset.write(samples)
        declared = "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
        bands += (
            f'<VRTRasterBand dataType="Int16" band="{band}">{declared}<SimpleSource><SourceFilename relativeToVRT="1">'
            f"{band}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        )
    vrt = tmp_path / "x.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="1">{bands}</VRTDataset>')
    expected = [[-1, -2, 5], [np.nan, -2, 5], [-1, np.nan, 5]]
    with open_cube(vrt) as cube:
        np.testing.assert_array_equal(cube.read()[:, 0], expected)
        np.testing.assert_array_equal(cube.read(bands=[2, 0])[:, 0], [expected[2], expected[0]])
        assert cube.meta.stored_dtype == np.int16 and np.isnan(cube.meta.nodata)


def test_all_nodata_bands_are_bad(tmp_path: Path) -> None:
    array = CUBE.copy()
    array[2] = 0
    with write_tiff(tmp_path / "x.tif", array, nodata=0) as dataset:
        dataset.write(array)
    with open_cube(tmp_path / "x.tif") as cube:
        assert cube.good_bands.tolist() == [True, True, False, True, True]
        cube.check_usable()
    with write_tiff(tmp_path / "y.tif", array, nodata=0) as dataset:
        dataset.write(np.zeros_like(array))
    with open_cube(tmp_path / "y.tif") as cube, pytest.raises(InputError, match="no valid sample"):
        cube.check_usable()


@pytest.mark.parametrize(("dtype", "fill"), [(np.float32, -9999), (np.int32, -(2**31)), (np.uint16, 65535)])
def test_an_unnamed_nodata_value(tmp_path: Path, dtype: type, fill: int) -> None:
    """It is told, and can be said; the real scenes of test_real_files.py have no such warning."""
    stored = RCB.astype(dtype)
    stored[3:5, 2:6] = fill
    file = tmp_path / "x.npy"
    np.save(file, stored)
    with open_cube(file) as cube:
        assert any(f"hold {fill}, far from all others" in words for words in cube.warnings), cube.warnings
    with open_cube(file, nodata=fill) as cube:
        assert not any("far from all others" in words for words in cube.warnings) and cube.meta.nodata == fill
        assert np.isnan(cube.read()[:, 3:5, 2:6]).all() and np.isfinite(cube.read()).sum() == (12 * 9 - 8) * 5


def test_nodata_said_goes_before_the_files_own(tmp_path: Path) -> None:
    file = tmp_path / "x.tif"
    with rasterio.open(file, "w", driver="GTiff", width=9, height=12, count=5, dtype=np.uint16, nodata=CUBE.max()) as f:
        f.write(CUBE)
    with open_cube(file, nodata=CUBE[0, 0, 0]) as cube:
        assert np.array_equal(np.isnan(cube.read()), CUBE[0, 0, 0] == CUBE)
    with open_cube(file, nodata=-9999) as cube:
        assert "no sample of uint16 can be the nodata value -9999" in cube.warnings[0]
    np.save(tmp_path / "classes.npy", np.arange(12 * 9).reshape(12, 9, 1) % 3)
    with open_cube(tmp_path / "classes.npy", axes="rcb") as cube:
        assert not any("far from all others" in words for words in cube.warnings)
