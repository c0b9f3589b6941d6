"""CubeMeta as plain JSON values, for the containers that have no place of their own for it (.npz, .mat)."""

from __future__ import annotations

import json
import math
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
        names = entries.get("band_names")
        transform = entries.get("transform")
        meta = CubeMeta(
            nodata=None if entries.get("nodata") is None else float(entries["nodata"]),
            scale_factor=_number(entries.get("scale_factor", 1.0)),
            offset=_number(entries.get("offset", 0.0)),
            band_names=None if names is None else tuple(str(name) for name in names),
            crs=_wkt(entries.get("crs")),
            transform=None if transform is None else Affine(*(float(value) for value in transform)),
            gcps=tuple(GroundControlPoint(**point) for point in entries.get("gcps", [])),
            gcps_crs=_wkt(entries.get("gcps_crs")),
            rpc=None if entries.get("rpc") is None else RPC.from_gdal(entries["rpc"]),
            tags={key: _text(value) for key, value in entries.items() if key not in _OWN_KEYS | _OF_THE_ARRAY},
        )
        axes = "".join(word.strip()[:1] for word in str(entries.get("axes", "")).lower().split(","))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{source}: its JSON metadata cannot be read ({error}); correct or remove them") from error
    return meta, axes if sorted(axes) == ["b", "c", "r"] else None


_OWN_KEYS = {"axes", "scale_factor", "offset", "nodata", "band_names", "crs", "transform", "gcps", "gcps_crs", "rpc"}
_OF_THE_ARRAY = {"shape", "dtype"}  # the array tells; as tags they would be untrue of a result of another size


def _wkt(value: Any) -> str | None:
    """WKT of a CRS given as WKT or as EPSG:n; ValueError where PROJ does not know it."""
    if value is None:
        return None
    try:
        return str(CRS.from_string(value).to_wkt())
    except (CRSError, AttributeError) as error:
        raise ValueError(f"crs is {str(value)[:40]!r}, neither WKT nor EPSG:n") from error


def _number(value: Any) -> float | np.ndarray:
    return np.array(value, dtype=np.float64) if isinstance(value, list) else float(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
