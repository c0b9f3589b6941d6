"""Ground control (GCPs, rational polynomial coefficients) that follows a change of the pixel grid.

GCPs count pixels from the upper-left corner of the first pixel, like a geotransform (GDAL data model); RPCs count from
its centre (NITF STDI-0002 RPC00B; GDAL RFC 22), half a pixel further.
"""

from __future__ import annotations

from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

__all__ = ["moved_gcps", "moved_rpc"]


def moved_gcps(points: tuple[GroundControlPoint, ...], change: Affine) -> tuple[GroundControlPoint, ...]:
    """The same ground points in pixels of the new grid; ``change``: new (col, row) to old, scaling and shift only."""
    back = ~change
    return tuple(
        GroundControlPoint(
            row=back.e * point.row + back.f, col=back.a * point.col + back.c,
            x=point.x, y=point.y, z=point.z, id=point.id, info=point.info,
        )
        for point in points
    )  # fmt: skip


def moved_rpc(rpc: RPC, change: Affine) -> RPC:
    """The same sensor model in pixels of the new grid; ``change``: new (col, row) to old, scaling and shift only."""
    back = ~change
    moved = {
        "samp_off": back.a * (rpc.samp_off + 0.5) + back.c - 0.5,
        "line_off": back.e * (rpc.line_off + 0.5) + back.f - 0.5,
        "samp_scale": rpc.samp_scale * back.a,
        "line_scale": rpc.line_scale * back.e,
    }
    return RPC(**(rpc.to_dict() | moved))
