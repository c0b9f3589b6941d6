"""What NetCDF's CF conventions, and GDAL's beside them, say in attributes: missing samples, signs, CRS and place.

https://cfconventions.org: "Missing data", "Packed data", "Grid mappings". ``_Unsigned`` and the fill values that no
attribute names are the NetCDF Users' Guide's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from lkca.data.codec import nodata_code
from lkca.data.cube import StoredReader
from lkca.data.window import Window

__all__ = [
    "MAX_ITEMS",
    "StoredSamples",
    "attribute_text",
    "in_units_of",
    "mapping_crs",
    "written_transform",
]

_MISSING = ("_FillValue", "missing_value", "Data_Ignore_Value", "Data Ignore Value", "nodata")
MAX_ITEMS = 64  # of an attribute that is read as text
# What the netCDF library leaves where a variable has no _FillValue. Of bytes it may be a sample; that of 64-bit
# integers is no float, as nodata values are.
_NEVER_WRITTEN = {
    "i2": -32767.0, "u2": 65535.0, "i4": -2147483647.0, "u4": 4294967295.0, "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}  # fmt: skip
_PACKING = {"scale_factor", "add_offset", "slope", "intercept", "Scale_Factor", "Scale Factor"}  # the last are NEON's
_KILOMETRES = {"km", "kilometer", "kilometers", "kilometre", "kilometres"}
_AFFINE = 6

_PROJECTIONS = {
    "transverse_mercator": "tmerc", "albers_conical_equal_area": "aea", "lambert_azimuthal_equal_area": "laea",
    "lambert_conformal_conic": "lcc", "polar_stereographic": "stere", "sinusoidal": "sinu",
}  # fmt: skip
_PARAMETERS = {
    "latitude_of_projection_origin": "lat_0", "longitude_of_central_meridian": "lon_0",
    "longitude_of_projection_origin": "lon_0", "straight_vertical_longitude_from_pole": "lon_0",
    "scale_factor_at_central_meridian": "k_0", "scale_factor_at_projection_origin": "k_0", "false_easting": "x_0",
    "false_northing": "y_0", "semi_major_axis": "a", "semi_minor_axis": "b", "inverse_flattening": "rf",
    "earth_radius": "R",
}  # fmt: skip
_POLE = 90.0
_WGS84 = (6378137.0, 298.257223563)


@dataclass(frozen=True)
class StoredSamples:
    """The samples of a dataset as its attributes mean them; a reader of windows.

    read: windows of the dataset. dtype: unsigned where ``_Unsigned`` says so. nodata: the value that stands for missing
    samples, NaN where of integers ``valid`` alone tells which they are. others: further such values. valid: the least
    and the largest sample that is not missing. What these two tell becomes NaN, in blocks of a float type. named: False
    where ``nodata`` is what the netCDF library leaves unwritten, which no attribute names.
    """

    read: StoredReader
    dtype: np.dtype
    nodata: float | None
    others: tuple[np.generic, ...] = ()
    valid: tuple[np.generic, np.generic] | None = None
    named: bool = True

    @classmethod
    def of(cls, dataset: h5py.Dataset, read: StoredReader) -> StoredSamples:
        dtype = dataset.dtype
        unsigned = dtype.kind == "i" and attribute_text(dataset.attrs.get("_Unsigned", "")).lower() == "true"
        if unsigned:
            dtype = np.dtype(dtype.str.replace("i", "u"))

        def meant(values: list[float]) -> list[float]:
            """Attributes are of the type that the samples are stored in."""
            codes = [nodata_code(dataset.dtype, value) if unsigned else None for value in values]
            return [
                value if code is None else float(code.view(dtype.newbyteorder("=")))
                for value, code in zip(values, codes, strict=True)
            ]

        listed = [value for name in _MISSING if name in dataset.attrs for value in _numbers(dataset.attrs[name])]
        never_written = _NEVER_WRITTEN.get(dataset.dtype.str[1:])
        named = bool(listed)
        if never_written is not None and "_FillValue" not in dataset.attrs and dataset.fillvalue == never_written:
            listed.append(never_written)
        listed = meant(listed)
        known = [code for value in dict.fromkeys(listed) if (code := nodata_code(dtype, value)) is not None]
        nodata = float(known[0].item()) if known else listed[0] if listed else None
        valid = _ends(dtype, *meant(_valid_range(dataset)))
        if valid is not None and not known and dtype.kind != "f":
            nodata = np.nan
        return cls(read, dtype, nodata, tuple(known[1:]), valid, named or not listed)

    def __call__(self, window: Window, bands: np.ndarray) -> np.ndarray:
        block = self.read(window, bands)
        if block.dtype != self.dtype:
            block = block.view(self.dtype)
        tests = [block == other for other in self.others]
        if self.valid is not None:
            tests += [block < self.valid[0], block > self.valid[1]]
        if tests:
            block = block.astype(np.result_type(block.dtype, np.float32))
            block[np.logical_or.reduce(tests)] = np.nan
        return block


def mapping_crs(attrs: Mapping[str, Any]) -> str | None:
    """WKT of the CRS that a grid mapping's attributes describe: by its WKT, else by the projection's parameters. None
    where they name none that is known, or no ellipsoid."""
    for name in ("crs_wkt", "spatial_ref"):
        text = attribute_text(attrs.get(name, ""))
        with contextlib.suppress(CRSError):
            if text:
                return str(CRS.from_wkt(text).to_wkt())
    projection = _PROJECTIONS.get(attribute_text(attrs.get("grid_mapping_name", "")))
    given = {_PARAMETERS[name]: _numbers(attrs[name]) for name in _PARAMETERS if name in attrs}
    values = {name: numbers[0] for name, numbers in given.items() if numbers}
    if projection is None or not {"a", "R"} & values.keys():
        return None
    if projection == "stere" and abs(values.get("lat_0", 0.0)) != _POLE:
        return None
    if values.get("rf") == 0.0:  # GDAL's way to write a sphere
        del values["rf"]
    parallels = _numbers(attrs.get("standard_parallel", ()))[:2]
    names = ("lat_ts",) if projection == "stere" else ("lat_1", "lat_2")
    values |= dict(zip(names, parallels, strict=False))
    if (values.get("a"), values.get("rf")) == _WGS84:
        values = {name: value for name, value in values.items() if name not in ("a", "b", "rf")}
        projection += " +datum=WGS84"
    listed = " ".join(f"+{name}={value:.17g}" for name, value in values.items())
    try:
        return str(CRS.from_string(f"+proj={projection} {listed} +units=m +no_defs").to_wkt())
    except CRSError:
        return None


def written_transform(attrs: Mapping[str, Any]) -> Affine | None:
    """The transform that GDAL and rioxarray write beside the CRS, ``GeoTransform``."""
    numbers = _numbers(attribute_text(attrs.get("GeoTransform", "")).replace(",", " ").split())
    return Affine.from_gdal(*numbers) if len(numbers) == _AFFINE and np.isfinite(numbers).all() else None


def in_units_of(crs: str | None, units: str | None) -> float:
    """By what coordinates in these units are multiplied, to be in those of a projected CRS; 1 but for kilometres."""
    if crs is None or (units or "").strip().lower() not in _KILOMETRES:
        return 1.0
    known = CRS.from_wkt(crs)
    return 1000.0 / float(known.linear_units_factor[1]) if known.is_projected else 1.0


def _valid_range(dataset: h5py.Dataset) -> list[float]:
    """The least and the largest valid sample that ``valid_range``, else ``valid_min`` and ``valid_max`` name; infinite
    where they name none.

    They are in the units of packed samples, and of their type. What is of another type beside packed integers is left
    out: it may be in physical units as well.
    """
    attrs = dataset.attrs
    packed = dataset.dtype.kind != "f" and not attrs.keys().isdisjoint(_PACKING)

    def numbers(name: str, count: int) -> list[float]:
        value = attrs.get(name, ())
        listed = [] if packed and np.asarray(value).dtype.kind not in "iu" else _numbers(value)
        return listed if len(listed) == count and np.isfinite(listed).all() else []

    ends = [*(numbers("valid_min", 1) or [-np.inf]), *(numbers("valid_max", 1) or [np.inf])]
    return numbers("valid_range", 2) or ends


def _ends(dtype: np.dtype, low: float, high: float) -> tuple[np.generic, np.generic] | None:
    """The least and the largest sample of ``dtype`` from ``low`` to ``high``; None if all are, or no two."""
    if dtype.kind == "b" or not low < high:
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            ends = (dtype.type(low), dtype.type(high))  # 0.1 means the sample that 0.1 is stored as
        return ends if (low, high) != (-np.inf, np.inf) else None
    info = np.iinfo(dtype)
    least = info.min if low <= info.min else math.ceil(low)
    most = info.max if high >= info.max else math.floor(high)
    return None if least > most or (least, most) == (info.min, info.max) else (dtype.type(least), dtype.type(most))


def attribute_text(value: Any) -> str:
    """Text of an attribute or dataset: bytes, str, numbers or arrays of one of them."""
    array = np.asarray(value)
    if array.dtype.kind not in "OSUbiuf" or array.size == 0:
        return ""
    items = [
        item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.ravel()[:MAX_ITEMS]
    ]
    return ", ".join(items).strip()


def _numbers(value: Any) -> list[float]:
    """The numbers of an attribute, text that is one too; those that are none are left out."""
    numbers = []
    for item in np.ravel(value)[:MAX_ITEMS]:
        with contextlib.suppress(ValueError, TypeError):
            numbers.append(float(item))
    return numbers
