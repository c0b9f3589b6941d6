"""MATLAB files: v4 to v7 through scipy (a variable is loaded whole), v7.3 through h5py (by windows)."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from lkca.data.cube import Cube
from lkca.data.memory import check_memory
from lkca.data.meta import CubeMeta
from lkca.data.metajson import meta_from_json
from lkca.data.readers.arrays import ArrayWindows
from lkca.data.readers.chunks import CHUNK_CACHE, ChunkWindows
from lkca.data.readers.matlab_tags import complex_variables
from lkca.data.readers.storage import MAX_COMPANION, check_storage, is_small
from lkca.data.readers.variables import (
    WAVELENGTH_NAMES,
    choose_cube,
    choose_layout,
    find_pixels,
    left_out,
    own_axes,
    spectral_lists,
    with_bands,
)
from lkca.errors import InputError

__all__ = ["META_VARIABLE", "open_matlab", "open_matlab73"]

META_VARIABLE = "lkca_meta"
_NUMERIC = {
    "double": 8, "single": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4,
    "int64": 8, "uint64": 8, "logical": 1,
}  # fmt: skip
_MAX_TEXT = 2**22  # characters of our own JSON
_MAX_DEFLATE_RATIO = 1032 * 8  # zlib's best ratio, times doubles that MATLAB stores as single bytes


def open_matlab(file: Path, source: str, variable: str | None, shape: tuple[int, int] | None, axes: str | None) -> Cube:
    """A cube in a MATLAB file before v7.3. Shapes and axes are those that MATLAB shows."""
    try:
        listing = scipy.io.whosmat(file, appendmat=False)
    except NotImplementedError:  # v7.3: HDF5 behind a user block
        return open_matlab73(file, source, variable, shape, axes)
    level5 = scipy.io.matlab.matfile_version(file, appendmat=False)[0] == 1
    unread = complex_variables(file, source) if level5 else set()
    arrays = {name: dims for name, dims, kind in listing if kind in _NUMERIC and name not in unread}
    kinds = {name: f"complex {kind}" if name in unread else kind for name, _, kind in listing}
    texts = [
        name
        for name, dims, kind in listing
        if name == META_VARIABLE and kind == "char" and math.prod(dims) <= _MAX_TEXT
    ]
    small = _load(file, [n for n, dims in arrays.items() if math.prod(dims) <= MAX_COMPANION] + texts)
    meta, stated = meta_from_json("".join(map(str, small[META_VARIABLE].ravel()[:1])) if texts else "", source)
    name, pixels = _choose(arrays, kinds, small, variable, shape, source)
    nbytes = math.prod(arrays[name]) * _NUMERIC[kinds[name]]
    if nbytes > file.stat().st_size * _MAX_DEFLATE_RATIO:
        raise InputError(
            f"{source}: variable {name} claims {nbytes} bytes, more than the {file.stat().st_size} bytes of the file "
            "can hold; it is damaged"
        )
    check_memory(nbytes, f"{source}: variable {name} (loaded whole)", "save it with -v7.3 to read it by windows")
    array = _load(file, [name])[name]
    axes = own_axes(axes, stated, name, arrays[name])
    return _cube(np.asarray(array), name, small, meta, pixels, axes, file, source)


def open_matlab73(
    file: Path, source: str, variable: str | None, shape: tuple[int, int] | None, axes: str | None
) -> Cube:
    """A cube in a MATLAB v7.3 (HDF5) file; HDF5 shows the axes reversed, here they are as in MATLAB."""
    h5 = h5py.File(file, "r", rdcc_nbytes=CHUNK_CACHE)
    try:
        nodes = {
            name: h5[name]
            for name in h5
            if not name.startswith("#") and isinstance(h5.get(name, getlink=True), h5py.HardLink)
        }
        kinds = {name: _class_of(node) for name, node in nodes.items()}
        arrays = {
            name: node.shape[::-1]
            for name, node in nodes.items()
            if isinstance(node, h5py.Dataset)
            and kinds[name] in _NUMERIC
            and node.dtype.kind in "biuf"
            and node.shape is not None
        }
        small = {name: nodes[name][()].T for name in arrays if is_small(nodes[name])}
        readable = kinds.get(META_VARIABLE) == "char" and is_small(nodes[META_VARIABLE])
        text = nodes[META_VARIABLE][()] if readable else np.array([], dtype=np.uint16)
        meta, stated = meta_from_json("".join(map(chr, text.ravel())), source)
        name, pixels = _choose(arrays, kinds, small, variable, shape, source)
        check_storage(nodes[name], file, f"{file}::{name}")
        axes = own_axes(axes, stated, name, arrays[name])
        return _cube(nodes[name], name, small, meta, pixels, axes, file, source, h5)
    except BaseException:
        h5.close()
        raise


def _choose(
    arrays: dict[str, tuple[int, ...]],
    kinds: dict[str, str],
    small: dict[str, np.ndarray],
    variable: str | None,
    shape: tuple[int, int] | None,
    source: str,
) -> tuple[str, tuple[int, int] | None]:
    scalars = {
        name: float(value.ravel()[0]) for name, value in small.items() if value.size == 1 and value.dtype.kind in "biuf"
    }
    pixels, bands = find_pixels(scalars)
    pixels = shape or pixels
    candidates = {name: dims for name, dims in arrays.items() if len(dims) == 3 or min(dims, default=0) > 1}
    name = choose_cube(
        candidates, variable, source, others=kinds, pixels=pixels, bands=bands, band_counts=_counts(small)
    )
    return name, pixels if len(arrays[name]) == 2 else shape  # a 3-D one may be a part of what the scalars tell of


def _cube(
    array: np.ndarray | h5py.Dataset,
    name: str,
    small: dict[str, np.ndarray],
    meta: CubeMeta,
    pixels: tuple[int, int] | None,
    axes: str | None,
    file: Path,
    source: str,
    h5: h5py.File | None = None,
) -> Cube:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{source}: variable {name} holds {array.dtype} samples; expected real numbers")
    dims = tuple(array.shape) if h5 is None else tuple(array.shape[::-1])
    named = source if "::" in source else f"{source}::{name}"
    counts = _counts(small)
    if len(dims) == 2 and h5 is not None:
        check_memory(math.prod(dims) * array.dtype.itemsize, f"{named} (loaded whole)", "save it as a 3-D array")
        array, h5_open = array[()].T, h5
        h5_open.close()
        h5 = None
    layout, order, warning = choose_layout(dims, named, axes=axes, pixels=pixels, band_counts=counts, column_major=True)
    if h5 is None:
        windows = ArrayWindows(np.ascontiguousarray(array).reshape(layout) if len(dims) == 2 else array, order)
    else:
        windows = ChunkWindows(array, order[::-1])
    vectors = with_bands(small)
    wavelengths, fwhm, good = spectral_lists(vectors, windows.shape[2])
    meta = meta.replace(wavelengths=wavelengths, fwhm=fwhm, good_bands=good, stored_dtype=np.dtype(array.dtype))
    remarks = left_out(vectors, meta, windows.shape[2], named)
    return Cube(
        named, windows.shape, meta, windows,
        format="MATLAB" if h5 is None else "MATLAB v7.3", files=(file,),
        warnings=[*remarks, warning] if warning else remarks, close=None if h5 is None else h5.close,
        allow=windows.allow, describes_itself=axes is not None,
    )  # fmt: skip


def _counts(small: dict[str, np.ndarray]) -> set[int]:
    """How many bands the file's wavelength lists tell of."""
    return {value.size for key, value in with_bands(small).items() if key in WAVELENGTH_NAMES and value.size > 1}


def _load(file: Path, names: list[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    loaded = scipy.io.loadmat(file, variable_names=names, appendmat=False)
    return {key: value for key, value in loaded.items() if key in names}


def _class_of(node: h5py.Group | h5py.Dataset) -> str:
    kind = node.attrs.get("MATLAB_class", b"")
    if isinstance(node, h5py.Group):
        return "struct"
    text = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else str(kind)
    return text or {"f": "double", "i": "int32", "u": "uint32", "b": "logical"}.get(node.dtype.kind, "object")
