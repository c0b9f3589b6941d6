"""What a file says of its cube, spoiled by the format's own means: attributes, header fields, tags. Used by mutate.py.

Byte mutations seldom give a whole file with an odd value: a checksum, a length or a quotation mark breaks first.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
import scipy.io
from corpus import BANDS, COLS, META, ROWS, TARGETS, VALUES, Target, use

__all__ = ["ATTRIBUTE_TARGETS"]

_DATA = Path(os.environ.get("LKCA_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "formats"

_TEXTS = [
    "", " ", "nan", "inf", "-1", "0", "1e999", "1e-320", "abc", "1,2", "{}", "{", "}", "{ , }", "{nan, nan}", "{1, 2",
    "µm", "nm", "Nanometers", "unknown", "9" * 400, "0x10", "1_000", "١٢", "\x00", "a\x00b", "\n", "1;2", "1 2 3", "--",
    "+-1", "UTM, 1, 1, 5e5, 5e6, 0, 0, 33, North, WGS-84", "UTM, nan, inf, 5e5, 5e6, 30, 30, 99, North, WGS-84",
    "EPSG:999999", "EPSG:4326", "PROJCS[", "{" * 50, ", " * 300, "true", "None",
]  # fmt: skip
_NUMBERS = [
    0, -1, 1, 2, 1.5, -9999, 65535, 2**31, 2**63 - 1, 2**64 - 1, np.nan, np.inf, -np.inf, 1e308, 1e-320, -0.0, True,
    np.float16(6e4), np.complex64(1j), np.uint8(255), np.int8(-128),
]  # fmt: skip


def _array(rng: random.Random) -> np.ndarray:
    """Numbers, texts or records of an odd shape."""
    shape = rng.choice(
        ((), (0,), (1,), (2,), (BANDS - 1,), (BANDS,), (BANDS + 1,), (1, BANDS), (2, 3), (0, 3), (1, 1, 1))
    )
    kind = rng.randrange(6)
    if kind == 0:
        return np.full(shape, rng.choice(_NUMBERS))
    if kind == 1:
        return np.array([rng.choice(_TEXTS).encode() for _ in range(int(np.prod(shape)))], "S400").reshape(shape)
    if kind == 2:
        return np.zeros(shape, np.dtype([("wavelength", "f4"), ("name", "S3")]))
    if kind == 3:
        return np.linspace(900, 400, int(np.prod(shape))).reshape(shape)
    return np.array([rng.choice(_NUMBERS[:16]) for _ in range(int(np.prod(shape)))], np.float64).reshape(shape)


def _value(rng: random.Random) -> Any:
    return rng.choice((rng.choice(_TEXTS), rng.choice(_NUMBERS), _array(rng), _array(rng)))


_HDF5_NAMES = [
    "scale_factor", "add_offset", "_FillValue", "missing_value", "units", "grid_mapping", "crs_wkt", "spatial_ref",
    "GeoTransform", "Scale_Factor", "Data_Ignore_Value", "wavelengths", "fwhm", "good_wavelengths", "MATLAB_class",
    "CLASS", "NAME", "DIMENSION_LIST", "coordinates", "valid_min", "standard_name", "_Netcdf4Dimid", "Product_ID",
]  # fmt: skip


def _hdf5_value(rng: random.Random) -> Any:
    """Also what only HDF5 holds: nothing, references, enumerations, opaque bytes, texts of no known encoding."""
    special = (
        h5py.Empty("f4"),
        h5py.Empty("S1"),
        np.array([h5py.Reference()], h5py.ref_dtype),
        np.array(1, h5py.enum_dtype({"A": 1, "B": 2}, "i1")),
        np.void(b"\xff\x00\x01"),
        np.bytes_(b"\xff\xfe\xfa"),
        np.array(["a", "", "µm"], h5py.string_dtype()),
    )
    return rng.choice(special) if rng.random() < 0.3 else _value(rng)


def _spoil_hdf5(path: Path, rng: random.Random) -> None:
    with h5py.File(path, "r+") as h5:
        nodes: list[Any] = [h5]
        h5.visititems(lambda _, node: nodes.append(node))
        small = [node for node in nodes[1:] if isinstance(node, h5py.Dataset) and node.size and node.size < 1000]
        for _ in range(rng.choice((1, 1, 2, 4))):
            with contextlib.suppress(
                TypeError, ValueError, OSError, KeyError, RuntimeError
            ):  # HDF5 holds no such value
                if small and rng.random() < 0.4:
                    node = small.pop(rng.randrange(len(small)))
                    name, parent = node.name, node.parent
                    del parent[name]
                    parent[name] = _hdf5_value(rng)
                    continue
                node = rng.choice([n for n in nodes if n])
                name = rng.choice([*node.attrs, *rng.sample(_HDF5_NAMES, 3)])
                if name in node.attrs and rng.random() < 0.15:
                    del node.attrs[name]
                else:
                    node.attrs[name] = _hdf5_value(rng)


_ENVI_NAMES = [
    "samples", "lines", "bands", "header offset", "file type", "data type", "interleave", "byte order", "wavelength",
    "wavelength units", "fwhm", "bbl", "band names", "map info", "coordinate system string", "projection info",
    "geo points", "rpc info", "reflectance scale factor", "data gain values", "data offset values", "data ignore value",
    "default bands", "description", "file compression", "major frame offsets", "x start",
]  # fmt: skip


def _spoil_envi(path: Path, rng: random.Random) -> None:
    """Fields of a header: other values, entries of lists, names; gone, twice, or new ones."""
    fields = re.findall(
        r"^([^=\n{]+?)[ \t]*=[ \t]*(\{.*?\}|[^\n]*)", path.read_text("latin-1"), re.MULTILINE | re.DOTALL
    )
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(fields))
        name, value = fields[at]
        kind = rng.randrange(6)
        if kind == 0:
            del fields[at]
        elif kind == 1:
            fields.insert(rng.randrange(len(fields)), (rng.choice((name, rng.choice(_ENVI_NAMES))), rng.choice(_TEXTS)))
        elif kind == 2 and value.startswith("{"):
            entries = value.strip("{}").split(",")
            entries[rng.randrange(len(entries))] = rng.choice(_TEXTS)
            fields[at] = name, "{" + ",".join(rng.choice((entries, entries[:-1], entries * 2))) + "}"
        elif kind == 3:
            fields[at] = name, "{" + ", ".join(rng.choice(_TEXTS) for _ in range(rng.choice((1, 4, BANDS, 11)))) + "}"
        else:
            fields[at] = name, rng.choice([*_TEXTS, *map(str, _NUMBERS)])
        fields = fields or [("bands", "1")]
    path.write_text("ENVI\n" + "".join(f"{name} = {value}\n" for name, value in fields), "utf-8")


_TAGS = [
    "wavelength", "WAVELENGTH", "wavelength_units", "fwhm", "bbl", "wavelengths", "STATISTICS_MEAN", "Band_1", "lkca",
    "CENTRAL_WAVELENGTH_UM", "FWHM_UM", "lkca_meta", "reflectance_scale_factor", "AREA_OR_POINT", "data_ignore_value",
]  # fmt: skip


def _spoil_tiff(path: Path, rng: random.Random) -> None:
    with rasterio.open(path, "r+") as file:
        for _ in range(rng.choice((1, 1, 2, 4))):
            kind, text, number = rng.randrange(7), rng.choice(_TEXTS), rng.choice(_NUMBERS)
            with contextlib.suppress(Exception):  # rasterio writes no such value
                if kind <= 2:
                    band = rng.choice((0, 1, file.count))
                    space = rng.choice((None, None, "IMAGERY", "ENVI", "IMAGE_STRUCTURE"))
                    file.update_tags(band, ns=space, **{rng.choice(_TAGS): text})
                elif kind == 3:
                    file.nodata = number
                elif kind == 4:
                    values = [rng.choice((1.0, float(number))) for _ in file.indexes]
                    setattr(file, rng.choice(("scales", "offsets")), values)
                elif kind == 5:
                    file.transform = rasterio.Affine(*(rng.choice((0.0, 1.0, float(number))) for _ in range(6)))
                else:
                    file.set_band_description(rng.choice((1, file.count)), text)


def _containers(suffix: str) -> Target:
    """A .mat or .npz whose small variables are odd, beside a sound cube."""
    sound = {
        "cube": VALUES.transpose(1, 2, 0), "wavelengths": META.wavelengths, "fwhm": META.fwhm, "bbl": META.good_bands,
        "nRow": ROWS, "nCol": COLS, "lkca_meta": "{}", "meta": "{}",
    }  # fmt: skip

    def write(path: Path, arrays: dict[str, Any]) -> None:
        if suffix == "npz":
            np.savez(path, **arrays)
        else:
            scipy.io.savemat(path, arrays)

    def spoil(path: Path, rng: random.Random) -> None:
        names = rng.sample([*list(sound)[1:], "nodata", "scale_factor", "wavelength"], rng.choice((1, 1, 2, 3)))
        aside = path.with_name(f"aside.{suffix}")
        with contextlib.suppress(TypeError, ValueError):  # scipy writes no such value
            write(aside, sound | {name: _value(rng) for name in names})
            aside.replace(path)

    return _target(f"x.{suffix}", lambda path: write(path, sound), spoil)


def _target(
    name: str, make: Callable[[Path], Any], spoil: Callable[[Path, random.Random], None], header: str = ""
) -> Target:
    """make writes ``name``, and the ``header`` beside it where that is what is spoiled."""

    def made(folder: Path) -> list[str]:
        make(folder / name)
        return [name, header] if header else [name]

    return Target(
        made, lambda folder: use(folder / name), spoil=lambda folder, rng: spoil(folder / (header or name), rng)
    )


def _genuine(source: str, spoil: Callable[[Path, random.Random], None], header: str = "") -> Target:
    def copy(path: Path) -> None:
        shutil.copyfile(_DATA / source, path)
        if header:
            shutil.copyfile(_DATA / Path(source).with_name(header), path.with_name(header))

    return _target(Path(source).name, copy, spoil, header)


def _corpus(name: str, file: str, spoil: Callable[[Path, random.Random], None], header: str = "") -> Target:
    return _target(file, lambda path: TARGETS[name].make(path.parent), spoil, header)


ATTRIBUTE_TARGETS = {
    "hdf5-attributes": _corpus("hdf5", "x.h5", _spoil_hdf5),
    "mat7.3-attributes": _corpus("mat7.3", "x.mat", _spoil_hdf5),
    "envi-fields": _corpus("envi", "x.img", _spoil_envi, "x.hdr"),
    "tiff-tags": _corpus("tiff", "x.tif", _spoil_tiff),
    "mat-variables": _containers("mat"),
    "npz-variables": _containers("npz"),
}
if _DATA.is_dir():
    ATTRIBUTE_TARGETS |= {
        "neon-attributes": _genuine("hdf5_neon/ex.h5", _spoil_hdf5),
        "enmap-tags": _genuine("geotiff/enmap_potsdam_tile_64_0.tif", _spoil_tiff),
        "emit-fields": _genuine("envi_emit_l1b_tiny/hyperquest_test_data", _spoil_envi, "hyperquest_test_data.hdr"),
        "samson-fields": _genuine("envi_bsq_samson/samson_1.img", _spoil_envi, "samson_1.img.hdr"),
        "fenix-fields": _genuine("envi_fenix_tiny/image.dat", _spoil_envi, "image.hdr"),
    }
