"""GeoTIFF, and how GDAL describes one: a cloud-optimised one too (cog.py).

Wavelengths stand in three places: band tags (``wavelength``, ``wavelength_units``, ``fwhm``, ``bbl``; read by
EnMAP-Box), GDAL's IMAGERY domain (µm) and the ENVI domain of the dataset (not in a COG that GDAL copied).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from lkca.data.gdal import bounded_cache, without_place
from lkca.data.meta import CubeMeta
from lkca.data.window import Window
from lkca.data.writers.base import Backend, check_disk_space, temporary_beside
from lkca.data.writers.envi import envi_list
from lkca.errors import InputError

__all__ = ["GeoTiffBackend", "Kind", "as_os_errors", "block_size", "check_blocks", "create", "left_out"]

_TILE = 256
_INTERLEAVE = {None: "BAND", "bsq": "BAND", "bip": "PIXEL"}
_PARAMETERS = ("bidx", "ns")  # of rasterio's update_tags, which takes tags by name; to GDAL such names have no case
_COMPRESSIONS = ("none", "deflate", "lzw", "zstd", "lzma", "packbits")


class GeoTiffBackend(Backend):
    """A tiled GeoTIFF of 256 x 256 blocks (BIGTIFF where needed), without overviews."""

    def __init__(self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, kind: Kind) -> None:
        assert meta.stored_dtype is not None
        if not kind.packing:
            check_disk_space(path, math.prod(shape) * meta.stored_dtype.itemsize)
        self.block = block_size(shape)
        self.remarks = left_out(path, meta)
        self._tiff = temporary_beside(path)
        self.pairs = [(self._tiff, path)]
        try:
            self._dataset = create(self._tiff, shape, meta, INTERLEAVE=kind.interleave, **kind.packing)
        except BaseException:
            self.remove()
            raise

    def write(self, window: Window, stored: np.ndarray) -> None:
        part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        with as_os_errors(), bounded_cache():
            self._dataset.write(stored, window=part)

    def finish(self) -> None:
        with as_os_errors(), bounded_cache(), without_place():
            self._dataset.close()
            check_blocks(self._tiff)

    def discard(self) -> None:
        self._dataset.close()


@dataclass(frozen=True)
class Kind:
    """What is asked of a GeoTIFF, as GDAL's creation options: interleave BAND or PIXEL; packing: its compression, {}
    for none."""

    interleave: str
    packing: dict[str, str]

    @classmethod
    def of(cls, path: Path, dtype: np.dtype, interleave: str | None, compress: str | None) -> Kind:
        """InputError for what a GeoTIFF cannot be."""
        interleave = None if interleave is None else interleave.lower()
        if interleave not in _INTERLEAVE:
            raise InputError(f"{path}: a GeoTIFF cannot be {interleave}; choose bsq or bip, or an ENVI output")
        compress = (compress or "none").lower()
        if compress not in _COMPRESSIONS:
            raise InputError(f"{path}: compression {compress!r} is unknown; choose one of {', '.join(_COMPRESSIONS)}")
        packing = {} if compress == "none" else {"COMPRESS": compress}
        if compress in ("deflate", "lzw", "zstd"):
            packing["PREDICTOR"] = "3" if dtype.kind == "f" else "2"
        return cls(_INTERLEAVE[interleave], packing)


def block_size(shape: tuple[int, int, int]) -> tuple[int, int]:
    """(rows, cols) of the blocks of a file of ``shape`` (rows, cols, bands)."""
    rows, cols = (min(_TILE, -(-edge // 16) * 16) for edge in shape[:2])
    return rows, cols


def left_out(path: Path, meta: CubeMeta) -> tuple[str, ...]:
    """What a GeoTIFF cannot hold beside the rest: sentences for the user."""
    if meta.transform is None or not meta.gcps:
        return ()
    return (f"{path}: a GeoTIFF holds a transform or ground control points; the points were left out",)


def create(file: Path, shape: tuple[int, int, int], meta: CubeMeta, **options: str) -> Any:
    """A described GeoTIFF without samples, open for writing. RasterioError, OSError."""
    rows, cols, bands = shape
    block = block_size(shape)
    with without_place():
        dataset = rasterio.open(
            file, "w", driver="GTiff", height=rows, width=cols, count=bands, dtype=meta.stored_dtype, tiled=True,
            blockysize=block[0], blockxsize=block[1], photometric="MINISBLACK", **{"BIGTIFF": "IF_SAFER", **options},
        )  # fmt: skip
    _describe(dataset, meta, bands)
    return dataset


def _describe(dataset: Any, meta: CubeMeta, bands: int) -> None:
    assert meta.stored_dtype is not None
    # overviews and readers know by the nodata value that NaN is no sample
    nodata = float("nan") if meta.nodata is None and meta.stored_dtype.kind == "f" else meta.nodata
    if nodata is not None:
        dataset.nodata = nodata
    if meta.crs is not None:
        dataset.crs = CRS.from_wkt(meta.crs)
    if meta.transform is not None:
        dataset.transform = meta.transform
    dataset.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (bands - 1)  # three bytes are no colours
    dataset.scales = tuple(np.broadcast_to(np.asarray(meta.scale_factor, dtype=np.float64), bands).tolist())
    dataset.offsets = tuple(np.broadcast_to(np.asarray(meta.offset, dtype=np.float64), bands).tolist())
    if meta.gcps and meta.transform is None:
        dataset.gcps = (list(meta.gcps), CRS() if meta.gcps_crs is None else CRS.from_wkt(meta.gcps_crs))
    if meta.rpc is not None:
        dataset.rpcs = meta.rpc
    tags = {
        key.upper() if key in _PARAMETERS else key: value for key, value in meta.tags.items() if "=" not in key and key
    }
    if tags:
        dataset.update_tags(**tags)
    _write_spectral(dataset, meta, bands)


@contextmanager
def as_os_errors() -> Iterator[None]:
    """A context in which GDAL's errors are OSErrors."""
    try:
        yield
    except RasterioError as error:
        raise OSError(str(error.__cause__ or error)) from error


def check_blocks(file: Path) -> None:
    """OSError unless every block lies inside the file: GDAL may lose some in the final flush without an error."""
    size = file.stat().st_size
    with rasterio.open(file) as dataset:
        rows, cols = (-(-edge // block) for edge, block in zip(dataset.shape, dataset.block_shapes[0], strict=True))
        bands = dataset.indexes if dataset.interleaving.value.lower() == "band" else (1,)
        for band in bands:
            for y in range(rows):
                for x in range(cols):
                    start = dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band)
                    length = dataset.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=band)
                    if start is None or length is None or int(start) + int(length) > size:
                        raise OSError("the file is incomplete, the disk may be full")


def _write_spectral(dataset: Any, meta: CubeMeta, bands: int) -> None:
    for band in range(bands):
        tags: dict[str, str] = {}
        imagery: dict[str, str] = {}
        name = f"band {band + 1}"
        if meta.wavelengths is not None:
            tags |= {"wavelength": f"{meta.wavelengths[band]:.10g}", "wavelength_units": "Nanometers"}
            imagery["CENTRAL_WAVELENGTH_UM"] = f"{meta.wavelengths[band] / 1e3:.10g}"
            name = f"band {band + 1} ({meta.wavelengths[band]:.6g} Nanometers)"
        if meta.fwhm is not None:
            tags["fwhm"] = f"{meta.fwhm[band]:.10g}"
            imagery["FWHM_UM"] = f"{meta.fwhm[band] / 1e3:.10g}"
        if meta.good_bands is not None:
            tags["bbl"] = str(int(meta.good_bands[band]))
        if tags:
            dataset.update_tags(band + 1, **tags)
        if imagery:
            dataset.update_tags(band + 1, ns="IMAGERY", **imagery)
        dataset.set_band_description(band + 1, meta.band_names[band] if meta.band_names is not None else name)
    envi: dict[str, str] = {}
    if meta.wavelengths is not None:
        envi |= {"wavelength": envi_list(meta.wavelengths), "wavelength_units": "Nanometers"}
    if meta.fwhm is not None:
        envi["fwhm"] = envi_list(meta.fwhm)
    if meta.good_bands is not None:
        envi["bbl"] = envi_list(meta.good_bands.astype(int))
    if envi:
        dataset.update_tags(ns="ENVI", **envi)
