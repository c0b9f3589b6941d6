"""GDAL as lkca uses it: in bounded memory, and without a warning about cubes that have no place on Earth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import rasterio
from rasterio.env import get_gdal_config
from rasterio.errors import NotGeoreferencedWarning

__all__ = ["CACHE_BYTES", "SIDECARS", "bounded_cache", "without_place"]

CACHE_BYTES = 256 << 20  # of blocks, at most; rasterio passes bytes on as they are
SIDECARS = (".aux.xml", ".ovr", ".msk")  # endings of what it puts beside a file: statistics, overviews, masks


def bounded_cache() -> rasterio.Env:
    """A context in which GDAL caches at most CACHE_BYTES of blocks, or what a caller allows it, in all of the process.

    Its own default is 5 % of the machine's memory, beside whatever budget a caller keeps.
    """
    return rasterio.Env(GDAL_CACHEMAX=min(CACHE_BYTES, get_gdal_config("GDAL_CACHEMAX")))


@contextmanager
def without_place() -> Iterator[None]:
    """A context in which opening a raster without a georeference is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
