"""A flat file of samples as GDAL opens it: through a VRT, a small description beside it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio.dtypes import dtype_rev, typename_fwd

__all__ = ["flat_files", "write_vrt"]


def flat_files() -> rasterio.Env:
    """A context in which GDAL opens such a VRT wherever the samples lie, and keeps overviews of one band together.

    With those of all bands interleaved, as is its default beside a VRT, 128 bands take it 20 times as long.
    """
    return rasterio.Env(
        GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="ALL", INTERLEAVE_OVERVIEW="BAND", BIGTIFF_OVERVIEW="IF_SAFER"
    )


def write_vrt(vrt: Path, samples: Path, shape: tuple[int, int, int], dtype: np.dtype) -> None:
    """``samples`` holds (bands, rows, cols) of ``dtype``, little-endian; shape: (rows, cols, bands)."""
    rows, cols, bands = shape
    root = ElementTree.Element("VRTDataset", rasterXSize=str(cols), rasterYSize=str(rows))
    for band in range(bands):
        element = ElementTree.SubElement(
            root, "VRTRasterBand", dataType=typename_fwd[dtype_rev[dtype.name]], band=str(band + 1),
            subClass="VRTRawRasterBand",
        )  # fmt: skip
        ElementTree.SubElement(element, "SourceFilename", relativeToVRT="0").text = str(samples.absolute())
        for key, value in (
            ("ImageOffset", band * rows * cols * dtype.itemsize),
            ("PixelOffset", dtype.itemsize),
            ("LineOffset", cols * dtype.itemsize),
            ("ByteOrder", "LSB"),
        ):
            ElementTree.SubElement(element, key).text = str(value)
    ElementTree.ElementTree(root).write(vrt, encoding="utf-8")
