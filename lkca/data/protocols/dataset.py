"""The prepared data set: one HDF5 file of scenes in physical units, in splits, with the peak that stands for 1.

    /                    attributes: format, version, name, peak, protocol (text), statistics (JSON)
    /wavelength          nm, where known
    /train/SCENE         (bands, rows, cols); attributes source, region
    /validation/SCENE    part of the training area that is not trained on
    /test/SCENE

Scenes are ordinary data sets: ``lkca evaluate -m MODEL FILE.h5::/test/SCENE`` reads one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from lkca.data.cube import Cube
from lkca.data.protocols.statistics import Statistics
from lkca.data.window import Window
from lkca.data.writers.base import check_disk_space, temporary_beside, write_error
from lkca.errors import InputError
from lkca.output import check_output

__all__ = ["SPLITS", "DatasetWriter", "PreparedDataset", "SceneEntry", "Split", "open_dataset", "write_dataset"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_FORMAT, _VERSION = "lkca-dataset", 1
_ROWS = 64  # copied at a time
_CHUNK = 64  # pixels per side of a stored block: about a training patch


@dataclass(frozen=True)
class SceneEntry:
    """One scene of a prepared data set. shape: (bands, rows, cols). source, region: the file and part it came from."""

    split: Split
    name: str
    shape: tuple[int, int, int]
    source: str
    region: str

    @property
    def path(self) -> str:
        """Where it lies in the file."""
        return f"/{self.split}/{self.name}"


@dataclass(frozen=True)
class PreparedDataset:
    """What a prepared file holds. peak: physical value that stands for 1. statistics: what was counted on the way."""

    path: Path
    name: str
    peak: float
    bands: int
    wavelengths: np.ndarray | None
    protocol: str
    scenes: tuple[SceneEntry, ...]
    statistics: dict[str, Any]

    def split(self, name: Split) -> list[SceneEntry]:
        """The scenes of one split, by name."""
        return [scene for scene in self.scenes if scene.split == name]


class DatasetWriter:
    """Fills a prepared data set scene by scene; holds a strip of rows at a time. Made by :func:`write_dataset`."""

    def __init__(self, file: h5py.File, path: Path, progress: Callable[[str], None]) -> None:
        self.statistics = Statistics()
        self._file = file
        self._path = path
        self._bands: int | None = None
        self._progress = progress

    def add(self, split: Split, name: str, cube: Cube, window: Window | None = None) -> None:
        """Copy a window of ``cube`` (all by default).

        InputError where it lies outside or cannot be read, the split is none, the name is taken, or the cube has other
        bands than those before.
        """
        if split not in SPLITS:
            raise InputError(f"{cube.source}: '{split}' is no split; choose {', '.join(SPLITS)}")
        if not name.strip(".") or "/" in name or f"{split}/{name}" in self._file:
            raise InputError(f"{cube.source}: '{name}' is no new name of a scene in {split}; give each one its own")
        self._bands = self._bands or cube.bands
        if cube.bands != self._bands:
            raise InputError(
                f"{cube.source}: has {cube.bands} bands, the scenes before it {self._bands}; give one sensor"
            )
        window = window or Window.full(cube.rows, cube.cols)
        window.check(cube.rows, cube.cols, cube.source)
        dtype = _stored_dtype(cube)
        check_disk_space(self._path, cube.bands * window.height * window.width * dtype.itemsize)
        self._progress(f"{split}/{name}")
        shape = (cube.bands, window.height, window.width)
        chunks = (cube.bands, min(_CHUNK, window.height), min(_CHUNK, window.width))
        target = self._file.create_dataset(f"{split}/{name}", shape, dtype, chunks=chunks)
        for dimension, label in zip(target.dims, ("band", "y", "x"), strict=True):
            dimension.label = label
        target.attrs["source"], target.attrs["region"] = cube.source, str(window)
        for row in range(0, window.height, _ROWS):
            height = min(_ROWS, window.height - row)
            block = cube.read(Window(window.row + row, window.col, height, window.width))
            self.statistics.update(block)
            target[:, row : row + height] = block.astype(dtype)

    def finish(self, name: str, protocol: str, peak: float | None, wavelengths: np.ndarray | None) -> None:
        """Write what describes the whole. peak: None for the largest sample of all scenes. wavelengths: nm, (bands,).

        InputError where there is no scene or no positive peak, or another number of wavelengths than of bands.
        """
        if self._bands is None:
            raise InputError(f"{name}: holds no scene; add some")
        if wavelengths is not None and np.shape(wavelengths) != (self._bands,):
            raise InputError(f"{name}: wavelengths of shape {np.shape(wavelengths)} are given for {self._bands} bands")
        statistics = self.statistics.summary()
        peak = statistics["max"] if peak is None else peak
        if not peak > 0:
            raise InputError(f"{name}: the largest sample is {peak:g}; expected positive values, check the download")
        attrs = {"format": _FORMAT, "version": _VERSION, "name": name, "peak": peak, "protocol": protocol}
        self._file.attrs.update(attrs | {"statistics": json.dumps(statistics)})
        if wavelengths is not None:
            self._file["wavelength"] = np.asarray(wavelengths, dtype=float)
            self._file["wavelength"].attrs["units"] = "nm"


@contextmanager
def write_dataset(
    path: Path, *, overwrite: bool = False, progress: Callable[[str], None] = lambda what: None
) -> Iterator[DatasetWriter]:
    """A prepared data set that appears under ``path`` when the context ends well; nothing is left otherwise.

    progress: called with "split/scene" before each scene. InputError for a name that cannot be used, OutputError where
    the disk is full or not writable.
    """
    check_output(path, overwrite=overwrite)
    temporary = temporary_beside(path)
    try:
        try:
            with h5py.File(temporary, "w") as file:
                yield DatasetWriter(file, path, progress)
            temporary.replace(path)
        except OSError as error:
            if error.filename not in (None, str(temporary)):  # of what is read
                raise
            raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def open_dataset(path: Path) -> PreparedDataset:
    """Read what a prepared file holds; no samples. InputError where there is none, or it is damaged or another file."""
    if not Path(path).exists():
        raise InputError(f"{path}: does not exist; check the path, or make the data set with 'lkca prepare'")
    try:
        with h5py.File(path, "r") as file:
            attrs = dict(file.attrs)
            if attrs.get("format") != _FORMAT:
                raise InputError(f"{path}: is no prepared data set; make one with 'lkca prepare'")
            if attrs["version"] != _VERSION:
                raise InputError(f"{path}: has version {attrs['version']}; prepare it again with this lkca")
            scenes = tuple(
                SceneEntry(split, name, tuple(item.shape), str(item.attrs["source"]), str(item.attrs["region"]))
                for split in SPLITS
                if split in file
                for name, item in sorted(file[split].items())
            )
            wavelengths = file["wavelength"][()] if "wavelength" in file else None
            statistics = json.loads(attrs["statistics"])
    except InputError:
        raise
    except (OSError, KeyError, ValueError, AttributeError) as error:
        detail = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a prepared data set ({detail}); see 'lkca prepare'") from error
    counts = {scene.shape[0] for scene in scenes if len(scene.shape) == 3}
    if len(counts) != 1 or any(len(scene.shape) != 3 for scene in scenes):
        raise InputError(f"{path}: holds no scenes of one band count; prepare it again")
    return PreparedDataset(
        Path(path), str(attrs["name"]), float(attrs["peak"]), counts.pop(), wavelengths, str(attrs["protocol"]),
        scenes, statistics,
    )  # fmt: skip


def _stored_dtype(cube: Cube) -> np.dtype:
    """The file's own small integers where they are the physical values, else float32."""
    meta = cube.meta
    stored = meta.stored_dtype
    plain = meta.nodata is None and np.all(meta.scale_factor == 1) and np.all(meta.offset == 0)
    if stored is not None and stored.kind in "iu" and stored.itemsize <= 2 and plain:
        return np.dtype(stored.newbyteorder("="))
    return np.dtype(np.float32)
