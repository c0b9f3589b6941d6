"""lkca upscale: its plan, parts of scenes, many scenes, and what a stop leaves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from lkca.data import Cube, CubeMeta, Window, open_cube, write_cube
from lkca.inference.journal import Journal, part_folder
from lkca.visual import Composite

Cli = Callable[..., Result]
Refuses = Callable[..., str]


def test_dry_run(cli: Cli, scene_file: Path, model_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.tif"
    result = cli(
        "upscale", "-i", scene_file, "-o", output, "-m", model_dir, "--dry-run", "--memory", "2G", "--tile", 16
    )
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for words in (
        f"region 0:72,0:40 ×2 → {output}",
        "144 × 80 pixels, 6 bands, int16: 0 MiB",
        "15 of 16 × 16 pixels",
        "halo",
        "of 2.00 GiB allowed",
        "time about",
    ):
        assert words in text, text
    assert not list(tmp_path.iterdir())


def test_one_of_several_processes_prints_the_plan(
    cli: Cli, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("upscale", "-i", scene_file, "-o", tmp_path / "o.tif", "-s", 2, "--bicubic", "--dry-run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, plans in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        result = cli(*command)
        assert result.exit_code == 0 and result.stdout.count("tiles") == plans, result.output


def test_region_and_preview(cli: Cli, scene_file: Path, model_dir: Path, tmp_path: Path) -> None:
    whole, part, picture = tmp_path / "whole.tif", tmp_path / "part.tif", tmp_path / "p.png"
    assert cli("upscale", "-i", scene_file, "-o", whole, "-m", model_dir).exit_code == 0
    arguments = ("--roi", "10:40,5:30", "--preview", picture, "--tile", 11)
    result = cli("upscale", "-i", scene_file, "-o", part, "-m", model_dir, *arguments)
    assert result.exit_code == 0, result.output
    with open_cube(whole) as one, open_cube(part) as other:
        expected = one.read(Window(20, 10, 60, 50))
        np.testing.assert_allclose(other.read(), expected, atol=1.01e-4)  # one step of the stored integers
        assert other.meta.tags["LKCA_MODEL"] == str(model_dir) and other.meta.tags["LKCA_VERSION"]
        with open_cube(scene_file) as source:
            colours = Composite.of(source.read(), source.meta.wavelengths, source.good_bands)
        shown = colours.render(other.read())
    import matplotlib.image

    np.testing.assert_allclose(matplotlib.image.imread(picture)[..., :3], shown, atol=1.01 / 255)
    result = cli("upscale", "-i", scene_file, "-o", tmp_path / "other.tif", "-m", model_dir, *arguments)
    assert result.exit_code != 0 and f"{picture}: exists already" in result.stderr


def test_a_nodata_value_that_the_file_does_not_name(cli: Cli, refuses: Refuses, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).random((20, 16, 4), dtype=np.float32)
    stored[5:9, 5:9] = -9999
    np.save(tmp_path / "x.npy", stored)
    arguments = ("upscale", "-i", tmp_path / "x.npy", "--bicubic", "-s", 2, "-o", tmp_path / "o.tif")
    result = cli(*arguments, "--dry-run")
    assert "say so with --nodata -9999" in " ".join(result.stderr.split())
    result = cli(*arguments, "--nodata", "-9999")
    assert result.exit_code == 0 and "note" not in result.stderr, result.output
    with open_cube(tmp_path / "o.tif") as cube:
        assert cube.meta.nodata == -9999 and np.isnan(cube.read()).sum() == 4 * 64 and np.nanmin(cube.read()) > -1
    assert json.loads(cli("inspect", tmp_path / "x.npy", "--nodata", "-9999", "--json").stdout)["minimum"] >= 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tile", "0"), "--tile is '0'"),
        (("--tile", "big"), "--tile is 'big'"),
        (("--memory", "lots"), "the memory 'lots'"),
        (("--memory", "10M"), "--memory"),
        (("--roi", "1,2"), "'1,2' is not understood"),
        (("--roi", "nan,0,1,1"), "'nan,0,1,1' is not understood"),
        (("--roi", "0,0,inf,1"), "'0,0,inf,1' is not understood"),
        (("--roi", "0:900,:"), "0:900"),
        (("--roi", "0,0,1,1"), "no geotransform"),
        (("-o", "n" * 252 + ".tif"), "too long a name"),
        (("--preview", "p.bmp2"), "p.bmp2"),
        (("--preview", "nowhere/p.png"), "nowhere"),
    ],
)
def test_refused(
    refuses: Refuses,
    scene_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("upscale", "-i", scene_file, "-o", "o.tif", "-s", 2, "--bicubic", *arguments)
    refuses(*command, says=(says,))
    refuses(*command, "--dry-run", says=(says,))
    assert not list(tmp_path.iterdir())


def test_a_plan_refuses_what_else_the_run_would(refuses: Refuses, tmp_path: Path) -> None:
    stored = np.ones((16, 12, 4), dtype=np.float32)
    stored[:8] = np.nan
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, stored)
    one, other = ("upscale", "-s", 2, "--bicubic", "-i", tmp_path / "a.npy"), ("-i", tmp_path / "b.npy")
    many = (*one, *other, "-o", tmp_path / "o", "--preview", tmp_path / "p.png")
    empty = (*one, "-o", tmp_path / "o.tif", "--roi", "0:8,:", "--report", tmp_path / "r.html")
    for more in ((), ("--dry-run",)):
        refuses(*many, *more, says=("--preview draws one scene", "give one input"))
        refuses(*empty, *more, says=("the region 0:8,:", "leave it out, or give another region"))
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.npy", "b.npy"}


def test_an_empty_name_is_none(refuses: Refuses, scene_file: Path, tmp_path: Path) -> None:
    """As of a shell variable that is not set: the input's meant the current folder, the model's the general one."""
    command = ("upscale", "-s", 2, "-o", tmp_path / "o.tif")
    refuses(*command, "-i", "", says=("the name of an input is empty", "name a cube"))
    refuses(*command, "-i", scene_file, "-m", "", says=("the name of the model is empty", "a model directory"))
    refuses("evaluate", scene_file, "-m", "", says=("the name of the model is empty", "a model directory"))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_scenes(cli: Cli, scene_file: Path, tmp_path: Path) -> None:
    """One that fails does not stop the others; a second run does the rest alone."""
    scenes, results = tmp_path / "scenes", tmp_path / "new" / "results"
    scenes.mkdir()
    with open_cube(scene_file) as cube:
        values, meta = cube.read(), cube.meta
    write_cube(scenes / "a-SPECTRAL_IMAGE.tif", values[:, :20], meta)
    write_cube(scenes / "a-QL_VNIR.tif", values[:3, :20], CubeMeta())
    write_cube(scenes / "b.img", values[:, :30], meta)
    (scenes / "c.tif").write_bytes(b"no picture")
    command = ("upscale", "-i", scenes, "-i", scene_file, "-o", results, "-s", 2, "--bicubic")
    plan = cli("upscale", "-i", scenes / "a-SPECTRAL_IMAGE.tif", "-i", scene_file, *command[5:], "--dry-run")
    assert plan.exit_code == 0 and f"→ {results / 'scene.tif'}" in plan.stdout, plan.output  # a folder yet to be made
    plan = cli(*command, "--dry-run")
    assert plan.exit_code == 1 and plan.stdout.count("  memory ") == 3 and plan.stderr.count("error: ") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["scenes"]
    result = cli(*command)
    assert result.exit_code == 1
    assert "3 of 4 scenes done; failed: " in result.stdout and str(scenes / "c.tif") in result.stdout
    assert result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr
    assert {entry.name for entry in results.iterdir()} == {"a-SPECTRAL_IMAGE.tif", "b.img", "b.hdr", "scene.tif"}
    assert f"note: {scenes}: left out" in result.stderr and "a-QL_VNIR.tif" in result.stderr
    assert cli(*command, "--dry-run").stderr.count("exists already; ") == 3
    write_cube(scenes / "c.tif", values[:, :10], meta, overwrite=True)
    result = cli(*command, "--resume")
    assert result.exit_code == 0 and "4 of 4 scenes done" in result.stdout
    assert result.stderr.count("nothing to resume") == 3
    with open_cube(results / "c.tif") as cube:
        assert cube.shape == (20, 80, 6)


def test_results_do_not_lie_among_the_scenes_of_a_folder(cli: Cli, refuses: Refuses, tmp_path: Path) -> None:
    """The next run would upscale them, and find two scenes that become one."""
    np.save(tmp_path / "a.npy", np.ones((8, 9, 4)))
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        command = ("upscale", "-i", tmp_path, "-o", folder, "-s", 2, "--bicubic")
        refuses(*command, says=("holds the scenes", "another folder"))
        refuses(*command, "--dry-run", says=("holds the scenes",))
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.npy", "link"}
    np.save(tmp_path / "b.npy", np.ones((8, 9, 4)))
    named = ("-i", tmp_path / "a.npy", "-i", tmp_path / "b.npy")
    assert cli("upscale", *named, "-o", tmp_path, "-s", 2, "--bicubic").exit_code == 0  # whoever names the files may
    assert {entry.name for entry in tmp_path.glob("*.tif")} == {"a.tif", "b.tif"}


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_says_what_is_kept(
    cli: Cli, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, code: int
) -> None:
    output, read, count = tmp_path / "o.tif", Cube.read, 0

    def stopping(self: Cube, window: Window | None = None, *rest: object) -> np.ndarray:
        nonlocal count
        count += window is not None and window.height < 70
        if count == 12:
            os.kill(os.getpid(), kind)
        return read(self, window, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Cube, "read", stopping)
    command = ("upscale", "-i", scene_file, "-o", output, "-s", 2, "--bicubic", "--tile", 8)
    result = cli(*command)
    assert result.exit_code == code and "Traceback" not in result.stderr
    kept = Journal(output).finished()
    assert f"{kept} of 45 tiles are kept in {part_folder(output)}" in result.stderr and "--resume" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.tif.lkca-part"]
    monkeypatch.setattr(Cube, "read", read)
    assert cli(*command, "--resume").exit_code == 0 and not part_folder(output).exists()


def test_the_plan_of_a_stopped_run_is_readable(cli: Cli, refuses: Refuses, scene_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.tif"
    part_folder(output).mkdir()
    (part_folder(output) / "tile-000000").write_bytes(b"old")
    (part_folder(output) / "plan.json").write_text(
        json.dumps({"run": "1", "world": 1, "fingerprint": {}, "tile": [8, 8], "tiles": 45, "todo": [], "place": {}})
    )
    command = ("upscale", "-i", scene_file, "-o", output, "-s", 2, "--bicubic")
    refuses(*command, says=("earlier run", "--resume", "--overwrite"))
    refuses(*command, "--resume", says=("cannot be resumed", "the device was not given, now it is cpu"))
    assert cli(*command, "--overwrite").exit_code == 0
