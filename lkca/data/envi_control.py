"""ENVI's ``geo points`` and ``rpc info``, read and written.

Formats: "ENVI Header Files" (L3Harris) and GDAL's ENVI driver, which reads and writes both.
"""

from __future__ import annotations

import math
import re

from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from lkca.data.control import moved_rpc
from lkca.errors import InputError

__all__ = ["geo_points_text", "parse_geo_points", "parse_rpc_info", "rpc_info_text"]

_MAX_POINTS = 4
_RPC_NUMBERS = (
    "line_off", "samp_off", "lat_off", "long_off", "height_off",
    "line_scale", "samp_scale", "lat_scale", "long_scale", "height_scale",
)  # fmt: skip
_RPC_LISTS = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
_RPC_TAIL = "0, 0, 1"  # row and column at which this image starts in the one described; "these are emulated"


def parse_geo_points(text: str, source: str) -> tuple[GroundControlPoint, ...]:
    """GCPs of ``x, y, latitude, longitude, ...`` (pixels from 1, WGS 84); empty where there are none."""
    values = _floats(text, "geo points", source)
    if len(values) % 4:
        raise InputError(
            f"{source}: geo points list {len(values)} numbers; expected x, y, latitude and longitude of each point"
        )
    groups = [values[start : start + 4] for start in range(0, len(values), 4)]
    return tuple(
        GroundControlPoint(row=y - 1, col=x - 1, x=longitude, y=latitude, z=0.0, id=str(number))
        for number, (x, y, latitude, longitude) in enumerate(groups, 1)
    )


def geo_points_text(points: tuple[GroundControlPoint, ...], crs: str | None) -> str | None:
    """The list for a header; None where ENVI has no place for them (more than four, or another CRS)."""
    if not 0 < len(points) <= _MAX_POINTS or crs is None or CRS.from_wkt(crs) != CRS.from_epsg(4326):
        return None
    return ", ".join(f"{p.col + 1:.15g}, {p.row + 1:.15g}, {p.y:.15g}, {p.x:.15g}" for p in points)


def parse_rpc_info(text: str, source: str) -> RPC | None:
    """RPC of a list of 10 numbers, 4 x 20 coefficients and what ENVI adds; None where there is none."""
    values = _floats(text, "rpc info", source)
    if not values:
        return None
    if len(values) < 90:
        raise InputError(f"{source}: rpc info lists {len(values)} numbers; expected at least 90, or no rpc info at all")
    numbers = dict(zip(_RPC_NUMBERS, values[:10], strict=True))
    lists = {name: values[10 + 20 * i : 30 + 20 * i] for i, name in enumerate(_RPC_LISTS)}
    row, col = values[90:92] if len(values) >= 92 else (0.0, 0.0)  # where this image starts in the one described
    return moved_rpc(RPC(**numbers, **lists), Affine.translation(col, row))


def rpc_info_text(rpc: RPC) -> str:
    """The list for a header."""
    values = [getattr(rpc, name) for name in _RPC_NUMBERS]
    values += [value for name in _RPC_LISTS for value in getattr(rpc, name)]
    return ", ".join([*(f"{value:.15g}" for value in values), _RPC_TAIL])


def _floats(text: str, key: str, source: str) -> list[float]:
    items = [item for item in re.split(r"[,\s]+", text.strip("{} \n")) if item]
    try:
        values = [float(item) for item in items]
        if not all(map(math.isfinite, values)):
            raise ValueError
    except ValueError:
        raise InputError(f"{source}: {key} holds something that is no number; correct the list or remove it") from None
    return values
