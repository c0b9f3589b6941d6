"""ENVI headers: text to fields, fields to metadata.

Format: "ENVI Header Files", L3Harris ENVI documentation
(https://www.nv5geospatialsoftware.com/docs/ENVIHeaderFiles.html).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from lkca.data.envi_control import parse_geo_points, parse_rpc_info
from lkca.data.envi_map import parse_map_info
from lkca.data.meta import CubeMeta, uniform
from lkca.data.spectral import described_wavelengths, good_band_mask, to_nanometers
from lkca.errors import InputError

__all__ = [
    "AXES",
    "DTYPES",
    "KEYS",
    "EnviLayout",
    "no_image",
    "parse_header",
    "parse_layout",
    "parse_meta",
    "read_header",
]

DTYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
_MAX_HEADER_BYTES = 16 * 2**20
AXES = {"bsq": "brc", "bil": "rbc", "bip": "rcb"}  # rows, columns and bands in the file, by interleave
KEYS = {  # of which a layout and metadata are made; all others become tags
    "samples", "lines", "bands", "header offset", "file type", "data type", "interleave", "byte order",
    "wavelength", "wavelength units", "fwhm", "bbl", "band names", "data ignore value", "map info",
    "coordinate system string", "reflectance scale factor", "data gain values", "data offset values",
    "geo points", "rpc info",
}  # fmt: skip


@dataclass(frozen=True)
class EnviLayout:
    """How the samples lie in the data file. dtype includes the byte order; offset in bytes."""

    rows: int
    cols: int
    bands: int
    interleave: str
    dtype: np.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """Size of the data file in bytes, as the header claims it."""
        return self.offset + self.rows * self.row_nbytes

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row of all bands."""
        return self.cols * self.bands * self.dtype.itemsize


def read_header(path: Path) -> dict[str, str]:
    """Fields of an ENVI header file; InputError where it is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_HEADER_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot read the ENVI header ({error.strerror})") from error
    if len(raw) > _MAX_HEADER_BYTES:
        raise InputError(f"{path}: is larger than {_MAX_HEADER_BYTES >> 20} MiB, too large for an ENVI header")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return parse_header(text, str(path))


def parse_header(text: str, source: str = "header") -> dict[str, str]:
    """``key = value`` pairs of a header, keys in lower case, lists without their braces.

    The last of repeated keys counts; lines that are no pair, and comments (``;``), are skipped.
    """
    text = re.sub(r"=[ \t]{0,80}\r?\n[ \t]{0,80}\{", "= {", text)  # some writers put a list's brace on its own line
    lines = text.splitlines()
    if not lines or not lines[0].strip().upper().startswith("ENVI"):
        found = lines[0].strip()[:40] if lines else ""
        raise InputError(f"{source}: is no ENVI header: its first line must be ENVI, found {found!r}")
    fields: dict[str, str] = {}
    rest = iter(lines[1:])
    for line in rest:
        if line.lstrip().startswith(";") or "=" not in line:
            continue
        key, _, value = line.partition("=")
        key, value = " ".join(key.split()).lower(), value.strip()
        if value.startswith("{"):
            parts = [value]
            while "}" not in parts[-1]:
                following = next(rest, None)
                if following is None:
                    raise InputError(
                        f"{source}: the list of {key!r} has no closing brace; the header is cut off or damaged"
                    )
                if not following.lstrip().startswith(";"):
                    parts.append(following.strip())
            value = "\n".join(parts).rpartition("}")[0][1:].strip()
        if key:
            fields[key] = value
    return fields


def no_image(fields: dict[str, str]) -> str | None:
    """What a header describes that is no image; None where it is one. Numbers of classes cannot be interpolated."""
    kind = fields.get("file type", "").lower()
    return next((f"an ENVI {name}" for name in ("spectral library", "classification") if name in kind), None)


def parse_layout(fields: dict[str, str], source: str) -> EnviLayout:
    """Layout of the data file; InputError naming the field that is missing, wrong or unsupported."""
    if kind := no_image(fields):
        raise InputError(f"{source}: is {kind}, not an image; an image cube is needed")
    if fields.get("file compression", "0") not in ("0", ""):
        raise InputError(f"{source}: its data are compressed (file compression = 1); write them uncompressed first")
    rows, cols, bands = (_integer(fields, key, source, low=1) for key in ("lines", "samples", "bands"))
    code = _integer(fields, "data type", source, low=0)
    if code not in DTYPES:
        what = "complex numbers" if code in (6, 9) else "unknown"
        raise InputError(f"{source}: data type {code} ({what}) is not supported; expected one of {sorted(DTYPES)}")
    interleave = fields.get("interleave", "bsq").lower()
    if interleave not in AXES:
        raise InputError(f"{source}: interleave is {interleave!r}; expected bsq, bil or bip")
    order = _integer(fields, "byte order", source, low=0, default=0)
    if order > 1:
        raise InputError(f"{source}: byte order is {order}; expected 0 (little-endian) or 1 (big-endian)")
    offset = _integer(fields, "header offset", source, low=0, default=0)
    return EnviLayout(rows, cols, bands, interleave, np.dtype("<>"[order] + DTYPES[code]), offset)


def parse_meta(fields: dict[str, str], layout: EnviLayout, source: str) -> tuple[CubeMeta, list[str]]:
    """Metadata of the image and warnings about what had to be repaired.

    physical = stored / reflectance scale factor; where data gain and offset values are given, these count
    instead. Wavelengths and fwhm in nm.
    """
    warnings: list[str] = []
    bands = layout.bands
    wavelengths = _numbers(fields, "wavelength", bands, source)
    fwhm = _numbers(fields, "fwhm", bands, source)
    if wavelengths is not None:
        units = fields.get("wavelength units")
        wavelengths, fwhm = to_nanometers(wavelengths, fwhm, units)
        if wavelengths is None and (units or "").lower() != "index":
            warnings.append(f"{source}: the wavelengths (units: {units}) are none that can be in nm; they are left out")
    names = _band_names(fields)
    if names is not None and len(names) != bands:
        warnings.append(f"{source}: band names lists {len(names)} names for {bands} bands and is left out")
        names = None
    if wavelengths is None and names is not None:
        centres, unit = described_wavelengths(names)
        if centres is not None:
            wavelengths, fwhm = to_nanometers(centres, fwhm, unit)
    bbl = _numbers(fields, "bbl", bands, source)
    scale, offset = _scaling(fields, bands, source)
    transform, crs, remarks = parse_map_info(
        fields.get("map info", ""), source,
        system=fields.get("coordinate system string", ""), projection=fields.get("projection info", ""),
    )  # fmt: skip
    warnings += remarks
    gcps = parse_geo_points(fields.get("geo points", ""), source)
    meta = CubeMeta(
        wavelengths=wavelengths,
        fwhm=fwhm,
        good_bands=None if bbl is None else good_band_mask(bbl),
        nodata=_nodata(fields, source),
        scale_factor=scale,
        offset=offset,
        band_names=names,
        crs=crs,
        transform=transform,
        gcps=gcps,
        gcps_crs=str(CRS.from_epsg(4326).to_wkt()) if gcps else None,
        rpc=parse_rpc_info(fields.get("rpc info", ""), source),
        interleave=layout.interleave,
        stored_dtype=layout.dtype,
        tags={
            key.upper() if key.startswith("lkca_") else key: " ".join(value.split())
            for key, value in fields.items()
            if key not in KEYS and value
        },
    )
    return meta, warnings


def _scaling(fields: dict[str, str], bands: int, source: str) -> tuple[float | np.ndarray, float | np.ndarray]:
    gains = _numbers(fields, "data gain values", bands, source)
    offsets = _numbers(fields, "data offset values", bands, source)
    if gains is not None or offsets is not None:
        return uniform(gains, 1.0), uniform(offsets, 0.0)
    text = fields.get("reflectance scale factor", "").strip()
    if not text:
        return 1.0, 0.0
    factor = _number(text, "reflectance scale factor", source)
    if not math.isfinite(factor) or factor <= 0:
        raise InputError(f"{source}: reflectance scale factor is {text}; expected a positive number")
    return 1.0 / factor, 0.0


def _nodata(fields: dict[str, str], source: str) -> float | None:
    text = fields.get("data ignore value", "").strip()
    return _number(text, "data ignore value", source) if text else None


def _band_names(fields: dict[str, str]) -> tuple[str, ...] | None:
    names = tuple(" ".join(name.split()) for name in fields.get("band names", "").split(","))
    return names if any(names) else None


def _number(text: str, key: str, source: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{source}: {key} is {text[:40]!r}; expected a number") from None


def _numbers(fields: dict[str, str], key: str, count: int, source: str) -> np.ndarray | None:
    items = [item for item in re.split(r"[,\s]+", fields.get(key, "")) if item]
    if not items:
        return None
    if len(items) != count:
        raise InputError(f"{source}: {key} lists {len(items)} values for {count} bands; correct the list or remove it")
    return np.array([_number(item, key, source) for item in items])


def _integer(fields: dict[str, str], key: str, source: str, *, low: int, default: int | None = None) -> int:
    text = fields.get(key, "").strip()
    if not text and default is not None:
        return default
    if not text:
        raise InputError(f"{source}: has no {key!r}; add the line `{key} = ...`")
    try:
        value = int(text)
    except ValueError:
        raise InputError(f"{source}: {key} is {text[:40]!r}; expected a whole number") from None
    if value < low:
        raise InputError(f"{source}: {key} is {value}; expected at least {low}")
    return value
