"""ENVI: flat binary data with a text header that GDAL, SPy, EnMAP-Box and ENVI read."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from lkca.data.envi_control import geo_points_text, rpc_info_text
from lkca.data.envi_map import map_info_fields
from lkca.data.memory import copy_mapped, reserve
from lkca.data.meta import CubeMeta
from lkca.data.readers.envi import described, find_header, find_tiff
from lkca.data.readers.envi_header import AXES, DTYPES, KEYS
from lkca.data.window import Window
from lkca.data.writers.base import Backend, linked, temporary_beside
from lkca.data.writers.layout import Planes
from lkca.errors import InputError

__all__ = ["EnviBackend", "envi_list", "envi_paths", "header_text"]

_LONGEST_LINE, _LINE = 5000, 120
_CODES = {np.dtype("<" + name): code for code, name in DTYPES.items()}
# Tags that are not written: what CubeMeta has in their place counts, and the rest describe the file that was read.
_OWN_KEYS = KEYS | {"file compression", "major frame offsets", "minor frame offsets", "pixel size", "projection info"}


def envi_paths(path: Path) -> tuple[Path, Path]:
    """(data file, header) for an output name: ``x.hdr`` -> x.img and x.hdr; ``x.img`` -> x.img and x.hdr.

    A header that stands there already under another name, such as ``x.img.hdr``, is the one to replace: readers would
    go on taking it for that of the new data. InputError where it is the header of another data file.
    """
    if path.suffix.lower() == ".hdr":
        data, header = path.with_suffix(".img"), path
    else:
        data, header = path, find_header(path) or path.with_suffix(".hdr")
    others = [name for name in described(header) if name != data] if header.is_file() else []
    if header.is_file() and (tiff := find_tiff(header)):
        others.append(tiff)
    if others:
        raise InputError(
            f"{path}: the header {header.name} is that of {others[0].name}, which would lose it; "
            f"choose another name for the output or remove {others[0].name} first"
        )
    if find_header(data) not in (None, header):
        raise InputError(
            f"{path}: {data.name} has another header; name {data.name} to replace both, or choose a new name"
        )
    return data, header


class EnviBackend(Backend):
    """Data through a memory map over space that is reserved first, so that a full disk is an error and not a crash."""

    def __init__(
        self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, *, interleave: str, compress: str | None
    ) -> None:
        if (compress or "none").lower() != "none":
            raise InputError(f"{path}: an ENVI file is not compressed; leave out compress={compress} or write .tif")
        rows, cols, bands = shape
        dtype = meta.stored_dtype
        if dtype not in _CODES:
            raise InputError(f"{path}: ENVI has no data type for {dtype}; choose one of {', '.join(map(str, _CODES))}")
        data, header = envi_paths(path)
        self._header_text = header_text(shape, meta.replace(interleave=interleave))
        if meta.transform is not None and "\nmap info = " not in self._header_text:
            self.remarks += (
                f"{path}: ENVI map info cannot describe a mirrored or sheared grid; it was left out, write .tif to "
                "keep it",
            )
        if meta.gcps and "\ngeo points = " not in self._header_text:
            self.remarks += (
                f"{path}: ENVI geo points hold up to 4 points in WGS 84 degrees; {len(meta.gcps)} ground control "
                "points were left out, write .tif to keep them",
            )
        self.pairs = [(temporary_beside(data), data)]
        self._samples: np.memmap | None = None
        try:
            self.pairs.append((temporary_beside(header), header))
        except BaseException:
            self.remove()
            raise
        self._dtype, self._axes = dtype, AXES[interleave]
        self._shape = tuple({"r": rows, "c": cols, "b": bands}[axis] for axis in self._axes)
        self.keeps = interleave == "bsq"
        self.layout = Planes((bands, rows, cols), dtype) if self.keeps else None

    def write(self, window: Window, stored: np.ndarray) -> None:
        if self._samples is None:  # not before: the file of another may take its place
            reserve(self.pairs[0][0], math.prod(self._shape) * self._dtype.itemsize)
            self._samples = np.memmap(self.pairs[0][0], dtype=self._dtype, mode="r+", shape=self._shape)
        rows, cols = window.slices
        part = {"r": rows, "c": cols, "b": slice(None)}
        target = self._samples[tuple(part[axis] for axis in self._axes)]
        copy_mapped(target, stored.transpose(["brc".index(axis) for axis in self._axes]), self._samples)

    def adopt(self, samples: Path) -> None:
        if not linked(samples, self.pairs[0][0]):
            os.replace(samples, self.pairs[0][0])

    def finish(self) -> None:
        if self._samples is not None:
            self._samples.flush()
            self._samples = None
        with self.pairs[1][0].open("w", encoding="utf-8") as file:
            file.write(self._header_text)

    def discard(self) -> None:
        self._samples = None


def header_text(shape: tuple[int, int, int], meta: CubeMeta) -> str:
    """The header of little-endian data of ``shape`` (rows, cols, bands) described by ``meta``."""
    rows, cols, bands = shape
    assert meta.stored_dtype is not None
    fields: dict[str, str] = {
        "samples": str(cols),
        "lines": str(rows),
        "bands": str(bands),
        "header offset": "0",
        "file type": "ENVI Standard",
        "data type": str(_CODES[meta.stored_dtype]),
        "interleave": meta.interleave or "bsq",
        "byte order": "0",
    }
    if meta.nodata is not None:
        fields["data ignore value"] = f"{meta.nodata:.17g}"
    fields |= _scaling(meta, bands)
    if meta.transform is not None:
        fields |= map_info_fields(meta.transform, None if meta.crs is None else CRS.from_wkt(meta.crs))
    points = geo_points_text(meta.gcps, meta.gcps_crs)
    if points is not None:
        fields["geo points"] = "{" + points + "}"
    if meta.rpc is not None:
        fields["rpc info"] = "{" + rpc_info_text(meta.rpc) + "}"
    if meta.band_names is not None:
        fields["band names"] = "{" + ", ".join(_plain(name).replace(",", ";") for name in meta.band_names) + "}"
    if meta.wavelengths is not None:
        fields |= {"wavelength units": "Nanometers", "wavelength": envi_list(meta.wavelengths)}
    if meta.fwhm is not None:
        fields["fwhm"] = envi_list(meta.fwhm)
    if meta.good_bands is not None:
        fields["bbl"] = envi_list(meta.good_bands.astype(int))
    for key, value in meta.tags.items():
        name = " ".join(key.split()).lower()
        if name and name not in _OWN_KEYS and "=" not in name and name not in fields:
            text = _plain(value)
            braced = "," in text or name == "description"
            fields[name] = "{" + text + "}" if braced else text
    return "ENVI\n" + "".join(f"{key} = {_wrapped(value)}\n" for key, value in fields.items())


def _wrapped(value: str) -> str:
    """A long list over several lines, broken after commas: GDAL reads nothing after a line of 10 000 characters."""
    if len(value) <= _LONGEST_LINE or not value.startswith("{"):
        return value
    lines = [""]
    for item in value.split(", "):
        if len(lines[-1]) + len(item) > _LINE:
            lines.append("")
        lines[-1] += f" {item},"
    return "\n".join(lines).strip(" ,")


def _scaling(meta: CubeMeta, bands: int) -> dict[str, str]:
    scale, offset = np.asarray(meta.scale_factor, dtype=np.float64), np.asarray(meta.offset, dtype=np.float64)
    if np.all(scale == 1) and np.all(offset == 0):
        return {}
    if scale.ndim == 0 and scale > 0 and np.all(offset == 0):
        return {"reflectance scale factor": f"{1.0 / float(scale):.15g}"}
    return {
        "data gain values": envi_list(np.broadcast_to(scale, bands)),
        "data offset values": envi_list(np.broadcast_to(offset, bands)),
    }


def _plain(text: str) -> str:
    return " ".join(text.replace("{", "(").replace("}", ")").split())


def envi_list(values: np.ndarray) -> str:
    """Numbers as ENVI's headers, and GDAL's ENVI domain, list them."""
    return "{" + ", ".join(f"{value:.10g}" for value in values) + "}"
