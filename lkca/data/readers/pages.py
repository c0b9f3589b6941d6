"""The pages of a TIFF that holds one band on each, as the bands of one raster."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from affine import Affine
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import MaskFlags

from lkca.data.gdal import without_place
from lkca.errors import InputError

__all__ = ["stacked_pages"]


def stacked_pages(first: Any, file: Path, source: str) -> Any:
    """The pages of a TIFF, of one band each, as the bands of a VRT in memory, with the place and the tags of ``first``.

    InputError unless they are alike, without masks, and fewer than the rows and the columns: pages may as well be the
    rows of a cube, as tifffile writes an array of rows x columns x bands.
    """
    pages = len(first.subdatasets)
    root = ElementTree.Element("VRTDataset", rasterXSize=str(first.width), rasterYSize=str(first.height))
    if first.crs:
        ElementTree.SubElement(root, "SRS").text = first.crs.to_wkt()
    if first.transform != Affine.identity():
        ElementTree.SubElement(root, "GeoTransform").text = ", ".join(f"{x:.17g}" for x in first.transform.to_gdal())
    points, points_crs = first.gcps
    if points:
        listed = ElementTree.SubElement(root, "GCPList", Projection=points_crs.to_wkt() if points_crs else "")
        for point in points:
            at = {"Pixel": point.col, "Line": point.row, "X": point.x, "Y": point.y, "Z": point.z or 0.0}
            ElementTree.SubElement(listed, "GCP", {key: f"{value:.17g}" for key, value in at.items()})
    for domain in ("", "RPC"):
        _tag(root, domain, first.tags(ns=domain or None))
    sample_type = typename_fwd[dtype_rev[first.dtypes[0]]]
    # GDAL tells of a page's mask where it opens the first page of a file, not where it opens a page by its number.
    alike = pages < min(first.shape) and MaskFlags.per_dataset not in first.mask_flag_enums[0]
    for number, listed in enumerate(first.subdatasets if alike else (), start=1):
        band = ElementTree.SubElement(root, "VRTRasterBand", dataType=sample_type, band=str(number))
        directory = listed.split(":")[1]  # masks and overviews are counted too, but not listed
        name = f"GTIFF_DIR:{directory}:{file.resolve()}"
        with without_place(), rasterio.open(name) as page:
            alike &= (page.shape, page.dtypes, str(page.nodata)) == (first.shape, first.dtypes, str(first.nodata))
            _describe(band, page)
        part = ElementTree.SubElement(band, "SimpleSource")
        ElementTree.SubElement(part, "SourceFilename", relativeToVRT="0").text = name
        ElementTree.SubElement(part, "SourceBand").text = "1"
    if not alike:
        raise InputError(
            f"{source}: holds {pages} pages of one band, which are not alike, have masks, or may be the rows of a "
            "cube; save it with all bands on one page (in Python with rasterio, or with tifffile.imwrite of bands, "
            "rows and columns, photometric='minisblack', planarconfig='separate')"
        )
    with without_place():
        return rasterio.open(ElementTree.tostring(root, encoding="unicode"))


def _describe(band: ElementTree.Element, page: Any) -> None:
    """Write into the band of a VRT what a page says of its own band: nodata, scale, offset, name and tags."""
    told = {"Scale": f"{page.scales[0]:.17g}", "Offset": f"{page.offsets[0]:.17g}", "Description": page.descriptions[0]}
    if page.nodata is not None:
        told["NoDataValue"] = f"{page.nodata:.17g}"
    for key, text in told.items():
        ElementTree.SubElement(band, key).text = text
    for domain in ("", "IMAGERY"):
        _tag(band, domain, page.tags(1, ns=domain or None))


def _tag(element: ElementTree.Element, domain: str, tags: dict[str, str]) -> None:
    listed = ElementTree.SubElement(element, "Metadata", domain=domain)
    for key, text in tags.items():
        ElementTree.SubElement(listed, "MDI", key=key).text = text
