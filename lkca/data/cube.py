"""The cube: an open file or an array, read by windows in physical units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from lkca.data.codec import to_physical, unmasked
from lkca.data.memory import check_memory
from lkca.data.meta import CubeMeta, scalar_or_list
from lkca.data.window import Window
from lkca.errors import InputError

__all__ = ["Cube", "StoredReader"]

_SAMPLE_ROWS, _SAMPLE_COLS = 8, 256  # the strip that decides which bands may be empty


# stored samples: (window, band indices) -> (bands, height, width) in the dtype of the file
StoredReader: TypeAlias = Callable[[Window, np.ndarray], np.ndarray]


class Cube:
    """A hyperspectral cube with windowed access; a context manager that closes its file.

    ``lkca.data.open_cube`` makes one from a file, :meth:`from_array` from an array. source: file name as given. shape:
    (rows, cols, bands). meta: :class:`CubeMeta`. read_stored: (window, band indices) -> the stored samples, (bands,
    height, width); physical: whether these are physical values already. format: for example "ENVI". files: the files it
    is read from. warnings: sentences about what had to be guessed or repaired. close: ends the access to the file.
    allow: takes the bytes of unpacked chunks that the reader may keep (:meth:`caching`). describes_itself: whether the
    format, or what we wrote into the file, fixes which array the cube is and its axes, so that no option has to.

    Raises InputError for a shape without samples, and for metadata that do not fit it.
    """

    def __init__(
        self,
        source: str,
        shape: tuple[int, int, int],
        meta: CubeMeta,
        read_stored: StoredReader,
        *,
        format: str,
        files: Sequence[Path] = (),
        warnings: Sequence[str] = (),
        close: Callable[[], None] | None = None,
        physical: bool = False,
        allow: Callable[[int], None] | None = None,
        describes_itself: bool = True,
    ) -> None:
        if min(shape) < 1:
            raise InputError(f"{source}: holds {shape[0]} rows x {shape[1]} columns x {shape[2]} bands; expected some")
        meta.check(shape[2], source)
        self.source = source
        self.shape = shape
        self.meta = meta
        self.format = format
        self.files = tuple(files)
        self.warnings = tuple(warnings)
        self.describes_itself = describes_itself
        self.read_stored = read_stored
        self._close = close
        self._physical = physical
        self._allow = allow
        self._closed = False

    @classmethod
    def from_array(cls, array: np.ndarray, meta: CubeMeta | None = None, source: str = "array") -> Cube:
        """A cube of *physical* values: (bands, rows, cols), real; NaN, inf and what a masked array masks are missing.

        ``meta`` scale, offset and nodata are kept for writing and not applied to ``array``.
        """
        array = np.asarray(unmasked(array))
        if array.ndim != 3 or array.dtype.kind not in "biuf":
            raise InputError(
                f"{source}: expected a real array of shape (bands, rows, cols), found {array.dtype} {array.shape}"
            )
        bands, rows, cols = array.shape

        def read_stored(window: Window, index: np.ndarray) -> np.ndarray:
            return array[(index, *window.slices)]

        return cls(source, (rows, cols, bands), meta or CubeMeta(), read_stored, format="array", physical=True)

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def cols(self) -> int:
        return self.shape[1]

    @property
    def bands(self) -> int:
        return self.shape[2]

    @property
    def good_bands(self) -> np.ndarray:
        """(bands,) bool, True = good; all True where the file has no bad-band list."""
        return np.ones(self.bands, dtype=bool) if self.meta.good_bands is None else self.meta.good_bands

    def read(self, window: Window | None = None, bands: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Samples of a window (all by default) and of some bands (indices from 0; all by default).

        Returns float32 (bands, height, width) in physical units (scale applied once), NaN where a sample
        is nodata or not finite. Raises InputError for a window or band outside the cube, for a request
        larger than the free memory, and where the file cannot be read.
        """
        if self._closed:
            raise InputError(f"{self.source}: is closed; open it again to read")
        window = window or Window.full(self.rows, self.cols)
        window.check(self.rows, self.cols, self.source)
        index = self._band_index(bands)
        samples = len(index) * window.height * window.width
        stored_bytes = 0 if self.meta.stored_dtype is None else self.meta.stored_dtype.itemsize
        request = f"{self.source}: reading {window.height} x {window.width} pixels x {len(index)} bands"
        check_memory(samples * (4 + stored_bytes), request, "read a smaller region")
        try:
            stored = self.read_stored(window, index)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InputError(f"{self.source}: cannot read the samples ({error}); the file may be damaged") from error
        except MemoryError as error:
            raise InputError(f"{request} needs more memory than is free; read a smaller region") from error
        meta = CubeMeta() if self._physical else self.meta.subset(index)
        return to_physical(stored, meta)

    def caching(self, nbytes: int) -> rasterio.Env:
        """A context for reading by windows, in which so many bytes of unpacked blocks or chunks may be kept.

        GDAL's blocks, which are also those of rasters written meanwhile; or an HDF5 file's chunks, from now on.
        """
        if self._allow is not None:
            self._allow(nbytes)
        return rasterio.Env(GDAL_CACHEMAX=nbytes)

    def valid_mask(self, window: Window | None = None) -> np.ndarray:
        """(height, width) bool: True where every good band holds a finite sample that is not nodata."""
        good = np.flatnonzero(self.good_bands)
        window = window or Window.full(self.rows, self.cols)
        valid = np.full((window.height, window.width), len(good) > 0)
        step = max(1, 2**24 // (window.height * window.width))
        for start in range(0, len(good), step):
            valid &= np.isfinite(self.read(window, good[start : start + step])).all(axis=0)
        return valid

    def region(self, window: Window) -> Cube:
        """A view of a part of the scene; nothing is read now. It shares the open file: closing one closes both."""
        window.check(self.rows, self.cols, self.source)
        return self._view(
            (window.height, window.width, self.bands),
            self.meta.window(window),
            lambda part, bands: self.read_stored(part.shifted(window.row, window.col), bands),
        )

    def select(self, bands: Sequence[int] | np.ndarray) -> Cube:
        """A view of some bands (indices from 0, or a bool mask) in that order; shares the open file."""
        index = self._band_index(bands)
        return self._view(
            (self.rows, self.cols, len(index)),
            self.meta.subset(index),
            lambda window, picked: self.read_stored(window, index[picked]),
        )

    def check_usable(self) -> None:
        """Raise InputError where the scene holds no valid sample in any good band."""
        if not (self.good_bands & ~self.empty_bands()).any():
            nodata = self.meta.nodata
            value = "" if nodata is None or math.isnan(nodata) else f"nodata ({nodata:g}), "
            raise InputError(
                f"{self.source}: holds no valid sample: every band is marked bad, or is {value}"
                "NaN, infinite or beyond its valid_range; check these and the bad-band list"
            )

    def empty_bands(self) -> np.ndarray:
        """(bands,) bool, True where a band holds no valid sample at all (nodata or not finite everywhere).

        A strip in the middle of the scene names the candidates; only these are read whole, row block by
        row block, until a valid sample turns up.
        """
        strip = Window.centre(self.rows, self.cols, _SAMPLE_ROWS, _SAMPLE_COLS)
        candidates = np.flatnonzero(~np.isfinite(self.read(strip)).any(axis=(1, 2)))
        block = max(1, 2**22 // (self.cols * max(1, len(candidates))))
        for row in range(0, self.rows, block):
            if not len(candidates):
                break
            window = Window(row, 0, min(block, self.rows - row), self.cols)
            candidates = candidates[~np.isfinite(self.read(window, candidates)).any(axis=(1, 2))]
        empty = np.zeros(self.bands, dtype=bool)
        empty[candidates] = True
        return empty

    def mark_empty_bands(self) -> None:
        """Count the bands without a valid sample among the bad ones (``meta.good_bands``)."""
        empty = self.empty_bands()
        if empty.any():
            self.meta = self.meta.replace(good_bands=self.good_bands & ~empty)

    def summary(self) -> dict[str, Any]:
        """What a reader wants to know first, JSON-able; wavelengths in nm, GSD and bounds in units of the CRS.

        bounds: [xmin, ymin, xmax, ymax] of the scene's corners, the order that ``--roi`` takes.
        """
        meta = self.meta
        wavelengths = meta.wavelengths
        return {
            "source": self.source,
            "format": self.format,
            "rows": self.rows,
            "cols": self.cols,
            "bands": self.bands,
            "dtype": None if meta.stored_dtype is None else str(meta.stored_dtype),
            "interleave": meta.interleave,
            "wavelengths_nm": None if wavelengths is None else [float(wavelengths.min()), float(wavelengths.max())],
            "fwhm_nm": None if meta.fwhm is None else [float(meta.fwhm.min()), float(meta.fwhm.max())],
            "bad_bands": int(np.count_nonzero(~self.good_bands)),
            "nodata": _json_number(meta.nodata),
            "scale_factor": scalar_or_list(meta.scale_factor),
            "offset": scalar_or_list(meta.offset),
            "crs": meta.crs if meta.crs is None else _crs_name(meta.crs),
            "transform": None if meta.transform is None else list(meta.transform)[:6],
            "gsd": meta.gsd,
            "bounds": None if meta.transform is None else self._bounds(meta.transform),
            "gcps": len(meta.gcps),
            "rpc": meta.rpc is not None,
            "tags": dict(meta.tags),
            "warnings": list(self.warnings),
        }

    def _bounds(self, transform: Affine) -> list[float]:
        corners = [transform @ (col, row) for col in (0, self.cols) for row in (0, self.rows)]
        x, y = zip(*corners, strict=True)
        return [min(x), min(y), max(x), max(y)]

    def close(self) -> None:
        """Close the file; reading afterwards is an InputError. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            if self._close is not None:
                self._close()

    def __enter__(self) -> Cube:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Cube({self.source!r}, {self.format}, {self.rows} x {self.cols} x {self.bands})"

    def _view(self, shape: tuple[int, int, int], meta: CubeMeta, read_stored: StoredReader) -> Cube:
        return Cube(
            self.source, shape, meta, read_stored, format=self.format, files=self.files,
            warnings=self.warnings, close=self.close, physical=self._physical, allow=self._allow,
            describes_itself=self.describes_itself,
        )  # fmt: skip

    def _band_index(self, bands: Sequence[int] | np.ndarray | None) -> np.ndarray:
        if bands is None:
            return np.arange(self.bands)
        index = np.asarray(bands)
        if index.dtype == bool and index.shape == (self.bands,):
            index = np.flatnonzero(index)
        if index.ndim != 1 or index.size == 0 or index.dtype.kind not in "iu":
            raise InputError(f"{self.source}: bands must be a non-empty list of indices, found {bands!r}")
        if index.min() < 0 or index.max() >= self.bands:
            wrong = int(index.min() if index.min() < 0 else index.max())
            raise InputError(f"{self.source}: band index {wrong} does not exist; there are 0 to {self.bands - 1}")
        return index.astype(np.intp)


def _json_number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def _crs_name(wkt: str) -> str:
    """``EPSG:n`` where the WKT has that identity, else the WKT itself."""
    try:
        epsg = CRS.from_wkt(wkt).to_epsg()
    except CRSError:
        return wkt
    return wkt if epsg is None else f"EPSG:{epsg}"
