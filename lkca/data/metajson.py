"""CubeMeta as plain JSON values, for the containers that have no place of their own for it (.npz, .mat)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.rpc import RPC

from lkca.data.meta import CubeMeta, scalar_or_list
from lkca.errors import InputError

__all__ = ["meta_from_json", "meta_to_json"]


def meta_to_json(meta: CubeMeta) -> str:
    """Scale, offset, nodata, band names, CRS, transform, GCPs, RPC and tags; the spectral lists are arrays."""
    entries: dict[str, Any] = {key: value for key, value in meta.tags.items() if key not in _OWN_KEYS}
    entries |= {"axes": "rows,cols,bands", "scale_factor": scalar_or_list(meta.scale_factor)}
    entries["offset"] = scalar_or_list(meta.offset)
    if meta.nodata is not None:
        entries["nodata"] = meta.nodata if math.isfinite(meta.nodata) else str(meta.nodata)
    if meta.band_names is not None:
        entries["band_names"] = list(meta.band_names)
    if meta.crs is not None:
        entries["crs"] = meta.crs
    if meta.transform is not None:
        entries["transform"] = list(meta.transform)[:6]
    if meta.gcps:
        entries["gcps"] = [point.asdict() for point in meta.gcps]
        entries["gcps_crs"] = meta.gcps_crs
    if meta.rpc is not None:
        entries["rpc"] = meta.rpc.to_gdal()
    return json.dumps(entries)


def meta_from_json(text: str, source: str) -> tuple[CubeMeta, str | None]:
    """The metadata in ``text`` and the axes it names ("rcb" letters); keys of no known meaning become tags."""
    if not text.strip():
        return CubeMeta(), None
    try:
        entries = json.loads(text)
        if not isinstance(entries, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InputError(f"{source}: its JSON metadata cannot be read ({error}); correct or remove them") from error

    def entry(key: str, parse: Callable[[Any], Any], expected: str, absent: Any = None) -> Any:
        value = entries.get(key)
        if value is None:
            return absent
        try:
            return parse(value)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            shown = repr(value) if len(repr(value)) <= _SHOWN else repr(value)[:_SHOWN] + "..."
            raise InputError(
                f"{source}: its JSON metadata have the {key} {shown}; expected {expected}: correct or remove it"
            ) from error

    numbers = "a number, or a list of one for each band"
    meta = CubeMeta(
        nodata=entry("nodata", float, "a number"),
        scale_factor=entry("scale_factor", _number, numbers, absent=1.0),
        offset=entry("offset", _number, numbers, absent=0.0),
        band_names=entry("band_names", lambda names: tuple(map(str, names)), "a list of names"),
        crs=entry("crs", _wkt, "WKT or EPSG:n"),
        transform=entry("transform", _transform, "six finite numbers, a to f"),
        gcps=entry("gcps", _points, "a list of points with row, col, x and y", absent=()),
        gcps_crs=entry("gcps_crs", _wkt, "WKT or EPSG:n"),
        rpc=entry("rpc", RPC.from_gdal, "coefficients as GDAL names them"),
        tags={key: _text(value) for key, value in entries.items() if key not in _OWN_KEYS | _OF_THE_ARRAY},
    )
    axes = "".join(word.strip()[:1] for word in str(entries.get("axes", "")).lower().split(","))
    return meta, axes if sorted(axes) == ["b", "c", "r"] else None


_SHOWN = 60  # letters of a value
_OWN_KEYS = {"axes", "scale_factor", "offset", "nodata", "band_names", "crs", "transform", "gcps", "gcps_crs", "rpc"}
_OF_THE_ARRAY = {"shape", "dtype"}  # the array tells; as tags they would be untrue of a result of another size


def _wkt(value: Any) -> str:
    """WKT of a CRS given as WKT or as EPSG:n; ValueError where PROJ does not know it."""
    try:
        return str(CRS.from_string(value).to_wkt())
    except CRSError as error:
        raise ValueError from error


def _transform(numbers: Any) -> Affine:
    transform = Affine(*(float(number) for number in numbers))
    if not all(map(math.isfinite, transform)):
        raise ValueError
    return transform


def _points(points: Any) -> tuple[GroundControlPoint, ...]:
    found = tuple(GroundControlPoint(**point) for point in points)
    if not all(math.isfinite(number) for p in found for number in (p.row, p.col, p.x, p.y, p.z or 0)):
        raise ValueError
    return found


def _number(value: Any) -> float | np.ndarray:
    return np.array(value, dtype=np.float64) if isinstance(value, list) else float(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
