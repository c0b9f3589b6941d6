"""Containers that are written in one go: .npz and .mat (v5). The cube is held in memory until then."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from lkca.data.memory import check_memory
from lkca.data.meta import CubeMeta
from lkca.data.metajson import meta_to_json
from lkca.data.readers.matlab import META_VARIABLE
from lkca.data.window import Window
from lkca.data.writers.base import Backend, temporary_beside
from lkca.errors import InputError

__all__ = ["MatBackend", "NpzBackend"]

_MAT5_LIMIT = 2**31 - 2**16  # bytes of one variable


class _InMemory(Backend):
    collects = True

    def __init__(self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, compress: str | None) -> None:
        compress = (compress or "deflate").lower()
        if compress not in ("deflate", "none"):
            raise InputError(
                f"{path}: compression {compress!r} is not possible in {path.suffix}; choose deflate or none"
            )
        assert meta.stored_dtype is not None
        nbytes = math.prod(shape) * meta.stored_dtype.itemsize
        check_memory(nbytes, f"{path}: collecting the cube for {path.suffix}", "write .tif or an ENVI file instead")
        self._compress = compress == "deflate"
        self._meta = meta
        self._cube = np.zeros(shape, dtype=meta.stored_dtype)
        self.pairs = [(temporary_beside(path), path)]

    def discard(self) -> None:
        self._cube = np.zeros(0)

    def write(self, window: Window, stored: np.ndarray) -> None:
        self._cube[window.slices] = stored.transpose(1, 2, 0)


class NpzBackend(_InMemory):
    """``cube`` (rows, cols, bands), ``wavelengths_nm``, ``fwhm_nm``, ``good_bands`` where known, JSON text ``meta``."""

    def finish(self) -> None:
        entries: dict[str, Any] = {"cube": self._cube, "meta": np.array(meta_to_json(self._meta))}
        empty = np.zeros(0)
        entries["wavelengths_nm"] = empty if self._meta.wavelengths is None else self._meta.wavelengths
        if self._meta.fwhm is not None:
            entries["fwhm_nm"] = self._meta.fwhm
        if self._meta.good_bands is not None:
            entries["good_bands"] = self._meta.good_bands
        with self.pairs[0][0].open("wb") as file:
            (np.savez_compressed if self._compress else np.savez)(file, **entries)


class MatBackend(_InMemory):
    """MATLAB v5: ``cube`` (rows, cols, bands), ``wavelength`` (nm), ``fwhm``, ``bbl``, JSON text ``lkca_meta``."""

    def __init__(self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, compress: str | None) -> None:
        assert meta.stored_dtype is not None
        nbytes = math.prod(shape) * meta.stored_dtype.itemsize
        if nbytes > _MAT5_LIMIT:
            raise InputError(
                f"{path}: {nbytes / 2**30:.1f} GiB do not fit into a MATLAB v5 variable (2 GiB); "
                "write .tif or an ENVI file"
            )
        super().__init__(path, shape, meta, compress)

    def finish(self) -> None:
        entries: dict[str, Any] = {"cube": self._cube, META_VARIABLE: meta_to_json(self._meta)}
        if self._meta.wavelengths is not None:
            entries["wavelength"] = self._meta.wavelengths[:, None]
        if self._meta.fwhm is not None:
            entries["fwhm"] = self._meta.fwhm[:, None]
        if self._meta.good_bands is not None:
            entries["bbl"] = self._meta.good_bands.astype(np.uint8)[:, None]
        with self.pairs[0][0].open("wb") as file:
            scipy.io.savemat(file, entries, do_compression=self._compress)
