"""GeoTIFF and cloud-optimised GeoTIFF.

Wavelengths stand in three places: band tags (``wavelength``, ``wavelength_units``, ``fwhm``, ``bbl``; read by
EnMAP-Box), GDAL's IMAGERY domain (µm) and the ENVI domain of the dataset (not in a COG: GDAL's copy loses it).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from lkca.data.gdal import bounded_cache, open_to_change, without_place
from lkca.data.meta import CubeMeta
from lkca.data.window import Window
from lkca.data.writers.base import Backend, check_disk_space, sidecars, temporary_beside
from lkca.data.writers.cog import OVERVIEW_SHARE, copy_as_cog
from lkca.data.writers.flat import flat_files, write_vrt
from lkca.errors import InputError

__all__ = ["GeoTiffBackend"]

_TILE = 256
_INTERLEAVE = {None: "BAND", "bsq": "BAND", "bip": "PIXEL"}
_PARAMETERS = ("bidx", "ns")  # of rasterio's update_tags, which takes tags by name; to GDAL such names have no case
_COMPRESSIONS = ("none", "deflate", "lzw", "zstd", "lzma", "packbits")


class GeoTiffBackend(Backend):
    """A tiled GeoTIFF of 256 x 256 blocks (BIGTIFF where needed).

    ``cog``: that file is a stage beside the output, uncompressed; a COG with overviews is copied from it at the end.
    Samples that lie in a flat file are copied from there, with no stage, unless the COG interleaves its bands.
    """

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
        packing = {} if compress == "none" else {"compress": compress}
        if compress in ("deflate", "lzw", "zstd"):
            packing["predictor"] = "3" if dtype.kind == "f" else "2"
        nbytes = rows * cols * bands * dtype.itemsize
        if cog:
            nbytes = int(nbytes * (1 + OVERVIEW_SHARE) * (2 - bool(packing)))
        if cog or not packing:
            check_disk_space(path, nbytes)
        self.block = (min(_TILE, -(-rows // 16) * 16), min(_TILE, -(-cols // 16) * 16))
        self._shape, self._meta, self._dtype = shape, meta, dtype
        self._interleave = _INTERLEAVE[interleave]
        self._packing = packing
        self.adopts = cog and self._interleave == "BAND"
        if meta.transform is not None and meta.gcps:
            self.remarks = (f"{path}: a GeoTIFF holds a transform or ground control points; the points were left out",)
        self._cog = temporary_beside(path) if cog else None
        self._tiff = temporary_beside(path)
        self.pairs = [(self._tiff, path)] if self._cog is None else [(self._cog, path), (self._tiff, self._tiff)]
        self._dataset: Any = None
        try:
            if self._cog is None:
                self._dataset = self._create(packing)
            else:  # what cannot be described is refused now; the file is made anew when samples come
                self._describe_flat(self._cog)
        except BaseException:
            for temporary, _ in self.pairs:
                temporary.unlink(missing_ok=True)
            raise

    def write(self, window: Window, stored: np.ndarray) -> None:
        part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        with _as_os_errors(), bounded_cache():
            if self._dataset is None:
                self._dataset = self._create({})
            self._dataset.write(stored, window=part)

    def adopt(self, samples: Path) -> None:
        with _as_os_errors():
            self._describe_flat(samples)

    def finish(self) -> None:
        with _as_os_errors(), bounded_cache(), without_place(), flat_files():
            if self._dataset is not None:
                self._dataset.close()
                _check_blocks(self._tiff)
            if self._cog is not None:
                options = {"INTERLEAVE": self._interleave, **self._packing}
                copy_as_cog(self._tiff, self._cog, block=self.block, gaps=self.gaps, **options)
                _check_blocks(self._cog)
                for file in (self._tiff, *sidecars(self._tiff)):
                    file.unlink(missing_ok=True)
                self.pairs = self.pairs[:1]

    def discard(self) -> None:
        if self._dataset is not None:
            self._dataset.close()

    def _create(self, packing: dict[str, str]) -> Any:
        rows, cols, bands = self._shape
        with without_place():
            dataset = rasterio.open(
                self._tiff, "w", driver="GTiff", height=rows, width=cols, count=bands, dtype=self._dtype, tiled=True,
                blockysize=self.block[0], blockxsize=self.block[1], interleave=self._interleave, BIGTIFF="IF_SAFER",
                photometric="MINISBLACK", **packing,
            )  # fmt: skip
        self._describe(dataset)
        return dataset

    def _describe_flat(self, samples: Path) -> None:
        """The file that is copied at the end is a VRT over these samples."""
        write_vrt(self._tiff, samples, self._shape, self._dtype)
        with flat_files(), without_place(), open_to_change(self._tiff) as dataset:
            self._describe(dataset)

    def _describe(self, dataset: Any) -> None:
        meta, bands = self._meta, self._shape[2]
        # overviews and readers know by the nodata value that NaN is no sample
        nodata = float("nan") if meta.nodata is None and self._dtype.kind == "f" else meta.nodata
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
            key.upper() if key in _PARAMETERS else key: value
            for key, value in meta.tags.items()
            if "=" not in key and key
        }
        if tags:
            dataset.update_tags(**tags)
        _write_spectral(dataset, meta, bands)


@contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise OSError(str(error.__cause__ or error)) from error


def _check_blocks(file: Path) -> None:
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
        envi |= {"wavelength": _list(meta.wavelengths), "wavelength_units": "Nanometers"}
    if meta.fwhm is not None:
        envi["fwhm"] = _list(meta.fwhm)
    if meta.good_bands is not None:
        envi["bbl"] = _list(meta.good_bands.astype(int))
    if envi:
        dataset.update_tags(ns="ENVI", **envi)


def _list(values: np.ndarray) -> str:
    return "{" + ", ".join(f"{value:.10g}" for value in values) + "}"
