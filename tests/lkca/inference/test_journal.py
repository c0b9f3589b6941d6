"""What tells one task from another, and what is kept of finished tiles until the output is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lkca.data import Window, open_cube
from lkca.data.window import pieces
from lkca.data.writers.layout import Layout
from lkca.errors import InputError
from lkca.inference import SceneOptions
from lkca.inference.journal import Journal, Record, differences, part_folder
from lkca.inference.samples import Samples
from lkca.inference.task import fingerprint
from lkca.models.config import Normalisation
from lkca.models.directory import LoadedModel


def test_whatever_decides_the_pixels_tells_tasks_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_of: Callable[..., LoadedModel]
) -> None:
    file, network = tmp_path / "x.npz", model_of()
    cube = np.random.default_rng(0).random((9, 9, 5), dtype=np.float32)
    np.savez(file, a=cube, b=cube)
    config = network.config
    changed = {
        "normalisation": Normalisation(peak=1.0),
        "bands": config.bands.model_copy(update={"nonnegative": config.bands.used}),
        "architecture": config.architecture.model_copy(update={"config": {**config.architecture.config, "window": 7}}),
    }

    def task(variable: str = "a", model: Any = None, scale: int = 2, **how: Any) -> dict[str, Any]:
        with open_cube(file, variable=variable, **how) as opened:
            return fingerprint(opened, model, SceneOptions(scale=scale))

    for field, value in changed.items():  # around the same weights
        assert value != getattr(config, field)
        other = replace(network, config=config.model_copy(update={field: value}))
        assert differences(task(model=network), task(model=other)), field
    first, others = task(), [task("b"), task(nodata=-1.0), task(axes="crb"), task(scale=4)]
    with monkeypatch.context() as patch:
        patch.setattr("lkca.__version__", "0")
        others.append(task())
    os.utime(file, (1, 1))
    others.append(task())
    assert [len(differences(first, other)) for other in others] == [1] * 6


def test_what_an_earlier_build_did_not_record_differs() -> None:
    old, new = {"input": {"shape": [1]}}, {"input": {"shape": [1], "sample": 7}}
    assert differences(old, new) == ["the input's sample was not given, now it is 7"]
    assert differences(new, old) == ["the input's sample was 7, now it is not given"] and not differences(old, old)


def test_of_many_files_those_that_differ_are_named() -> None:
    """As of a mosaic; all were printed, twice, with their times in nanoseconds."""
    old, new = ({"input": {"files": [[f"{n}.tif", 362, n in touched] for n in range(99)]}} for touched in ((), (7, 8)))
    assert differences(old, new) == ["the input's files differ in name, size or time: 7.tif, 8.tif"]
    renamed = {"input": {"files": [[f"{name[0]}.vrt", *rest] for name, *rest in old["input"]["files"]]}}
    assert differences(old, renamed) == [
        "the input's files differ in name, size or time: 0.tif, 1.tif, 2.tif, 3.tif and more"
    ]
    assert "was not given" in differences({}, {"input": {"files": []}})[0]


@pytest.mark.parametrize("place", [{}, {"room": 99, "block": [16, 16]}], ids=["planes", "blocks"])
def test_equal_pieces_do_not_cancel_each_other(tmp_path: Path, place: dict[str, Any]) -> None:
    """As of a part without data, which all bands store alike; a tile's checksums are combined by ^."""
    samples = Samples(tmp_path / "samples", Layout.of((2, 8, 24), np.dtype(np.int16), place))
    samples.make()
    tile, plane = Window(0, 8, 8, 16), np.full((1, 4, 16), -9999, dtype=np.int16)
    written = [samples.write(Window(row, 8, 4, 16), band, plane) for band in (0, 1) for row in (0, 4)]
    assert len({0, *written}) == 5
    assert samples.checksum(tile, 4) == written[0] ^ written[1] ^ written[2] ^ written[3]
    samples.write(Window(5, 23, 1, 1), 1, np.zeros((1, 1, 1), dtype=np.int16))
    assert samples.checksum(tile, 4) != written[0] ^ written[1] ^ written[2] ^ written[3]
    samples.close()


def test_a_record_comes_back_with_the_tiles_that_are_not_there(tmp_path: Path) -> None:
    journal, tiles = Journal(tmp_path / "o.tif"), list(pieces(Window.full(6, 10), 3, 5))
    journal.make()
    samples = Samples(journal.samples, Layout.of((1, 6, 10), np.dtype(np.int16), {}))

    def begin() -> Record:
        record = journal.begin({"scale": 2}, (3, 5), tiles, samples, 2)
        assert journal.read() == record and not journal.taken_over(record.run)
        return record

    first = begin()
    assert (first.tile, first.tiles, first.todo) == ((3, 5), 4, [0, 1, 2, 3])
    journal.save(1, samples.write(tiles[1], 0, np.ones((1, 3, 5), np.int16)), 3, {"missing": 2})
    second = begin()
    assert second.todo == [0, 2, 3] and journal.taken_over(first.run) and journal.counts(1) == {"missing": 2}
    samples.write(tiles[1], 0, np.zeros((1, 3, 5), np.int16))  # no more what was said to be written
    third = begin()
    assert third.todo == [0, 1, 2, 3] and not journal.has(1) and journal.finished() == 0
    samples.close()
    (journal.folder / "plan.json").write_text("{")
    assert not journal.taken_over(third.run)  # perhaps of this run, which nobody can tell
    journal.remove()
    assert journal.taken_over(third.run) and not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="is a directory"):
        part_folder(tmp_path)


def test_what_killed_runs_left_of_folders_goes_with_the_next(tmp_path: Path) -> None:
    """Of the same output only; a name may hold what a pattern means otherwise."""
    journal, other = Journal(tmp_path / "o[1].tif"), tmp_path / ".o1.tif.lkca-part.ab.old"
    left = tmp_path / f".{journal.folder.name}.ab.old"
    for folder in (left, other):
        folder.mkdir()
        (folder / "samples").touch()
    journal.make()
    assert sorted(tmp_path.iterdir()) == sorted([journal.folder, other])
    assert journal.check({}, resume=False, overwrite=False) is None  # nor does one that was killed here bar the way
    (journal.folder / "model").mkdir()  # of another cube: a later --resume must not find it
    journal.empty()
    assert not list(journal.folder.iterdir())


def test_a_tile_is_said_to_be_there_in_full_or_not_at_all(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    journal = Journal(tmp_path / "o.tif")
    journal.make()
    with full_disk(8), pytest.raises(OSError):
        journal.save(0, 1, 2, {})
    assert not list(journal.folder.iterdir())
