"""PRISMA cubes (ASI, HDF-EOS5): what the attributes of the file's root say of VNIR_Cube and SWIR_Cube.

Source: PRISMA Products Specification Document, ASI. Level 1: radiance = stored / ScaleFactor - Offset; level 2:
stored values from 0 to 65535 stand for L2Scale...Min to L2Scale...Max, and 0 for what is missing or was below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from lkca.errors import InputError

__all__ = ["Prisma", "read_prisma"]

_PIXEL = 30.0  # metres


@dataclass(frozen=True)
class Prisma:
    """wavelengths, fwhm: in nm, 0 for bands that are stored without having been measured; ``measured``: the others.

    physical = stored * scale + offset; nodata: in stored units.
    """

    wavelengths: np.ndarray
    fwhm: np.ndarray
    scale: float
    offset: float
    nodata: float | None
    attributes: Mapping[str, Any]

    @property
    def measured(self) -> np.ndarray:
        """(stored bands,) bool."""
        return self.wavelengths > 0

    def place(self, rows: int, cols: int, source: str) -> tuple[Affine | None, str | None, list[str]]:
        """(transform, CRS, warnings): of level 2D, whose files name a map grid; others have none."""
        axes = ("easting", "northing")
        names = ("Epsg_Code", *(f"Product_{corner}corner_{axis}" for corner in ("UL", "LR") for axis in axes))
        if any(name not in self.attributes for name in names):
            return None, None, []
        epsg, left, top, right, bottom = (float(self.attributes[name]) for name in names)
        steps = np.array([right - left, top - bottom]) / _PIXEL - (cols, rows)
        if np.abs(steps + 1).max() < 0.1:  # the corners are the centres of the corner pixels
            left, top = left - _PIXEL / 2, top + _PIXEL / 2
        elif not np.abs(steps).max() < 0.1:  # of NaN too
            return None, None, [f"{source}: its corners do not fit pixels of 30 m; the cube has no place on the map"]
        try:
            crs = str(CRS.from_epsg(int(epsg)).to_wkt())
        except (ValueError, OverflowError):  # CRSError is a ValueError
            return None, None, [f"{source}: there is no Epsg_Code {epsg:g}; the cube has no place on the map"]
        return Affine(_PIXEL, 0.0, left, 0.0, -_PIXEL, top), crs, []


def read_prisma(attributes: Mapping[str, Any], name: str, source: str) -> Prisma | None:
    """What the root's attributes say of the dataset ``name``; None where it is none of PRISMA's cubes.

    InputError where they give no scale: without one the stored numbers mean nothing.
    """
    part = {"VNIR_Cube": "Vnir", "SWIR_Cube": "Swir"}.get(name.rpartition("/")[2])
    if part is None or f"List_Cw_{part}" not in attributes:
        return None

    def number(key: str) -> float:
        value = np.ravel(attributes.get(key, ()))
        if value.size != 1 or value.dtype.kind not in "iuf" or not np.isfinite(value[0]):
            found = value[0] if value.size else "missing"
            raise InputError(f"{source}: the attribute {key} of the file's root is {found}; expected PRISMA's number")
        return float(value[0])

    if f"L2Scale{part}Max" in attributes:
        offset = number(f"L2Scale{part}Min")
        scale, nodata = (number(f"L2Scale{part}Max") - offset) / 65535, 0.0
    else:
        divisor, offset, nodata = number(f"ScaleFactor_{part}"), -number(f"Offset_{part}"), None
        if divisor == 0:
            raise InputError(
                f"{source}: the attribute ScaleFactor_{part} of the file's root is 0; expected another number"
            )
        scale = 1 / divisor
    wavelengths, fwhm = (
        np.ravel(attributes.get(f"List_{key}_{part}", ())).astype(np.float64) for key in ("Cw", "Fwhm")
    )
    return Prisma(wavelengths, fwhm, scale, offset, nodata, attributes)
