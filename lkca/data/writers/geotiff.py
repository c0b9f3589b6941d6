"""GeoTIFF and cloud-optimised GeoTIFF.

Wavelengths stand in three places: band tags (``wavelength``, ``wavelength_units``, ``fwhm``, ``bbl``; read by
EnMAP-Box), GDAL's IMAGERY domain (µm) and the ENVI domain of the dataset (lost in COG, which GDAL copies).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from lkca.data.meta import CubeMeta
from lkca.data.window import Window
from lkca.data.writers.base import Backend, check_disk_space, temporary_beside
from lkca.errors import InputError

__all__ = ["GeoTiffBackend"]

_TILE = 256
_INTERLEAVE = {None: "BAND", "bsq": "BAND", "bip": "PIXEL"}
_COMPRESSIONS = ("none", "deflate", "lzw", "zstd", "lzma", "packbits")


class GeoTiffBackend(Backend):
    """A tiled GeoTIFF of 256 x 256 blocks (BIGTIFF where needed); ``cog`` turns it into a COG with overviews."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        meta: CubeMeta,
        *,
        interleave: str | None,
        compress: str | None,
        cog: bool,
    ) -> None:
        rows, cols, bands = shape
        if interleave not in _INTERLEAVE:
            raise InputError(f"{path}: a GeoTIFF cannot be {interleave}; choose bsq or bip, or an ENVI output")
        compress = (compress or "none").lower()
        if compress not in _COMPRESSIONS:
            raise InputError(f"{path}: compression {compress!r} is unknown; choose one of {', '.join(_COMPRESSIONS)}")
        dtype = meta.stored_dtype
        assert dtype is not None
        if compress == "none":
            check_disk_space(path, rows * cols * bands * dtype.itemsize)
        self.block = (min(_TILE, -(-rows // 16) * 16), min(_TILE, -(-cols // 16) * 16))
        self._shape = shape
        self._packing = {} if compress == "none" else {"compress": compress}
        if compress in ("deflate", "lzw", "zstd"):
            self._packing["predictor"] = "3" if dtype.kind == "f" else "2"
        self._cog = temporary_beside(path) if cog else None
        self._tiff = temporary_beside(path)
        self.pairs = [(self._tiff, path)] if self._cog is None else [(self._cog, path), (self._tiff, self._tiff)]
        self._dataset: Any = None
        try:
            self._dataset = self._create(meta, _INTERLEAVE[interleave])
        except BaseException:
            for temporary, _ in self.pairs:
                temporary.unlink(missing_ok=True)
            raise

    def write(self, window: Window, stored: np.ndarray) -> None:
        part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        try:
            self._dataset.write(stored, window=part)
        except RasterioError as error:
            raise OSError(str(error.__cause__ or error)) from error

    def finish(self) -> None:
        try:
            self._dataset.close()
            self._verify()
            if self._cog is not None:
                options = {key: value for key, value in self._packing.items() if key != "predictor"}
                rasterio.shutil.copy(
                    self._tiff, self._cog, driver="COG", BIGTIFF="IF_SAFER", BLOCKSIZE=_TILE,
                    OVERVIEW_RESAMPLING="AVERAGE", **(options or {"COMPRESS": "NONE"}),
                )  # fmt: skip
                self._tiff.unlink()
                self.pairs = self.pairs[:1]
        except RasterioError as error:
            raise OSError(str(error.__cause__ or error)) from error

    def discard(self) -> None:
        self._dataset.close()

    def _create(self, meta: CubeMeta, interleave: str) -> Any:
        rows, cols, bands = self._shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(
                self._tiff, "w", driver="GTiff", height=rows, width=cols, count=bands, dtype=meta.stored_dtype,
                crs=meta.crs, transform=meta.transform, nodata=meta.nodata, tiled=True, blockysize=self.block[0],
                blockxsize=self.block[1], interleave=interleave, BIGTIFF="IF_SAFER", **self._packing,
            )  # fmt: skip
        dataset.scales = tuple(np.broadcast_to(np.asarray(meta.scale_factor, dtype=np.float64), bands).tolist())
        dataset.offsets = tuple(np.broadcast_to(np.asarray(meta.offset, dtype=np.float64), bands).tolist())
        tags = {key: value for key, value in meta.tags.items() if "=" not in key and key}
        if tags:
            dataset.update_tags(**tags)
        _write_spectral(dataset, meta, bands)
        return dataset

    def _verify(self) -> None:
        """GDAL may lose blocks in the final flush without an error: every block must lie inside the file."""
        size = self._tiff.stat().st_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(self._tiff) as dataset:
                rows, cols = (-(-edge // block) for edge, block in zip(self._shape[:2], self.block, strict=True))
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
        envi |= {"wavelength": _list(meta.wavelengths), "wavelength_units": "Nanometers"}
    if meta.fwhm is not None:
        envi["fwhm"] = _list(meta.fwhm)
    if meta.good_bands is not None:
        envi["bbl"] = _list(meta.good_bands.astype(int))
    if envi:
        dataset.update_tags(ns="ENVI", **envi)


def _list(values: np.ndarray) -> str:
    return "{" + ", ".join(f"{value:.10g}" for value in values) + "}"
