"""From a finished tiled GeoTIFF, or a flat file, to a cloud-optimised GeoTIFF with overviews.

GDAL's GTiff driver does it (``COPY_SRC_OVERVIEWS``: directories first, then overviews from coarse to fine, then the
full size). Its COG driver cannot be used for hundreds of bands: it interleaves them by pixel (before GDAL 3.11) and
compresses overviews into a temporary file tile by tile and band by band; with a bounded block cache that file grew to
10.7 GB for a cube of 1.1 GB (2048 x 2048 x 64, float32, GDAL 3.10.3, cache 128 MiB) and was not done after 8 minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from lkca.data.gdal import open_to_change

__all__ = ["OVERVIEW_SHARE", "copy_as_cog"]

OVERVIEW_SHARE = 1 / 3  # of the full size: 1/4 + 1/16 + ...


def copy_as_cog(staged: Path, target: Path, *, block: tuple[int, int], gaps: bool = True, **options: Any) -> None:
    """Copy ``staged`` (a tiled GeoTIFF or a VRT; gets overviews) to ``target`` as a COG of ``block`` (rows, cols).

    Overviews halve the size until one fits a block; each of their samples is the mean of the valid samples below it,
    and nodata only where all of these are. gaps: whether there are such, or means that equal the nodata value; GDAL is
    three times faster where it need not look. options: GTiff creation options. Raises RasterioError.
    """
    with open_to_change(staged) as dataset:
        factors: list[int] = []
        while any(edge > size << len(factors) for edge, size in zip(dataset.shape, block, strict=True)):
            factors.append(2 << len(factors))
        if factors:
            nodata = dataset.nodata
            if not gaps:
                dataset.nodata = None
            dataset.build_overviews(factors, Resampling.average)
            if not gaps:
                dataset.nodata = nodata
    try:
        rasterio.shutil.copy(
            staged, target, driver="GTiff", COPY_SRC_OVERVIEWS="YES", TILED="YES", BLOCKYSIZE=block[0],
            BLOCKXSIZE=block[1], BIGTIFF="IF_SAFER", **options,
        )  # fmt: skip
    except CPLE_BaseError as error:  # what this function of rasterio raises, as others do not
        raise RasterioError(str(error)) from error
