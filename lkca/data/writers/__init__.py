"""Writing cubes: whole (``write_cube``) or by windows (``create_writer``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import DTypeLike
from rasterio.crs import CRS
from rasterio.errors import CRSError

from lkca.data.codec import nodata_code
from lkca.data.meta import CubeMeta
from lkca.data.readers.envi import find_header, of_tiff
from lkca.data.readers.envi_header import AXES
from lkca.data.window import Window
from lkca.data.writers.base import Backend, CubeWriter, WriteReport, write_error
from lkca.data.writers.cog import CogBackend
from lkca.data.writers.containers import MatBackend, NpzBackend
from lkca.data.writers.envi import EnviBackend, envi_paths
from lkca.data.writers.geotiff import GeoTiffBackend, Kind
from lkca.errors import InputError
from lkca.output import check_name, check_output

__all__ = ["CubeWriter", "WriteReport", "create_writer", "output_meta", "write_cube"]

_DRIVER_OF = {
    ".tif": "COG", ".tiff": "COG", ".hdr": "ENVI", ".img": "ENVI", ".dat": "ENVI", ".raw": "ENVI",
    ".bsq": "ENVI", ".bil": "ENVI", ".bip": "ENVI", ".npz": "npz", ".mat": "mat",
}  # fmt: skip
_LARGE_CODE = 2**53  # from here on floats miss whole numbers, and GDAL (3.10) stores -9 for -9.2e18
_DRIVERS = {"gtiff": "GTiff", "geotiff": "GTiff", "cog": "COG", "envi": "ENVI", "npz": "npz", "mat": "mat"}


def create_writer(
    path: str | os.PathLike[str],
    shape: tuple[int, int, int],
    meta: CubeMeta,
    *,
    overwrite: bool = False,
    dtype: DTypeLike | None = None,
    driver: str | None = None,
    interleave: str | None = None,
    compress: str | None = None,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> CubeWriter:
    """Start a cube of ``shape`` (rows, cols, bands) that is written by windows.

    The driver follows the suffix (.tif: COG with overviews; .hdr, .img, .dat, .raw, .bsq, .bil, .bip: ENVI; .npz;
    .mat) unless named: GTiff, COG, ENVI, npz or mat. dtype: of the stored samples, see :func:`output_meta`.
    interleave: "bsq", "bil" or "bip"; by default the suffix, then (ENVI) ``meta.interleave``, then bsq.
    compress: "deflate", "lzw", "zstd", ... or "none" (the default; .npz and .mat deflate by default).
    inputs: files that the output must not be. InputError for wrong use, OutputError where nothing can be written.
    """
    path = Path(path)
    check_name(path)
    name = _driver(path, driver)
    if interleave is not None and interleave.lower() not in AXES:
        raise InputError(f"{path}: interleave {interleave!r} is unknown; choose bsq, bil or bip")
    for final in envi_paths(path) if name == "ENVI" else (path,):
        check_output(final, overwrite=overwrite, inputs=inputs)
    if name in ("GTiff", "COG") and (header := find_header(path)) and of_tiff(header):
        raise InputError(
            f"{path}: {header.name} describes a TIFF of this name, and would be read with the new one; choose another "
            f"name for the output or remove {header.name} first"
        )
    if min(shape) < 1:
        raise InputError(f"{path}: a cube of {shape[0]} rows x {shape[1]} columns x {shape[2]} bands cannot be written")
    meta.check(shape[2], str(path))
    _check_crs(meta, path)
    meta = output_meta(meta, dtype, str(path))
    backend: Backend
    try:
        if name == "ENVI":
            suffix = path.suffix[1:].lower()
            order = (interleave or (suffix if suffix in AXES else meta.interleave) or "bsq").lower()
            meta = meta.replace(interleave=order)
            backend = EnviBackend(path, shape, meta, interleave=order, compress=compress)
        elif name in ("GTiff", "COG"):
            assert meta.stored_dtype is not None
            kind = Kind.of(path, meta.stored_dtype, interleave, compress)
            backend = (CogBackend if name == "COG" else GeoTiffBackend)(path, shape, meta, kind)
        else:
            backend = (NpzBackend if name == "npz" else MatBackend)(path, shape, meta, compress)
    except OSError as error:
        raise write_error(path, error) from error
    return CubeWriter(path, shape, meta, backend, name)


def write_cube(
    path: str | os.PathLike[str],
    array: np.ndarray,
    meta: CubeMeta,
    *,
    overwrite: bool = False,
    dtype: DTypeLike | None = None,
    driver: str | None = None,
    interleave: str | None = None,
    compress: str | None = None,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> WriteReport:
    """Write a whole cube, (bands, rows, cols) physical values, NaN = missing; options, errors as :func:`create_writer`.

    Raises ValueError for an array of another number of dimensions.
    """
    if array.ndim != 3:
        raise ValueError(f"{path}: expected an array of shape (bands, rows, cols), found {array.shape}")
    bands, rows, cols = array.shape
    writer = create_writer(
        path, (rows, cols, bands), meta, overwrite=overwrite, dtype=dtype, driver=driver,
        interleave=interleave, compress=compress, inputs=inputs,
    )  # fmt: skip
    with writer:
        step = max(1, 2**22 // (bands * cols))
        step = max(writer.block[0], step - step % writer.block[0])
        for row in range(0, rows, step):
            window = Window(row, 0, min(step, rows - row), cols)
            writer.write(window, array[(slice(None), *window.slices)])
    assert writer.report is not None
    return writer.report


def _check_crs(meta: CubeMeta, path: Path) -> None:
    for key, crs in (("crs", meta.crs), ("gcps_crs", meta.gcps_crs)):
        if crs is None:
            continue
        try:
            with rasterio.Env():  # where PROJ fails it writes to the terminal otherwise
                CRS.from_wkt(crs)
        except CRSError as error:
            raise InputError(f"{path}: the {key} is {crs[:40]!r}; expected WKT: correct it, or leave it out") from error


def output_meta(meta: CubeMeta, dtype: DTypeLike | None, source: str = "output") -> CubeMeta:
    """The description of the samples to be written.

    Without ``dtype`` the stored dtype, scale and nodata of the source are kept (float64 and half become
    float32; nothing known: float32). An integer source written as float holds physical values, its nodata as NaN. An
    integer output keeps scale and offset; where the source's nodata value does not fit (or a float source
    may hold NaN, or NaN mark what is missing in an integer one: its nodata is NaN), one code is set aside for missing
    samples: the lowest of a signed, the highest of an unsigned dtype, of 32 bits where it has 64. That replaces
    nodata values from 2**53 on too.
    """
    stored = None if meta.stored_dtype is None else np.dtype(meta.stored_dtype).newbyteorder("=")
    try:
        target = np.dtype(dtype).newbyteorder("=") if dtype is not None else (stored or np.dtype(np.float32))
    except TypeError as error:
        raise InputError(
            f"{source}: dtype {dtype!r} is unknown; choose for example float32, int16 or uint16"
        ) from error
    if dtype is None and target.kind == "f":
        target = np.dtype(np.float32)
    if target.kind == "b":
        target = np.dtype(np.uint8)
    if target.kind not in "iuf" or (target.itemsize < 4 and target.kind == "f"):
        raise InputError(f"{source}: dtype {target} cannot be written; choose float32, float64 or an integer dtype")
    nodata, scale, offset = meta.nodata, meta.scale_factor, meta.offset
    if target.kind == "f":
        if stored is not None and stored.kind != "f":
            scale, offset, nodata = 1.0, 0.0, None if nodata is None else float("nan")
        elif nodata is not None and abs(nodata) > float(np.finfo(target).max):
            nodata = float("nan")
    elif nodata is not None and nodata_code(target, nodata) is not None:
        nodata = nodata if abs(nodata) < _LARGE_CODE else _code_set_aside(target)
    elif target == stored and not (nodata is not None and np.isnan(nodata)):
        nodata = None  # no sample of the source could equal it
    elif nodata is not None or stored is None or stored.kind == "f":
        nodata = _code_set_aside(target)
    return meta.replace(stored_dtype=target, nodata=nodata, scale_factor=scale, offset=offset)


def _code_set_aside(dtype: np.dtype) -> float:
    info = np.iinfo(dtype if dtype.itemsize < 8 else f"{dtype.kind}4")
    return float(info.min if dtype.kind == "i" else info.max)


def _driver(path: Path, driver: str | None) -> str:
    if driver is not None:
        name = _DRIVERS.get(driver.lower())
        if name is None:
            raise InputError(f"{path}: driver {driver!r} is unknown; choose GTiff, COG, ENVI, npz or mat")
        return name
    name = _DRIVER_OF.get(path.suffix.lower())
    if name is None:
        raise InputError(
            f"{path}: the suffix {path.suffix!r} names no output format; use one of {', '.join(_DRIVER_OF)}"
        )
    return name
