"""What a file says of itself survives ``lkca upscale``, from format to format, by the judgement of GDAL and SPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import spectral
from affine import Affine
from rasterio.crs import CRS
from typer.testing import CliRunner

import lkca
from lkca.cli.app import app
from lkca.data import Cube, open_cube

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
SCALE = 2
FILES = {
    "jasper": "envi_bil_jasper/jasperRidge2_R198.hdr",  # reflectance scale factor, fwhm, bad bands
    "samson": "envi_bsq_samson/samson_1.img.hdr",  # map info
    "emit": "envi_emit_l1b_tiny/hyperquest_test_data",  # nodata, acquisition times
    "fenix": "envi_fenix_tiny/image.hdr",  # nodata, scale factor, many acquisition tags
    "enmap": "geotiff/enmap_potsdam_tile_64_0.tif",  # nodata, scale, empty bands, acquisition time, CRS
    "neon": "hdf5_neon/ex.h5",  # scale, nodata, CRS
}
ROADS = [
    *((name, "x.img") for name in ("jasper", "samson", "emit", "fenix")),  # ENVI to ENVI
    *((name, "x.tif") for name in ("jasper", "samson", "emit", "fenix")),  # ENVI to COG
    ("enmap", "x.tif"),  # GeoTIFF to COG
    ("neon", "x.tif"),  # HDF5 to COG
    ("enmap", "via.tif x.img"),  # COG to ENVI
    ("neon", "via.tif x.img"),
]
MOVED = {"x start", "y start", "default bands", "default stretch", "z plot range"}  # of the grid or bands: may change


def upscaled(source: Path, output: Path) -> None:
    command = ["upscale", "-i", str(source), "-o", str(output), "--bicubic", "-s", str(SCALE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lkca", *command])  # which the provenance quotes
        result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def plain(text: str) -> str:
    """A tag's text without what ENVI headers and SPy do to lists and spaces."""
    return " ".join(text.replace("{", "(").replace("}", ")").replace(",", " ").split())


@pytest.mark.parametrize(("name", "road"), ROADS, ids=[f"{name} to {road}" for name, road in ROADS])
def test_what_the_file_says_survives(real_data: Path, tmp_path: Path, name: str, road: str) -> None:
    source = real_data / "formats" / FILES[name]
    factor, step = 1, source
    for output in road.split():
        upscaled(step, tmp_path / output)
        factor, step = factor * SCALE, tmp_path / output
    with open_cube(source) as old, open_cube(step) as new:
        same_meta(old, new, factor)
        by_gdal(old, new, step, factor)
        if step.suffix == ".img":
            by_spy(old, new, step.with_suffix(".hdr"))
        # a mean over the scene hardly changes: the samples are the old ones in the old units
        for band in np.flatnonzero(old.good_bands)[:: max(1, old.bands // 7)]:
            means = np.nanmean(old.read(bands=[band])), np.nanmean(new.read(bands=[band]))
            assert means[1] == pytest.approx(means[0], rel=0.02)


def same_meta(old: Cube, new: Cube, factor: int) -> None:
    a, b = old.meta, new.meta
    assert new.shape == (old.rows * factor, old.cols * factor, old.bands)
    assert a.wavelengths is not None and b.wavelengths == pytest.approx(a.wavelengths, rel=1e-9)
    assert (b.fwhm is None) == (a.fwhm is None) and (a.fwhm is None or b.fwhm == pytest.approx(a.fwhm, rel=1e-9))
    assert np.array_equal(new.good_bands, old.good_bands)
    assert (b.nodata, b.stored_dtype) == (a.nodata, a.stored_dtype) or (a.nodata is None and np.isnan(b.nodata))
    assert b.scale_factor == pytest.approx(a.scale_factor, rel=1e-12) and b.offset == pytest.approx(a.offset)
    assert a.band_names is None or b.band_names == a.band_names
    assert (b.crs is None) == (a.crs is None) and (a.crs is None or CRS.from_wkt(b.crs) == CRS.from_wkt(a.crs))
    if a.transform is None:
        assert b.transform is None
    else:
        assert list(b.transform) == pytest.approx(list(a.transform @ Affine.scale(1 / factor)), rel=1e-12)
        assert b.transform @ (0, 0) == pytest.approx(a.transform @ (0, 0), rel=1e-14)
    for key, text in a.tags.items():
        assert key in MOVED or plain(b.tags[key]) == plain(text)
    assert (b.tags["LKCA_MODEL"], b.tags["LKCA_VERSION"]) == ("bicubic", lkca.__version__)
    assert b.tags["LKCA_COMMAND"].startswith("lkca upscale -i ") and "--bicubic -s 2" in b.tags["LKCA_COMMAND"]


def by_gdal(old: Cube, new: Cube, file: Path, factor: int) -> None:
    with rasterio.open(file) as dataset:
        assert (dataset.count, *dataset.shape) == (old.bands, *(edge * factor for edge in old.shape[:2]))
        if old.meta.crs is not None:
            assert dataset.crs.to_epsg() == CRS.from_wkt(old.meta.crs).to_epsg()
        if old.meta.transform is not None:
            assert list(dataset.transform) == pytest.approx(list(old.meta.transform @ Affine.scale(1 / factor)))
        if old.meta.nodata is not None:
            assert dataset.nodata == old.meta.nodata
        band = old.bands // 3
        stored = dataset.read(band + 1, masked=True).astype(np.float64)
        physical = stored * dataset.scales[band] + dataset.offsets[band]
        if file.suffix == ".tif":
            assert np.ma.allclose(physical, np.ma.masked_invalid(new.read(bands=[band])[0]), rtol=1e-6)
            tags, imagery = dataset.tags(band + 1), dataset.tags(band + 1, ns="IMAGERY")
            assert float(tags["wavelength"]) == pytest.approx(old.meta.wavelengths[band])
            assert float(imagery["CENTRAL_WAVELENGTH_UM"]) == pytest.approx(old.meta.wavelengths[band] / 1000)
            if old.meta.fwhm is not None:
                assert float(imagery["FWHM_UM"]) == pytest.approx(old.meta.fwhm[band] / 1000)
            if old.meta.good_bands is not None:
                bbl = [dataset.tags(index)["bbl"] for index in dataset.indexes]
                assert bbl == [str(int(good)) for good in old.good_bands]
            assert {"LKCA_MODEL", "LKCA_VERSION", "LKCA_COMMAND"} <= set(dataset.tags())
        else:  # GDAL ignores ENVI's scale factor
            assert np.ma.allclose(
                stored * new.meta.scale_factor, np.ma.masked_invalid(new.read(bands=[band])[0]), rtol=1e-6
            )
            envi = dataset.tags(ns="ENVI")
            assert len(envi["wavelength"].split(",")) == old.bands and envi["wavelength_units"] == "Nanometers"
        assert np.array_equal(np.ma.getmaskarray(stored), np.isnan(new.read(bands=[band])[0]))


def by_spy(old: Cube, new: Cube, header: Path) -> None:
    image = spectral.open_image(str(header))
    assert image.shape == (new.rows, new.cols, new.bands)
    assert image.bands.band_unit == "Nanometers"
    assert np.allclose(image.bands.centers, old.meta.wavelengths, rtol=1e-9)
    if old.meta.fwhm is not None:
        assert np.allclose(image.bands.bandwidths, old.meta.fwhm, rtol=1e-9)
    if old.meta.good_bands is not None:
        assert [int(float(good)) for good in image.metadata["bbl"]] == old.good_bands.astype(int).tolist()
    if old.meta.nodata is not None:
        assert float(image.metadata["data ignore value"]) == old.meta.nodata
    if old.meta.transform is not None:
        left, top = (float(image.metadata["map info"][index]) for index in (3, 4))
        assert (left, top) == pytest.approx((old.meta.transform.c, old.meta.transform.f))
    # SPy divides by the scale factor and does not know nodata
    theirs, ours = image.read_subregion((4, 9), (5, 11)), new.read()[:, 4:9, 5:11].transpose(1, 2, 0)
    valid = np.isfinite(ours)
    assert np.allclose(np.asarray(theirs)[valid], ours[valid], rtol=1e-5, atol=1e-6)
