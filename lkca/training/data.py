"""What ``lkca train`` learns from and validates on: the scenes of a prepared data set, or of files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lkca.data.memory import available_memory
from lkca.data.protocols import PreparedDataset, SceneEntry, open_dataset
from lkca.data.window import Window
from lkca.errors import InputError
from lkca.models.config import BandSet, Normalisation, TrainingData
from lkca.training.config import DataConfig
from lkca.training.patches import SourceScene
from lkca.training.scenes import prepare_scenes
from lkca.training.validation import MIN_COARSE_PIXELS, held_rows, split_text

__all__ = ["TrainingSet", "open_training_set"]

_SHARE = 0.25  # of the free memory that training scenes may take; larger ones are read patch by patch


@dataclass(frozen=True)
class TrainingSet:
    """What is trained and validated on, and what a model directory says of it. notes: remarks for the user."""

    train: list[SourceScene]
    validation: list[SourceScene]
    bands: BandSet
    normalisation: Normalisation
    data: list[TrainingData]
    split: str
    notes: list[str]


def open_training_set(config: DataConfig, scale: int) -> TrainingSet:
    """The scenes that a configuration names. InputError where they cannot be read or leave nothing to train on."""
    if config.dataset is not None:
        result = _prepared(open_dataset(Path(config.dataset)), scale)
    else:
        result = _files(config.scenes or [], config.holdout, scale, config.reading)
    if not result.validation:
        result.notes.append("no scene validates, so nothing is scored: best/ is the newest state, not a chosen one")
    return result


def _prepared(dataset: PreparedDataset, scale: int) -> TrainingSet:
    train, validation = dataset.split("train"), dataset.split("validation")
    if not train:
        raise InputError(f"{dataset.path}: holds no training scene; prepare it again with the whole download")
    budget = _SHARE * available_memory()
    samples = 4 * sum(int(np.prod(scene.shape)) for scene in train)
    in_memory = samples < budget

    def scene(entry: SceneEntry, *, keep: bool) -> SourceScene:
        reader = _H5Scene(dataset.path, entry.path, np.float32(dataset.peak), keep=keep)
        return SourceScene(entry.name, entry.shape, reader)

    held, notes = _scorable([_cropped(scene(entry, keep=False), scale) for entry in validation])
    used = list(range(dataset.bands))
    return TrainingSet(
        train=[scene(entry, keep=in_memory) for entry in train],
        validation=held,
        bands=BandSet(
            count=dataset.bands,
            used=used,
            nonnegative=used if dataset.statistics.get("min", -1) >= 0 else [],
            wavelengths_nm=None if dataset.wavelengths is None else dataset.wavelengths.tolist(),
        ),
        normalisation=Normalisation(peak=dataset.peak, rule=f"the peak of the prepared data set {dataset.name}"),
        data=[_record(dataset.path, entry) for entry in (*train, *validation)],
        split=f"{len(held)} validation scenes of the data set {dataset.name}" if held else "",
        notes=notes,
    )


def _record(file: Path, entry: SceneEntry) -> TrainingData:
    """Named as :func:`lkca.data.open_cube` takes it: a test scene may have the name of one that validates."""
    rows, cols = entry.shape[1:]
    return TrainingData(name=f"{file}::{entry.path}", rows=rows, cols=cols, region=str(Window.full(rows, cols)))


def _files(files: Sequence[str], holdout: float, scale: int, how: Mapping[str, Any]) -> TrainingSet:
    """Cube files of one sensor; the last ``holdout`` of each one's rows validates where enough rows are left."""
    scenes = prepare_scenes(list(files), scale, how=how)
    train: list[SourceScene] = []
    validation: list[SourceScene] = []
    for cube, about in zip(scenes.cubes, scenes.data, strict=True):
        rows = cube.shape[1]
        edge = rows - scale * held_rows(rows // scale, holdout, least=MIN_COARSE_PIXELS, kept=MIN_COARSE_PIXELS)
        for part, into in ((cube[:, :edge], train), (cube[:, edge:], validation)):
            if part.shape[1]:
                into.append(SourceScene(about.name, part.shape, _ArrayScene(part)))
    validation, notes = _scorable(validation)
    return TrainingSet(
        train=train,
        validation=validation,
        bands=scenes.bands,
        normalisation=scenes.normalisation,
        data=scenes.data,
        split=split_text(holdout, MIN_COARSE_PIXELS, len(validation), len(train)) if validation else "",
        notes=scenes.notes + notes,
    )


def _scorable(scenes: list[SourceScene]) -> tuple[list[SourceScene], list[str]]:
    """The validation scenes that hold a pixel valid in every band, and remarks on the others."""
    held, notes = [], []
    for scene in scenes:
        if np.isfinite(scene.read(Window.full(*scene.shape[1:]))).all(axis=0).any():
            held.append(scene)
        else:
            notes.append(f"{scene.name}: no held-out pixel is valid in every band, so it does not validate")
    return held, notes


class _ArrayScene:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __call__(self, window: Window) -> np.ndarray:
        return self._array[(slice(None), *window.slices)]


class _H5Scene:
    """A data set in a prepared file, divided by the peak; opened anew in each process, as HDF5 needs it."""

    def __init__(self, path: Path, name: str, peak: np.float32, *, keep: bool) -> None:
        self._path, self._name, self._peak, self._keep = path, name, peak, keep
        self._array: np.ndarray | None = None
        self._dataset: h5py.Dataset | None = None
        self._pid = -1

    def __call__(self, window: Window) -> np.ndarray:
        part = (slice(None), *window.slices)
        if self._array is not None:
            return self._array[part].astype(np.float32) / self._peak
        if self._pid != os.getpid():
            self._dataset, self._pid = h5py.File(self._path, "r", rdcc_nbytes=2**26)[self._name], os.getpid()
        assert self._dataset is not None
        if self._keep:
            self._array = self._dataset[()]
            return self(window)
        result: np.ndarray = self._dataset[part].astype(np.float32) / self._peak
        return result


def _cropped(scene: SourceScene, scale: int) -> SourceScene:
    """The upper-left part whose sides are multiples of the scale."""
    bands, rows, cols = scene.shape
    return SourceScene(scene.name, (bands, rows - rows % scale, cols - cols % scale), scene.read)
