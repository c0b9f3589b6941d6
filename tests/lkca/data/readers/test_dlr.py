"""EnMAP and DESIS images with the metadata file of their product, in the layout that other readers of them expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from lkca.cli.app import app
from lkca.data import open_cube

COUNTS = np.random.default_rng(0).integers(-50, 4000, (5, 12, 9)).astype(np.int16)
COUNTS[:, 0, 0] = -32768
NM, FWHM = np.array([418.4, 900.1, 903.5, 2000.0, 2445.3]), np.array([6.9, 7.1, 10.2, 9.0, 8.5])
ONE_GAIN, GAINS = np.full(5, 1e-4), np.array([1e-4, 2e-4, 3e-4, 4e-4, 5e-4])

LAUGHS = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))  # of a billion characters


def enmap(gains: np.ndarray = ONE_GAIN, offset: float = 0) -> str:
    """Bands out of order; band numbers stand in other places too."""
    bands = [
        f'<bandID number="{i + 1}"><wavelengthCenterOfBand>{NM[i]}</wavelengthCenterOfBand>'
        f"<FWHMOfBand>{FWHM[i]}</FWHMOfBand><GainOfBand>{gains[i]}</GainOfBand><OffsetOfBand>{offset}</OffsetOfBand></bandID>"
        for i in (3, 4, 0, 1, 2)
    ]
    return (
        '<?xml version="1.0" encoding="UTF-8"?><level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        '<product><smileCorrection><VNIR><bandID number="1"><wavelength>1</wavelength></bandID></VNIR>'
        "</smileCorrection></product>"
        "<specific><backgroundValue>-32768</backgroundValue>"
        f"<bandCharacterisation>{''.join(bands)}</bandCharacterisation></specific></level_X>"
    )


def desis(gains: np.ndarray = ONE_GAIN, offset: float = 0) -> str:
    bands = [
        f"<band><bandNumber>{i + 1}</bandNumber><wavelengthCenterOfBand>{NM[i]}</wavelengthCenterOfBand>"
        f"<wavelengthWidthOfBand>{FWHM[i]}</wavelengthWidthOfBand><response>0.1,0.9</response><wavelengths>1,2</wavelengths>"
        f"<gainOfBand>{gains[i]}</gainOfBand><offsetOfBand>{offset}</offsetOfBand></band>"
        for i in range(5)
    ]
    return (
        '<d:hsi_doc xmlns:d="http://www.dlr.de/hsi"><specific><interiorOrientation><band><bandNumber>1</bandNumber></band>'
        f"</interiorOrientation><bandCharacterisation>{''.join(bands)}</bandCharacterisation></specific></d:hsi_doc>"
    )


def product(
    folder: Path, xml: str, image: str = "SPECTRAL_IMAGE.TIF", metadata: str = "METADATA.XML", **options
) -> Path:
    """The image of a product; ``options`` are those of rasterio, ``array`` other samples, ``scale`` the image's own."""
    array, scale = options.pop("array", COUNTS), options.pop("scale", None)
    file = folder / f"ENMAP01-____L2A-DT1-{image}"
    file.with_name(f"ENMAP01-____L2A-DT1-{metadata}").write_text(xml)
    shape = {"count": array.shape[0], "height": array.shape[1], "width": array.shape[2]}
    with rasterio.open(file, "w", driver="GTiff", dtype=array.dtype, **shape, **options) as dataset:
        dataset.write(array)
        if scale is not None:
            dataset.scales = [scale] * len(array)
    return file


@pytest.mark.parametrize(
    ("write", "image", "metadata"),
    [
        (enmap, "SPECTRAL_IMAGE.TIF", "METADATA.XML"),
        (enmap, "SPECTRAL_IMAGE_COG.tiff", "METADATA.XML.XML"),
        (desis, "SPECTRAL_IMAGE.tif", "METADATA.xml"),
    ],
)
@pytest.mark.parametrize(("gains", "offset"), [(ONE_GAIN, 0.0), (GAINS, -0.25)])
def test_what_the_product_says_is_read(tmp_path: Path, write, image, metadata, gains, offset) -> None:
    file = product(tmp_path, write(gains, offset), image, metadata, nodata=-32768)
    with open_cube(file) as cube:
        assert np.array_equal(cube.meta.wavelengths, NM) and np.array_equal(cube.meta.fwhm, FWHM)
        assert np.ndim(cube.meta.scale_factor) == (gains is GAINS) and not cube.warnings
        samples = cube.read()
        assert np.isnan(samples[:, 0, 0]).all()
        expected = COUNTS * gains[:, None, None] + offset
        assert np.allclose(samples[:, 1:], expected[:, 1:], atol=1e-6)
        assert [path.name[20:] for path in cube.files] == [image, metadata]


@pytest.mark.parametrize(("detector", "channels"), [("VNIR", [0, 1, 3]), ("swir", [2, 4])])
def test_an_image_of_one_detector(tmp_path: Path, detector: str, channels: list[int]) -> None:
    lists = "".join(
        f"<{name}ProductQuality><expectedChannelsList>{numbers}</expectedChannelsList></{name}ProductQuality>"
        for name, numbers in (("vnir", "1,2,4"), ("swir", "3, 5"))
    )
    xml, options = enmap(GAINS), {"image": f"SPECTRAL_IMAGE_{detector}.TIF", "array": COUNTS[channels]}
    with open_cube(product(tmp_path, xml.replace("<specific>", f"<specific>{lists}"), **options)) as cube:
        assert np.array_equal(cube.meta.wavelengths, NM[channels]) and np.array_equal(cube.meta.fwhm, FWHM[channels])
        assert np.array_equal(cube.meta.scale_factor, GAINS[channels]) and not cube.warnings
    with open_cube(product(tmp_path, xml, **options)) as cube:  # which bands are whose is not said
        assert cube.meta.wavelengths is None and "no wavelengths or scale are taken from it" in cube.warnings[0]


def test_the_background_value_is_nodata_where_the_image_has_none(tmp_path: Path) -> None:
    with open_cube(product(tmp_path, enmap())) as cube:
        assert cube.meta.nodata == -32768 and np.isnan(cube.read()[:, 0, 0]).all()


def test_what_the_image_says_itself_counts_more(tmp_path: Path) -> None:
    with open_cube(product(tmp_path, enmap(), scale=0.5, nodata=7)) as cube:
        assert (cube.meta.scale_factor, cube.meta.nodata) == (0.5, 7) and np.array_equal(cube.meta.wavelengths, NM)
    reflectance = (COUNTS * 1e-4).astype(np.float32)  # what a user made of it, under the same name
    with open_cube(product(tmp_path, enmap(), array=reflectance)) as cube:
        assert np.array_equal(cube.read(), reflectance) and np.array_equal(cube.meta.wavelengths, NM)


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("<level_X>", "cannot be read"),
        ('<?xml version="1.0" encoding="no-such"?><level_X/>', "cannot be read"),
        (f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]><x>&l9;</x>', "cannot be read"),
        ("<level_X/>", "describes 0 bands and the image has 5"),
        (enmap().replace('number="5"', 'number="1"'), "describes 4 bands"),
        (enmap().replace("<FWHMOfBand>9.0</FWHMOfBand>", ""), "without all of their numbers"),
        (enmap().replace("2000.0", "n/a"), "without all of their numbers"),
        (enmap().replace("2000.0", "nan"), "cannot be"),
        (enmap(np.zeros(5)), "cannot be"),
    ],
)
def test_metadata_that_do_not_fit_are_told(tmp_path: Path, xml: str, words: str) -> None:
    with open_cube(product(tmp_path, xml, nodata=-32768)) as cube:
        assert len(cube.warnings) == 1 and "METADATA.XML" in cube.warnings[0] and words in cube.warnings[0]
        assert (cube.meta.wavelengths, cube.meta.scale_factor) == (None, 1.0)
        assert np.array_equal(cube.read()[:, 1:], COUNTS[:, 1:])


def test_huge_metadata_are_not_parsed(tmp_path: Path) -> None:
    file = product(tmp_path, "", nodata=-32768)
    with file.with_name("ENMAP01-____L2A-DT1-METADATA.XML").open("wb") as stream:
        stream.truncate(2**26)
    with open_cube(file) as cube:
        assert "larger than 32 MiB" in cube.warnings[0]


@pytest.mark.parametrize("output", ["x.tif", "x.img"])
@pytest.mark.parametrize("gains", [ONE_GAIN, GAINS], ids=["one gain", "gains"])
def test_results_carry_it(tmp_path: Path, output: str, gains: np.ndarray) -> None:
    file = product(tmp_path, enmap(gains), nodata=-32768)
    command = ["upscale", "-i", str(file), "-o", str(tmp_path / output), "--bicubic", "-s", "2"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with open_cube(file) as old, open_cube(tmp_path / output) as new:
        assert new.meta.stored_dtype == np.int16 and new.meta.nodata == -32768
        assert np.allclose(new.meta.wavelengths, NM) and np.allclose(new.meta.fwhm, FWHM)
        assert np.allclose(new.meta.scale_factor, gains) and np.all(new.meta.offset == 0)
        means = [np.nanmean(cube.read(), axis=(1, 2)) for cube in (old, new)]
        assert np.allclose(means[0], means[1], rtol=0.05)
