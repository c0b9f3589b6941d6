"""Results that come from the operator as the output stores them are, to the byte, those that are encoded afterwards."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lkca.data import Cube, CubeMeta, CubeWriter, Window
from lkca.data.writers.layout import Layout
from lkca.errors import InputError, OutputError
from lkca.inference import SceneOptions, samples, upscale_scene
from lkca.inference.array import Upscaler
from lkca.inference.bands import stores
from lkca.inference.plan import MemoryBudget
from lkca.inference.samples import Samples
from lkca.inference.strips import Piece
from lkca.inference.task import Task
from lkca.models.directory import LoadedModel
from lkca_kernels import cpu, use_backend

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"the C++ CPU backend {cpu.unavailable()}")
Models = Callable[..., LoadedModel]
PLAIN = {"stored_dtype": "int16", "scale_factor": 1e-3, "nodata": -9999.0}
OUTPUTS: dict[str, dict[str, Any]] = {
    "int16": PLAIN,
    "some are clipped": PLAIN | {"scale_factor": 3e-4},
    "the nodata code lies among the values": PLAIN | {"nodata": 7000.0},
    "a scale factor for each band": PLAIN | {"scale_factor": np.array([1e-3, 2e-3, 3e-4, -1e-3, 1e-4])},
    "uint16, nothing below zero": PLAIN | {"stored_dtype": "uint16", "nodata": 65535.0},
    "uint16, 0 is the nodata code": PLAIN | {"stored_dtype": "uint16", "nodata": 0.0},
    "uint16, clipped at the nodata code": PLAIN | {"stored_dtype": "uint16", "nodata": 65535.0, "scale_factor": 1e-4},
    "clipped at the nodata code": PLAIN | {"nodata": -32768.0, "scale_factor": -2e-4},
    "float32": {"stored_dtype": "float32", "nodata": -9999.0},
    "float32, 0 is the nodata code": {"stored_dtype": "float32", "nodata": 0.0},
    "float32, NaN": {"stored_dtype": "float32", "nodata": None},
    "an offset": PLAIN | {"offset": 0.5},
    "int32": PLAIN | {"stored_dtype": "int32"},
}
ENCODED_AFTERWARDS = ("an offset", "int32")


def _upscaled(folder: Path, scene: Cube, model: LoadedModel, **options: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """The stored samples, (bands, pixels), and the notes."""
    report = upscale_scene(scene, folder / "out.img", model, SceneOptions(overwrite=True, **options))
    samples = np.fromfile(folder / "out.img", dtype=scene.meta.stored_dtype)
    return samples.reshape(scene.bands, -1), report.notes


@pytest.mark.parametrize("kind", ["low rank", "shared body"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_both_ways_store_the_same(
    tmp_path: Path,
    model_of: Models,
    meta: CubeMeta,
    holed_scene: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    output: str,
) -> None:
    described = {**OUTPUTS[output], "stored_dtype": np.dtype(OUTPUTS[output]["stored_dtype"])}
    good = np.arange(5) != 1
    scene = Cube.from_array(holed_scene, meta.replace(good_bands=good, **described))
    model = model_of(kind, 2)
    bands = model.config.bands.model_copy(update={"nonnegative": [0, 2]})
    model = replace(model, config=model.config.model_copy(update={"bands": bands}))
    # Several strips of several pieces each.
    for name, few in (
        ("_CHUNK_BYTES", {"cpu": 12000}), ("_STORED_BYTES", 12000), ("_CHUNK_ROWS", 8), ("_STORED_ROWS", 3),
        ("_CHUNK_BANDS", 2),
    ):  # fmt: skip
        monkeypatch.setattr(f"lkca.inference.array.{name}", few)
    counted: list[bool] = []
    pieces = Upscaler.pieces

    def spy(*arguments: Any) -> Iterator[Piece]:
        for piece in pieces(*arguments):
            counted.append(piece.counts is not None)
            yield piece

    said: list[dict[str, float]] = []  # of each tile, which decides whether overviews look for missing samples
    count = CubeWriter.count
    monkeypatch.setattr(Upscaler, "pieces", spy)
    monkeypatch.setattr(CubeWriter, "count", lambda writer, counts: count(writer, said.append(dict(counts)) or counts))
    for options in ({}, {"tile": 16}, {"roi": "5:40,3:50"}):
        counted.clear()
        (stored, notes), counts = _upscaled(tmp_path, scene, model, **options), list(said)
        assert any(counted) == (output not in ENCODED_AFTERWARDS)
        assert sum(tile["missing"] for tile in counts) > 0
        with monkeypatch.context() as without:
            without.setattr("lkca.inference.array.stores", lambda _: False)
            counted.clear(), said.clear()
            later, notes_later = _upscaled(tmp_path, scene, model, **options)
            assert later[good].tobytes() == stored[good].tobytes() and notes_later == notes and said == counts
            # PyTorch's rounding of the bad band's bicubic depends, on AMD, on how many rows are made at once.
            np.testing.assert_allclose(later[1], stored[1], rtol=0, atol=1e-6)
            assert not any(counted)
        said.clear()


def test_full_rank_is_encoded_afterwards(
    tmp_path: Path, model_of: Models, meta: CubeMeta, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Cube.from_array(np.full((5, 9, 9), 0.5, dtype=np.float32), meta.replace(stored_dtype=np.dtype(np.int16)))
    monkeypatch.setattr("lkca.inference.bands.lowrank_pixel_shuffle_stored", None)
    _upscaled(tmp_path, scene, model_of("full rank"))


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_backend_without_it_is_not_asked(model_of: Models, backend: str) -> None:
    """Where a backend was asked for by name, the other operators say whether it can serve."""
    with use_backend(backend):
        assert not stores(model_of("low rank").net.upsample)
    assert stores(model_of("low rank").net.upsample)


def test_levels_beside_the_region_are_not_counted(
    tmp_path: Path, model_of: Models, meta: CubeMeta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flat water, two columns from a bright shore that bicubic upsampling lets ring."""
    cube = np.full((5, 20, 30), 0.5, dtype=np.float32)
    cube[:, :, :14] = 5.0
    scene = Cube.from_array(cube, meta.replace(**{**PLAIN, "stored_dtype": np.dtype(np.int16)}))
    model = model_of("low rank")
    torch.nn.init.zeros_(model.net.upsample.weight)
    stored, notes = _upscaled(tmp_path, scene, model, roi="0:20,16:30")
    assert any("fill only 1 levels" in note for note in notes)
    monkeypatch.setattr("lkca.inference.array.stores", lambda _: False)
    later, notes_later = _upscaled(tmp_path, scene, model, roi="0:20,16:30")
    assert np.array_equal(later, stored) and notes_later == notes


def test_a_flush_that_fails_is_told_and_nothing_is_lost(
    tmp_path: Path, model_of: Models, meta: CubeMeta, holed_scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It happens in a thread of its own; the tile that it belongs to does not count as written."""
    model = model_of()
    scene = Cube.from_array(holed_scene, meta.replace(**{**PLAIN, "stored_dtype": np.dtype(np.int16)}))
    strips = SceneOptions(tile=8, roi="0:30,4:12")  # as wide as the output
    unbroken, _ = _upscaled(tmp_path, scene, model, tile=strips.tile, roi=strips.roi)
    for file in tmp_path.iterdir():
        file.unlink()
    monkeypatch.setattr("lkca.inference.samples._FLUSHED_BYTES", 2000)
    flush, left = samples._flush, [3]

    def failing(file: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(file)

    monkeypatch.setattr("lkca.inference.samples._flush", failing)
    with pytest.raises(OutputError, match=r"Input/output error.*tiles are kept"):
        upscale_scene(scene, tmp_path / "out.img", model, strips)
    assert left[0] <= 0 and not (tmp_path / "out.img").exists()
    upscale_scene(scene, tmp_path / "out.img", model, dataclasses.replace(strips, resume=True))
    assert (tmp_path / "out.img").read_bytes() == unbroken.tobytes()


def test_tiles_narrower_than_the_scene_stay_in_the_cache(
    tmp_path: Path, model_of: Models, meta: CubeMeta, holed_scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else pages that hold rows of two tiles are read back from the disk, one by one: four times the time."""
    flushes = []
    monkeypatch.setattr("lkca.inference.samples._FLUSHED_BYTES", 2000)
    monkeypatch.setattr("lkca.inference.samples._flush", flushes.append)
    scene = Cube.from_array(holed_scene, meta.replace(**{**PLAIN, "stored_dtype": np.dtype(np.int16)}))
    _upscaled(tmp_path, scene, model_of(), tile=16, roi="0:30,4:20")
    assert flushes
    flushes.clear()
    _upscaled(tmp_path, scene, model_of(), tile=16, roi="0:30,4:21")
    assert not flushes


def test_every_flush_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one, or the end, tells that one failed; what was written since the last one is counted together."""
    monkeypatch.setattr("lkca.inference.samples._FLUSHED_BYTES", 100)
    synced: list[int] = []

    def failing(file: int) -> None:
        synced.append(file)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", failing)
    row = np.zeros((1, 1, 32), dtype=np.int16)
    for rows in (4, 2):
        kept = Samples(tmp_path / f"{rows}", Layout.of((1, 8, 32), np.dtype(np.int16), {}), flush=True)
        kept.make()
        with pytest.raises(OSError, match="Input/output"):
            for number in range(rows):
                kept.write(Window(number, 0, 1, 32), 0, row)
            kept.close()
        kept.close()
        assert not kept.replaced()
        kept.path.unlink()
        assert kept.replaced()
    assert len(synced) == 2


def test_who_helps_holds_no_result(meta: CubeMeta) -> None:
    """A result that is larger than the budget is refused where it is collected, not by processes that only compute."""
    scene = Cube.from_array(np.ones((5, 400, 400), dtype=np.float32), meta)
    task = Task.of(scene, None, SceneOptions(scale=8))
    budget = MemoryBudget(700 << 20, 300 << 20, "give more")
    assert task.plan(budget, 16).memory < budget.total
    with pytest.raises(InputError, match="are allowed"):
        task.plan_in_memory(budget, 16)
