"""Small valid files of everything that lkca reads, and what reads them. Used by mutate.py."""

from __future__ import annotations

import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
import scipy.io
import torch

from lkca.config import read_yaml
from lkca.data import CubeMeta, Window, open_cube, write_cube
from lkca.data.degradation import Degradation
from lkca.fitting import FitConfig
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingData, TrainingRecord
from lkca.models.directory import describe_architecture, load_model, save_model

__all__ = ["TARGETS", "Target", "use"]

ROWS, COLS, BANDS = 12, 10, 6
VALUES = np.random.default_rng(0).integers(1, 4000, (BANDS, ROWS, COLS)).astype(np.int16)
META = CubeMeta(
    wavelengths=np.linspace(400, 900, BANDS),
    fwhm=np.full(BANDS, 10.0),
    good_bands=np.arange(BANDS) != 2,
    nodata=-9999.0,
    scale_factor=1e-4,
    stored_dtype=np.dtype("int16"),
    transform=rasterio.Affine(30.0, 0, 5e5, 0, -30.0, 5e6),
    crs=rasterio.crs.CRS.from_epsg(32633).to_wkt(),
)


@dataclass(frozen=True)
class Target:
    """``make`` writes valid files into a folder and names those to spoil; ``read`` uses what stands there.

    ``unwrap``/``wrap`` bare the bytes that a checksum or a compression would protect from every mutation. ``spoil``
    spoils what stands in the folder by the format's own means instead.
    """

    make: Callable[[Path], list[str]]
    read: Callable[[Path], object]
    unwrap: Callable[[bytes], bytes] = bytes
    wrap: Callable[[bytes], bytes] = bytes
    spoil: Callable[[Path, random.Random], None] | None = None


def use(path: Path) -> None:
    """All that a command asks of a cube before it computes."""
    with open_cube(path) as cube:
        window = Window(0, 0, min(cube.rows, 9), min(cube.cols, 9))
        cube.read(window, np.arange(min(cube.bands, 16)))
        json.dumps(cube.summary())
        str(cube.region(window).meta)


def _cube(name: str, write: Callable[[Path], Any], *others: str, **wrapping: Any) -> Target:
    def make(folder: Path) -> list[str]:
        write(folder / name)
        return [name, *others]

    return Target(make, lambda folder: use(folder / name), **wrapping)


def _written(path: Path) -> None:
    write_cube(path, VALUES * np.float32(1e-4), META)


def _tiff(**options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        profile = {"driver": "GTiff", "height": ROWS, "width": COLS, "count": BANDS, "dtype": "int16", **options}
        with rasterio.open(path, "w", crs=META.crs, transform=META.transform, **profile) as dataset:
            dataset.write(VALUES)
            for band in dataset.indexes:
                dataset.update_tags(band, wavelength=str(400 + band), wavelength_units="nm", fwhm="5", bbl="1")

    return write


def _mat5(compress: bool) -> Callable[[Path], None]:
    arrays = {"cube": VALUES.transpose(1, 2, 0), "wavelength": np.arange(6.0) + 400, "name": "x", "s": {"a": 1.0}}
    return lambda path: scipy.io.savemat(path, arrays, do_compression=compress)


def _mat4(path: Path) -> None:
    pixels = VALUES.reshape(BANDS, -1).T.astype(np.float64)
    scipy.io.savemat(path, {"cube": pixels, "nRow": float(ROWS), "nCol": float(COLS)}, format="4")


def _mat73(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as h5:
        h5.create_dataset("cube", data=VALUES.transpose(0, 2, 1), chunks=(2, 5, 6), compression="gzip")
        h5.create_dataset("wavelength", data=np.arange(6.0)[:, None] + 400)
        for node in h5.values():
            node.attrs["MATLAB_class"] = np.bytes_("int16" if node.ndim == 3 else "double")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def _hdf5(path: Path) -> None:
    with h5py.File(path, "w") as h5:
        cube = h5.create_dataset("site/reflectance", data=VALUES, chunks=(3, 6, 5), compression="gzip", shuffle=True)
        cube.attrs.update({"scale_factor": 1e-4, "_FillValue": np.int16(-9999), "grid_mapping": "crs"})
        h5["site/wavelength"], h5["site/fwhm"] = np.linspace(400, 900, 6), np.full(6, 9.0)
        h5["site/y"], h5["site/x"] = np.arange(12.0) * -30, np.arange(10.0) * 30
        h5["site/wavelength"].attrs["units"] = "nm"
        h5["site/Map_Info"] = "UTM, 1, 1, 500000, 5000000, 30, 30, 33, North, WGS-84"
        h5.create_dataset("site/crs", data=0).attrs["crs_wkt"] = META.crs
        for axis, name in enumerate(("wavelength", "y", "x")):
            h5[f"site/{name}"].make_scale(name)
            cube.dims[axis].attach_scale(h5[f"site/{name}"])


def _first_member(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read("cube.npy")


def _as_archive(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cube.npy", member)
    return buffer.getvalue()


def _inflated(mat: bytes) -> bytes:
    """The first variable of a compressed MAT file, its zlib stream opened."""
    return zlib.decompress(mat[136 : 136 + int.from_bytes(mat[132:136], "little")])


def _deflated(variable: bytes) -> bytes:
    stream = zlib.compress(variable)
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    return head + (15).to_bytes(4, "little") + len(stream).to_bytes(4, "little") + stream


def _model(folder: Path) -> list[str]:
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(bands=4, scale=2, width=4, blocks=1, rank=2))
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=2,
        bands=BandSet(count=5, used=[0, 1, 2, 4], wavelengths_nm=[400.0, 500, 600, 700, 800]),
        degradation=Degradation(scale=2),
        normalisation=Normalisation(peak=4095.0),
        training=TrainingRecord(
            data=[TrainingData(name="a", rows=9, cols=8, region=":,:")], seed=1, seconds=2, device="cpu"
        ),
    )
    save_model(folder / "model", net, config)
    return ["model/config.json", "model/model.safetensors", "model/README.md"]


def _use_model(folder: Path) -> None:
    model = load_model(folder / "model")
    with torch.inference_mode():
        model.net(torch.zeros(1, model.net.config.bands, 3, 3))


def _yaml(folder: Path) -> list[str]:
    (folder / "fit.yaml").write_text(
        "scale: 4\nminutes: 2.5\nregion: '0:68,:'\ndegradation: gaussian\nsigma: 1.2\nseed: 7\ndevice: auto\n"
        "recipe: &r\n  width: 32\n  blocks: 6\n  energy: 0.99\n  teacher_lr: 1.0e-3\n"
    )
    return ["fit.yaml"]


TARGETS = {
    "envi": _cube("x.img", _written, "x.hdr"),
    "tiff": _cube("x.tif", _tiff()),
    "tiff-tiled": _cube("x.tif", _tiff(tiled=True, blockxsize=16, blockysize=16, compress="deflate", nodata=-9999)),
    "mat5": _cube("x.mat", _mat5(False)),
    "mat4": _cube("x.mat", _mat4),
    "mat5-inside": _cube("x.mat", _mat5(True), unwrap=_inflated, wrap=_deflated),
    "mat7.3": _cube("x.mat", _mat73),
    "hdf5": _cube("x.h5", _hdf5),
    "npz": _cube("x.npz", _written),
    "npz-inside": _cube("x.npz", _written, unwrap=_first_member, wrap=_as_archive),
    "npy": _cube("x.npy", lambda path: np.save(path, VALUES.transpose(1, 2, 0))),
    "yaml": Target(_yaml, lambda folder: read_yaml(folder / "fit.yaml", FitConfig)),
    "model": Target(_model, _use_model),
}
