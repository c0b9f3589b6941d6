"""GeoTIFF and what else GDAL opens: pages, spectral lists, scales, masks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

import lkca
from lkca.data import CubeMeta, Window, open_cube, write_cube
from lkca.errors import InputError

from .samples import CUBE, NM, RCB, write_tiff


def write_pages(file: Path, pages: list[np.ndarray], **options) -> None:
    """Each of (bands, rows, cols), as a page of a TIFF."""
    for number, page in enumerate(pages):
        with write_tiff(file, page, APPEND_SUBDATASET="YES" if number else "NO", **options) as dataset:
            dataset.write(page)


def test_tiff_pages_beyond_the_first_are_told(tmp_path: Path) -> None:
    """A second picture was left out unsaid."""
    write_pages(tmp_path / "x.tif", [CUBE[:2], CUBE[2:4]])
    with open_cube(tmp_path / "x.tif") as cube:
        assert np.array_equal(cube.read(), CUBE[:2]) and "2 pages; the first is read" in cube.warnings[0]


def test_tiff_pages_of_one_band_are_the_bands(tmp_path: Path) -> None:
    """As cameras and tifffile write them; GDAL reads one page at a time."""
    file = tmp_path / "a & b.tif"
    write_pages(file, [band[None] for band in CUBE], nodata=int(CUBE[3, 4, 5]))
    with open_cube(file) as cube:
        assert cube.format == "GeoTIFF" and cube.files == (file,) and cube.shape == (12, 9, 5)
        assert "its 5 pages of one band are taken for its bands" in cube.warnings[0] and len(cube.warnings) == 1
        assert cube.meta.transform == Affine(2, 0, 100, 0, -2, 200) and cube.meta.nodata == CUBE[3, 4, 5]
        assert np.array_equal(cube.read(), np.where(cube.meta.nodata == CUBE, np.nan, CUBE), equal_nan=True)
        assert np.array_equal(cube.read(Window(3, 2, 4, 5), bands=[4, 1]), CUBE[[4, 1], 3:7, 2:7])


def test_tiff_pages_tell_of_their_bands(tmp_path: Path) -> None:
    """Counts were read without their scale, and pages of a nodata value of NaN were not alike."""
    file = tmp_path / "x.tif"
    for number, band in enumerate(CUBE.astype(np.float32)):
        with write_tiff(file, band[None], APPEND_SUBDATASET="YES" if number else "NO", nodata=np.nan) as dataset:
            dataset.write(band, 1)
            dataset.scales, dataset.offsets = [0.1], [number]
            dataset.set_band_description(1, f"band <{number}>")
            dataset.update_tags(1, wavelength=str(NM[number]), wavelength_units="nm")
            dataset.update_tags(1, ns="IMAGERY", CENTRAL_WAVELENGTH_UM="0.5")
    with open_cube(file) as cube:
        assert np.allclose(cube.read(), CUBE * 0.1 + np.arange(5)[:, None, None], rtol=1e-6)
        assert cube.meta.band_names == tuple(f"band <{number}>" for number in range(5))
        assert np.array_equal(cube.meta.wavelengths, NM) and np.isnan(cube.meta.nodata)


def test_tiff_pages_keep_control_points_and_tags(tmp_path: Path) -> None:
    """Of the first page, whose place the others have too."""
    points = [GroundControlPoint(row, col, 10 + col / 9, 20 - row / 12, 5) for row, col in ((0, 0), (0, 9), (12, 0))]
    for number, band in enumerate(CUBE):
        more = {"APPEND_SUBDATASET": "YES"} if number else {"gcps": points, "crs": "EPSG:4326"}
        size = {"count": 1, "height": 12, "width": 9, "dtype": "uint16"}
        with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", **size, **more) as dataset:
            dataset.write(band, 1)
            dataset.update_tags(camera="X")
    with open_cube(tmp_path / "x.tif") as cube:
        found = [(point.row, point.col, point.x, point.y, point.z) for point in cube.meta.gcps]
        assert np.allclose(found, [(point.row, point.col, point.x, point.y, point.z) for point in points])
        assert CRS.from_wkt(cube.meta.gcps_crs) == CRS.from_epsg(4326) and cube.meta.tags == {"camera": "X"}


def test_overviews_of_tiff_pages_are_no_bands(tmp_path: Path) -> None:
    file = tmp_path / "x.tif"
    for number, band in enumerate(CUBE):
        with write_tiff(file, band[None], APPEND_SUBDATASET="YES" if number else "NO") as dataset:
            dataset.write(band, 1)
            dataset.build_overviews([2])
    with open_cube(file) as cube:
        assert np.array_equal(cube.read(), CUBE)


def test_masks_of_tiff_pages_are_no_bands(tmp_path: Path) -> None:
    """The mask of bytes, 0 and 1 of them, was read as the page that follows."""
    bands = CUBE.astype(np.uint8)
    for number, band in enumerate(bands):
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            write_tiff(tmp_path / "x.tif", band[None], APPEND_SUBDATASET="YES" if number else "NO") as dataset,
        ):
            dataset.write(band, 1)
            dataset.write_mask(band > 9)
    with pytest.raises(InputError, match="have masks"):
        open_cube(tmp_path / "x.tif")


@pytest.mark.parametrize("pages", [list(RCB[:, None].astype(np.float32)), [CUBE[:1], CUBE[1:2, :8]]])
def test_tiff_pages_that_may_be_no_bands_are_refused(tmp_path: Path, pages: list[np.ndarray]) -> None:
    """Of an array of rows x columns x bands tifffile makes a page of each row; a page of another size is a preview."""
    write_pages(tmp_path / "x.tif", pages)
    with pytest.raises(InputError, match="pages of one band, which are not alike, have masks, or may be the rows of a"):
        open_cube(tmp_path / "x.tif")


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
    meta = open_cube(tmp_path / "none.tif").meta
    assert meta.wavelengths is None and not meta.tags


def test_isis_cube(tmp_path: Path) -> None:
    """GDAL calls the width of its bands otherwise than others do."""
    label = f"""Object = IsisCube
      Object = Core
        StartByte = 4097
        Format = BandSequential
        Group = Dimensions
          Samples = 9
          Lines = 12
          Bands = 5
        End_Group
        Group = Pixels
          Type = UnsignedWord
          ByteOrder = Lsb
          Base = 0.0
          Multiplier = 1.0
        End_Group
      End_Object
      Group = BandBin
        Center = ({", ".join(f"{value:.4f}" for value in NM / 1000)}) <micrometers>
        Width = (0.012, 0.012, 0.012, 0.012, 0.013) <micrometers>
      End_Group
    End_Object
    End
    """
    (tmp_path / "x.cub").write_bytes(label.encode().ljust(4096, b"\0") + CUBE.astype("<u2").tobytes())
    with open_cube(tmp_path / "x.cub") as cube:
        assert np.allclose(cube.meta.wavelengths, NM) and np.allclose(cube.meta.fwhm, [12, 12, 12, 12, 13])
        assert np.array_equal(cube.read(), CUBE)


TIFF_HEADER = """ENVI
samples = 9
lines   = 12
bands   = 5
file type = TIFF
wavelength units = Micrometers
wavelength = {0.4, 0.5, 0.6, 0.7, 0.8}
fwhm = {0.01, 0.01, 0.01, 0.01, 0.01}
bbl = {1, 1, 0, 1, 1}
data ignore value = 7
reflectance scale factor = 10000
map info = {UTM, 1, 1, 500000, 4000000, 30, 30, 10, North, WGS-84}
"""


@pytest.mark.parametrize("name", ["x.hdr", "x.tif.hdr"])
@pytest.mark.parametrize("opened", ["x.tif", "header"])
def test_the_envi_header_of_a_tiff(tmp_path: Path, name: str, opened: str) -> None:
    """As ENVI and the EnMAP-Box write it beside the TIFF, which has no wavelengths then."""
    with write_tiff(tmp_path / "x.tif", CUBE) as dataset:
        dataset.write(CUBE)
    (tmp_path / name).write_text(TIFF_HEADER)
    with open_cube(tmp_path / (name if opened == "header" else opened)) as cube:
        meta = cube.meta
        assert cube.format == "GeoTIFF" and not cube.warnings and tmp_path / name in cube.files
        assert np.allclose(meta.wavelengths, NM) and np.allclose(meta.fwhm, 10)
        assert np.flatnonzero(~cube.good_bands).tolist() == [2]
        assert (meta.nodata, meta.scale_factor) == (7, 1e-4) and np.allclose(cube.read()[0], CUBE[0] / 10000)
        assert meta.transform == Affine(2, 0, 100, 0, -2, 200)  # the TIFF's own
    with pytest.raises(InputError, match=r"is that of x\.tif"):
        write_cube((tmp_path / name).with_suffix(".img"), CUBE.astype(np.float32), meta, overwrite=True)


@pytest.mark.parametrize("header", ["x.hdr", "x.tif.hdr"])
@pytest.mark.parametrize("driver", ["COG", "GTiff"])
def test_a_new_tiff_is_not_read_by_the_header_of_an_old_one(tmp_path: Path, header: str, driver: str) -> None:
    """Of the same size, the old one's scale and nodata value would count for the new samples."""
    fields = "samples = 9\nlines = 12\nbands = 5\nfile type = TIFF\nreflectance scale factor = 10000\n"
    (tmp_path / header).write_text(f"ENVI\n{fields}")
    with pytest.raises(InputError, match=rf"{header} describes a TIFF of this name.*remove {header} first"):
        write_cube(tmp_path / "x.tif", CUBE, CubeMeta(), driver=driver)
    assert [file.name for file in tmp_path.iterdir()] == [header]
    (tmp_path / header).write_text("ENVI\nfile type = ENVI Standard\n")
    write_cube(tmp_path / "x.tif", CUBE, CubeMeta(), driver=driver)
    with open_cube(tmp_path / "x.tif") as cube:
        assert np.array_equal(cube.read(), CUBE)


@pytest.mark.parametrize(("scale", "offset"), [(0.5, 0.0), (1.0, 3.0)])
def test_the_own_words_of_a_tiff_go_before_its_envi_header(tmp_path: Path, scale: float, offset: float) -> None:
    with write_tiff(tmp_path / "x.tif", CUBE, nodata=9) as dataset:
        dataset.write(CUBE)
        dataset.scales, dataset.offsets = (scale,) * 5, (offset,) * 5
        for band in range(5):
            dataset.update_tags(band + 1, wavelength=str(900 + band), bbl="1")
    (tmp_path / "x.hdr").write_text(TIFF_HEADER)
    with open_cube(tmp_path / "x.tif") as cube:
        assert cube.meta.wavelengths[0] == 900 and cube.meta.fwhm is None and cube.good_bands.all()
        assert (cube.meta.nodata, cube.meta.scale_factor, cube.meta.offset) == (9, scale, offset)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lines   = 12", "lines = 13", "x.hdr: claims another size than the 12 x 9 x 5 samples of its TIFF; nothing"),
        ("0.7, 0.8", "0.7", "x.hdr: wavelength lists 4 values for 5 bands; .*; nothing is taken from it"),
        ("file type = TIFF", "file type = ENVI Standard", None),  # that of a file of raw samples which is not here
    ],
)
def test_an_envi_header_that_does_not_fit_its_tiff(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    with write_tiff(tmp_path / "x.tif", CUBE) as dataset:
        dataset.write(CUBE)
    (tmp_path / "x.hdr").write_text(TIFF_HEADER.replace(old, new))
    with open_cube(tmp_path / "x.tif") as cube:
        assert cube.meta.wavelengths is None and cube.meta.nodata is None
        assert re.search(message, cube.warnings[0]) if message else not cube.warnings


@pytest.mark.parametrize("own", [False, True])
def test_what_the_envi_header_of_a_tiff_cannot_tell_is_said(tmp_path: Path, own: bool) -> None:
    """Of the wavelengths and the place that the TIFF has itself there is nothing to say."""
    place = {"transform": Affine(2, 0, 100, 0, -2, 200)} if own else {}
    size = {"count": 5, "height": 12, "width": 9, "dtype": "uint16"}
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", **size, **place) as dataset:
        dataset.write(CUBE)
        for band in range(5 if own else 0):
            dataset.update_tags(band + 1, wavelength=str(NM[band]))
    text = TIFF_HEADER.replace("Micrometers", "Furlongs").replace("UTM, 1", "No Such Projection, 1")
    (tmp_path / "x.hdr").write_text(text)
    with open_cube(tmp_path / "x.tif") as cube:
        told = " ".join(cube.warnings)
        assert cube.meta.nodata == 7 and len(cube.warnings) == (0 if own else 2)
        assert own or ("units: Furlongs" in told and "No Such Projection" in told)


def test_a_palette_is_told(tmp_path: Path) -> None:
    """A map of classes, mostly."""
    path = tmp_path / "classes.tif"
    profile = {"height": 4, "width": 5, "count": 1, "dtype": "uint8", "transform": Affine.scale(2)}
    with rasterio.open(path, "w", driver="GTiff", **profile) as dataset:
        dataset.write(np.arange(20, dtype=np.uint8).reshape(1, 4, 5))
        dataset.write_colormap(1, {0: (0, 0, 0), 1: (255, 0, 0)})
    with open_cube(path) as cube:
        assert ["palette" in warning for warning in cube.warnings] == [True]


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint16", "float32"])
def test_an_alpha_band_is_a_mask(tmp_path: Path, dtype: str) -> None:
    """As gdalwarp -dstalpha leaves it, whose fill value is 0; of four bands the last may be a spectral one."""
    bands, rows, cols = CUBE.shape
    alpha = np.full((rows, cols), 255)
    alpha[3, 4] = 0
    base = 2**24 if dtype == "int32" else 0  # from where on float32 holds only some integers
    for count in (bands, 3):
        stored = np.concatenate([np.where(alpha, CUBE[:count].astype(int) + base, 0), alpha[None]]).astype(dtype)
        shape = {"count": count + 1, "height": rows, "width": cols, "dtype": dtype}
        with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", **shape) as dataset:
            dataset.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (count - 1), ColorInterp.alpha]
            dataset.write(stored)
            dataset.offsets = [-base] * (count + 1)
            for band in range(count):
                dataset.update_tags(band + 1, wavelength=str(500 + band))
        with open_cube(tmp_path / "x.tif") as cube:
            if count == 3:
                assert cube.bands == 4 and cube.valid_mask().all() and not cube.warnings
                continue
            assert cube.bands == bands and np.array_equal(cube.meta.wavelengths, 500.0 + np.arange(bands))
            assert "last band, 6, is alpha" in cube.warnings[0]
            assert np.argwhere(~cube.valid_mask()).tolist() == [[3, 4]] and cube.meta.stored_dtype == dtype
            assert np.array_equal(cube.read(bands=[4, 0])[:, 0], CUBE[[4, 0], 0])


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


def test_no_integer_is_a_nodata_value_of_nan(tmp_path: Path) -> None:
    with write_tiff(tmp_path / "x.tif", CUBE[:1]) as dataset:
        dataset.write(CUBE[:1])
    (tmp_path / "x.vrt").write_text(
        '<VRTDataset rasterXSize="9" rasterYSize="12"><VRTRasterBand dataType="UInt16" band="1">'
        '<NoDataValue>nan</NoDataValue><SimpleSource><SourceFilename relativeToVRT="1">x.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with open_cube(tmp_path / "x.vrt") as cube:
        assert np.array_equal(cube.read(), CUBE[:1]) and cube.meta.nodata is None and not cube.warnings


def test_bands_of_different_types(tmp_path: Path) -> None:
    """As gdalbuildvrt -separate puts them together; the file was said to be damaged."""
    bands, dtypes = "", {"Int16": np.int16, "Byte": np.uint8, "Float32": np.float32}
    for band, (name, dtype) in enumerate(dtypes.items(), start=1):
        with write_tiff(tmp_path / f"{name}.tif", np.array([[[1, 2, 255]]], dtype)) as dataset:
            dataset.write(np.array([[[1, 2, 255]]], dtype))
        bands += (
            f'<VRTRasterBand dataType="{name}" band="{band}"><NoDataValue>{band}</NoDataValue><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
            "</VRTRasterBand>"
        )
    (tmp_path / "x.vrt").write_text(f'<VRTDataset rasterXSize="3" rasterYSize="1">{bands}</VRTDataset>')
    with open_cube(tmp_path / "x.vrt") as cube:
        assert cube.meta.stored_dtype == np.float32
        np.testing.assert_array_equal(cube.read()[:, 0], [[np.nan, 2, 255], [1, np.nan, 255], [1, 2, 255]])


@pytest.mark.parametrize("through", [(), ("inner.vrt",)])
def test_what_a_vrt_is_made_of_is_an_input_too(tmp_path: Path, through: tuple[str, ...]) -> None:
    """With overwrite the result of a VRT could replace the very file that the VRT shows, itself or by another VRT."""
    source = tmp_path / "source.tif"
    with write_tiff(source, CUBE[:1]) as dataset:
        dataset.write(CUBE[:1])
    before = source.read_bytes()
    (tmp_path / "folder").mkdir()
    shown = "../source.tif"
    for name in (*through, "x.vrt"):
        vrt = tmp_path / "folder" / name
        vrt.write_text(
            '<VRTDataset rasterXSize="9" rasterYSize="12"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{shown}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
            "</VRTRasterBand></VRTDataset>"
        )
        shown = name
    with pytest.raises(InputError, match=r"source\.tif: is an input of the same command"):
        lkca.upscale(vrt, "bicubic", scale=2, output=source, overwrite=True)
    assert source.read_bytes() == before
    with open_cube(vrt) as cube:
        assert [file.resolve() for file in cube.files] == [vrt, *(vrt.with_name(name) for name in through), source]


def test_the_other_files_of_a_raster_are_inputs_too(tmp_path: Path) -> None:
    """Samples may lie beside the named file (PDS4's label, ESRI's header); not what GDAL adds to it by itself."""
    file = tmp_path / "x.bil"
    shape = {"count": 5, "height": 12, "width": 9}
    with rasterio.open(file, "w", driver="EHdr", dtype="uint16", **shape) as dataset:
        dataset.write(CUBE)
    (tmp_path / "x.bil.aux.xml").write_text("<PAMDataset/>")
    with open_cube(file) as cube:
        assert np.array_equal(cube.read(), CUBE) and {found.name for found in cube.files} == {"x.bil", "x.hdr"}
