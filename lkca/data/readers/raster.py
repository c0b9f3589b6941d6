"""GeoTIFF, COG and other rasters that GDAL opens, through rasterio, by windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from lkca.data.codec import nodata_code
from lkca.data.cube import Cube
from lkca.data.gdal import SIDECARS, bounded_cache, without_place
from lkca.data.memory import check_memory
from lkca.data.meta import CubeMeta, uniform
from lkca.data.readers.dlr import Product, find_metadata, read_metadata
from lkca.data.readers.envi import find_header, find_tiff
from lkca.data.readers.envi_header import EnviLayout, parse_meta, read_header
from lkca.data.readers.pages import stacked_pages
from lkca.data.readers.storage import MAX_RATIO
from lkca.data.spectral import described_wavelengths, good_band_mask, to_nanometers
from lkca.data.window import Window
from lkca.errors import InputError

__all__ = ["open_raster"]

_COLOURS = 4
_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".vrt": "VRT"}
# Their files name data elsewhere, in other folders or on the network; GDAL tells them by content, whatever the suffix.
_ELSEWHERE = {
    "VRT", "GTI", "WMS", "WCS", "WMTS", "HTTP", "EEDA", "EEDAI", "PLMOSAIC", "DAAS", "STACIT", "STACTA", "MRF",
}  # fmt: skip


def open_raster(file: Path, source: str) -> Cube:
    """A cube of all bands of a raster; of more than four a last one that is alpha is a mask.

    Wavelengths, fwhm and bad bands come from band tags (``wavelength``, ``wavelength_units``, ``fwhm``, ``bbl``; GDAL
    makes ``WAVELENGTH_UNIT`` and ``BANDWIDTH`` for ISIS and PDS4), else GDAL's IMAGERY domain (µm), else the dataset's
    ENVI domain, else the band descriptions, else the metadata file of an EnMAP or DESIS product (``dlr.py``), which
    also gives scale and nodata that the raster lacks, else the ENVI header that describes a TIFF, which gives what else
    it lacks.
    """
    try:
        with without_place():
            dataset = rasterio.open(file, driver=_DRIVERS.get(file.suffix.lower()))
    except RasterioError as error:
        raise InputError(f"{source}: cannot be opened as a raster ({error}); it may be damaged") from error
    try:
        if dataset.driver in _ELSEWHERE and file.suffix.lower() != ".vrt":
            raise InputError(f"{source}: names data in other places ({dataset.driver}), which are not followed")
        if dataset.count == 0:
            names = ", ".join(dataset.subdatasets[:8]) or "none"
            raise InputError(f"{source}: is a container without bands of its own; its parts are: {names}; extract one")
        driver = dataset.driver
        dataset, warnings = _all_pages(dataset, file, source)
        reader = _RasterWindows(dataset)
        if reader.alpha is not None:
            warnings.append(f"{source}: its last band, {reader.alpha}, is alpha, and read as a mask")
        if ColorInterp.palette in dataset.colorinterp:
            warnings.append(f"{source}: its samples number the colours of a palette, and are read as measurements")
        shape = (dataset.height, dataset.width, len(reader.indexes))
        meta, beside, remarks = _told_beside(_meta(dataset, reader), file, shape, source)
        return Cube(
            source,
            shape,
            meta,
            reader,
            format="GeoTIFF" if driver == "GTiff" else driver,
            files=[file, *_sources(dataset, file, set()), *beside],
            warnings=warnings + remarks,
            close=dataset.close,
        )
    except BaseException:
        dataset.close()
        raise


def _all_pages(dataset: Any, file: Path, source: str) -> tuple[Any, list[str]]:
    """The raster, or where a TIFF has a band on each page these stacked; then warnings. InputError for its samples."""
    pages = len(dataset.subdatasets) if dataset.driver == "GTiff" else 0
    stacked = pages > 1 and dataset.count == 1
    _check_samples(dataset, file, source, dataset.count * (pages if stacked else 1))
    if not stacked:
        return dataset, [f"{source}: holds {pages} pages; the first is read"] if pages > 1 else []
    warnings = [f"{source}: its {pages} pages of one band are taken for its bands"]
    with dataset as first:
        return stacked_pages(first, file, source), warnings


def _told_beside(
    meta: CubeMeta, file: Path, shape: tuple[int, int, int], source: str
) -> tuple[CubeMeta, list[Path], list[str]]:
    """``meta`` with what it lacks, from a product's or a TIFF's header beside the raster; these files, and warnings.

    shape: (rows, cols, bands).
    """
    files, warnings = list[Path](), list[str]()
    metadata = find_metadata(file)
    if metadata is not None:
        try:
            meta = _completed(meta, read_metadata(metadata, file, shape[2]))
            files.append(metadata)
        except ValueError as error:
            warnings.append(f"{source}: {metadata.name} {error}; no wavelengths or scale are taken from it")
    header = find_header(file)
    if header is not None and (tiff := find_tiff(header)) is not None and tiff.samefile(file):
        try:
            meta, faults = _described(meta, header, shape)
            warnings += faults
            files.append(header)
        except InputError as error:
            warnings.append(f"{error}; nothing is taken from it")
    return meta, files, warnings


def _sources(dataset: Any, file: Path, seen: set[Path]) -> list[Path]:
    """The other files that hold what is read here: of a VRT (also through VRTs in it), a label or a header. Not what
    GDAL puts beside a raster at its own time (statistics, overviews), by which an interrupted run would not know its
    input again."""
    if dataset.driver == "GTiff":
        return []
    seen |= {file.resolve()}
    listed = [Path(name) for name in dataset.files if not name.endswith(SIDECARS)]
    found = [source for source in listed if source.is_file() and source.resolve() not in seen]
    seen |= {source.resolve() for source in found}
    for inner in [source for source in found if source.suffix.lower() == ".vrt"]:
        with without_place(), rasterio.open(inner) as parts:
            found += _sources(parts, inner, seen)
    return found


def _check_samples(dataset: Any, file: Path, source: str, count: int) -> None:
    """InputError for samples that are no real numbers, more than the file can hold, or in blocks too large to read.

    count: of the bands, on all pages.
    """
    dtypes = set(dataset.dtypes)
    if any(np.dtype(dtype).kind not in "biuf" for dtype in dtypes):
        raise InputError(f"{source}: holds {', '.join(sorted(dtypes))} samples; expected real numbers")
    itemsize = max(np.dtype(dtype).itemsize for dtype in dtypes)
    claimed = dataset.height * dataset.width * count * itemsize
    if dataset.driver == "GTiff" and claimed > MAX_RATIO * file.stat().st_size:
        raise InputError(
            f"{source}: claims {dataset.height} x {dataset.width} x {count} samples ({claimed} bytes), "
            f"more than a file of {file.stat().st_size} bytes can hold; it is damaged"
        )
    # GDAL unpacks a whole block (all bands of it, where they are interleaved by pixel) for any sample of it
    height, width = dataset.block_shapes[0]
    block = height * width * itemsize
    if dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL":
        block *= dataset.count
    check_memory(block, f"{source}: each of its blocks ({height} x {width} pixels)", "store it in smaller tiles")


class _RasterWindows:
    """Reads blocks; where bands differ in their nodata values, or a mask says what is missing, that becomes NaN.

    indexes: of the cube's bands, from 1; not that of a last one that is alpha, a mask as gdalwarp -dstalpha adds it.
    stored_dtype: of the file; ``dtype``: of the blocks, which is a float where integers are to hold NaN.
    nodata: NaN where nothing but such NaN says what is missing.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        # GDAL takes the fourth of four byte bands for alpha where nobody said so
        marked = dataset.count > _COLOURS and dataset.colorinterp[-1] == ColorInterp.alpha
        self.alpha = dataset.count if marked else None
        self.indexes = [index for index in dataset.indexes if index != self.alpha]
        self.nodatavals = [dataset.nodatavals[index - 1] for index in self.indexes]
        self.mixed = len({str(value) for value in self.nodatavals}) > 1  # as text, where NaN equals NaN
        first = self.nodatavals[0]
        self.nodata = np.nan if self.mixed else None if first is None else float(first)
        flags = dataset.mask_flag_enums[0]
        self.masked = self.alpha is not None or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags)
        self.stored_dtype = self.dtype = np.result_type(*dataset.dtypes)
        self.alike = len(set(dataset.dtypes)) == 1
        if self.dtype.kind != "f":
            code = nodata_code(self.dtype, self.nodata)
            if self.masked or self.mixed:
                self.dtype = np.dtype(np.float32 if self.dtype.itemsize <= 2 else np.float64)
                self.nodata = self.nodata if code is not None else np.nan
            elif self.nodata is not None and np.isnan(self.nodata):
                self.nodata = None  # no sample is

    def __call__(self, window: Window, bands: np.ndarray) -> np.ndarray:
        part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        indexes = [self.indexes[band] for band in bands]
        try:
            with bounded_cache():
                if self.alike:
                    block = self.dataset.read(indexes, window=part)
                else:  # rasterio refuses to read such bands together
                    block = np.stack([self.dataset.read(index, window=part) for index in indexes])
                mask = None
                if self.alpha is not None:
                    mask = self.dataset.read(self.alpha, window=part)
                elif self.masked:
                    mask = self.dataset.dataset_mask(window=part)
        except RasterioError as error:
            # rasterio hides GDAL's own words in the cause
            raise OSError(str(error.__cause__ or error)) from error
        if self.mixed or mask is not None:
            block = block.astype(self.dtype)
        if self.mixed:
            for samples, band in zip(block, bands, strict=True):
                samples[samples == self.nodatavals[band]] = np.nan
        if mask is not None:
            block[:, mask == 0] = np.nan
        result: np.ndarray = block
        return result


def _meta(dataset: Any, reader: _RasterWindows) -> CubeMeta:
    indexes = reader.indexes
    tags = [dataset.tags(band) for band in indexes]
    scales, offsets, descriptions = (
        [listed[band - 1] for band in indexes] for listed in (dataset.scales, dataset.offsets, dataset.descriptions)
    )
    wavelengths, fwhm = _wavelengths(dataset, indexes, descriptions, tags)
    interleave = {"BAND": "bsq", "PIXEL": "bip", "LINE": "bil"}.get(
        dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE", "").upper()
    )
    gcps, gcps_crs = dataset.gcps
    return CubeMeta(
        wavelengths=wavelengths,
        fwhm=fwhm,
        good_bands=_good_bands(dataset, tags),
        nodata=reader.nodata,
        scale_factor=uniform(scales, 1.0),
        offset=uniform(offsets, 0.0),
        band_names=tuple(name or "" for name in descriptions) if any(descriptions) else None,
        crs=dataset.crs.to_wkt() if dataset.crs else None,
        transform=None if dataset.transform == Affine.identity() else dataset.transform,
        gcps=tuple(gcps),
        gcps_crs=gcps_crs.to_wkt() if gcps and gcps_crs else None,
        rpc=dataset.rpcs,
        interleave=interleave,
        stored_dtype=reader.stored_dtype,
        tags={key: value for key, value in dataset.tags().items() if key != "AREA_OR_POINT"},
    )


def _completed(meta: CubeMeta, product: Product) -> CubeMeta:
    """What the raster does not say itself its product does; a scale for counts only, as floats may be scaled ones."""
    if meta.wavelengths is None:
        meta = meta.replace(wavelengths=product.wavelengths, fwhm=product.fwhm)
    if meta.stored_dtype is None or meta.stored_dtype.kind not in "iu":
        return meta
    if np.all(meta.scale_factor == 1.0) and np.all(meta.offset == 0.0):
        meta = meta.replace(scale_factor=uniform(product.gains, 1.0), offset=uniform(product.offsets, 0.0))
    return meta if meta.nodata is not None else meta.replace(nodata=product.nodata)


def _described(meta: CubeMeta, header: Path, shape: tuple[int, int, int]) -> tuple[CubeMeta, list[str]]:
    """What the raster does not say itself the ENVI header of its TIFF does; then warnings of that header's faults.

    shape: (rows, cols, bands) of the raster. InputError where the header does not fit.
    """
    fields = read_header(header)
    if any(fields.get(key) != str(size) for key, size in zip(("lines", "samples", "bands"), shape, strict=True)):
        raise InputError(f"{header}: claims another size than the {' x '.join(map(str, shape))} samples of its TIFF")
    spectral, placed = meta.wavelengths is not None, meta.transform is not None or bool(meta.gcps)
    known = {"wavelength", "fwhm"} if spectral else set[str]()
    known |= {"map info", "projection info", "coordinate system string"} if placed else set()
    fields = {key: text for key, text in fields.items() if key not in known}
    told, warnings = parse_meta(fields, EnviLayout(*shape, "bsq", np.dtype(np.uint8), 0), str(header))
    lacking = {
        name: getattr(told, name) for name in ("good_bands", "nodata", "band_names") if getattr(meta, name) is None
    }
    meta = meta.replace(**lacking)
    if not spectral:
        meta = meta.replace(wavelengths=told.wavelengths, fwhm=told.fwhm)
    if not placed:
        meta = meta.replace(transform=told.transform, crs=meta.crs or told.crs)
    if np.all(meta.scale_factor == 1.0) and np.all(meta.offset == 0.0):
        meta = meta.replace(scale_factor=told.scale_factor, offset=told.offset)
    return meta, warnings


def _wavelengths(
    dataset: Any, indexes: list[int], descriptions: list[str | None], tags: list[dict[str, str]]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    lower = [{key.lower(): value for key, value in band.items()} for band in tags]
    centres = _floats([band.get("wavelength", band.get("wavelengths")) for band in lower])
    if centres is not None:
        widths = _floats([band.get("fwhm", band.get("bandwidth")) for band in lower])
        return to_nanometers(centres, widths, lower[0].get("wavelength_units", lower[0].get("wavelength_unit")))
    imagery = [dataset.tags(band, ns="IMAGERY") for band in indexes]
    centres = _floats([band.get("CENTRAL_WAVELENGTH_UM") for band in imagery])
    if centres is not None:
        return to_nanometers(centres, _floats([band.get("FWHM_UM") for band in imagery]), "um")
    envi = {key.lower().replace(" ", "_"): value for key, value in dataset.tags(ns="ENVI").items()}
    centres = _float_list(envi.get("wavelength"), len(indexes))
    if centres is not None:
        return to_nanometers(centres, _float_list(envi.get("fwhm"), len(indexes)), envi.get("wavelength_units"))
    centres, unit = described_wavelengths(descriptions)
    return (None, None) if centres is None else to_nanometers(centres, None, unit)


def _good_bands(dataset: Any, tags: list[dict[str, str]]) -> np.ndarray | None:
    values = _floats([band.get("bbl") for band in tags])
    if values is None:
        values = _float_list(dataset.tags(ns="ENVI").get("bbl"), len(tags))
    return None if values is None else good_band_mask(values)


def _floats(texts: list[str | None]) -> np.ndarray | None:
    try:
        return np.array([float(text) for text in texts if text is not None]) if None not in texts else None
    except ValueError:
        return None


def _float_list(text: str | None, count: int) -> np.ndarray | None:
    values = _floats(list((text or "").strip("{} ").split(",")))
    return values if values is not None and len(values) == count else None
