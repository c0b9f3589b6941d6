"""Bad input and impossible output: one sentence, the right exit code, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from typer.testing import Result

from lkca.cli.console import command_line
from lkca.data import CubeMeta, CubeWriter, write_cube

Refuses = Callable[..., str]
Cli = Callable[..., Result]
FullDisk = Callable[[int], AbstractContextManager[None]]
READERS = [("inspect", "{}"), ("fit", "{}", "-s", "2", "-o", "m"), ("evaluate", "{}", "-s", "2")]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cube(rows: int = 32, cols: int = 32, bands: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, cols, bands), dtype=np.float32) + 0.1


def save(name: str, array: np.ndarray) -> str:
    np.save(name, array)
    return name


def envi(name: str = "e", rows: int = 32, cols: int = 32) -> Path:
    write_cube(Path(f"{name}.img"), cube(rows, cols).transpose(2, 0, 1), CubeMeta())
    return Path(f"{name}.img")


def names() -> set[str]:
    return {str(p) for p in Path().rglob("*")}


@pytest.mark.parametrize("command", READERS, ids=lambda c: c[0])
@pytest.mark.parametrize(
    "kind", ["missing", "directory", "empty", "text", "truncated", "lone header", "unknown variable", "long"]
)
def test_unreadable_input(refuses: Refuses, command: tuple[str, ...], kind: str) -> None:
    name, words = "x.tif", ""
    if kind == "missing":
        words = "does not exist"
    elif kind == "long":
        name = 300 * "x"
    elif kind == "directory":
        Path(name).mkdir()
        words = "is a directory"
    elif kind == "empty":
        Path(name).touch()
        words = "empty"
    elif kind == "text":
        Path(name).write_text("not a raster")
    elif kind == "truncated":
        name = str(envi())
        Path(name).write_bytes(Path(name).read_bytes()[:-100])
        words = "bytes"
    elif kind == "lone header":
        name = str(envi().with_suffix(".hdr"))
        Path("e.img").unlink()
    else:
        scipy.io.savemat("v.mat", {"scene": cube()})
        name, words = "v.mat::other", "scene"
    before = names()
    message = refuses(*(part.format(name) for part in command))
    assert name.partition("::")[0] in message and words in message
    assert names() == before


def test_wrong_interleave_size(refuses: Refuses) -> None:
    path = envi()
    header = path.with_suffix(".hdr")
    header.write_text(header.read_text().replace("lines = 32", "lines = 64"))
    assert "bytes" in refuses("inspect", path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "command",
    [
        *READERS[1:],
        ("upscale", "-i", "{}", "-o", "o.tif", "-s", "2", "--bicubic"),
        ("degrade", "-i", "{}", "-o", "o.tif", "-s", "2"),
    ],
    ids=lambda c: c[0],
)
def test_nothing_but_missing_samples(refuses: Refuses, command: tuple[str, ...], value: float) -> None:
    name = save("c.npy", np.full((32, 32, 6), value, dtype=np.float32))
    assert name in refuses(*(part.format(name) for part in command), says=("valid sample",))
    assert names() == {name}


def test_some_missing_samples_are_no_obstacle(cli: Cli) -> None:
    values = cube()
    values[3:6, 4:9] = np.nan
    values[20, 20, 2] = np.inf
    save("c.npy", values)
    Path("fit.yaml").write_text("max_steps: 2\nrecipe: {prior: false, width: 4, blocks: 1}\n")
    assert cli("fit", "c.npy", "-s", "2", "-o", "m", "--config", "fit.yaml").exit_code == 0
    assert cli("upscale", "-i", "c.npy", "-o", "o.npz", "-m", "m").exit_code == 0
    with np.load("o.npz") as result:
        expected = np.isfinite(values).repeat(2, 0).repeat(2, 1)
        assert np.array_equal(np.isfinite(result["cube"]), expected)


def test_all_nodata_in_the_region(refuses: Refuses) -> None:
    values = cube()
    values[:16] = np.nan
    save("c.npy", values)
    refuses("fit", "c.npy", "-s", "2", "-o", "m", "--region", "0:16,:", says=("c.npy", "nodata"))
    refuses("evaluate", "c.npy", "-s", "2", "--region", "0:16,:", says=("c.npy", "region"))


def test_one_band(refuses: Refuses) -> None:
    save("c.npy", cube(bands=1))
    refuses("fit", "c.npy", "-s", "2", "-o", "m", says=("1 good band", "at least 2"))


def test_not_positive(refuses: Refuses) -> None:
    save("c.npy", -cube())
    refuses("fit", "c.npy", "-s", "2", "-o", "m", says=("positive",))
    refuses("evaluate", "c.npy", "-s", "2", says=("positive",))


def test_smaller_than_the_scale_factor(refuses: Refuses) -> None:
    save("c.npy", cube(3, 3))
    for command in (
        ("fit", "c.npy", "-s", "4", "-o", "m"),
        ("evaluate", "c.npy", "-s", "4"),
        ("degrade", "-i", "c.npy", "-o", "o.npz", "-s", "4"),
    ):
        refuses(*command, says=("3 × 3", "×4"))
    assert names() == {"c.npy"}


def test_too_small_to_learn_from(refuses: Refuses) -> None:
    save("c.npy", cube(20, 20))
    refuses("fit", "c.npy", "-s", "4", "-o", "m", says=("20 × 20", "at least 32 × 32"))


def test_smaller_than_the_receptive_field(cli: Cli, model_dir: Path) -> None:
    """No error: the network pads."""
    save("c.npy", cube(2, 3) * 0.5)
    assert cli("upscale", "-i", "c.npy", "-o", "o.npz", "-m", model_dir).exit_code == 0
    with np.load("o.npz") as result:
        assert result["cube"].shape == (4, 6, 6) and np.isfinite(result["cube"]).all()


def test_wrong_band_count(refuses: Refuses, model_dir: Path) -> None:
    save("c.npy", cube(bands=7))
    says = ("c.npy", "7 bands", "made for 6", "lkca fit")
    refuses("upscale", "-i", "c.npy", "-o", "o.tif", "-m", model_dir, says=says)
    refuses("evaluate", "-m", model_dir, "c.npy", says=says)
    assert names() == {"c.npy"}


def test_wrong_scale(refuses: Refuses, model_dir: Path, scene_file: Path) -> None:
    says = ("×2", "-s asks for ×4")
    refuses("upscale", "-i", scene_file, "-o", "o.tif", "-m", model_dir, "-s", "4", says=says)
    refuses("evaluate", "-m", model_dir, scene_file, "-s", "4", says=says)


def test_two_scenes_of_different_sensors(refuses: Refuses) -> None:
    save("a.npy", cube()), save("b.npy", cube(bands=7))
    refuses("fit", "a.npy", "b.npy", "-s", "2", "-o", "m", says=("b.npy", "7 bands", "6"))


@pytest.mark.parametrize(
    "command", [("upscale", "-i", "in", "-s", "2", "--bicubic"), ("train", "t.yaml"), ("demo", "--max-steps", "1")]
)
def test_folders_whose_names_are_not_utf8(refuses: Refuses, command: tuple[str, ...]) -> None:
    """They were made, and refused every file that was to go into them, of a training at its end."""
    Path("in").mkdir()
    save("in/a.npy", cube(32, 32))
    Path("t.yaml").write_text(
        "scale: 2\ndata: {scenes: [in/a.npy]}\nmodel: {preset: tiny}\nsteps: 1\npatch: 4\ntensorboard: false\n"
    )
    refuses(*command, "-o", os.fsdecode(b"M\xfcnchen"), says=("its name is not UTF-8",))
    assert not list(Path().glob("M*"))


def test_axes_that_cannot_be_told(cli: Cli, refuses: Refuses) -> None:
    """``refuses`` sees that the command has the option which its advice names; train keeps it in its configuration."""
    save("c.npy", cube(32, 32, 32))
    Path("t.yaml").write_text(
        "scale: 2\ndata: {scenes: [c.npy]}\nmodel: {preset: tiny}\nsteps: 1\npatch: 4\ntensorboard: false\n"
    )
    refuses("train", "t.yaml", "-o", "run", says=("c.npy", "--axes rcb"))
    refuses("train", "t.yaml", "-o", "run", "--axes", "xyz", says=("c.npy", "xyz"))
    refuses("train", "t.yaml", "-o", "run", "--shape", "9", says=("--shape is '9'",))
    assert cli("train", "t.yaml", "-o", "run", "--axes", "rcb", "--nodata", "-1").exit_code == 0
    assert "axes: rcb\n  nodata: -1.0\n" in Path("run/config.yaml").read_text()
    assert json.loads(Path("run/best/config.json").read_text())["training"]["command"] == command_line()
    refuses("train", "t.yaml", "-o", "run", "--axes", "rcb", "--nodata", "-1", says=("holds a run",))
    refuses("train", "t.yaml", "-o", "run", "--resume", says=("data.axes: the run",))
    assert cli("train", "t.yaml", "-o", "run", "--resume", "data.axes=rcb", "data.nodata=-1").exit_code == 0
    for resume in ([], ["--resume"]):
        assert cli("train", "t.yaml", "-o", "nan", "--axes", "rcb", "--nodata", "nan", *resume).exit_code == 0
    refuses("train", "t.yaml", "-o", "x", "data={dataset: c.h5, axes: rcb}", says=("axes", "'scenes'"))


def test_two_scenes_in_different_units(refuses: Refuses) -> None:
    """One peak would divide both: of the reflectances nothing would be left."""
    save("a.npy", cube()), save("b.npy", cube() * 10_000)
    says = ("a.npy", "those of b.npy", "same units")
    refuses("fit", "b.npy", "a.npy", "-s", "2", "-o", "m", says=says)
    Path("t.yaml").write_text("scale: 2\ndata: {scenes: [a.npy, b.npy]}\npatch: 4\n")
    refuses("train", "t.yaml", "-o", "run", says=says)


def test_prediction_of_another_size(refuses: Refuses) -> None:
    save("a.npy", cube()), save("b.npy", cube(16, 16))
    refuses(
        "evaluate", "--reference", "a.npy", "--prediction", "b.npy", "-s", "2", says=("b.npy", "16 × 16", "32 × 32")
    )


@pytest.mark.parametrize("region", ["0:99,:", "5", "a:b,:", "9:3,:", ":,:,:"])
def test_bad_regions(refuses: Refuses, region: str) -> None:
    save("c.npy", cube())
    refuses("evaluate", "c.npy", "-s", "2", "--region", region, says=("region",))


@pytest.mark.parametrize(
    "args",
    [
        ("upscale", "-i", "c.npy", "-o", "o.tif"),
        ("upscale", "-i", "c.npy", "-o", "o.tif", "--bicubic"),
        ("upscale", "-i", "c.npy", "-o", "o.tif", "--bicubic", "-m", "m", "-s", "2"),
        ("upscale", "-i", "c.npy", "-o", "o.xyz", "--bicubic", "-s", "2"),
        ("upscale", "-i", "c.npy", "-o", "o.tif", "--bicubic", "-s", "2", "--dtype", "complex64"),
        ("upscale", "-i", "c.npy", "-o", "o.tif", "--bicubic", "-s", "2", "--compress", "rar"),
        ("upscale", "-i", "c.npy", "-o", "o.tif", "--bicubic", "-s", "2", "--device", "cuda:99"),
        ("upscale", "-i", "c.npy", "-o", "o.tif", "-m", "none", "-s", "2"),
        ("evaluate",),
        ("evaluate", "c.npy"),
        ("evaluate", "c.npy", "-s", "2", "--panel", "p.png"),
        ("evaluate", "c.npy", "-m", "m", "--panel", "p.doc"),
        ("evaluate", "--reference", "c.npy", "-s", "2"),
        ("evaluate", "--reference", "c.npy", "--prediction", "c.npy"),
        ("evaluate", "c.npy", "--reference", "c.npy", "--prediction", "c.npy", "-s", "2"),
        ("fit", "c.npy", "-o", "m"),
        ("fit", "c.npy", "-s", "2", "-o", "m", "--shape", "9by9"),
        ("fit", "c.npy", "-s", "2", "-o", "c.npy"),
        ("fit", "c.npy", "-s", "2", "-o", "missing/m"),
        ("degrade", "-i", "c.npy", "-o", "c.npy/o.tif", "-s", "2"),
    ],
    ids=" ".join,
)
def test_wrong_use(refuses: Refuses, args: tuple[str, ...]) -> None:
    save("c.npy", cube())
    refuses(*args)
    assert names() == {"c.npy"}


@pytest.mark.parametrize("command", ["fit", "distill"])
def test_a_training_of_one_process_refuses_several(
    refuses: Refuses, monkeypatch: pytest.MonkeyPatch, model_dir: Path, scene_file: Path, command: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    fit = ("fit", scene_file, "-s", "2", "--max-steps", "2", "-o", "new")
    distill = (
        "distill",
        "--teacher",
        model_dir,
        "--energy",
        "0.5",
        "--data",
        scene_file,
        "--max-steps",
        "2",
        "-o",
        "new",
    )
    refuses(*(fit if command == "fit" else distill), says=("WORLD_SIZE is 2", f"'lkca {command}' is the work of one"))
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeed: 1", "unknown key 'seeed'; did you mean 'seed'?"),
        ("recipe: {wdith: 3}", "unknown key 'recipe.wdith'; did you mean 'width'?"),
        ("minutes: soon", "'minutes' is 'soon'"),
        ("minutes: .nan", "'minutes'"),
        ("scale: 1", "'scale' is 1"),
        ("degradation: blur", "bicubic"),
        ("recipe: {prior: false, width: 0}", "width"),
        ("recipe: {prior: false, kernel_size: 4}", "kernel_size"),
        ("recipe: {width: 8}", "prior: false"),
        ("recipe: {prior: false, width: 100000000}", "recipe.width"),
        ("seed: 1\nseed: 2", "line 2 (the key 'seed' stands twice)"),
        ("recipe: {components: 0}", "recipe.components"),
        ("recipe: {patch: 0}", "recipe.patch"),
        ("recipe: {holdout: 2.0}", "recipe.holdout"),
        ("recipe: {teacher_share: -1.0}", "recipe.teacher_share"),
        ("recipe: {teacher_lr: 1.0e+9}", "recipe.teacher_lr"),
        ("sigma: 2.0", "gaussian"),
        ("sigma: 101\ndegradation: gaussian", "'sigma' is 101; it should be less than or equal to 100"),
        ("- a list", "expected 'key: value' lines"),
        ("a: [", "not plain YAML at line"),
        ("!!python/object/apply:os.mkdir [exploded]", "not plain YAML"),
        ("minutes: null", "no end"),
    ],
)
def test_bad_configurations(refuses: Refuses, text: str, words: str) -> None:
    save("c.npy", cube())
    Path("fit.yaml").write_text(text)
    refuses("fit", "c.npy", "-s", "2", "-o", "m", "--config", "fit.yaml", says=(words,))
    assert names() == {"c.npy", "fit.yaml"}


def test_names_that_are_too_long(refuses: Refuses, model_dir: Path, scene_file: Path) -> None:
    """Whether something is there cannot even be asked of them, nor of what lies in a folder that may not be entered."""
    long = "n" * 300
    for command in (
        ("upscale", "-i", f"{long}.tif", "-o", "x.tif", "-s", "2"),
        ("upscale", "-i", scene_file, "-i", "y.tif", "-o", long, "-s", "2"),
        ("inspect", f"{long}.h5::/x"),
        ("fit", scene_file, "-s", "2", "-o", long),
        ("fit", scene_file, "-s", "2", "-o", "m", "--init", long),
        ("factorize", model_dir, "-o", long, "--rank", "2", "--calibration", scene_file),
        ("distill", "--teacher", model_dir, "-o", long, "--rank", "2", "--data", scene_file),
        ("models", "cave31", "-s", "2", "-o", long),
        ("demo", "-o", long),
        ("prepare", "cave", "--root", long, "-o", "x.h5"),
    ):
        refuses(*command, says=(long, "too long"))
    assert not names()


def test_missing_configuration(refuses: Refuses) -> None:
    refuses("fit", "c.npy", "-s", "2", "-o", "m", "--config", "no.yaml", says=("no.yaml", "No such file"))


@pytest.mark.parametrize("spoil", ["weights", "config", "unknown key"])
def test_damaged_model(refuses: Refuses, model_dir: Path, scene_file: Path, spoil: str) -> None:
    shutil.copytree(model_dir, "m")
    if spoil == "weights":
        Path("m/model.safetensors").write_bytes(Path("m/model.safetensors").read_bytes()[:500])
    elif spoil == "config":
        Path("m/config.json").write_text("{")
    else:
        config = json.loads(Path("m/config.json").read_text())
        Path("m/config.json").write_text(json.dumps(config | {"surprise": 1}))
    word = {"weights": "safetensors", "config": "JSON", "unknown key": "unknown key 'surprise'"}[spoil]
    refuses("upscale", "-i", scene_file, "-o", "o.tif", "-m", "m", says=("m/", word))
    assert not Path("o.tif").exists()


def test_existing_output_needs_overwrite(
    refuses: Refuses, cli: Cli, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told before the work."""

    def vain(*_: Any, **__: Any) -> None:
        pytest.fail("trained in vain")

    for what in ("fit_scenes", "distill.distill_directory", "factorize.factorize_directory"):
        monkeypatch.setattr(f"lkca.fitting.{what}", vain)
    save("c.npy", cube())
    Path("o.tif").write_bytes(b"precious")
    for command in (
        ("upscale", "-i", "c.npy", "-o", "o.tif", "-s", "2", "--bicubic"),
        ("degrade", "-i", "c.npy", "-o", "o.tif", "-s", "2"),
        ("fit", "c.npy", "-s", "2", "-o", "o.tif"),
        ("distill", "--teacher", model_dir, "--rank", "3", "-o", "o.tif", "--data", "c.npy"),
        ("factorize", model_dir, "-o", "o.tif", "--calibration", "c.npy"),
    ):
        refuses(*command, says=("o.tif", "exists"))
    assert Path("o.tif").read_bytes() == b"precious"
    assert names() == {"c.npy", "o.tif"}
    assert cli("degrade", "-i", "c.npy", "-o", "o.tif", "-s", "2", "--overwrite").exit_code == 0
    assert names() == {"c.npy", "o.tif"} and Path("o.tif").read_bytes() != b"precious"


def test_existing_picture_needs_overwrite(refuses: Refuses, model_dir: Path, scene_file: Path) -> None:
    Path("p.png").write_bytes(b"precious")
    refuses("evaluate", "-m", model_dir, scene_file, "--panel", "p.png", says=("p.png", "exists", "--overwrite"))
    assert Path("p.png").read_bytes() == b"precious"


@pytest.mark.parametrize("output", ["e.img", "e.hdr", "./e.img", "link.img"])
def test_the_input_is_never_overwritten(refuses: Refuses, output: str) -> None:
    path = envi()
    Path("link.img").symlink_to(path)
    before = {p: Path(p).read_bytes() for p in ("e.img", "e.hdr")}
    refuses("degrade", "-i", path, "-o", output, "-s", "2", "--overwrite", says=("input",))
    refuses("upscale", "-i", path, "-o", output, "-s", "2", "--bicubic", "--overwrite", says=("input",))
    assert {p: Path(p).read_bytes() for p in before} == before


@pytest.mark.parametrize("output", [".", "/", "folder", "folder.tif"])
def test_a_folder_is_no_output(refuses: Refuses, output: str) -> None:
    save("c.npy", cube())
    Path("folder").mkdir()
    Path("folder.tif").mkdir()
    for more in ((), ("--dry-run",), ("--overwrite",), ("--resume",)):
        refuses("upscale", "-i", "c.npy", "-o", output, "-s", "2", "--bicubic", *more)
    refuses("degrade", "-i", "c.npy", "-o", output, "-s", "2")


@pytest.mark.parametrize("folder", ["/proc", "c.npy", "no/such/folder"])
def test_unwritable_folder(cli: Cli, folder: str) -> None:
    """The suite may run as root, whom permissions do not stop: /proc and a file in the folder's place do."""
    save("c.npy", cube())
    for args in (
        ("degrade", "-i", "c.npy", "-o", f"{folder}/o.tif", "-s", "2"),
        ("upscale", "-i", "c.npy", "-o", f"{folder}/o.tif", "-s", "2", "--bicubic"),
        ("fit", "c.npy", "-s", "2", "-o", f"{folder}/m", "--max-steps", "1"),
    ):
        result = cli(*args)
        assert result.exit_code in (1, 2) and "Traceback" not in result.stderr
        assert result.stderr.count("error: ") == 1 and folder in result.stderr
    assert names() == {"c.npy"}


@pytest.mark.parametrize("output", ["o.tif", "o.img", "o.npz", "o.mat"])
@pytest.mark.parametrize("precious", [True, False])
def test_full_disk(refuses: Refuses, full_disk: FullDisk, output: str, precious: bool) -> None:
    save("c.npy", cube(64, 64, 16))
    if precious:
        Path(output).write_bytes(b"precious")
    before = names()
    with full_disk(200_000):
        refuses(
            *("upscale", "-i", "c.npy", "-o", output, "-s", "2", "--bicubic", "--overwrite"),
            code=1,
            says=(output, "space"),
        )
    assert names() == before
    if precious:
        assert Path(output).read_bytes() == b"precious"


def test_full_disk_for_a_model(refuses: Refuses, full_disk: FullDisk, model_dir: Path) -> None:
    """The old model survives."""
    shutil.copytree(model_dir, "m")
    before = {p: p.read_bytes() for p in Path("m").iterdir()}
    save("c.npy", cube())
    Path("fit.yaml").write_text("max_steps: 1\nrecipe: {prior: false, width: 32, blocks: 1}\n")
    with full_disk(20_000):
        refuses(
            *("fit", "c.npy", "-s", "2", "-o", "m", "--overwrite", "--config", "fit.yaml"),
            code=1,
            says=("m: the model could not be written", "space"),
        )
    assert {p: p.read_bytes() for p in Path("m").iterdir()} == before
    assert names() == {"m", "c.npy", "fit.yaml", *(str(p) for p in before)}


@pytest.mark.parametrize("output", ["d.tif", "d.img", "d.npz", "d.mat"])
def test_a_command_that_is_ended_leaves_nothing(cli: Cli, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM, by the system, a batch queue or ``timeout``: half a scene lay in the folder, under a name of its own."""
    save("c.npy", cube())
    write, before = CubeWriter.write, names()

    def ended(self: CubeWriter, *what: Any) -> None:
        write(self, *what)
        assert names() != before or output.endswith((".npz", ".mat"))  # which are collected in memory
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(CubeWriter, "write", ended)
    result = cli("degrade", "-i", "c.npy", "-o", output, "-s", "2")
    assert result.exit_code == 143 and "Traceback" not in result.stderr
    assert names() == before and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_fit_leaves_a_usable_model(cli: Cli, kind: signal.Signals) -> None:
    save("c.npy", cube())
    Path("fit.yaml").write_text("recipe: {prior: false, width: 4, blocks: 1}\n")
    run = subprocess.Popen(
        [sys.executable, "-m", "lkca", "fit", "c.npy", "-s", "2", "-o", "m", "--config", "fit.yaml", "--minutes", "9"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    for line in run.stderr:
        if "teacher" in line:
            break
    time.sleep(0.5)
    run.send_signal(kind)
    out, errors = run.communicate(timeout=60)
    assert run.returncode == 0 and "Traceback" not in errors, errors
    assert "stopped early" in out and "note: stopping" in errors
    assert cli("upscale", "-i", "c.npy", "-o", "o.npz", "-m", "m").exit_code == 0
    assert json.loads(Path("m/config.json").read_text())["training"]["interrupted"] is True


@pytest.mark.parametrize(
    ("command", "offered"),
    [
        ("upscale -i {scene} -o o.tif -m {model}", True),
        ("evaluate {scene} -m {model}", True),
        ("report {scene} -m {model} -o r.html", True),
        ("factorize {model} -o small --calibration {scene}", False),
        ("fit {scene} -s 2 -o m --max-steps 1 --report r.html", False),
        ("demo -o d --size 40 --bands 20 --max-steps 1", False),
    ],
    ids=lambda value: str(value).partition(" ")[0],
)
def test_too_little_memory(
    cli: Cli, model_dir: Path, scene_file: Path, monkeypatch: pytest.MonkeyPatch, command: str, offered: bool
) -> None:
    """It is refused before it is taken; --memory is named by the commands that have it."""
    monkeypatch.setattr("lkca.inference.plan.available_memory", lambda: 0)
    result = cli(*command.format(scene=scene_file, model=model_dir).split())
    assert result.exit_code == 2 and "are allowed; close other programs" in result.stderr
    assert ("--memory" in result.stderr) == offered
