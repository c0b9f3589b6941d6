"""Every genuine file of each format opens right: what its header or an independent reader says is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io
import spectral

from lkca.data import Cube, Window, open_cube

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def formats(real_data: Path) -> Path:
    return real_data / "formats"


def spatial_correlation(array: np.ndarray) -> float:
    """Correlation of neighbours in the band mean, the worse direction: near 1 for a picture in the right order."""
    picture = np.nanmean(array, axis=0)
    return min(
        float(np.corrcoef(picture[1:].ravel(), picture[:-1].ravel())[0, 1]),
        float(np.corrcoef(picture[:, 1:].ravel(), picture[:, :-1].ravel())[0, 1]),
    )


def assert_windows_agree(cube: Cube, whole: np.ndarray) -> None:
    window = Window(3, 5, 7, 9)
    bands = [0, cube.bands - 1, cube.bands // 2]
    expected = whole[(slice(None), *window.slices)]
    assert np.array_equal(cube.read(window), expected, equal_nan=True)
    assert np.array_equal(cube.read(window, bands), expected[bands], equal_nan=True)
    assert np.array_equal(cube.region(window).read(), expected, equal_nan=True)


@pytest.mark.parametrize("name", ["jasperRidge2_R198.hdr", "jasperRidge2_R198.img"])
def test_envi_bil_with_reflectance_scale(formats: Path, name: str) -> None:
    folder = formats / "envi_bil_jasper"
    with open_cube(folder / name) as cube:
        array = cube.read()
        assert cube.shape == (100, 100, 198)
        assert (cube.format, cube.meta.interleave, cube.meta.stored_dtype) == ("ENVI", "bil", np.int16)
        assert cube.meta.scale_factor == 1 / 10000
        assert cube.meta.wavelengths[[0, -1]].tolist() == [399.369995, 2457.23999]
        assert cube.meta.fwhm[0] == 9.53
        assert cube.good_bands.all() and cube.meta.good_bands is not None
        assert_windows_agree(cube, array)
    stored = np.fromfile(folder / "jasperRidge2_R198.img", dtype="<i2").reshape(100, 198, 100).transpose(1, 0, 2)
    assert np.array_equal(array, (stored / 10000).astype(np.float32))
    other = spectral.open_image(str(folder / "jasperRidge2_R198.hdr")).load()
    assert np.allclose(array.transpose(1, 2, 0), np.asarray(other), atol=1e-6)
    assert array.min() < 0  # over water, kept


@pytest.mark.parametrize("name", ["samson_1.img", "samson_1.img.hdr"])
def test_envi_bsq_with_map_info(formats: Path, name: str) -> None:
    with open_cube(formats / "envi_bsq_samson" / name) as cube:
        array = cube.read()
        assert cube.shape == (95, 95, 156)
        assert cube.meta.interleave == "bsq"
        assert cube.meta.transform[:6] == (1.0, 0.0, 612730.91, 0.0, -1.0, 4074488.708)
        assert cube.summary()["crs"] == "EPSG:32610"  # its CRS string is damaged (a false easting of 50 km)
        assert cube.meta.wavelengths[[0, -1]].tolist() == [400.938721, 899.074585]
        assert cube.meta.scale_factor == 1.0
        assert_windows_agree(cube, array)
    with rasterio.open(formats / "envi_bsq_samson" / "samson_1.img") as dataset:
        assert np.array_equal(array, dataset.read().astype(np.float32))


@pytest.mark.parametrize("name", ["hyperquest_test_data", "hyperquest_test_data.hdr"])
def test_envi_float_with_nodata_and_no_suffix(formats: Path, name: str) -> None:
    with open_cube(formats / "envi_emit_l1b_tiny" / name) as cube:
        array = cube.read()
        assert cube.shape == (25, 22, 285)
        assert (cube.meta.stored_dtype, cube.meta.nodata) == (np.float32, -9999.0)
        assert cube.meta.wavelengths[-1] == 2492.923828125
        assert cube.meta.band_names is None and cube.meta.crs is None  # both lists are {}
        assert cube.meta.tags["description"] == "Radiance micro-watts/cm^2/nm/sr"
        assert cube.good_bands.all()
        mask = cube.valid_mask()
        assert_windows_agree(cube, array)
    stored = np.fromfile(formats / "envi_emit_l1b_tiny" / "hyperquest_test_data", dtype="<f4").reshape(285, 25, 22)
    assert np.array_equal(np.isnan(array), stored == -9999)
    assert np.array_equal(array[np.isfinite(array)], stored[stored != -9999])
    assert np.array_equal(mask, (stored != -9999).all(axis=0)) and 0 < mask.mean() < 1


def test_envi_450_bands(formats: Path) -> None:
    with open_cube(formats / "envi_fenix_tiny" / "image.hdr") as cube:
        array = cube.read()
        assert cube.shape == (38, 23, 450)
        assert (cube.meta.stored_dtype, cube.meta.nodata) == (np.uint16, 0.0)
        assert cube.meta.scale_factor == 1 / 65535
        assert cube.meta.tags["sensor type"] == "Fenix"
        assert cube.meta.tags["binning"] == "4, 2"
        assert cube.meta.fwhm[0] == 3.36 and len(cube.meta.fwhm) == 450
        assert_windows_agree(cube, array)
    stored = np.fromfile(formats / "envi_fenix_tiny" / "image.dat", dtype="<u2").reshape(450, 38, 23)
    assert np.array_equal(array, np.where(stored == 0, np.nan, stored / 65535).astype(np.float32), equal_nan=True)


def test_geotiff_with_band_tags(formats: Path) -> None:
    path = formats / "geotiff" / "enmap_potsdam_tile_64_0.tif"
    with open_cube(path) as cube:
        array = cube.read()
        assert cube.shape == (32, 32, 224)
        assert (cube.meta.scale_factor, cube.meta.nodata) == (1e-4, -32768.0)
        assert cube.meta.wavelengths[0] == 418.24 and cube.meta.fwhm[0] == 6.99561
        assert cube.summary()["crs"] == "EPSG:32633" and cube.meta.gsd == 30.0
        assert np.flatnonzero(~cube.good_bands).tolist() == [129, 130, 131, 132, 133, 134]  # all nodata, bbl says 1
        assert cube.valid_mask().all()
        assert_windows_agree(cube, array)
    with rasterio.open(path) as dataset:
        stored = dataset.read().astype(np.float64)
    assert np.array_equal(array, np.where(stored == -32768, np.nan, stored * 1e-4).astype(np.float32), equal_nan=True)


def test_neon_hdf5(formats: Path) -> None:
    path = formats / "hdf5_neon" / "ex.h5"
    with open_cube(path) as cube:
        array = cube.read()
        assert cube.source.endswith("ex.h5::/SJER/Reflectance/Reflectance_Data")
        assert cube.shape == (30, 30, 426)
        assert (cube.meta.scale_factor, cube.meta.nodata, cube.meta.stored_dtype) == (1e-4, -9999.0, np.int32)
        assert cube.summary()["crs"] == "EPSG:32611"
        assert cube.meta.transform[:6] == (1.0, 0.0, 257000.0, 0.0, -1.0, 4112000.0)
        assert_windows_agree(cube, array)
    with h5py.File(path) as file:
        stored = file["SJER/Reflectance/Reflectance_Data"][:]
        assert np.array_equal(cube.meta.wavelengths, file["SJER/Reflectance/Metadata/Spectral_Data/Wavelength"][:])
    assert np.array_equal(array, (stored.transpose(2, 0, 1) / 1e4).astype(np.float32))
    with open_cube(f"{path}::SJER/Reflectance/Reflectance_Data") as named:
        assert np.array_equal(named.read(), array)


def test_matlab5_3d(formats: Path) -> None:
    path = formats / "matlab_v5" / "abu-airport-4.mat"
    with open_cube(path) as cube:
        array = cube.read()
        assert cube.source.endswith(".mat::data") and cube.shape == (100, 100, 191)
        assert_windows_agree(cube, array)
    assert np.array_equal(array.transpose(1, 2, 0), scipy.io.loadmat(path)["data"])
    assert spatial_correlation(array) > 0.8


def test_matlab5_2d_runs_down_the_columns_first(formats: Path) -> None:
    path = formats / "matlab_v5" / "jasperRidge2_R198.mat"
    with open_cube(path) as cube:  # rows and columns from nRow and nCol, the bands from nBand
        array = cube.read()
        assert cube.source.endswith(".mat::Y") and cube.shape == (100, 100, 198)
        assert_windows_agree(cube, array)
    with open_cube(f"{path}::Y", shape=(100, 100)) as named:
        assert np.array_equal(named.read(), array)
    with open_cube(formats / "envi_bil_jasper" / "jasperRidge2_R198.hdr") as envi:
        # the same scene: the file holds absolute values
        assert np.abs(np.abs(envi.read() * 10000) - array).max() < 0.01
    assert spatial_correlation(array) > 0.8


def test_square_scene_in_row_major_order_is_the_transpose(formats: Path) -> None:
    path = formats / "matlab_v5" / "jasperRidge2_R198.mat"
    column_major, row_major = open_cube(path).read(), open_cube(path, axes="brc").read()
    assert np.array_equal(column_major, row_major.transpose(0, 2, 1))


def test_column_major_order_gives_the_smooth_picture(tmp_path: Path, formats: Path) -> None:
    """On a scene that is not square only the right order of pixels gives a picture."""
    with open_cube(formats / "envi_bil_jasper" / "jasperRidge2_R198.hdr") as cube:
        crop = cube.read(Window(0, 0, 60, 100))
    file = tmp_path / "crop.mat"
    scipy.io.savemat(file, {"Y": crop.transpose(0, 2, 1).reshape(198, 6000)})  # MATLAB: reshape(permute(...))
    right, wrong = open_cube(file, shape=(60, 100)), open_cube(file, shape=(60, 100), axes="brc")
    assert np.array_equal(right.read(), crop)
    assert spatial_correlation(right.read()) > 0.8 > spatial_correlation(wrong.read())


def test_matlab73(formats: Path) -> None:
    with open_cube(formats / "matlab_v73" / "jasper_v73_REMADE.mat") as cube:
        array = cube.read()
        assert cube.shape == (100, 100, 198) and cube.format == "MATLAB v7.3"
        assert cube.meta.wavelengths[0] == 399.369995
        assert_windows_agree(cube, array)
    with open_cube(formats / "envi_bil_jasper" / "jasperRidge2_R198.hdr") as envi:
        assert np.abs(np.maximum(envi.read() * 10000, 0) - array).max() < 0.01


def test_every_npz(real_data: Path) -> None:
    files = sorted(real_data.glob("cubes/*.npz")) + sorted(real_data.glob("cave/*.npz"))
    assert len(files) >= 40
    for file in files:
        with np.load(file) as archive, open_cube(file) as cube:
            stored, meta = archive["cube"], json.loads(str(archive["meta"]))
            assert cube.shape == tuple(meta["shape"]) if "shape" in meta else cube.shape == stored.shape
            assert np.array_equal(cube.read(Window(0, 0, 5, 6)), stored[:5, :6].transpose(2, 0, 1).astype(np.float32))
            wavelengths = archive["wavelengths_nm"]
            assert (cube.meta.wavelengths is None) == (wavelengths.size == 0)
            if wavelengths.size:
                assert np.array_equal(cube.meta.wavelengths, wavelengths.astype(np.float64))
            assert cube.meta.tags["sensor"] == meta["sensor"]
            assert cube.meta.scale_factor == 1.0 and not cube.warnings
