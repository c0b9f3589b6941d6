"""Runs that are stopped: killed, on a full disk, by a read error; and what goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from lkca.data import Cube, CubeMeta, Window, open_cube, write_cube
from lkca.data.writers.layout import Layout
from lkca.errors import InputError, LkcaError, OutputError
from lkca.inference import SceneOptions, plan_scene, upscale_scene
from lkca.inference.journal import Journal, part_folder
from lkca.models.directory import LoadedModel, load_model

TILES = 25  # 61 × 53 pixels in tiles of 13
InProcesses = Callable[..., list[list[tuple[int, str]]]]


def stored(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


@pytest.fixture(scope="module")
def unbroken(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, tuple[str, ...]]:
    """Samples of a run that nothing stopped, and its remarks without the file's name."""
    output = tmp_path_factory.mktemp("unbroken") / "o.tif"
    with open_cube(files[0]) as cube:
        report = upscale_scene(cube, output, load_model(files[1]), SceneOptions(tile=13))
    assert report.tiles == report.computed == TILES
    return stored(output), tuple(note.replace(str(output), "") for note in report.notes)


@pytest.mark.parametrize(("suffix", "kills"), [(".tif", 12), (".img", 3)])
def test_killed_at_random_moments(
    tmp_path: Path, in_processes: InProcesses, unbroken: tuple[np.ndarray, tuple[str, ...]], suffix: str, kills: int
) -> None:
    output = tmp_path / f"o{suffix}"
    moments = np.random.default_rng(len(suffix)).uniform(0.0, 0.15, kills)  # every third from the start of the process
    steps = [[{"kill": float(moment), "tile": number % 3 > 0}] for number, moment in enumerate(moments)] + [[{}]]
    ends = in_processes(output, steps, delay=0.05, tile=13, resume=True)
    assert sum(code == -9 for [(code, _)] in ends) >= kills - 2  # those that were still running
    code, message = ends[-1][0]
    assert code == 0, message
    tiles, computed, *notes = json.loads(message)
    assert tiles == TILES and 0 < computed < TILES
    samples, remarks = unbroken
    assert np.array_equal(stored(output), samples)
    assert any("clipped" in note for note in notes)
    assert tuple(note.replace(str(output), "") for note in notes) == remarks
    left = {"o.img", "o.hdr"} if suffix == ".img" else {"o.tif"}
    assert {entry.name for entry in tmp_path.iterdir()} == left


def test_only_what_is_missing_is_computed(
    tmp_path: Path, in_processes: InProcesses, unbroken: tuple[np.ndarray, tuple[str, ...]]
) -> None:
    output = tmp_path / "o.tif"
    [[(code, message)]] = in_processes(output, [[{"fail": 8}]], tile=13)
    assert code == 2 and "rows 13:26, columns 26:39" in message and "bad sector" in message
    kept = Journal(output).finished()
    assert 0 < kept < 8 and f"{kept} of {TILES} tiles are kept in {part_folder(output)}" in message
    assert "--resume" in message and [entry.name for entry in tmp_path.iterdir()] == ["o.tif.lkca-part"]
    [[(code, message)]] = in_processes(output, [[{}]], resume=True)
    assert code == 0 and json.loads(message)[:2] == [TILES, TILES - kept]
    assert np.array_equal(stored(output), unbroken[0])


@pytest.fixture
def stopped(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    meta: CubeMeta,
    holed_scene: np.ndarray,
    model_of: Callable[..., LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A run of an array in 25 tiles, each of several strips, that stopped at the ninth; (cube, output, model).

    The output is a GeoTIFF where a test does not say its name.
    """
    name = getattr(request, "param", "o.tif")
    monkeypatch.setattr("lkca.inference.array._CHUNK_ROWS", 5)
    monkeypatch.setattr("lkca.inference.array._CHUNK_BYTES", {"cpu": 4000})
    cube, output, model = Cube.from_array(holed_scene, meta), tmp_path / name, model_of()
    whole, count = cube.read, 0

    def read(*args: Any) -> np.ndarray:
        nonlocal count
        count += 1
        if count == 12:
            raise KeyboardInterrupt
        return whole(*args)

    cube.read = read  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt) as caught:
        upscale_scene(cube, output, model, SceneOptions(tile=13))
    cube.read = whole  # type: ignore[method-assign]
    assert "tiles are kept in" in caught.value.__notes__[0] and "--resume" in caught.value.__notes__[0]
    assert not output.exists() and not list(tmp_path.glob(".*"))
    return cube, output, model


def test_an_earlier_run_is_not_trodden_on(stopped: Any) -> None:
    cube, output, model = stopped
    kept = Journal(output).finished()
    with pytest.raises(InputError, match=r"holds the finished tiles of an earlier run; give --resume .* --overwrite"):
        upscale_scene(cube, output, model, SceneOptions(tile=13))
    assert Journal(output).finished() == kept
    report = upscale_scene(cube, output, model, SceneOptions(tile=13, overwrite=True))
    assert report.computed == TILES and not part_folder(output).exists()


@pytest.mark.parametrize("end", [KeyboardInterrupt, InputError, None])
def test_a_folder_that_another_run_took_over_stays(
    tmp_path: Path,
    meta: CubeMeta,
    holed_scene: np.ndarray,
    model_of: Callable[..., LoadedModel],
    end: type[BaseException] | None,
) -> None:
    """A job that is stopped while the one that replaces it has begun removed the folder of that one."""
    cube, output = Cube.from_array(holed_scene, meta), tmp_path / "o.tif"
    whole, plan = cube.read, part_folder(output) / "plan.json"

    def read(*args: Any) -> np.ndarray:
        if plan.exists():
            plan.write_text(json.dumps(json.loads(plan.read_text()) | {"run": "another"}))
            if end is not None:
                for tile in plan.parent.glob("tile-*"):
                    tile.unlink()
                raise end("enough")
        return whole(*args)

    cube.read = read  # type: ignore[method-assign]
    if end is None:
        upscale_scene(cube, output, model_of(), SceneOptions(tile=13))
    else:
        with pytest.raises(OutputError if end is InputError else end, match=r"took its folder over|enough"):
            upscale_scene(cube, output, model_of(), SceneOptions(tile=13))
    assert json.loads(plan.read_text())["run"] == "another" and output.exists() == (end is None)


def test_a_run_whose_folder_another_run_was_done_with(
    tmp_path: Path, meta: CubeMeta, holed_scene: np.ndarray, model_of: Callable[..., LoadedModel]
) -> None:
    """Two runs with --resume share the tiles; when one has made the output, the other does not speak of its disk."""
    cube, output = Cube.from_array(holed_scene, meta), tmp_path / "o.tif"
    whole = cube.read

    def read(*args: Any) -> np.ndarray:
        if (part_folder(output) / "tile-000002").exists():
            Journal(output).remove()
        return whole(*args)

    cube.read = read  # type: ignore[method-assign]
    with pytest.raises(OutputError, match=r"took its folder over, or it was removed; this one has ended$"):
        upscale_scene(cube, output, model_of(), SceneOptions(tile=13))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["o.tif", "o.npz"])
def test_a_run_that_begins_anew_gets_no_tiles_of_the_one_before(
    tmp_path: Path, meta: CubeMeta, holed_scene: np.ndarray, model_of: Callable[..., LoadedModel], name: str
) -> None:
    """Their samples lie in a file that nobody sees any more."""
    output, model, reads = tmp_path / name, model_of(), 0
    scene = Cube.from_array(holed_scene, meta)
    upscale_scene(scene, tmp_path / f"whole-{name}", model, SceneOptions(tile=13))
    earlier = Cube.from_array(holed_scene, meta)
    whole = earlier.read

    def read(*args: Any) -> np.ndarray:
        nonlocal reads
        reads += part_folder(output).exists()
        if reads == 4:
            upscale_scene(scene, output, model, SceneOptions(tile=13, overwrite=True))
            part_folder(output).mkdir()  # as if the later run were still at its first tile
            (part_folder(output) / "samples").write_bytes(b"")
        return whole(*args)

    earlier.read = read  # type: ignore[method-assign]
    with pytest.raises(OutputError, match="took its folder over"):
        upscale_scene(earlier, output, model, SceneOptions(tile=13))
    assert not list(part_folder(output).glob("tile-*"))
    with open_cube(output) as done, open_cube(tmp_path / f"whole-{name}") as expected:
        np.testing.assert_array_equal(done.read(), expected.read())


def test_another_task_does_not_go_on(stopped: Any, model_of: Callable[..., LoadedModel]) -> None:
    cube, output, model = stopped
    for other, options, says in (
        (model_of("full rank"), SceneOptions(), "the model's digest was"),
        (model, SceneOptions(dtype="float64"), "the dtype was None, now it is float64"),
        (model, SceneOptions(roi="0:50,:"), "the region was 0:61,0:53, now it is 0:50,0:53"),
        (model, SceneOptions(precision="bf16"), "the precision was fp32, now it is bf16"),
    ):
        with pytest.raises(InputError, match=f"cannot be resumed: {says}"):
            upscale_scene(cube, output, other, SceneOptions(**{**options.__dict__, "resume": True}))
    brighter = Cube.from_array(2 * cube.read(), cube.meta)
    with pytest.raises(InputError, match=r"cannot be resumed: the input's sample was \d+, now it is \d+; give --over"):
        upscale_scene(brighter, output, model, SceneOptions(resume=True))
    with pytest.raises(InputError, match=r"13 × 13 pixels need .* with --memory; a run keeps the tiles that it began"):
        upscale_scene(cube, output, model, SceneOptions(resume=True, memory="9M"))
    report = upscale_scene(cube, output, model, SceneOptions(resume=True, overwrite=True, tile=50))
    assert report.tiles == TILES and report.computed < TILES  # what fits is gone on with, and its grid stays


@pytest.mark.parametrize(
    ("damage", "stopped"),
    [("short", "o.tif"), ("empty", "o.tif"), ("lost", "o.tif"), ("lost", "o.npz"), ("no samples", "o.tif")],
    indirect=["stopped"],
)
def test_damaged_tiles_are_made_anew(stopped: Any, damage: str) -> None:
    """What a crash of the machine may leave: a short file, or samples that never came to the disk.

    They must not reach an output that takes each tile as soon as it is said to be there, as an .npz does.
    """
    cube, output, model = stopped
    kept = Journal(output).finished()
    tile = sorted(part_folder(output).glob("tile-*"))[2]
    if damage in ("short", "empty"):
        tile.write_bytes(tile.read_bytes()[:-5] if damage == "short" else b"")
    elif damage == "lost":
        record = Journal(output).read()
        assert record is not None
        layout = Layout.of((5, 122, 106), np.dtype(np.float32), record.place)
        with Journal(output).samples.open("r+b") as samples:  # of the third tile, whose other bands are there
            for start, part in layout.parts(Window(0, 52, 26, 26), 3, np.zeros((1, 26, 26), dtype=np.float32)):
                samples.seek(start)
                samples.write(part.tobytes())
    else:
        Journal(output).samples.unlink()
    report = upscale_scene(cube, output, model, SceneOptions(resume=True))
    assert report.computed == (TILES if damage == "no samples" else TILES - kept + 1)
    fresh = output.with_name(f"fresh{output.suffix}")
    upscale_scene(cube, fresh, model, SceneOptions(tile=13))
    with open_cube(output) as again, open_cube(fresh) as expected:
        np.testing.assert_array_equal(again.read(), expected.read())


@pytest.mark.parametrize("suffix", [".tif", ".img"])
def test_tiles_as_wide_as_the_scene_are_found_again(
    tmp_path: Path, meta: CubeMeta, holed_scene: np.ndarray, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Their checksums depend on how many rows were written at once; the last tile is lower than the others."""
    monkeypatch.setattr("lkca.inference.array._CHUNK_ROWS", 5)
    monkeypatch.setattr("lkca.inference.array._CHUNK_BYTES", {"cpu": 4000})
    cube, output = Cube.from_array(holed_scene[:, :21, :8], meta), tmp_path / f"o{suffix}"
    monkeypatch.setattr("lkca.inference.finish.Finisher._take", lambda *_: (_ for _ in ()).throw(OutputError("no")))
    with pytest.raises(OutputError, match="3 of 3 tiles are kept"):
        upscale_scene(cube, output, None, SceneOptions(scale=2, tile=8))
    monkeypatch.undo()
    assert upscale_scene(cube, output, None, SceneOptions(scale=2, resume=True)).computed == 0


@pytest.mark.parametrize("suffix", [".tif", ".img"])
def test_killed_when_the_output_has_its_name(
    tmp_path: Path,
    meta: CubeMeta,
    holed_scene: np.ndarray,
    model_of: Callable[..., LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    """But the folder has not gone yet: what people may read by now is not touched again, and nothing else stays."""
    cube, output, model = Cube.from_array(holed_scene, meta), tmp_path / f"o{suffix}", model_of()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda self: None)
        upscale_scene(cube, output, model, SceneOptions(tile=13))
    before, names = output.read_bytes(), {file.name for file in tmp_path.iterdir()} - {part_folder(output).name}
    os.chmod(output, 0o444)
    monkeypatch.setattr("lkca.data.writers.cog.add_overviews", None)
    report = upscale_scene(cube, output, model, SceneOptions(resume=True, command="another"))
    assert report.computed == 0 and output.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == names


def test_a_journal_that_says_nothing(stopped: Any) -> None:
    cube, output, model = stopped
    for text in ("{", "{}", "[]"):
        (part_folder(output) / "plan.json").write_text(text)
        with pytest.raises(InputError, match=r"plan.json cannot be read; give --overwrite"):
            upscale_scene(cube, output, model, SceneOptions(resume=True))
    assert upscale_scene(cube, output, model, SceneOptions(resume=True, overwrite=True)).computed > 0


@pytest.mark.parametrize("link", [False, True], ids=["a file", "a link to nothing"])
def test_what_is_no_folder_lies_where_tiles_are_kept(tmp_path: Path, holed_scene: np.ndarray, link: bool) -> None:
    output = tmp_path / "o.tif"
    place = part_folder(output)
    place.symlink_to("nothing") if link else place.write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(LkcaError, match=r"o\.tif\.lkca-part: (is no folder.*move it away|cannot be made)"):
            upscale_scene(Cube.from_array(holed_scene), output, None, SceneOptions(scale=2, **options))
    assert list(tmp_path.iterdir()) == [place]


def test_a_plan_refuses_and_goes_on_as_the_run_does(stopped: Any) -> None:
    """--dry-run looked at no earlier run: it planned what was refused then, in tiles of another size."""
    cube, output, model = stopped
    before = sorted(entry.name for entry in part_folder(output).iterdir())
    with pytest.raises(InputError, match="holds the finished tiles of an earlier run"):
        plan_scene(cube, output, model, SceneOptions())
    with pytest.raises(InputError, match="cannot be resumed: the dtype was None, now it is int16"):
        plan_scene(cube, output, model, SceneOptions(resume=True, dtype="int16"))
    anew = plan_scene(cube, output, model, SceneOptions(overwrite=True))
    assert anew.tiles.rows == 61
    plan = plan_scene(cube, output, model, SceneOptions(resume=True))
    assert plan.tiles.rows == 13 and f"{Journal(output).finished()} of {TILES} tiles are there" in plan.notes[-1]
    assert sorted(entry.name for entry in part_folder(output).iterdir()) == before
    upscale_scene(cube, output, model, SceneOptions(resume=True))
    assert "nothing to resume" in plan_scene(cube, output, model, SceneOptions(resume=True)).notes[-1]
    with pytest.raises(InputError, match="finished, but not what is asked for"):
        plan_scene(cube, output, model, SceneOptions(resume=True, dtype="int16"))


def test_nothing_to_resume(stopped: Any) -> None:
    cube, output, model = stopped
    upscale_scene(cube, output, model, SceneOptions(resume=True))
    written = os.stat(output).st_mtime_ns
    moved = replace(model, path=output.parent / "elsewhere" / model.path.name)
    report = upscale_scene(cube, output, moved, SceneOptions(resume=True))
    assert "nothing to resume" in report.notes[0] and os.stat(output).st_mtime_ns == written
    assert (report.rows, report.cols, report.bands) == (122, 106, 5)  # of the output, not of the cube
    for other, options, says in (
        (None, {"scale": 2}, "it was made by .*model, asked for is bicubic"),
        (None, {"scale": 4}, r"has 122 × 106 pixels, 5 bands, asked for are 244 × 212 pixels, 5 bands; it was made"),
        (model, {"roi": "0:9,:"}, "asked for are 18 × 106 pixels"),
        (model, {"dtype": "int16"}, "it holds float32, asked for is int16"),
    ):
        with pytest.raises(InputError, match=f"is finished, but not what is asked for: .*{says}"):
            upscale_scene(cube, output, other, SceneOptions(resume=True, **options))


def test_another_part_of_the_same_size_is_not_finished(tmp_path: Path, holed_scene: np.ndarray) -> None:
    cube = Cube.from_array(holed_scene, CubeMeta(transform=Affine(30, 0, 5000, 0, -30, 4000)))
    output, preview = tmp_path / "o.tif", tmp_path / "p.png"
    upscale_scene(cube, output, None, SceneOptions(scale=2, roi="0:9,:"))
    report = upscale_scene(cube, output, None, SceneOptions(scale=2, roi="0:9,:", resume=True, preview=preview))
    assert "nothing to resume" in report.notes[0] and "p.png was not drawn" in report.notes[0]
    assert "nothing to resume" in upscale_scene(cube, output, None, SceneOptions(roi="0:9,:", resume=True)).notes[0]
    other = SceneOptions(scale=2, roi="1:10,:", resume=True)
    with pytest.raises(InputError, match=r"it begins at 5000, 4000, asked for is 5000, 3970"):
        upscale_scene(cube, output, None, other)
    assert upscale_scene(cube, output, None, replace(other, overwrite=True)).computed > 0
    preview.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        upscale_scene(cube, tmp_path / "n.tif", None, SceneOptions(scale=2, preview=preview))
    assert preview.read_text() == "mine" and not (tmp_path / "n.tif").exists()


@pytest.mark.parametrize("suffix", [".tif", ".img", ".npz", ".mat"])
def test_a_finished_output_of_another_input(tmp_path: Path, holed_scene: np.ndarray, suffix: str) -> None:
    """Of the same grid, type and name; a renamed input is no other one. Outputs of earlier builds do not say."""
    output, scenes = tmp_path / f"o{suffix}", [tmp_path / name / "scene.tif" for name in ("a", "b")]
    for scene, values in zip(scenes, (holed_scene, 2 * holed_scene), strict=True):
        scene.parent.mkdir()
        write_cube(scene, values, CubeMeta())

    def resume(scene: Path) -> tuple[str, ...]:
        with open_cube(scene) as cube:
            return upscale_scene(cube, output, None, SceneOptions(scale=2, resume=True)).notes

    resume(scenes[0])
    assert "nothing to resume" in resume(scenes[0].rename(tmp_path / "renamed.tif"))[0]
    with pytest.raises(
        InputError, match=r"not what is asked for: it was made of other samples \(lkca.upscale of .*a.scen"
    ):
        resume(scenes[1])
    with open_cube(output) as done:
        samples, tags = done.read(), {name: text for name, text in done.meta.tags.items() if "CRC32" not in name}
        meta = done.meta.replace(tags=tags)
    write_cube(output, samples, meta, overwrite=True)
    assert "nothing to resume" in resume(scenes[1])[0]


def test_a_finished_output_of_another_input_with_the_same_hole(tmp_path: Path) -> None:
    """Scenes of one tile of a grid, clouded in the middle, were taken for each other."""
    values = np.random.default_rng(0).random((3, 160, 160), dtype=np.float32)
    values[:, 40:120, 40:120] = np.nan
    scenes = [Cube.from_array(factor * values, CubeMeta(nodata=-1.0)) for factor in (1, 2)]
    upscale_scene(scenes[0], tmp_path / "o.tif", None, SceneOptions(scale=2))
    report = upscale_scene(scenes[0], tmp_path / "o.tif", None, SceneOptions(scale=2, resume=True))
    assert "nothing to resume" in report.notes[0]
    with pytest.raises(InputError, match="it was made of other samples"):
        upscale_scene(scenes[1], tmp_path / "o.tif", None, SceneOptions(scale=2, resume=True))


def test_full_disk(
    tmp_path: Path,
    meta: CubeMeta,
    holed_scene: np.ndarray,
    model_of: Callable[..., LoadedModel],
    full_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    """First there is no room for the samples, then for these but not for the file that is made of them; then there
    is."""
    cube, output, model = Cube.from_array(holed_scene, meta), tmp_path / "o.mat", model_of()
    nbytes = 5 * 122 * 106 * 4
    with full_disk(nbytes - 1), pytest.raises(OutputError, match=r"cannot be written \(.*\); free some space"):
        upscale_scene(cube, output, model, SceneOptions(tile=13))
    assert not list(tmp_path.iterdir())
    with full_disk(nbytes), pytest.raises(OutputError, match=r"could not be written.*tiles are kept.*--resume"):
        upscale_scene(cube, output, model, SceneOptions(tile=13, compress="none"))
    kept = Journal(output).finished()
    assert kept > 0 and [entry.name for entry in tmp_path.iterdir()] == ["o.mat.lkca-part"]
    report = upscale_scene(cube, output, model, SceneOptions(resume=True))
    assert report.computed == TILES - kept
    with open_cube(output) as result:
        assert result.shape == (122, 106, 5)


def test_no_room_for_the_tiles(
    tmp_path: Path, meta: CubeMeta, holed_scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1, 1, 100_000))
    with pytest.raises(OutputError, match=r"o\.npz: needs .* MiB, 0\.1 MiB are free"):
        upscale_scene(Cube.from_array(holed_scene, meta), tmp_path / "o.npz", None, SceneOptions(scale=2))
    assert not list(tmp_path.iterdir())


def test_the_longest_name_that_is_taken_leaves_nothing_else(files: tuple[Path, Path], tmp_path: Path) -> None:
    """What lies beside an output for a while has a longer name."""
    output = tmp_path / (225 * "n" + ".tif")
    with open_cube(files[0]) as cube:
        upscale_scene(cube, output, load_model(files[1]), SceneOptions(roi="0:20,30:50"))
    assert list(tmp_path.iterdir()) == [output]
