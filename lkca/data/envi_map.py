"""ENVI's ``map info``, ``projection info`` and ``coordinate system string``, read and written.

Formats: "ENVI Header Files" (L3Harris) and GDAL's ENVI driver, which is asked for the projections not known here.
"""

from __future__ import annotations

import math
import re
import secrets
from typing import NamedTuple

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.io import MemoryFile

from lkca.data.gdal import without_place
from lkca.errors import InputError

__all__ = ["map_info_fields", "parse_map_info"]


class _Datum(NamedTuple):
    """title: ENVI's name for it. keys: names in use, letters and digits only. The rest are EPSG codes."""

    title: str
    keys: tuple[str, ...]
    geographic: int
    north: int  # UTM zone n of the north is north + n
    zones: range
    south: int | None = None


_DATUMS = (
    _Datum("WGS-84", ("wgs84", "wgs1984", "dwgs1984"), 4326, 32600, range(1, 61), 32700),
    _Datum("North America 1983", ("northamerica1983", "nad83", "dnorthamerican1983"), 4269, 26900, range(1, 24)),
    _Datum("North America 1927", ("northamerica1927", "nad27", "dnorthamerican1927"), 4267, 26700, range(1, 23)),
    _Datum("ETRS89", ("etrs89", "etrs1989", "detrs1989"), 4258, 25800, range(28, 39)),
)
_METRES = {
    "meters": 1.0, "metres": 1.0, "meter": 1.0, "metre": 1.0, "m": 1.0, "km": 1e3, "kilometers": 1e3, "feet": 0.3048,
    "foot": 0.3048, "ft": 0.3048, "yards": 0.9144, "miles": 1609.344, "nautical miles": 1852.0,
}  # fmt: skip
_DEGREES = {"degrees": 1.0, "degree": 1.0, "minutes": 1 / 60, "seconds": 1 / 3600, "radians": math.degrees(1.0)}
_SAME_UNIT = 1e-5  # feet of whatever kind


def parse_map_info(
    text: str, source: str, *, system: str = "", projection: str = ""
) -> tuple[Affine | None, str | None, list[str]]:
    """Transform, CRS (WKT; None where unknown) and warnings of an ENVI ``map info`` list; (None, ...) without one.

    projection, reference column and row (1-based, of the pixel's corner), easting, northing, pixel width
    and height, [zone, hemisphere,] datum, units=..., rotation=degrees counter-clockwise. system: the coordinate
    system string, projection: the projection info. The transform is in units of the CRS, whatever the list's units.
    InputError where the numbers cannot be read.
    """
    remarks: list[str] = []
    items = [" ".join(item.split()) for item in text.strip().strip("{}").split(",")] if text.strip() else []
    options = dict(re.split(" ?= ?", item.lower(), maxsplit=1) for item in items[1:] if "=" in item)
    items = items[:1] + [item for item in items[1:] if "=" not in item]
    # a UTM or geographic map info counts more than the string: damaged strings exist in use
    crs = _known_crs(items)
    if crs is None and system.strip():
        try:
            crs = CRS.from_wkt(" ".join(system.split()), morph_from_esri_dialect=True)
        except CRSError:
            remarks.append(f"{source}: the coordinate system string cannot be read")
    if crs is None and items and not items[0].lower().startswith("arbitrary"):
        crs = _gdal_crs(items, projection)
        if crs is None:
            remarks.append(f"{source}: projection or datum of map info {{{', '.join(items)}}} is not known")
    if remarks and crs is None:
        remarks[-1] += "; the cube has no CRS"
    transform = None
    if items:
        rotation = options.get("rotation")
        transform = _transform(items, rotation, f"{source}: map info {text!r}")
        factor, remark = _unit_factor(options.get("units"), crs)
        transform = transform if factor == 1 else Affine.scale(factor) @ transform
        if remark:
            remarks.append(f"{source}: {remark}")
        if float(rotation or 0) % 360 == 180:
            remarks.append(
                f"{source}: map info turns the grid by 180 degrees, as ENVI has it; GDAL writes so what is mirrored "
                "from south to north"
            )
    return transform, None if crs is None else str(crs.to_wkt()), remarks


def _transform(items: list[str], rotation: str | None, what: str) -> Affine:
    try:
        ref_col, ref_row, east, north, width, height = numbers = [float(item) for item in items[1:7]]
        if not all(map(math.isfinite, numbers)) or width <= 0 or height <= 0:
            raise ValueError
    except ValueError:
        raise InputError(
            f"{what} cannot be read; expected a projection name and six numbers "
            "(reference pixel, easting, northing, pixel size), or no map info at all"
        ) from None
    try:
        angle = math.radians(float(rotation or 0))
        cos, sin = math.cos(angle), math.sin(angle)  # ValueError for infinite ones
        if math.isnan(angle):
            raise ValueError
    except ValueError:
        raise InputError(f"{what} has rotation={rotation}; expected rotation=DEGREES") from None
    linear = Affine(width * cos, height * sin, 0.0, width * sin, -height * cos, 0.0)
    return Affine.translation(east, north) @ linear @ Affine.translation(1 - ref_col, 1 - ref_row)


def _unit_factor(units: str | None, crs: CRS | None) -> tuple[float, str | None]:
    """What the list's numbers are multiplied by to be in units of the CRS, and a warning where that cannot be told."""
    if units is None or crs is None or not (crs.is_geographic or crs.is_projected):
        return 1.0, None
    name, size = crs.units_factor  # in metres or radians
    known, size = (_DEGREES, round(math.degrees(size), 12)) if crs.is_geographic else (_METRES, size)
    if units not in known:
        return 1.0, f"map info has units={units}, but its CRS is in units of one {name}; they are taken for those"
    factor = known[units] / size
    return (1.0 if abs(factor - 1) < _SAME_UNIT else factor), None


def _datum(name: str) -> _Datum | None:
    key = re.sub("[^a-z0-9]", "", name.lower())
    return next((datum for datum in _DATUMS if key in datum.keys), None)


def _known_crs(items: list[str]) -> CRS | None:
    kind = items[0].lower() if items else ""
    if kind == "utm" and len(items) > 9 and items[7].isdecimal():
        datum, zone = _datum(items[9]), int(items[7])
        if datum is None or zone not in datum.zones:
            return None
        base = datum.south if items[8].lower().startswith("s") else datum.north
        return None if base is None else CRS.from_epsg(base + zone)
    datum = _datum(items[7]) if kind.startswith("geographic") and len(items) > 7 else None
    return CRS.from_epsg(datum.geographic) if datum else None


def _gdal_crs(items: list[str], projection: str) -> CRS | None:
    """The CRS that GDAL's ENVI driver finds, in its own units; None unless it is one, of the datum that is named.

    GDAL takes NAD27 for UTM without a datum, and WGS 84 for names that it does not know.
    """
    if items[0].lower() == "utm" and len(items) < 10:
        return None
    named = [[_datum_title(item) for item in part] for part in (items, projection.split(","))]
    fields = dict(zip(("map info", "projection info"), (", ".join(part) for part in named), strict=True))
    header = "ENVI\nsamples = 8\nlines = 8\nbands = 1\ndata type = 1\n"
    header += "".join(f"{key} = {{{' '.join(value.split())}}}\n" for key, value in fields.items() if value)
    folder = f"lkca_{secrets.token_hex(8)}"
    try:
        with (
            MemoryFile(header.encode(), dirname=folder, filename="x.hdr"),
            MemoryFile(bytes(64), dirname=folder, filename="x.img") as file,
            without_place(),
            file.open(driver="ENVI") as dataset,
        ):
            crs = dataset.crs
    except (RasterioError, CRSError):
        return None
    if crs is None or not (crs.is_projected or (crs.is_geographic and items[0].lower() != "utm")):
        return None  # of a zone that is none GDAL keeps the datum alone
    defaulted = "WGS_1984" in crs.to_wkt() and not any(_datum(item) is _DATUMS[0] for part in named for item in part)
    return None if defaulted else crs


def _datum_title(item: str) -> str:
    datum = _datum(item)
    return datum.title if datum else item.strip()


def map_info_fields(transform: Affine, crs: CRS | None) -> dict[str, str]:
    """``map info`` and ``coordinate system string``; nothing for sheared and mirrored grids, which have no map info."""
    parts = _pixel_grid(transform)
    if parts is None:
        return {}
    before, after = ["Arbitrary" if crs is None else _title(crs)], list[str]()
    epsg = (None if crs is None else crs.to_epsg()) or 0
    for datum in _DATUMS:
        if epsg == datum.geographic:
            before, after = ["Geographic Lat/Lon"], [datum.title, "units=Degrees"]
        for base, half in ((datum.north, "North"), (datum.south, "South")):
            if base and epsg - base in datum.zones:
                before, after = ["UTM"], [str(epsg - base), half, datum.title, "units=Meters"]
    fields = {"map info": "{" + ", ".join([*before, *parts[:6], *after, *parts[6:]]) + "}"}
    if crs is not None:
        fields["coordinate system string"] = "{" + crs.to_wkt(version="WKT1_ESRI") + "}"
    return fields


def _pixel_grid(transform: Affine) -> list[str] | None:
    """Reference pixel 1, 1 (its upper-left corner), easting, northing, pixel size, and the rotation if there is one."""
    width, height = math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)
    if width == 0 or height == 0:
        return None
    cos, sin = transform.a / width, transform.d / width
    if not (math.isclose(transform.b, height * sin, abs_tol=1e-9 * height)
            and math.isclose(transform.e, -height * cos, abs_tol=1e-9 * height)):  # fmt: skip
        return None
    numbers = [f"{value:.15g}" for value in (1, 1, transform.c, transform.f, width, height)]
    angle = math.degrees(math.atan2(sin, cos))
    return numbers if abs(angle) < 1e-12 else [*numbers, f"rotation={angle:.12g}"]


def _title(crs: CRS) -> str:
    name = crs.to_wkt().partition('"')[2].partition('"')[0]
    return " ".join(re.sub("[{},=]", " ", name).split()) or "Arbitrary"
