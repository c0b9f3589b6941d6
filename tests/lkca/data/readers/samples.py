"""The small cube that the tests of the readers store, and how it gets into a file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import rasterio
from affine import Affine

CUBE = np.random.default_rng(0).integers(1, 4000, (5, 12, 9)).astype(np.uint16)  # bands, rows, cols
RCB = CUBE.transpose(1, 2, 0)
NM = np.linspace(400, 800, 5)


def write_v73(file: Path, variables: dict[str, np.ndarray]) -> None:
    """As MATLAB 7.3 does, HDF5 behind a header of its own."""
    names = {"f8": "double", "f4": "single", "u2": "uint16", "u1": "uint8"}
    with h5py.File(file, "w", userblock_size=512) as h5:
        for name, value in variables.items():
            h5[name] = value.T  # MATLAB stores columns first, HDF5 shows the axes reversed
            h5[name].attrs["MATLAB_class"] = np.bytes_(names[value.dtype.str[1:]])
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def write_tiff(file: Path, array: np.ndarray, **options) -> rasterio.io.DatasetWriter:
    """Open for writing ``array``, with a place; options of rasterio."""
    return rasterio.open(
        file, "w", driver="GTiff", count=array.shape[0], height=array.shape[1], width=array.shape[2],
        dtype=array.dtype, transform=Affine(2, 0, 100, 0, -2, 200), **options,
    )  # fmt: skip
