"""NumPy files: .npz (an array is loaded whole) and .npy (memory-mapped). Pickles are never loaded."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from lkca.data.cube import Cube
from lkca.data.memory import check_memory
from lkca.data.meta import CubeMeta
from lkca.data.metajson import meta_from_json
from lkca.data.readers.arrays import ArrayWindows, kept_axes
from lkca.data.readers.variables import (
    FWHM_NAMES,
    GOOD_NAMES,
    OWN_CUBE,
    WAVELENGTH_NAMES,
    choose_cube,
    choose_layout,
    left_out,
    own_axes,
    spectral_lists,
)
from lkca.errors import InputError

__all__ = ["open_npy", "open_npz"]

_SMALL_BYTES = 2**22
_MAX_HEAD_BYTES = 2**16  # numpy writes some hundred bytes; a compressed header may claim 4 GiB
_COMPANIONS = {"meta", *WAVELENGTH_NAMES, *FWHM_NAMES, *GOOD_NAMES}


def open_npz(file: Path, source: str, variable: str | None, shape: tuple[int, int] | None, axes: str | None) -> Cube:
    """A cube in an .npz: the array ``cube`` or the only 3-D one, with ``wavelengths_nm``, ``fwhm_nm``,
    ``good_bands`` and JSON text ``meta`` beside it; axes as ``meta`` names them (rows,cols,bands)."""
    with zipfile.ZipFile(file) as archive:
        heads = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                name, size = info.filename[:-4], info.file_size
                heads[name] = (*_npy_head(archive.open(info), size, f"{source}::{name}"), size)
    arrays = {name: dims for name, (dims, dtype, _) in heads.items() if dtype.kind in "biuf"}
    kinds = {name: f"{dtype} array" for name, (_, dtype, _) in heads.items()}
    small = [
        n
        for n, (_, dtype, size) in heads.items()
        if n.lower() in _COMPANIONS and size <= _SMALL_BYTES and dtype.kind in "biufUS"
    ]
    arrays = {n: dims for n, dims in arrays.items() if len(dims) >= 2}
    if variable is not None or all(len(dims) != 3 for dims in arrays.values()):
        arrays = {n: tuple(dims[axis] for axis in kept_axes(dims)) for n, dims in arrays.items()}
    counts = {math.prod(dims) for n, (dims, _, _) in heads.items() if n.lower() in WAVELENGTH_NAMES}
    name = choose_cube(
        arrays, variable, source,
        others=kinds, preferred=OWN_CUBE, pixels=shape, band_counts=counts - {1},
    )  # fmt: skip
    check_memory(heads[name][2], f"{source}: array {name} (loaded whole)", "save it as .npy to read it by windows")
    with np.load(file, allow_pickle=False) as archive:
        array = archive[name]
        companions = {n: archive[n] for n in small if n != name}
    texts = companions.get("meta")
    meta, stated = meta_from_json(str(texts) if texts is not None and texts.dtype.kind in "US" else "", source)
    vectors = {n: value for n, value in companions.items() if value.dtype.kind in "biuf"}
    axes = own_axes(axes, stated, name, array.shape)
    named = source if "::" in source or name == OWN_CUBE else f"{source}::{name}"
    return _cube(array, named, meta, vectors, shape, axes, file, "npz")


def open_npy(file: Path, source: str, shape: tuple[int, int] | None, axes: str | None) -> Cube:
    """A cube in an .npy, memory-mapped."""
    with file.open("rb") as stream:
        _, dtype = _npy_head(stream, file.stat().st_size, source)
    if dtype.kind not in "biuf":
        raise InputError(f"{source}: holds {dtype} samples; expected real numbers")
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    return _cube(array, source, CubeMeta(), {}, shape, axes, file, "npy")


def _cube(
    array: np.ndarray,
    source: str,
    meta: CubeMeta,
    vectors: dict[str, np.ndarray],
    shape: tuple[int, int] | None,
    axes: str | None,
    file: Path,
    kind: str,
) -> Cube:
    counts = {value.size for name, value in vectors.items() if name.lower() in WAVELENGTH_NAMES and value.size}
    kept = tuple(array.shape[axis] for axis in kept_axes(array.shape))
    layout, order, warning = choose_layout(
        kept, source, axes=axes, pixels=shape, band_counts=counts, column_major=False
    )
    windows = ArrayWindows(array.reshape(layout), order)
    wavelengths, fwhm, good = spectral_lists(vectors, windows.shape[2])
    meta = meta.replace(wavelengths=wavelengths, fwhm=fwhm, good_bands=good, stored_dtype=array.dtype)
    remarks = left_out(vectors, meta, windows.shape[2], source)
    return Cube(
        source, windows.shape, meta, windows, format=kind, files=(file,),
        warnings=[*remarks, warning] if warning else remarks, describes_itself=axes is not None,
    )  # fmt: skip


def _npy_head(stream: IO[bytes], size: int, source: str) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of an .npy stream; InputError where it claims another size than ``size`` bytes."""
    head = io.BytesIO(stream.read(_MAX_HEAD_BYTES))
    version = npy_format.read_magic(head)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    dims, _, dtype = read(head)
    claimed = math.prod(dims) * dtype.itemsize + head.tell()
    if not dtype.hasobject and claimed != size:
        shape = "x".join(map(str, dims))
        raise InputError(
            f"{source}: claims {shape} {dtype} = {claimed} bytes, but holds {size}; it is truncated or damaged"
        )
    return dims, dtype
