"""Every bad input is one sentence that names the file, what was found and what to do."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io

from lkca.data import open_cube
from lkca.errors import InputError

HEADER = "ENVI\nsamples = 4\nlines = 3\nbands = 2\ndata type = 2\ninterleave = bsq\nbyte order = 0\n"
CUBE = np.random.default_rng(0).integers(0, 1000, (12, 9, 5)).astype(np.uint16)

RUBBISH = [b"no cube at all, just a text\n" * 40, bytes(5000), b"\x89HDF\r\n\x1a\n" + bytes(600), b"PK\x03\x04junk"]


def envi(folder: Path, data: int = 48, header: str = HEADER) -> Path:
    (folder / "x.img").write_bytes(bytes(data))
    (folder / "x.hdr").write_text(header)
    return folder / "x.img"


def refused(path: Path | str, message: str, **options: object) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_cube(path, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    assert Path(str(path).partition("::")[0]).name.split(".")[0] in text


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "no.tif", "does not exist; check the path")
    refused(f"{tmp_path / 'no.mat'}::cube", "does not exist")


def test_directory(tmp_path: Path) -> None:
    refused(tmp_path, "is a directory; name the cube file inside it")


@pytest.mark.parametrize("name", ["x.img.gz", "x.tif.GZ", "x.zip", "x.tar.gz", "x.tgz"])
def test_archive(tmp_path: Path, name: str) -> None:
    """With a header beside it one was said to be truncated, others to hold no array or to lack a header."""
    (tmp_path / name).write_bytes(b"\x1f\x8b" * 50)
    (tmp_path / f"{name}.hdr").write_text("ENVI\nsamples = 9\nlines = 9\nbands = 9\ndata type = 1\n")
    refused(tmp_path / name, "is an archive; unpack it and name the cube inside")


def test_four_axes(tmp_path: Path) -> None:
    """As a cube with a time axis has, of which a 2-D matrix was asked for."""
    with h5py.File(tmp_path / "x.nc", "w") as file:
        file["reflectance"] = np.ones((2, 5, 4, 3))
    refused(tmp_path / "x.nc", "/reflectance 2x5x4x3; a cube has three axes: save it without the others")
    refused(
        f"{tmp_path / 'x.nc'}::/reflectance",
        "is an array of 2x5x4x3; a cube has three axes: save it without the others",
    )
    np.save(tmp_path / "x.npy", np.ones((2, 5, 4, 3)))  # as networks give
    refused(tmp_path / "x.npy", "is an array of 2x5x4x3; a cube has three axes: save it without the others")
    np.save(tmp_path / "x.npy", np.ones(5))
    refused(tmp_path / "x.npy", "is an array of 5; a cube has three axes, or two with --shape")


def test_a_file_that_another_program_writes(tmp_path: Path) -> None:
    """HDF5's lock; the file was said to be damaged."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["cube"] = np.ones((5, 4, 3))
    writes = f"import h5py; f = h5py.File({str(tmp_path / 'x.h5')!r}, 'a', locking=True); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", writes], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        refused(tmp_path / "x.h5", "is locked: another program may be writing it.*HDF5_USE_FILE_LOCKING=FALSE")
        program.communicate(b"\n")


def test_device(tmp_path: Path) -> None:
    refused("/dev/null", "not a regular file")


@pytest.mark.parametrize("name", ["x.tif", "x.mat", "x.h5", "x.npz", "x.npy", "x.hdr", "x.img"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    refused(tmp_path / name, "is empty")


@pytest.mark.parametrize("name", ["x.tif", "x.mat", "x.h5", "x.nc", "x.npz", "x.npy", "x.hdr", "x.img", "x.xyz", "x"])
@pytest.mark.parametrize("content", RUBBISH, ids=["text", "zeros", "hdf5", "zip"])
def test_rubbish(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, ".")


def test_unknown_suffix_lists_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "x.xyz").write_bytes(bytes(100))
    refused(tmp_path / "x.xyz", r"no ENVI header beside it.*supported: ENVI .*GeoTIFF .*MATLAB .*HDF5.*\.npz")


def test_hdf4(tmp_path: Path) -> None:
    (tmp_path / "EO1H.L1R").write_bytes(b"\x0e\x03\x13\x01" + bytes(100))
    refused(tmp_path / "EO1H.L1R", "is HDF4, which the GDAL here does not read; convert it")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_why_a_raster_of_another_format_is_refused(tmp_path: Path) -> None:
    """It was said to be no known raster."""
    with rasterio.open(tmp_path / "x.img", "w", driver="HFA", width=4, height=3, count=1, dtype="complex64") as file:
        file.write(np.ones((1, 3, 4), dtype=np.complex64))
    refused(tmp_path / "x.img", "holds complex64 samples; expected real numbers")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = envi(tmp_path)
    if os.geteuid() == 0:  # root may read everything: refuse in its place

        def denied(self: Path, *args: object, **options: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
    else:
        file.chmod(0)
    refused(file, "Permission denied.*permissions")


def test_header_without_data(tmp_path: Path) -> None:
    (tmp_path / "x.hdr").write_text(HEADER)
    refused(tmp_path / "x.hdr", r"data file is missing: expected x or x\{\.img")


def test_data_without_header(tmp_path: Path) -> None:
    (tmp_path / "x.bil").write_bytes(bytes(48))
    refused(tmp_path / "x.bil", r"no ENVI header beside it \(x\.hdr or x\.bil\.hdr\)")


def test_truncated_envi(tmp_path: Path) -> None:
    claim = r"x\.hdr claims 3 lines x 4 samples x 2 bands of 2-byte samples"
    refused(envi(tmp_path, 47), rf"is truncated: holds 47 bytes, {claim} = 48 bytes")
    refused(
        envi(tmp_path, 52, HEADER + "header offset = 5\n"),
        rf"is truncated: holds 52 bytes, {claim} after 5 bytes = 53 bytes",
    )


def test_envi_data_of_another_size(tmp_path: Path) -> None:
    refused(envi(tmp_path, 96), "does not match its header.*data type")
    assert open_cube(envi(tmp_path, 50)).shape == (3, 4, 2)  # trailing bytes below one row


def test_wrong_interleave(tmp_path: Path) -> None:
    refused(envi(tmp_path, header=HEADER.replace("bsq", "bsp")), "interleave is 'bsp'; expected bsq, bil or bip")


def test_not_an_envi_header(tmp_path: Path) -> None:
    refused(envi(tmp_path, header="hello\n"), "no ENVI header beside it")
    refused(tmp_path / "x.hdr", "first line must be ENVI")


@pytest.mark.parametrize("suffix", [".tif", ".mat", ".h5", ".npz", ".npy"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_truncated_containers(tmp_path: Path, suffix: str, keep: float) -> None:
    file = tmp_path / f"x{suffix}"
    cube = np.random.default_rng(0).integers(0, 60000, (40, 30, 20)).astype(np.uint16)
    if suffix == ".tif":
        with rasterio.open(
            file, "w", driver="GTiff", height=40, width=30, count=20, dtype="uint16", compress="deflate"
        ) as dataset:
            dataset.write(cube.transpose(2, 0, 1))
    elif suffix == ".mat":
        scipy.io.savemat(file, {"cube": cube}, do_compression=True)
    elif suffix == ".h5":
        with h5py.File(file, "w") as h5:
            h5.create_dataset("cube", data=cube, compression="gzip")
    elif suffix == ".npz":
        np.savez_compressed(file, cube=cube)
    else:
        np.save(file, cube)
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(InputError, match="x\\" + suffix), open_cube(file) as opened:
        opened.read()


def test_corrupt_npz_stream(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, cube=CUBE)
    raw = bytearray(buffer.getvalue())
    raw[200:400] = bytes(200)
    (tmp_path / "x.npz").write_bytes(raw)
    refused(tmp_path / "x.npz", "damaged")


def test_memory_limit_of_what_is_loaded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", cube=CUBE)
    scipy.io.savemat(tmp_path / "x.mat", {"cube": CUBE})
    monkeypatch.setattr("lkca.data.memory.available_memory", lambda: 100)
    refused(tmp_path / "x.npz", r"loaded whole\) needs .*; save it as \.npy")
    refused(tmp_path / "x.mat", r"loaded whole\) needs .*; save it with -v7\.3")


def test_unknown_variable(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"cube": CUBE, "gt": np.zeros((12, 9))})
    refused(f"{tmp_path / 'x.mat'}::hsi", "has no variable 'hsi'; its numeric arrays are: cube 12x9x5, gt 12x9")
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["a/cube"] = CUBE
    refused(f"{tmp_path / 'x.h5'}::/cube", "has no variable '/cube'; its numeric arrays are: /a/cube 12x9x5")
    np.savez(tmp_path / "x.npz", cube=CUBE)
    refused(f"{tmp_path / 'x.npz'}::a", "has no variable 'a'; its numeric arrays are: cube")
    refused(f"{tmp_path / 'x.npz'}::", "no variable name after ::")


@pytest.mark.parametrize("options", [{"variable": "a"}, {"axes": "brc"}, {"shape": (3, 4)}])
def test_options_that_do_not_apply(tmp_path: Path, options: dict) -> None:
    with pytest.raises(InputError, match="does not apply to ENVI files"):
        open_cube(envi(tmp_path), **options)


@pytest.mark.parametrize("axes", ["rc", "rcx", "rrb", "", "rcbb"])
def test_axes_that_are_none(tmp_path: Path, axes: str) -> None:
    np.save(tmp_path / "x.npy", CUBE)
    refused(tmp_path / "x.npy", "must hold r", axes=axes)


@pytest.mark.parametrize("xml", [
    '<VRTDataset rasterXSize="3" rasterYSize="3"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="1">secret.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
    "</VRTRasterBand></VRTDataset>",
    '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>',
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_calls_itself_a_tiff_names_no_data_elsewhere(tmp_path: Path, xml: str) -> None:
    with rasterio.open(tmp_path / "secret.tif", "w", driver="GTiff", height=3, width=3, count=1, dtype="uint8") as out:
        out.write(np.ones((1, 3, 3), np.uint8))
    (tmp_path / "x.tif").write_text(xml)
    refused(tmp_path / "x.tif", "not recognized as being in a supported file format")
    (tmp_path / "x.png").write_text(xml)
    refused(tmp_path / "x.png", "is no known raster" if "WMS" in xml else "VRT|known raster")
    (tmp_path / "x.vrt").write_text(xml)
    if "VRT" in xml:
        assert open_cube(tmp_path / "x.vrt").read().min() == 1


def test_external_links_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as h5:
        h5["cube"] = CUBE
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["cube"] = h5py.ExternalLink("secret.h5", "/cube")
    refused(f"{tmp_path / 'x.h5'}::/cube", "has no variable")


def test_classic_netcdf(tmp_path: Path) -> None:
    (tmp_path / "x.nc").write_bytes(b"CDF\x01" + bytes(200))
    refused(tmp_path / "x.nc", "classic NetCDF; convert it")


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "x.npy", objects)
    refused(tmp_path / "x.npy", "holds object samples; expected real numbers")
    np.savez(tmp_path / "x.npz", cube=objects)
    refused(tmp_path / "x.npz", "no 3-D numeric array")


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"M\xfcnchen.npy")
    file.write_bytes(b"x")
    with pytest.raises(InputError, match="not UTF-8; rename it"):
        open_cube(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{broken", "its JSON metadata cannot be read"),
        ("[1]", "not an object"),
        ('{"nodata": "x"}', "nodata 'x'; expected a number"),
        ('{"nodata": [1, 2]}', r"nodata \[1, 2\]; expected a number"),
        ('{"transform": [1, 2]}', r"transform \[1, 2\]; expected six finite numbers"),
        ('{"transform": [NaN, 0, 0, 0, 1, 0]}', "expected six finite numbers"),
        ('{"scale_factor": 0}', "the scale factor is 0"),
        ('{"scale_factor": "x"}', "scale_factor 'x'; expected a number, or a list of one for each band"),
        ('{"scale_factor": [[2.0]]}', "scale factor"),
        ('{"crs": "Mars"}', "crs 'Mars'; expected WKT or EPSG:n"),
        ('{"crs": 4326}', "crs 4326; expected WKT or EPSG:n"),
        pytest.param('{"nodata": 1' + 400 * "0" + "}", r"nodata 10+\.\.\.; expected a number", id="vast"),
        ('{"gcps": [[1, 2]]}', r"gcps \[\[1, 2\]\]; expected a list of points with row, col, x and y"),
        ('{"gcps": [{"row": "1", "col": 1, "x": 1, "y": 1}]}', "gcps .*; expected a list of points with row, col"),
        ('{"gcps": [{"row": 1, "col": 1, "x": NaN, "y": 1}]}', "gcps .*; expected a list of points with row, col"),
        ('{"rpc": {"a": 1}}', "rpc {'a': 1}; expected coefficients as GDAL names them"),
        ('{"band_names": 5}', "band_names 5; expected a list of names"),
    ],
)
def test_bad_json_metadata(tmp_path: Path, text: str, words: str) -> None:
    np.savez(tmp_path / "x.npz", cube=CUBE, meta=np.array(text))
    refused(tmp_path / "x.npz", words)


def test_json_metadata_may_be_null(tmp_path: Path) -> None:
    keys = ("nodata", "transform", "scale_factor", "offset", "crs", "gcps", "gcps_crs", "rpc", "band_names")
    np.savez(tmp_path / "x.npz", cube=CUBE, meta=np.array(json.dumps(dict.fromkeys(keys))))
    with open_cube(tmp_path / "x.npz") as cube:
        assert cube.meta.scale_factor == 1 and cube.meta.offset == 0 and cube.meta.tags == {}


def test_nothing_but_ours_is_said_of_a_crs_that_cannot_be_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """PROJ writes to the terminal where nothing catches it: ERROR 1: missing [."""
    np.savez(tmp_path / "x.npz", cube=CUBE, meta=np.array('{"crs": "EPSG:99999"}'))
    refused(tmp_path / "x.npz", "crs 'EPSG:99999'; expected WKT or EPSG:n")
    CUBE.astype("<f4").tofile(tmp_path / "y.img")
    bands, rows, cols = CUBE.shape
    (tmp_path / "y.hdr").write_text(
        f"ENVI\nsamples = {cols}\nlines = {rows}\nbands = {bands}\ndata type = 4\ninterleave = bsq\n"
        "map info = {Own, 1, 1, 0, 0, 1, 1}\ncoordinate system string = {garbage}\n"
    )
    with open_cube(tmp_path / "y.hdr") as cube:
        assert cube.meta.crs is None and any("coordinate system string cannot be read" in w for w in cube.warnings)
    assert capfd.readouterr().err == ""


def test_complex_raster(tmp_path: Path) -> None:
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", height=3, width=3, count=1, dtype="complex64",
                       transform=rasterio.Affine.scale(2)):  # fmt: skip
        pass
    refused(tmp_path / "x.tif", "complex64 samples; expected real")
