from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform as to_crs
from spectral.io import envi as spy_envi

from lkca.data import CubeMeta, Window, open_cube, write_cube
from lkca.data.envi_map import parse_map_info
from lkca.data.readers.envi_header import DTYPES, parse_header, parse_layout, parse_meta, read_header
from lkca.data.writers.envi import header_text
from lkca.errors import InputError, LkcaError

MINIMAL = "ENVI\nsamples = 4\nlines = 3\nbands = 2\ndata type = 2\ninterleave = bip\nbyte order = 0\n"


def parse(text: str) -> tuple:
    fields = parse_header(text, "x.hdr")
    layout = parse_layout(fields, "x.hdr")
    return layout, *parse_meta(fields, layout, "x.hdr")


def test_spacing_case_comments_and_multi_line_lists() -> None:
    text = (
        "ENVI \r\n; a comment = 5\r\nSAMPLES=4\r\n  lines   =  3\r\nBands = 2\r\nData Type = 2\r\n"
        "wavelength  units = Nanometers\r\n"
        "wavelength = {\r\n 500.5,\r\n 600}\r\ndescription = {\n A = B;\n second line }\nnonsense\nBBL={1, 0}\n"
    )
    layout, meta, warnings = parse(text)
    assert (layout.rows, layout.cols, layout.bands, layout.interleave, layout.dtype) == (
        3,
        4,
        2,
        "bsq",
        np.dtype("<i2"),
    )
    assert meta.wavelengths.tolist() == [500.5, 600.0]
    assert meta.good_bands.tolist() == [True, False]
    assert meta.tags == {"description": "A = B; second line"}
    assert not warnings


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lines = 0", "lines is 0; expected at least 1"),
        ("samples = -4", "samples is -4"),
        ("bands = many", "bands is 'many'"),
        ("bands =", "has no 'bands'"),
        ("data type = 6", "complex"),
        ("data type = 7", "data type 7"),
        ("interleave = bsp", "interleave is 'bsp'; expected bsq, bil or bip"),
        ("byte order = 2", "byte order is 2"),
        ("header offset = -1", "header offset is -1"),
        ("file type = ENVI Spectral Library", "is an ENVI spectral library, not an image"),
        ("file type = ENVI Classification", "is an ENVI classification, not an image"),
        ("file compression = 1", "compressed"),
        ("wavelength = {1, 2, 3}", "lists 3 values for 2 bands"),
        ("wavelength = {500, green}", "'green'; expected a number"),
        ("bbl = {1}", "bbl lists 1 values"),
        ("wavelength = {500, 600", "no closing brace"),
        ("reflectance scale factor = 0", "positive number"),
        ("reflectance scale factor = nan", "positive number"),
        ("data ignore value = none", "data ignore value is 'none'"),
        ("map info = {UTM, 1, 1}", "map info"),
        ("map info = {UTM, 1, 1, 0, nan, 1, 1}", "map info"),
        ("map info = {UTM, 1, 1, 0, 0, 1, 0}", "map info"),
    ],
)
def test_faults_are_named(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(MINIMAL + line + "\n")


def test_a_byte_order_mark(tmp_path: Path) -> None:
    """As Windows' editors put it before the first line."""
    (tmp_path / "x.hdr").write_text("\ufeff" + MINIMAL, encoding="utf-8")
    assert read_header(tmp_path / "x.hdr") == parse_header(MINIMAL)


@pytest.mark.parametrize("text", ["", "NCOLS 4\nNROWS 3\n", "\n"])
def test_other_headers_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="first line must be ENVI"):
        parse_header(text)


def test_gains_count_instead_of_the_reflectance_factor() -> None:
    _, meta, _ = parse(
        MINIMAL + "data gain values = {0.1, 0.2}\ndata offset values = {1, 1}\nreflectance scale factor = 10\n"
    )
    assert meta.scale_factor.tolist() == [0.1, 0.2] and meta.offset == 1.0
    _, meta, _ = parse(MINIMAL + "data gain values = {0.1, 0.2}\nreflectance scale factor = 10\n")
    assert meta.scale_factor.tolist() == [0.1, 0.2] and meta.offset == 0.0
    _, meta, _ = parse(MINIMAL + "data offset values = {1, 2}\n")
    assert meta.scale_factor == 1.0 and meta.offset.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("map_info", "epsg"),
    [
        ("UTM, 1, 1, 500000, 4000000, 30, 30, 10, North, WGS-84, units=Meters", 32610),
        ("UTM, 1, 1, 500000, 4000000, 30, 30, 10, South, WGS-84, units=Meters", 32710),
        ("UTM, 2.5, 3.5, 500000, 4000000, 2, 2, 17, North, North America 1983", 26917),
        ("Geographic Lat/Lon, 1, 1, -120.5, 37.25, 0.001, 0.001, WGS-84, units=Degrees", 4326),
        ("Arbitrary, 1, 1, 0, 0, 1, 1, 0, North", None),
    ],
)
def test_map_info_agrees_with_gdal(tmp_path: Path, map_info: str, epsg: int | None) -> None:
    (tmp_path / "x.img").write_bytes(bytes(4 * 3 * 2 * 2))
    (tmp_path / "x.hdr").write_text(MINIMAL + f"map info = {{{map_info}}}\n")
    with open_cube(tmp_path / "x.img") as cube, rasterio.open(tmp_path / "x.img") as dataset:
        if epsg is not None:
            assert dataset.crs.to_epsg() == epsg
            assert cube.summary()["crs"] == f"EPSG:{epsg}"
        assert np.allclose(list(cube.meta.transform), list(dataset.transform), rtol=1e-12)


ALBERS = "9, 6378137.0, 6356752.3, 23, -96, 0, 0, 29.5, 45.5, {}Albers, units=Meters"


@pytest.mark.parametrize(
    ("map_info", "projection", "name"),
    [
        ("UTM, 1, 1, 1640000, 13451443, 10, 10, 10, North, WGS-84, units=Feet", "", "EPSG:32610"),
        ("UTM, 1, 1, 500, 4100, 0.01, 0.01, 10, North, WGS-84, units=Km", "", "EPSG:32610"),
        ("UTM, 1, 1, 547000, 4484000, 11, 11, 10, North, WGS-84, units=Yards", "", "EPSG:32610"),
        ("UTM, 1, 1, 310, 2550, 0.01, 0.01, 10, North, WGS-84, units=Miles", "", "EPSG:32610"),
        ("UTM, 1, 1, 270, 2210, 0.01, 0.01, 10, North, WGS-84, units=Nautical Miles", "", "EPSG:32610"),
        ("Geographic Lat/Lon, 1, 1, -2.1, 0.65, 1e-5, 1e-5, WGS-84, units=Radians", "", "EPSG:4326"),
        ("Geographic Lat/Lon, 1, 1, -441000, 136440, 1, 1, WGS-84, units=Seconds", "", "EPSG:4326"),
        ("Geographic Lat/Lon, 1, 1, -7350, 2274, 1, 1, North America 1983, units=Minutes", "", "EPSG:4269"),
        ("State Plane (NAD 83), 1, 1, 600000, 200000, 2, 2, 3104, North America 1983, units=Meters", "", "EPSG:32118"),
        ("State Plane (NAD 27), 1, 1, 2000000, 200000, 2, 2, 3104, units=Feet", "", "EPSG:4456"),
        ("Albers Conical Equal Area, 1, 1, 1e5, 2e5, 30, 30, units=Meters", ALBERS.format("North America 1983, "), ""),
        ("Albers Conical Equal Area, 1, 1, 1e5, 2e5, 30, 30", ALBERS.format(""), ""),
        ("UTM, 1, 1, 500000, 5800000, 3.5, 3.5, 33, North, ETRS89, units=Meters", "", "EPSG:25833"),
        ("UTM, 1, 1, 500000, 6000000, 3.5, 3.5, 55, South, Geocentric Datum of Australia 1994", "", "EPSG:28355"),
    ],
)  # fmt: skip
def test_map_info_is_where_gdal_has_it(tmp_path: Path, map_info: str, projection: str, name: str) -> None:
    """Whatever its units, of projections that only GDAL knows too."""
    (tmp_path / "x.img").write_bytes(bytes(4 * 3 * 2 * 2))
    (tmp_path / "x.hdr").write_text(
        MINIMAL + f"map info = {{{map_info}}}\n" + f"projection info = {{{projection}}}\n" * bool(projection)
    )
    with open_cube(tmp_path / "x.img") as cube, rasterio.open(tmp_path / "x.img") as dataset:
        assert not cube.warnings and (not name or cube.summary()["crs"] == name)
        places = [
            to_crs(crs, CRS.from_epsg(4326), *zip(*(transform @ corner for corner in ((0, 0), (4, 3))), strict=True))
            for crs, transform in ((CRS.from_wkt(cube.meta.crs), cube.meta.transform), (dataset.crs, dataset.transform))
        ]
    # feet of NAD 27 are those of the US survey; ETRS89 is WGS 84 to GDAL
    assert np.allclose(*places, rtol=0, atol=3e-5 if "(NAD 27)" in map_info else 1e-5 if "ETRS" in map_info else 1e-9)


@pytest.mark.parametrize(
    ("map_info", "message"),
    [
        ("UTM, 1, 1, 500000, 5800000, 3, 3, 33, North", "not known; the cube has no CRS"),  # GDAL: NAD27
        ("UTM, 1, 1, 500000, 5800000, 3, 3, 33, North, Mars 2000", "not known; the cube has no CRS"),  # GDAL: WGS 84
        ("UTM, 1, 1, 500000, 5800000, 3, 3, 60, North, ETRS89", "not known; the cube has no CRS"),
        ("UTM, 1, 1, 500000, 5800000, 3, 3, -33, North, WGS-84", "not known; the cube has no CRS"),  # GDAL: EPSG:4326
        ("UTM, 1, 1, 500000, 5800000, 3, 3, 61, North, WGS-84", "not known; the cube has no CRS"),
        ("Geographic Lat/Lon, 1, 1, 10, 50, 1, 1, units=Degrees", "not known; the cube has no CRS"),
        ("Robinson, 1, 1, 10, 50, 1, 1, WGS-84", "not known; the cube has no CRS"),
        ("UTM, 1, 1, 500000, 5800000, 3, 3, 33, North, WGS-84, units=Cubits", "units=cubits"),
        ("UTM, 1, 1, 500000, 5800000, 3, 3, 33, North, WGS-84, units=Degrees", "units of one metre"),
    ],
)
def test_what_map_info_does_not_tell_is_told(map_info: str, message: str) -> None:
    _, meta, warnings = parse(MINIMAL + f"map info = {{{map_info}}}\n")
    assert len(warnings) == 1 and message in warnings[0]
    assert (meta.crs is None) == ("no CRS" in message) and meta.transform.a == float(map_info.split(",")[5])


def test_a_projection_that_gdal_cannot_write_down() -> None:
    lines = (
        "map info = {TM, 1, 1, 0, 0, 1, 1}\nprojection info = {3, 6378137, 6356752.3, 0, 0, nan, 0, 0, 1, WGS-84, x}\n"
    )
    _, meta, warnings = parse(MINIMAL + lines)
    assert meta.crs is None and "not known; the cube has no CRS" in warnings[0]


def test_map_info_converts_to_the_units_of_the_string() -> None:
    wkt = CRS.from_epsg(2263).to_wkt(version="WKT1_ESRI")  # in US survey feet
    system = f"coordinate system string = {{{wkt}}}\n"
    for units, size in (("Feet", 2.0), ("Meters", 2 / 0.30480060960121924)):
        _, meta, _ = parse(MINIMAL + f"map info = {{x, 1, 1, 900000, 200000, 2, 2, units={units}}}\n" + system)
        assert math.isclose(meta.transform.a, size, rel_tol=1e-12) and CRS.from_wkt(meta.crs).to_epsg() == 2263


@pytest.mark.parametrize("rotation", ["inf", "nan", "north"])
def test_rotation_that_is_none(rotation: str) -> None:
    with pytest.raises(InputError, match="expected rotation=DEGREES"):
        parse_map_info(f"UTM, 1, 1, 0, 0, 1, 1, 10, North, WGS-84, rotation={rotation}", "x")


def test_half_a_turn_is_told() -> None:
    transform, _, remarks = parse_map_info("UTM, 1, 1, 0, 0, 2, 2, 10, North, WGS-84, rotation=180", "x")
    assert np.allclose(list(transform), list(Affine(-2, 0, 0, 0, 2, 0))) and "by 180 degrees" in remarks[0]


def test_rotation_turns_the_grid_about_the_reference_pixel() -> None:
    transform, _, _ = parse_map_info("UTM, 3, 2, 1000, 2000, 2, 5, 10, North, WGS-84, rotation=30", "x")
    assert np.allclose(transform @ (2, 1), (1000, 2000))  # the corner of the reference pixel
    along_row = np.subtract(transform @ (1, 0), transform @ (0, 0))
    down = np.subtract(transform @ (0, 1), transform @ (0, 0))
    assert np.allclose(along_row, 2 * np.array([math.cos(math.pi / 6), math.sin(math.pi / 6)]))
    assert np.allclose(down, 5 * np.array([math.sin(math.pi / 6), -math.cos(math.pi / 6)]))


def test_esri_string_where_map_info_does_not_know_the_projection() -> None:
    wkt = CRS.from_epsg(3035).to_wkt(version="WKT1_ESRI")
    _, meta, _ = parse(MINIMAL + f"map info = {{Europe, 1, 1, 0, 0, 10, 10}}\ncoordinate system string = {{{wkt}}}\n")
    assert CRS.from_wkt(meta.crs).to_epsg() == 3035
    rubbish = "coordinate system string = {PROJCS[rubbish}\n"
    _, meta, warnings = parse(MINIMAL + rubbish)
    assert meta.crs is None and "cannot be read" in warnings[0]
    _, meta, warnings = parse(MINIMAL + "map info = {UTM, 1, 1, 0, 0, 10, 10, 10, North, WGS-84}\n" + rubbish)
    assert CRS.from_wkt(meta.crs).to_epsg() == 32610 and not warnings


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_no_text_breaks_the_parser(text: str) -> None:
    for candidate in (text, "ENVI\n" + text, MINIMAL + text):
        try:
            fields = parse_header(candidate)
            layout = parse_layout(fields, "x")
            parse_meta(fields, layout, "x")[0].check(layout.bands, "x")
        except LkcaError:
            pass


KEYS = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=12).map(
    lambda key: "t " + key
)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5), st.integers(1, 4), st.sampled_from(sorted(DTYPES)), st.data())
def test_written_headers_read_back(tags: dict[str, str], bands: int, code: int, data: st.DataObject) -> None:
    finite = st.floats(-1e6, 1e6, allow_subnormal=False)
    meta = CubeMeta(
        wavelengths=np.sort(data.draw(st.lists(st.floats(300, 2500), min_size=bands, max_size=bands))),
        good_bands=np.array(data.draw(st.lists(st.booleans(), min_size=bands, max_size=bands))),
        nodata=data.draw(st.none() | finite),
        scale_factor=data.draw(st.floats(1e-6, 1e3) | st.just(-0.5)),
        offset=data.draw(st.sampled_from([0.0, -0.5])),
        interleave=data.draw(st.sampled_from(["bsq", "bil", "bip"])),
        stored_dtype=np.dtype("<" + DTYPES[code]),
        tags=tags,
    )
    text = header_text((7, 8, bands), meta)
    layout, found, _ = parse(text)
    assert (layout.rows, layout.cols, layout.bands) == (7, 8, bands)
    assert (layout.dtype, layout.interleave) == (meta.stored_dtype, meta.interleave)
    assert np.allclose(found.wavelengths, meta.wavelengths, rtol=1e-9)
    assert np.array_equal(found.good_bands, meta.good_bands)
    assert found.nodata == meta.nodata
    assert np.allclose([found.scale_factor, found.offset], [meta.scale_factor, meta.offset], rtol=1e-9)
    plain = {key: " ".join(value.replace("{", "(").replace("}", ")").split()) for key, value in tags.items()}
    assert {" ".join(key.split()): value for key, value in plain.items() if value} == dict(found.tags)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 5)),
    st.sampled_from(["bsq", "bil", "bip"]),
    st.sampled_from(["u1", "i2", "u2", "i4", "u4", "f4"]),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_random_cubes_survive_a_round_trip(
    tmp_path: Path, size: tuple[int, int, int], interleave: str, dtype: str, seed: int, data: st.DataObject
) -> None:
    bands, rows, cols = size
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 200, (bands, rows, cols)).astype(np.float32)
    array[rng.uniform(size=array.shape) < 0.1] = np.nan
    meta = CubeMeta(stored_dtype=np.dtype(dtype), nodata=255.0, scale_factor=1.0)
    path = tmp_path / "x.img"
    write_cube(path, array, meta, interleave=interleave, overwrite=True)
    with open_cube(path) as cube:
        assert np.array_equal(cube.read(), array, equal_nan=True)
        row, col = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
        window = Window(row, col, data.draw(st.integers(1, rows - row)), data.draw(st.integers(1, cols - col)))
        picked = data.draw(st.lists(st.integers(0, bands - 1), min_size=1, max_size=6))
        assert np.array_equal(cube.read(window, picked), array[picked][(slice(None), *window.slices)], equal_nan=True)
    if array.shape[0] > 1:  # an independent reader
        other = spy_envi.open(str(tmp_path / "x.hdr"), str(path)).open_memmap()
        assert np.array_equal(np.nan_to_num(array.transpose(1, 2, 0), nan=255.0), other)


@pytest.mark.parametrize("code", sorted(DTYPES))
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_every_layout(tmp_path: Path, code: int, order: int, interleave: str) -> None:
    dtype = np.dtype(spy_envi.envi_to_dtype[str(code)]).newbyteorder("<>"[order])
    cube = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # bands, rows, cols
    axes = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}[interleave]
    (tmp_path / "x.raw").write_bytes(b"head!" + np.ascontiguousarray(cube.transpose(axes)).astype(dtype).tobytes())
    (tmp_path / "x.raw.hdr").write_text(
        f"ENVI\nsamples=4\nlines=3\nbands=2\nheader offset=5\ndata type={code}\n"
        f"interleave={interleave.upper()}\nbyte order={order}\n"
    )
    with open_cube(tmp_path / "x.raw") as opened:
        assert np.array_equal(opened.read(), cube)
        assert np.array_equal(opened.read(Window(1, 2, 2, 1), [1]), cube[1:, 1:, 2:3])


@pytest.mark.parametrize(
    ("data", "header"),
    [
        ("x.img", "x.hdr"), ("x.img", "x.img.hdr"), ("x", "x.hdr"), ("x.dat", "x.HDR"), ("x.bsq", "x.hdr"),
        ("x.y.raw", "x.y.hdr"), ("x.IMG", "x.hdr"), ("x.hyspex", "x.hdr"), ("x_unknown.ext", "x_unknown.ext.hdr"),
    ],
)  # fmt: skip
def test_header_names(tmp_path: Path, data: str, header: str) -> None:
    (tmp_path / data).write_bytes(bytes(range(48)))
    (tmp_path / header).write_text(MINIMAL + "reflectance scale factor = 10\n")
    for name in (data, header):
        with open_cube(tmp_path / name) as cube:
            assert cube.shape == (3, 4, 2) and cube.meta.scale_factor == 0.1  # GDAL, asked else, leaves it out
            assert {file.name for file in cube.files} == {data, header}


def test_of_several_data_files_the_one_that_fits(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(7))
    (tmp_path / "x.img").write_bytes(bytes(480))
    (tmp_path / "x.bil").write_bytes(bytes(48))
    (tmp_path / "x.hdr").write_text(MINIMAL)
    with open_cube(tmp_path / "x.hdr") as cube:
        assert cube.files[0].name == "x.bil"


def test_a_second_name_of_the_data_is_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "x.hdr").write_text(MINIMAL)
    (tmp_path / "x.img").write_bytes(bytes(48))
    (tmp_path / "x.dat").hardlink_to(tmp_path / "x.img")
    with open_cube(tmp_path / "x.hdr") as cube:
        assert not cube.warnings


def test_a_data_file_of_another_suffix(tmp_path: Path) -> None:
    """x.rfl was found by its own name only."""
    (tmp_path / "[x]*.hdr").write_text(MINIMAL)
    (tmp_path / "[x]*.log").write_bytes(bytes(7))
    (tmp_path / "[x]*.a.rfl").write_bytes(bytes(4 * 3 * 2 * 2))
    with pytest.raises(InputError, match="its data file is missing"):
        open_cube(tmp_path / "[x]*.hdr")
    (tmp_path / "[x]*.rfl").write_bytes(bytes(range(48)))
    with open_cube(tmp_path / "[x]*.hdr") as cube, open_cube(tmp_path / "[x]*.rfl") as named:
        assert np.array_equal(cube.read(), named.read()) and cube.read().any() and not cube.warnings
    (tmp_path / "[x]*.rfl.hdr").write_text(MINIMAL)  # now it is that one's, by which it may be read otherwise
    with pytest.raises(InputError, match="its data file is missing"):
        open_cube(tmp_path / "[x]*.hdr")
    (tmp_path / "[x]*.img").write_bytes(bytes(47))  # a usual name counts more, damaged or not
    with pytest.raises(InputError, match="is truncated"):
        open_cube(tmp_path / "[x]*.hdr")


def test_what_only_shares_its_name_with_a_header(tmp_path: Path) -> None:
    """A quick look or a label beside a cube was said to be truncated."""
    (tmp_path / "x.hdr").write_text(MINIMAL)
    (tmp_path / "x.img").write_bytes(bytes(48))
    (tmp_path / "x.png").write_bytes(bytes(7))
    with pytest.raises(InputError, match=r"x\.png: is not what x\.hdr describes, x\.img is; name that or the header"):
        open_cube(tmp_path / "x.png")


def test_of_several_data_files_that_fit_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.hdr").write_text(MINIMAL)
    for name in ("x.img", "x.dat"):
        (tmp_path / name).write_bytes(bytes(48))
    with open_cube(tmp_path / "x.hdr") as cube:
        assert cube.files[0].name == "x.img" and "x.img is taken" in cube.warnings[0] and "x.dat" in cube.warnings[0]
    with open_cube(tmp_path / "x.dat") as cube:
        assert cube.files[0].name == "x.dat" and not cube.warnings
    (tmp_path / "x.bip").write_bytes(bytes(48))  # as the header's interleave
    with open_cube(tmp_path / "x.hdr") as cube:
        assert cube.files[0].name == "x.bip" and "x.img or x.dat" in cube.warnings[0]
    for name in ("x.img", "x.dat"):
        (tmp_path / f"{name}.hdr").write_text(MINIMAL)
    with open_cube(tmp_path / "x.hdr") as cube:
        assert cube.files[0].name == "x.bip" and not cube.warnings


def test_wavelengths_in_other_units() -> None:
    _, meta, warnings = parse(MINIMAL + "wavelength = {749481.145, 119916.9832}\nwavelength units = GHz\n")
    assert np.allclose(meta.wavelengths, [400, 2500]) and not warnings
    _, meta, warnings = parse(MINIMAL + "wavelength = {400, 500}\nwavelength units = Furlongs\n")
    assert meta.wavelengths is None and "Furlongs" in warnings[0]
    _, meta, warnings = parse(MINIMAL + "wavelength = {1, 2}\nwavelength units = Index\n")
    assert meta.wavelengths is None and not warnings


def test_a_list_may_open_on_the_next_line() -> None:
    fields = parse_header("ENVI\nwavelength = \r\n {400,\n 500}\nfwhm =\nbands = 2\n")
    assert [float(value) for value in fields["wavelength"].split(",")] == [400, 500]
    assert fields["bands"] == "2"


def test_comments_within_a_list() -> None:
    """Their words were counted as values."""
    text = (
        MINIMAL + "wavelength = {\n; from the 2019 calibration\n 500.5,\n  ; the second, in nm }\n 600}\nbbl = {1, 0}\n"
    )
    _, meta, warnings = parse(text)
    assert meta.wavelengths.tolist() == [500.5, 600.0] and meta.good_bands.tolist() == [True, False] and not warnings


def test_widths_beside_wavelengths_in_band_names() -> None:
    """They were taken for nm, a thousandth of what they are."""
    text = MINIMAL + "band names = {b1 (0.4182 Micrometers), b2 (0.43 Micrometers)}\nfwhm = {0.008, 0.009}\n"
    _, meta, _ = parse(text)
    np.testing.assert_allclose(meta.wavelengths, [418.2, 430])
    np.testing.assert_allclose(meta.fwhm, [8, 9])


@pytest.mark.parametrize("name", ["Band {} ({} +/- 4.8 nm)", "CASI {}: {} ± 4.8 nm", "Spectral {}: {} nm +/- 4.8 nm"])
def test_the_width_in_a_band_name_is_no_wavelength(name: str) -> None:
    """In 376.8 +/- 4.8 nm, as for CASI, the half width stands before the unit; it was taken."""
    names = ", ".join(name.format(number, 376.8 + 10 * number) for number in (1, 2))
    meta = parse(MINIMAL + f"band names = {{{names}}}\n")[1]
    assert np.allclose(meta.wavelengths, [386.8, 396.8]) and meta.fwhm is None


def test_wavelengths_in_band_names() -> None:
    """As gdal_translate writes them, and nowhere else."""
    names = "band names = {\nband 1 (0.5 Micrometers),\nband 2 (0.61 Micrometers)}\n"
    _, meta, warnings = parse(MINIMAL + names)
    np.testing.assert_allclose(meta.wavelengths, [500, 610])
    assert not warnings and meta.band_names == ("band 1 (0.5 Micrometers)", "band 2 (0.61 Micrometers)")
    _, meta, _ = parse(MINIMAL + names + "wavelength = {400, 500}\n")
    np.testing.assert_allclose(meta.wavelengths, [400, 500])
    assert parse(MINIMAL + "band names = {ndvi, 600 nm}\n")[1].wavelengths is None
    _, meta, _ = parse(MINIMAL + names + "wavelength = {1, 2}\nwavelength units = Index\n")
    np.testing.assert_allclose(meta.wavelengths, [500, 610])


def test_band_names_of_another_number_are_told() -> None:
    _, meta, warnings = parse(MINIMAL + "band names = {red, near, infrared}\n")
    assert meta.band_names is None
    assert warnings == ["x.hdr: band names lists 3 names for 2 bands and is left out"]
    assert parse(MINIMAL + "band names = {}\n")[2] == []
