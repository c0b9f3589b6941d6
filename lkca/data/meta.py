"""What is known about a cube beside its samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from lkca.data.control import moved_gcps, moved_rpc
from lkca.data.window import Window
from lkca.errors import InputError

__all__ = ["CubeMeta", "scalar_or_list", "uniform"]

# Keys that describe the pixels or bands of a grid and are wrong on another one. In lower case: of ENVI; of EMIT's and
# NEON's HDF5 files; of NetCDF's convention for discovery (ACDD).
_GRID_TAGS = (
    "x start", "y start", "pixel size", "geotransform", "spatialresolution", "spatial_resolution_x_y",
    "geospatial_lat_resolution", "geospatial_lon_resolution",
)  # fmt: skip
_BAND_TAGS = ("default bands", "default stretch", "z plot range")


@dataclass(frozen=True, eq=False)
class CubeMeta:
    """Spectral, radiometric and geographic description of a cube of ``bands`` bands.

    wavelengths, fwhm: (bands,) float64 in nm. good_bands: (bands,) bool, True = good (ENVI bbl 1).
    nodata: in stored units; NaN beside an integer dtype where a mask says what is missing.
    physical = stored * scale_factor + offset, scalars or (bands,) arrays.
    crs: WKT. transform: pixel corner (col, row) to CRS coordinates. gcps: ground control points in ``gcps_crs``
    (WKT), rpc: rational polynomial coefficients; beside or instead of a transform. interleave: "bsq", "bil" or
    "bip" where the file format has one. stored_dtype: dtype of the samples in the file. tags: everything else the
    file says (acquisition, sensor, description), as text.
    """

    wavelengths: np.ndarray | None = None
    fwhm: np.ndarray | None = None
    good_bands: np.ndarray | None = None
    nodata: float | None = None
    scale_factor: float | np.ndarray = 1.0
    offset: float | np.ndarray = 0.0
    band_names: tuple[str, ...] | None = None
    crs: str | None = None
    transform: Affine | None = None
    gcps: tuple[GroundControlPoint, ...] = ()
    gcps_crs: str | None = None
    rpc: RPC | None = None
    interleave: str | None = None
    stored_dtype: np.dtype | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def check(self, bands: int, source: str) -> None:
        """Raise InputError where a per-band entry does not have ``bands`` entries or a scale is unusable."""
        for name in ("wavelengths", "fwhm", "good_bands", "band_names", "scale_factor", "offset"):
            value = getattr(self, name)
            if np.ndim(value) and np.shape(value) != (bands,):
                count = " x ".join(map(str, np.shape(value)))
                raise InputError(
                    f"{source}: the metadata list {count} {name.replace('_', ' ')} for {bands} bands; "
                    "correct or remove that list"
                )
        if not np.all(np.isfinite(self.scale_factor)) or np.any(np.asarray(self.scale_factor) == 0):
            raise InputError(
                f"{source}: the scale factor is {self.scale_factor}; expected a finite number other than 0"
            )
        if not np.all(np.isfinite(self.offset)):
            raise InputError(f"{source}: the offset is {self.offset}; expected a finite number")

    def replace(self, **changes: Any) -> CubeMeta:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def upsampled(self, scale: int) -> CubeMeta:
        """The same ground on pixels ``scale`` times smaller; the upper-left corner stays."""
        return self._regridded(Affine.scale(1.0 / scale))

    def degraded(self, scale: int) -> CubeMeta:
        """The same ground on pixels ``scale`` times larger; the upper-left corner stays."""
        return self._regridded(Affine.scale(float(scale)))

    def window(self, window: Window) -> CubeMeta:
        """The description of a part of the scene."""
        if window.row == 0 and window.col == 0:
            return self
        return self._regridded(Affine.translation(window.col, window.row))

    def subset(self, bands: Sequence[int] | np.ndarray) -> CubeMeta:
        """The description of some bands (indices from 0), in that order."""
        index = np.asarray(bands, dtype=np.intp)

        def pick(value: Any) -> Any:
            return value[index] if isinstance(value, np.ndarray) and value.ndim == 1 else value

        names = None if self.band_names is None else tuple(self.band_names[i] for i in index)
        return self.replace(
            wavelengths=pick(self.wavelengths),
            fwhm=pick(self.fwhm),
            good_bands=pick(self.good_bands),
            scale_factor=pick(self.scale_factor),
            offset=pick(self.offset),
            band_names=names,
            tags={key: value for key, value in self.tags.items() if key not in _BAND_TAGS},
        )

    @property
    def gsd(self) -> float | None:
        """Pixel size along a row in units of the CRS (metres, degrees); None where there is no transform."""
        if self.transform is None:
            return None
        return float(np.hypot(self.transform.a, self.transform.d))

    def _regridded(self, change: Affine) -> CubeMeta:
        transform = None if self.transform is None else self.transform @ change
        return self.replace(
            transform=transform,
            gcps=moved_gcps(self.gcps, change),
            rpc=None if self.rpc is None else moved_rpc(self.rpc, change),
            tags={key: value for key, value in self.tags.items() if key.lower() not in _GRID_TAGS},
        )


def uniform(values: Sequence[float] | np.ndarray | None, default: float) -> float | np.ndarray:
    """A scale factor or an offset from a list of one for each band: a number where all are equal; ``default`` of none.

    Returns float64 (bands,) where they differ.
    """
    array = np.asarray([] if values is None else values, dtype=np.float64)
    if array.size == 0:
        return default
    return float(array[0]) if np.all(array == array[0]) else array


def scalar_or_list(value: float | np.ndarray) -> float | list[float]:
    """A scale factor or an offset, JSON-able: a number for all bands, or one for each."""
    return [float(v) for v in value] if isinstance(value, np.ndarray) and value.ndim else float(value)
