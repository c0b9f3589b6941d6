"""Commands that train: what they are given reaches the training and its record, and what they say meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import Result

from lkca.cli.train import train_progress
from lkca.data import open_cube
from lkca.fitting import FitConfig, fit_scenes
from lkca.models.directory import load_model
from lkca.training import Progress
from lkca.training.config import DataConfig, TrainConfig

Cli = Callable[..., Result]


def test_fit_records_what_it_did(model_dir: Path, scene_file: Path) -> None:
    config = load_model(model_dir).config
    assert config.scale == 2 and config.bands.used == list(range(6))
    assert config.training.data[0].region == "0:48,0:40" and config.training.data[0].name == str(scene_file)
    assert 0 < (config.training.steps or 0) <= 12
    assert 0.1 < config.normalisation.peak < 1
    assert config.validation is not None and {"bicubic", "teacher", "student"} <= config.validation.scores.keys()
    assert config.degradation.method == "bicubic" and "torch" in config.versions


def test_configuration_file_and_options(cli: Cli, scene_file: Path, tmp_path: Path) -> None:
    """Options go before the file; the recipe reaches the network."""
    config = tmp_path / "fit.yaml"
    config.write_text(
        "scale: 3\nmax_steps: 2\ndegradation: gaussian\nsigma: 1.5\nseed: 5\n"
        "recipe: {prior: false, width: 4, blocks: 1, components: 3}\n"
    )
    folder = tmp_path / "m"
    assert cli("fit", scene_file, "-o", folder, "--config", config, "-s", "2").exit_code == 0
    model = load_model(folder)
    assert model.config.scale == 2 and model.config.training.seed == 5
    assert (model.config.degradation.method, model.config.degradation.sigma) == ("gaussian", 1.5)
    assert (model.net.config.width, model.net.config.blocks, model.net.config.components) == (4, 1, 3)


def test_same_seed_same_model(cli: Cli, scene_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "fit.yaml"
    config.write_text("minutes: null\nmax_steps: 4\nrecipe: {prior: false, width: 4, blocks: 1}\n")
    for name in ("a", "b"):
        result = cli("fit", scene_file, "-s", "2", "-o", tmp_path / name, "--config", config, "--threads", "1")
        assert result.exit_code == 0
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    fitted = fit_scenes([str(scene_file)], FitConfig(scale=2, minutes=None, max_steps=2, seed=1))  # from the prior
    other = fit_scenes([str(scene_file)], FitConfig(scale=2, minutes=None, max_steps=2, seed=2))
    assert not torch.equal(fitted.result.net.head.weight, other.result.net.head.weight)


@pytest.mark.parametrize("command", ["fit", "distill", "factorize"])
def test_options_reach_the_training_and_its_record(
    cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(sys, "argv", ["lkca", command, "it"])
    with open_cube(scene_file) as cube:
        samples = cube.read().transpose(1, 2, 0)[:71]
    two, out = tmp_path / "two.npz", tmp_path / "out"
    np.savez(two, good=samples, other=samples + 1)
    training = ("--seed", "5", "--max-steps", "2", "--minutes", "0")
    arguments: dict[str, tuple[object, ...]] = {
        "fit": (two, "-s", "2", *training, "--degradation", "area", "--region", "0:49,:", "--device", "cpu"),
        "distill": ("--teacher", model_dir, "--energy", "0.5", *training, "--data", two),
        "factorize": (model_dir, "--energy", "0.5", "--calibration", two),
    }
    result = cli(command, *map(str, arguments[command]), "-o", out, "--variable", "good", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    config = load_model(out).config
    assert threads == [1]
    if command == "factorize":
        assert config.training.details["factorized"][0]["command"] == "lkca factorize it"
        return
    assert "note: " in result.stderr and "cut" in result.stderr  # the odd row
    assert (config.training.seed, config.training.steps, config.training.command) == (5, 2, f"lkca {command} it")
    assert config.training.recipe and config.training.threads == torch.get_num_threads()
    assert config.training.recipe.get("minutes") is None  # of distill, whose default is 5
    assert (config.degradation.method == "area") == (command == "fit")
    assert (config.training.data[0].region == "0:48,0:40") == (command == "fit")


def test_what_the_log_of_a_training_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter((10.0, 14.0))
    monkeypatch.setattr("lkca.cli.train.time", SimpleNamespace(monotonic=lambda: next(clock)))
    config = TrainConfig(scale=2, data=DataConfig(dataset="x.h5"), steps=100, batch=16)
    with train_progress(config, quiet=False) as tell:
        tell(Progress("train", 60, 5.0, 0.6, 0.5))
        tell(Progress("train", 80, 9.0, 0.8, 0.25, 1.5))
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "note: step 80/100, loss 0.25000, 80.0 patches/s, +1.500 dB vs bicubic, 0:00:04 left"
