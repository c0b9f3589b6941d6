"""Training patches that depend on the seed and their number alone: any process can draw any of them, in any order.

That makes a resumed run see what an unbroken one would have, and two processes what one would.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lkca.data.memory import available_memory
from lkca.data.protocols import PreparedDataset, SceneEntry, open_dataset
from lkca.data.window import Window
from lkca.errors import InputError
from lkca.models.config import BandSet, Normalisation, TrainingData
from lkca.training.config import DataConfig
from lkca.training.patches import SourceScene, dihedral, fill_invalid
from lkca.training.scenes import prepare_scenes
from lkca.training.validation import MIN_COARSE_PIXELS, held_rows, split_text

__all__ = ["PatchDataset", "TrainingSet", "micro_batches", "open_training_set"]

_SHARE = 0.25  # of the free memory that training scenes may take; larger ones are read patch by patch
_TRIES = 20  # for a patch of which half is valid


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
        if scene.whole().valid.any():
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


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """Item g: (sharp (bands, side, side) float32 without NaN, valid (1, side, side) bool), a function of seed and g.

    The scene is drawn by its number of pixels, the corner at any pixel (hence any sub-pixel phase of the coarse grid),
    the orientation among the square's eight. InputError where a scene is smaller than a patch.
    """

    def __init__(self, scenes: Sequence[SourceScene], side: int, seed: int) -> None:
        for scene in scenes:
            if min(scene.shape[1:]) < side:
                raise InputError(
                    f"{scene.name}: has {scene.shape[1]} x {scene.shape[2]} pixels to train on, a patch "
                    f"{side} x {side}; lower 'patch' or leave the scene out"
                )
        self._scenes = list(scenes)
        pixels = np.array([scene.shape[1] * scene.shape[2] for scene in scenes], dtype=float)
        self._cumulative = np.cumsum(pixels) / pixels.sum()
        self._side = side
        self._seed = seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = np.random.Generator(np.random.Philox(key=np.array([self._seed, index], dtype=np.uint64)))
        for _ in range(_TRIES):
            scene = self._scenes[int(np.searchsorted(self._cumulative, draw.random(), side="right"))]
            row = int(draw.integers(scene.shape[1] - self._side + 1))
            col = int(draw.integers(scene.shape[2] - self._side + 1))
            element = int(draw.integers(8))
            sharp = torch.from_numpy(scene.read(Window(row, col, self._side, self._side)))
            filled, valid = fill_invalid(sharp)
            if valid.float().mean() >= 0.5:
                break
        return dihedral(filled, element).contiguous(), dihedral(valid[None], element).contiguous()


def micro_batches(
    dataset: PatchDataset, *, batch: int, accumulate: int, steps: range, rank: int, world: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of patches for one process: ``accumulate`` of them for each of ``steps``.

    Step t takes the patches t * batch ... (t + 1) * batch - 1; each process its share of every part.
    InputError where ``batch`` does not divide evenly.
    """
    if batch % (accumulate * world):
        raise InputError(
            f"batch: {batch} patches cannot be shared by {world} processes in {accumulate} parts; "
            f"give a multiple of {accumulate * world}"
        )
    size = batch // (accumulate * world)
    indices = (
        list(range(first, first + size))
        for t in steps
        for first in (t * batch + part * size * world + rank * size for part in range(accumulate))
    )
    return iter(DataLoader(dataset, batch_sampler=indices, num_workers=workers, generator=torch.Generator()))
