"""HDF5 files in the layouts of products: EMIT, Tanager, AVIRIS-3, PRISMA, PACE, and the grids of HDF-EOS5."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from rasterio.crs import CRS

from lkca.data import open_cube
from lkca.errors import InputError

from .samples import CUBE, NM, RCB


def test_emit_layout(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.nc", "w") as h5:
        h5["reflectance"] = RCB.astype(np.float32)
        h5["sensor_band_parameters/wavelengths"] = NM
        h5["sensor_band_parameters/fwhm"] = np.full(5, 8.5)
        h5["reflectance"].attrs["fwhm"] = 9.0  # no list
        h5["sensor_band_parameters/good_wavelengths"] = np.array([1, 1, 1, 0, 1.0])
        h5["location/glt_x"], h5["location/lat"] = np.zeros((20, 19)), np.zeros((12, 9))
    with open_cube(tmp_path / "x.nc") as cube:
        assert np.array_equal(cube.meta.wavelengths, NM) and cube.meta.fwhm[0] == 8.5
        assert np.flatnonzero(~cube.good_bands).tolist() == [3]
        assert np.array_equal(cube.read(), CUBE) and cube.meta.transform is None
        assert (
            len(cube.warnings) == 1
            and "the latitude and longitude of each pixel (/location/lat), is not carried over" in cube.warnings[0]
        )


def test_tanager_layout(tmp_path: Path) -> None:
    """The spectral lists are attributes of the cube, whose first axis holds the bands."""
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        cube = h5.create_dataset("HDFEOS/SWATHS/HYP/Data Fields/surface_reflectance", data=CUBE)
        cube.attrs["wavelengths"], cube.attrs["fwhm"] = NM, np.full(5, 5.5)
        cube.attrs["good_wavelengths"], cube.attrs["_FillValue"] = np.array([1, 1, 1, 0, 1]), np.uint16(0)
        cube.attrs["applied_radiometric_coefficients"] = np.ones(65)
        h5["HDFEOS/SWATHS/HYP/Geolocation Fields/Latitude"] = np.zeros((12, 9))
    with open_cube(tmp_path / "x.h5") as opened:
        assert opened.shape == (12, 9, 5) and len(opened.warnings) == 1
        assert "(/HDFEOS/SWATHS/HYP/Geolocation Fields/Latitude), is not carried over" in opened.warnings[0]
        assert np.array_equal(opened.meta.wavelengths, NM) and opened.meta.fwhm[0] == 5.5
        assert np.flatnonzero(~opened.good_bands).tolist() == [3]
        assert "applied_radiometric_coefficients" not in opened.meta.tags  # no part of a long list


def test_the_uncertainty_beside_a_cube(tmp_path: Path) -> None:
    """As in Tanager's orthorectified reflectance and in PACE's; of other pairs one has to be named."""
    for file, second in (("x.h5", "x_uncertainty"), ("y.h5", "x_unc"), ("z.h5", "x_smooth")):
        with h5py.File(tmp_path / file, "w") as h5:
            for name, cube in (("x", CUBE), (second, CUBE * 0)):
                h5[f"Data Fields/{name}"] = cube
                h5[f"Data Fields/{name}"].attrs["wavelengths"] = NM
    for file in ("x.h5", "y.h5"):
        with open_cube(tmp_path / file) as opened:
            assert opened.source.endswith("::/Data Fields/x") and np.array_equal(opened.read(), CUBE)
    with pytest.raises(InputError, match="several arrays that may be the cube"):
        open_cube(tmp_path / "z.h5")


def test_neon_layout(tmp_path: Path) -> None:
    """Its first version has a quality layer of three colours beside the cube, which alone fits the wavelengths."""
    site = "SERC/Reflectance"
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5[f"{site}/Reflectance_Data"] = RCB
        h5[f"{site}/Metadata/Ancillary_Imagery/Weather_Quality_Indicator"] = np.zeros((12, 9, 3), dtype=np.uint8)
        h5[f"{site}/Metadata/Spectral_Data/Wavelength"] = NM
    with open_cube(tmp_path / "x.h5") as cube:
        assert cube.source.endswith(f"::/{site}/Reflectance_Data") and np.array_equal(cube.read(), CUBE)
        assert np.array_equal(cube.meta.wavelengths, NM)


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


def test_hico_layout(tmp_path: Path) -> None:
    """Radiance with the slope and intercept of NASA's older files, beside a picture in three colours."""
    with h5py.File(tmp_path / "x.L1B_ISS", "w") as h5:
        h5["products/Lt"], h5["images/true_color"] = RCB, np.zeros((12, 9, 3), dtype=np.uint8)
        attributes = h5["products/Lt"].attrs
        attributes["wavelengths"], attributes["slope"] = NM.astype(np.float32), np.float32([0.02])
        attributes["intercept"] = np.float32([0.5])
    with open_cube(tmp_path / "x.L1B_ISS") as opened:
        assert np.allclose(opened.read(), CUBE * 0.02 + 0.5) and np.array_equal(opened.meta.wavelengths, NM)
        assert not opened.meta.tags.keys() & {"slope", "intercept"}


@pytest.mark.parametrize("packing", [{"scale_factor": 1e-4}, {"Scale_Factor": 1e4}])
def test_a_scale_factor_goes_before_a_slope(tmp_path: Path, packing: dict[str, float]) -> None:
    """A slope beside it may be that of a calibration that is done."""
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["cube"] = RCB
        h5["cube"].attrs.update(slope=0.02, intercept=0.5, **packing)
    with open_cube(tmp_path / "x.h5") as opened:
        assert np.allclose(opened.read(), CUBE * 1e-4)
