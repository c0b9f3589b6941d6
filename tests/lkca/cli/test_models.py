"""Shipped models from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Cli = Callable[..., Result]
Refuses = Callable[..., str]


def test_list_and_card(cli: Cli, refuses: Refuses) -> None:
    table = cli("models").stdout
    assert "general" in table and "×2, ×3, ×4, ×8" in table and "Yasuma" in table
    (general, *_) = json.loads(cli("models", "--json").stdout)["models"]
    assert general["name"] == "general" and general["scales"] == [2, 3, 4, 8] and 0 < general["bytes"] < 8e6
    assert cli("models", "general").stdout.startswith("# general")
    refuses("models", "nonsense", says=("nonsense", "general"))


def test_evaluate_by_name(cli: Cli, scene_file: Path) -> None:
    result = cli("evaluate", "-m", "general", scene_file, "-s", "2", "--json")
    assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)["results"][0]["scores"]
    assert scores["model"]["mpsnr"] > scores["bicubic"]["mpsnr"] + 0.5


def test_scale_and_name(scene_file: Path, refuses: Refuses) -> None:
    refuses("evaluate", scene_file, "-m", "general", says=("-s",))
    refuses("evaluate", scene_file, "-m", "general", "-s", "5", says=("×2, ×3, ×4, ×8", "×5", "lkca fit"))
    refuses("evaluate", scene_file, "-m", "genral", "-s", "4", says=("genral", "general", "lkca models"))


def test_a_local_directory_of_that_name_goes_first(
    cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "general").symlink_to(model_dir)
    refuses("evaluate", "-m", "general", scene_file, "-s", "4", says=("×2",))
    assert cli("evaluate", "-m", "general", scene_file).exit_code == 0
