"""The place of HDF-EOS5 grids, from the text of their structural metadata (StructMetadata.0).

Source: HDF-EOS Interface Based on HDF5, volume 2; Planet, Tanager Product Specification. Both corners are outer ones.
"""

from __future__ import annotations

import re

from affine import Affine
from rasterio.crs import CRS

__all__ = ["grid_place"]

_WGS84 = "12"  # GCTP's number of the spheroid


def grid_place(structure: str, cube: str, rows: int, cols: int) -> tuple[Affine | None, str | None]:
    """(transform, CRS as WKT) of the dataset ``/HDFEOS/GRIDS/NAME/...``; None, None where that is not UTM on WGS 84."""
    grid = re.match("/HDFEOS/GRIDS/(.*?)/", cube)
    if grid is None:
        return None, None
    grids = [part for part in re.split(r"\bGROUP=GRID_\d+", structure)[1:] if f'GridName="{grid[1]}"' in part]
    fields = dict(re.findall(r"^\s*(\w+)=(.*?)\s*$", grids[0], re.M)) if grids else {}
    corners = [re.findall(r"-?\d+\.?\d*", fields.get(key, "")) for key in ("UpperLeftPointMtrs", "LowerRightMtrs")]
    zone = fields.get("ZoneCode", "")
    if (
        (fields.get("Projection"), fields.get("SphereCode")) != ("HE5_GCTP_UTM", _WGS84)
        or fields.get("GridOrigin", "HE5_HDFE_GD_UL") != "HE5_HDFE_GD_UL"  # rows and columns from the upper left
        or (fields.get("YDim"), fields.get("XDim")) != (str(rows), str(cols))
        or [len(corner) for corner in corners] != [2, 2]
        or not re.fullmatch(r"-?\d{1,2}", zone)
        or not 1 <= abs(int(zone)) <= 60
    ):
        return None, None
    (left, top), (right, bottom) = ([float(number) for number in corner] for corner in corners)
    if left == right or top == bottom:
        return None, None
    crs = CRS.from_epsg((32600 if int(zone) > 0 else 32700) + abs(int(zone)))
    return Affine((right - left) / cols, 0.0, left, 0.0, (bottom - top) / rows, top), str(crs.to_wkt())
