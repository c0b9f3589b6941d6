"""Opening cubes of every format that is read."""

from __future__ import annotations

import os
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from lkca.data.cube import Cube
from lkca.data.readers.envi import find_data, find_header, find_tiff, is_header, open_envi
from lkca.data.readers.hdf5 import open_hdf5
from lkca.data.readers.matlab import open_matlab
from lkca.data.readers.nodata import declare_nodata, names_nodata, warn_of_fill
from lkca.data.readers.numpy import open_npy, open_npz
from lkca.data.readers.raster import open_raster
from lkca.errors import InputError, LkcaError
from lkca.output import check_utf8

__all__ = ["CUBE_SUFFIXES", "OTHER_SUFFIXES", "open_cube"]

_SUPPORTED = "ENVI (.hdr with its data file), GeoTIFF (.tif), MATLAB (.mat), HDF5/NetCDF4 (.h5, .nc), .npz, .npy"
CUBE_SUFFIXES = frozenset({".tif", ".tiff", ".mat", ".h5", ".hdf5", ".he5", ".nc", ".nc4", ".npz", ".npy"})
OTHER_SUFFIXES = frozenset({".hdf", ".vrt", ".jp2"})  # read too, but mostly no cube, or one that is there already
_CONTAINERS = CUBE_SUFFIXES | OTHER_SUFFIXES
_ARCHIVES = frozenset({".gz", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z"})


def open_cube(
    path: str | os.PathLike[str],
    *,
    variable: str | None = None,
    shape: tuple[int, int] | None = None,
    axes: str | None = None,
    nodata: float | None = None,
) -> Cube:
    """Open a cube for windowed reading; the format is told by content and name.

    path: a file; for ENVI the header or the data file; ``file.mat::name`` and ``file.h5::/path`` name a
    variable (as does ``variable``). shape: (rows, cols) of a 2-D bands x pixels array, or of a 3-D one, whose axes it
    tells. axes: order of the array's axes, a permutation of "rcb" (rows, columns, bands), where a format does not fix
    it. nodata: what the file stores where samples are missing, instead of what it says itself.
    Bands without any valid sample are counted as bad. Raises InputError, one sentence with the remedy.
    """
    file, variable = _split(path, variable)
    source = str(file) if variable is None else f"{file}::{variable}"
    _check_file(file)
    try:
        with rasterio.Env():  # where PROJ fails it writes to the terminal otherwise
            cube = _open(file, source, variable, shape, axes)
    except LkcaError:
        raise
    except MemoryError as error:  # a damaged or hostile file may ask for anything
        raise InputError(f"{source}: opening it needs more memory than is free; it may be damaged") from error
    except Exception as error:  # parsers raise whatever they stumble on in a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if "unable to lock file" in reason:
            raise InputError(
                f"{source}: is locked: another program may be writing it, or its file system knows no locks; close "
                "that program, or set HDF5_USE_FILE_LOCKING=FALSE"
            ) from error
        raise InputError(f"{source}: cannot be read ({reason}); it may be truncated or damaged") from error
    try:
        if nodata is not None:
            declare_nodata(cube, nodata)
        elif not names_nodata(cube):
            warn_of_fill(cube)
        if cube.meta.nodata is not None or (cube.meta.stored_dtype is not None and cube.meta.stored_dtype.kind == "f"):
            cube.mark_empty_bands()
    except BaseException:
        cube.close()
        raise
    return cube


def _open(file: Path, source: str, variable: str | None, shape: tuple[int, int] | None, axes: str | None) -> Cube:
    if file.suffix.lower() == ".hdr":
        file = find_tiff(file) or file
    suffix = file.suffix.lower()
    header = file if suffix == ".hdr" else find_header(file)
    if header is not None and suffix not in _CONTAINERS and (suffix == ".hdr" or is_header(header)):
        _no_array_options(variable, shape, axes, source, "ENVI")
        data, warnings = (file, []) if header != file else find_data(header)
        _check_file(data)
        return open_envi(header, data, source, warnings)
    with file.open("rb") as stream:
        magic = stream.read(520)
    if magic.startswith(b"\x89HDF\r\n\x1a\n"):
        return open_hdf5(file, source, variable, shape, axes)
    if suffix == ".mat" or magic.startswith(b"MATLAB 5.0") or magic.startswith(b"MATLAB 7.3"):
        return open_matlab(file, source, variable, shape, axes)
    if magic.startswith(b"PK\x03\x04") or suffix == ".npz":
        return open_npz(file, source, variable, shape, axes)
    if magic.startswith(b"\x93NUMPY") or suffix == ".npy":
        if variable is not None:
            raise InputError(f"{source}: an .npy file holds one array without a name; leave out ::{variable}")
        return open_npy(file, source, shape, axes)
    if magic.startswith(b"CDF"):
        raise InputError(f"{source}: is classic NetCDF; convert it to NetCDF4 (nccopy -k nc4) and open that")
    if suffix in (".h5", ".hdf5", ".he5", ".nc", ".nc4"):
        raise InputError(f"{source}: is no HDF5 or NetCDF4 file (its signature is missing); it may be damaged")
    _no_array_options(variable, shape, axes, source, "raster")
    try:
        return open_raster(file, source)
    except InputError as error:
        if suffix in (".tif", ".tiff") or not isinstance(error.__cause__, RasterioError):  # GDAL did open it
            raise
        if magic.startswith(b"\x0e\x03\x13\x01"):
            raise InputError(
                f"{source}: is HDF4, which the GDAL here does not read; convert it (h4toh5convert, or gdal_translate "
                "where GDAL has HDF4)"
            ) from error
        raise InputError(
            f"{source}: has no ENVI header beside it ({file.stem}.hdr or {file.name}.hdr) and is no known raster; "
            f"supported: {_SUPPORTED}"
        ) from error


def _split(path: str | os.PathLike[str], variable: str | None) -> tuple[Path, str | None]:
    text = os.fspath(path)
    if "::" in text and not Path(text).exists():
        text, _, inner = text.partition("::")
        if variable is not None and inner != variable:
            raise InputError(f"{path}: names the variable {inner!r}, but {variable!r} was asked for; give one of them")
        variable = inner
    if variable == "":
        raise InputError(f"{path}: has no variable name after ::; write FILE::NAME")
    return Path(text), variable


def _no_array_options(
    variable: str | None, shape: tuple[int, int] | None, axes: str | None, source: str, kind: str
) -> None:
    """These files name no variables and fix their own shape and axes: an option for them is a mistake."""
    given = [("::" + str(variable), variable), ("--shape", shape), ("--axes", axes)]
    names = [name for name, value in given if value is not None]
    if names:
        raise InputError(f"{source}: {', '.join(names)} does not apply to {kind} files; leave it out")


def _check_file(file: Path) -> None:
    check_utf8(file)
    try:
        if file.is_dir():
            raise InputError(f"{file}: is a directory; name the cube file inside it")
        if not file.exists():
            raise InputError(f"{file}: does not exist; check the path")
        if not file.is_file():
            raise InputError(f"{file}: is not a regular file; name a cube file")
        if file.suffix.lower() in _ARCHIVES:
            raise InputError(f"{file}: is an archive; unpack it and name the cube inside")
        if file.stat().st_size == 0:
            raise InputError(f"{file}: is empty (0 bytes); a cube was expected, copy it again")
        with file.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{file}: cannot be opened ({error.strerror}); check its permissions") from error
