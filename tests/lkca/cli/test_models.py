"""Shipped models from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import Result

from lkca.data import CubeMeta, open_cube, write_cube
from lkca.models.directory import load_model

Cli = Callable[..., Result]
Refuses = Callable[..., str]


def test_list_and_card(cli: Cli, refuses: Refuses) -> None:
    table = cli("models").stdout
    assert "general" in table and "×2, ×3, ×4, ×8" in table and "Yasuma" in table
    (general, *_) = json.loads(cli("models", "--json").stdout)["models"]
    assert general["name"] == "general" and general["scales"] == [2, 3, 4, 8] and 0 < general["bytes"] < 8e6
    assert cli("models", "general").stdout.startswith("# general")
    refuses("models", "nonsense", says=("nonsense", "general"))


def test_upscale_without_a_model(cli: Cli, scene_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "sharp.tif"
    result = cli("upscale", "-i", scene_file, "-o", out, "-s", "2")
    assert result.exit_code == 0 and "by model general" in result.stdout
    with open_cube(out) as sharp, open_cube(scene_file) as coarse:
        assert sharp.shape == (2 * coarse.rows, 2 * coarse.cols, coarse.bands)
        np.testing.assert_allclose(sharp.meta.wavelengths, coarse.meta.wavelengths)


def test_the_cuts_leave_no_trace(cli: Cli, tmp_path: Path) -> None:
    """A file and the array it holds give the same, though the file goes tile by tile."""
    import lkca

    cube = np.random.default_rng(0).random((6, 25, 15), dtype=np.float32).repeat(2, 1).repeat(2, 2)
    write_cube(tmp_path / "c.npz", cube, CubeMeta())
    assert cli("upscale", "-i", tmp_path / "c.npz", "-o", tmp_path / "o.npz", "-s", "3", "--tile", "11").exit_code == 0
    with open_cube(tmp_path / "o.npz") as written:
        np.testing.assert_allclose(written.read(), lkca.upscale(cube, "general", scale=3), atol=1e-5)


def test_evaluate_by_name(cli: Cli, scene_file: Path) -> None:
    result = cli("evaluate", "-m", "general", scene_file, "-s", "2", "--json")
    assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)["results"][0]["scores"]
    assert scores["model"]["mpsnr"] > scores["bicubic"]["mpsnr"] + 0.5


@pytest.mark.parametrize("command", ["upscale", "evaluate"])
def test_scale_and_name(command: str, scene_file: Path, tmp_path: Path, refuses: Refuses) -> None:
    args = [scene_file] if command == "evaluate" else ["-i", scene_file, "-o", tmp_path / "o.tif"]
    refuses(command, *args, "-m", "general", says=("-s",))
    refuses(command, *args, "-m", "general", "-s", "5", says=("×2, ×3, ×4, ×8", "×5", "lkca fit"))
    refuses(command, *args, "-m", "genral", "-s", "4", says=("genral", "general", "lkca models"))
    if command == "upscale":
        refuses(command, *args, says=("-s 4",))
    assert not list(tmp_path.iterdir())


def test_a_local_directory_of_that_name_goes_first(
    cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "general").symlink_to(model_dir)
    refuses("evaluate", "-m", "general", scene_file, "-s", "4", says=("×2",))
    assert cli("evaluate", "-m", "general", scene_file).exit_code == 0


def test_a_directory_from_the_general_model(cli: Cli, refuses: Refuses, scene_file: Path, tmp_path: Path) -> None:
    """It gives what the name gives, and other commands take it."""
    out = tmp_path / "model"
    assert cli("models", "general", "--for", scene_file, "-s", "2", "-o", out).exit_code == 0
    model = load_model(out)
    assert (model.config.bands.count, model.config.scale) == (6, 2)
    assert model.config.training.data[0].name == str(scene_file)
    refuses("models", "general", "-s", "2", "-o", tmp_path / "m", says=("--for",))
    refuses("models", "general", "--for", scene_file, "-o", tmp_path / "m", says=("-s",))
    refuses("models", "general", "--for", scene_file, "-s", "2", "-o", out, says=("--overwrite",))
    refuses("models", "-s", "2", says=("-o",))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_name_where_no_cube_is_seen(cli: Cli, refuses: Refuses, model_dir: Path, tmp_path: Path) -> None:
    layer = json.loads(cli("analyze", "cave31", "-s", "4", "--json").stdout)["layers"][0]
    assert layer["rank"] == 160 and layer["upscale_factor"] == 4
    commands = (
        ("analyze", "{}"),
        ("bench", "-m", "{}"),
        ("distill", "--teacher", "{}", "--rank", "4", "-o", tmp_path / "m", "--data", "scene.tif"),
        ("export", "{}", "--to", "pt2", "-o", tmp_path / "m.pt2"),
        ("factorize", "{}", "-o", tmp_path / "m", "--rank", "4", "--calibration", "scene.tif"),
    )
    for command in commands:
        for model, scale, says in (
            ("general", 4, ("adapted to each cube", "lkca models general --for")),
            ("cave31", 3, ("cave31", "×3", "2, 4")),
            (model_dir, 3, ("×2", "-s asks for ×3")),
        ):
            refuses(*(str(word).format(model) for word in command), "-s", str(scale), says=says)
    refuses("export", "cave31", "--to", "pt2", "-o", tmp_path / "m.pt2", says=("-s", "2, 4"))
    refuses("analyze", "somewhere:net", "-s", "4", says=("leave out -s",))


@pytest.mark.parametrize("name", ["jasper_ridge", "samson"])
def test_made_coarse_again_the_result_is_the_input(real_data: Path, name: str) -> None:
    """What docs/faq.md says of trust: to 0.2 % of the peak, where bicubic has 0.3 % and more."""
    import lkca

    with open_cube(real_data / "cubes" / f"{name}.npz") as cube:
        coarse = cube.read()

    def share(sharp: np.ndarray) -> float:
        return float(
            np.sqrt(np.square(lkca.degrade(torch.from_numpy(sharp), 4).numpy() - coarse).mean()) / coarse.max()
        )

    assert share(lkca.upscale(coarse, scale=4)) < 0.002
    assert share(lkca.upscale(coarse, "bicubic", scale=4)) > 0.003
