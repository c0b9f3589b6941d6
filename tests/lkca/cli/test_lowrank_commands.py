"""``lkca analyze`` and ``lkca factorize``, on a model fitted in a few steps and on a foreign one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import Result

from lkca.data import open_cube, write_cube
from lkca.data.meta import CubeMeta
from lkca.evaluation import evaluate_model
from lkca.fitting.factorize import factorize_directory
from lkca.lowrank import factorize
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.directory import describe_architecture, load_model, save_model
from lkca.nn import PixelShuffleUpsample

FOREIGN = """
from torch import nn
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
def make(): return net
def other(): return 3
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(scene, model directory)."""
    from typer.testing import CliRunner

    from lkca.cli.app import app

    folder = tmp_path_factory.mktemp("fitted")
    rng = np.random.default_rng(0)
    blocks = rng.random((16, 10)).repeat(5, 0).repeat(5, 1)[:72, :40]
    spectra = np.linspace(0.1, 0.8, 6)[:, None, None]
    cube = (spectra * blocks + (0.7 - spectra) * rng.random((1, 72, 1)) * (1 - blocks)).astype(np.float32)
    write_cube(folder / "scene.tif", cube, CubeMeta())
    arguments = ["fit", folder / "scene.tif", "-s", "2", "-o", folder / "model", "--minutes", "1", "--max-steps", "12"]
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return folder / "scene.tif", folder / "model"


def test_analyze_a_model_directory(fitted: tuple[Path, Path], cli: Callable[..., Result], tmp_path: Path) -> None:
    result = cli("analyze", fitted[1], "--plot", tmp_path / "rank.png")
    assert result.exit_code == 0 and "upsample" in result.stdout and "stable rank" in result.stdout
    assert (tmp_path / "rank.png").read_bytes()[:4] == b"\x89PNG"
    refused = cli("analyze", fitted[1], "--plot", tmp_path / "rank.xyz")
    assert (refused.exit_code, refused.stdout) == (2, "") and "end it in one of .png" in refused.stderr
    layer = json.loads(cli("analyze", fitted[1], "--json", "--rank", "6").stdout)["layers"][0]
    net = load_model(fitted[1]).net
    assert layer["rank"] == net.upsample.rank and layer["groups"] == net.config.groups
    assert layer["weights"] == sum(p.numel() for p in net.upsample.parameters())
    assert [c["rank"] for c in layer["candidates"]] == [-(-6 // net.config.groups) * net.config.groups]


def test_analyze_any_model(
    cli: Callable[..., Result],
    refuses: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "foreign_net.py").write_text(FOREIGN)
    monkeypatch.chdir(tmp_path)
    for source in ("foreign_net:make", "foreign_net:net"):
        result = cli("analyze", source)
        assert result.exit_code == 0 and "full rank 12" in result.stdout
    refuses("analyze", "foreign_net:missing", says=("module:callable",))
    refuses("analyze", "foreign_net:other", says=("int", "Module"))
    refuses("analyze", "nowhere", says=("nowhere",))


def test_factorize_keeps_within_the_drop(fitted: tuple[Path, Path], cli: Callable[..., Result], tmp_path: Path) -> None:
    scene, model = fitted
    before = load_model(model)
    small = tmp_path / "small"
    refused = cli("factorize", model, "-o", small, "--calibration", scene)
    assert refused.exit_code == 2 and "no rank that saves weights stays within 0.05 dB" in refused.stderr
    result = cli("factorize", model, "-o", small, "--calibration", scene, "--max-psnr-drop", "1")
    assert result.exit_code == 0, result.stderr
    assert "protocol sspsr, peak = the largest valid sample of these rows" in " ".join(result.stdout.split())
    assert "before" in result.stdout and "chosen" in result.stdout and "faster" in result.stdout
    assert f"note: {scene}: the model learned from or was validated on this scene" in " ".join(result.stderr.split())
    after = load_model(small)
    assert after.config.architecture.config["rank"] < before.net.config.rank
    scores = after.config.validation.scores
    assert 0.05 < scores["before"]["mpsnr"] - scores["after"]["mpsnr"] <= 1
    measured = json.loads(cli("evaluate", "-m", small, scene, "--region", "54:,:", "--json").stdout)
    assert measured["results"][0]["scores"]["model"]["mpsnr"] == pytest.approx(scores["after"]["mpsnr"], abs=1e-6)
    x = torch.rand(1, 6, 8, 8)
    torch.testing.assert_close(after.net.features(x), before.net.features(x))


def test_the_record_says_what_the_factors_are_fitted_to(
    fitted: tuple[Path, Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    scene, model = fitted
    groups, rank = load_model(model).net.config.groups, load_model(model).net.config.rank
    assert rank is not None and rank > 2 * groups
    names = [model, tmp_path / "small", tmp_path / "smaller"]
    for old, new, r in ((names[0], names[1], 2 * groups), (names[1], names[2], groups)):
        assert cli("factorize", old, "-o", new, "--rank", r, "--calibration", scene).exit_code == 0
    training = load_model(names[2]).config.training
    assert training.command == load_model(model).config.training.command  # of the weights behind the factors
    cuts = training.details["factorized"]
    assert [(cut["model"], cut["rank"], cut["of"]) for cut in cuts] == [
        (str(names[0]), 2 * groups, rank),
        (str(names[1]), groups, 2 * groups),
    ]
    assert all(cut["calibration"] == [str(scene)] for cut in cuts)
    card = (names[2] / "README.md").read_text()
    assert f"rank {groups} of {2 * groups}" in card and card.count(str(scene)) >= 3


@pytest.mark.parametrize("shared", [False, True])
def test_factorize_a_full_rank_upsampler(shared: bool, fitted: tuple[Path, Path], tmp_path: Path) -> None:
    """Upscaling convolves it a few bands at a time, by no call of its module: the calibration met none."""
    scene, fit = fitted
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(bands=6, scale=2, width=8, blocks=1, window=3, shared=shared))
    assert isinstance(net.upsample, PixelShuffleUpsample)
    torch.nn.init.normal_(net.upsample.conv.weight, std=0.01)
    config = load_model(fit).config.model_copy(update={"architecture": describe_architecture(net)})
    model = load_model(save_model(tmp_path / "full", net, config))
    done = factorize_directory(model, [str(scene)], rank=12)
    assert [point.rank for point in done.points] == [None, 12] and 0.1 < done.factorization.layers[0].energy < 1
    with open_cube(scene) as cube:
        x = torch.from_numpy(cube.read()[None, :, :54])
    coarse = (config.degradation.apply(x) - config.normalisation.offset) / config.normalisation.peak
    plain, calibrated = factorize(model.net, rank=12), done.net
    losses = [float((model.net(coarse) - other(coarse)).square().mean()) for other in (plain, calibrated)]
    assert losses[1] < losses[0]  # the factors are those that lose least on the scene


def test_evaluate_tells_of_scenes_that_the_weights_have_seen(
    fitted: tuple[Path, Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    scene, model = fitted
    config = load_model(model).config
    half = config.training.data[0].model_copy(update={"region": "0:36,:"})
    upper = config.model_copy(update={"training": config.training.model_copy(update={"data": [half]})})
    save_model(tmp_path / "upper", load_model(model).net, upper)
    for name, source in (("other", scene), ("balloons", scene)):
        shutil.copy(source, tmp_path / f"{name}.tif")
    small, groups = tmp_path / "small", load_model(model).net.config.groups
    done = cli("factorize", model, "-o", small, "--rank", groups, "--calibration", tmp_path / "other.tif")
    assert done.exit_code == 0, done.stderr

    def notes(*arguments: object) -> str:
        (result,) = json.loads(cli("evaluate", "-m", *arguments, "--json").stdout)["results"]
        return " ".join(result["notes"])

    assert "learned from or was validated on this scene" in notes(model, scene)
    assert "learned from or was validated on this scene" in notes(tmp_path / "upper", scene, "--region", "30:60,:")
    assert not notes(tmp_path / "upper", scene, "--region", "36:60,:")
    assert not notes(model, tmp_path / "other.tif")
    assert f"a scene named {tmp_path / 'other.tif'}" in notes(small, tmp_path / "other.tif")
    assert "a scene named balloons" in notes(model, tmp_path / "balloons.tif")  # of the shipped prior
    assert "a scene named balloons" in notes("general", tmp_path / "balloons.tif", "-s", "2")
    assert not notes("general", scene, "-s", "2")


def test_factorize_prints_the_numbers_that_it_stores(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    """What validates does not calibrate, and what a bad band holds neither."""
    with open_cube(fitted[0]) as cube:
        samples = cube.read()
    meta = CubeMeta(good_bands=np.arange(6) != 3)
    samples[3] = np.random.default_rng(1).random(samples[3].shape)
    whole = write_cube(tmp_path / "whole.img", samples, meta).path
    samples[3] = np.random.default_rng(2).random(samples[3].shape)
    samples[2, 60, 7] = np.nan  # one band of a pixel that validates
    samples[:, 62:70] *= 0.5
    gap = write_cube(tmp_path / "gap.img", samples, meta).path
    model = load_model(fitted[1])
    done, other = (
        factorize_directory(model, [str(first), str(whole)], rank=model.net.config.groups) for first in (gap, whole)
    )
    assert done.config.validation is not None
    stored = [done.config.validation.scores[name]["mpsnr"] for name in ("before", "after")]
    assert [point.mpsnr for point in done.points] == pytest.approx(stored, abs=1e-6)
    assert torch.equal(other.net.upsample.weight, done.net.upsample.weight)


def test_factorize_scores_as_evaluate_does(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    """With the peak of the rows that validate, though the others are brighter."""
    with open_cube(fitted[0]) as cube:
        samples, meta = cube.read(), cube.meta
        edge = cube.rows * 3 // 8 * 2  # the model's scale is 2
    samples[:, : edge // 2] *= 3
    bright = tmp_path / "bright.tif"
    write_cube(bright, samples, meta)
    model = load_model(fitted[1])
    done = factorize_directory(model, [str(bright)], energy=0.5)
    with open_cube(bright) as cube:
        scored = evaluate_model(cube, model, 2, region=f"{edge}:,:")
    assert done.config.validation is not None and scored.peak < 0.5 * samples.max()
    assert "of these rows" in done.config.validation.protocol
    assert done.config.validation.scores["before"]["mpsnr"] == pytest.approx(scored.scores["model"].mpsnr, abs=1e-9)


def test_factorize_says_that_nothing_was_cut(
    fitted: tuple[Path, Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    scene, model = fitted
    for energy, same in ((1, True), (0.3, False)):
        result = cli("factorize", model, "-o", tmp_path / str(same), "--energy", energy, "--calibration", scene)
        assert result.exit_code == 0 and ("nothing was cut" in result.stderr) == same
        made = load_model(tmp_path / str(same))
        assert (made.net.config.rank == load_model(model).net.config.rank) == same
        assert ("factorized" in made.config.training.details) != same  # else no scene has formed the factors


def test_factorize_says_what_does_not_go(
    fitted: tuple[Path, Path], refuses: Callable[..., str], tmp_path: Path
) -> None:
    scene, model = fitted
    out = tmp_path / "small"
    refuses("factorize", model, "-o", out, "--rank", "6", "--energy", "0.5", "--calibration", scene, says=("exclude",))
    refuses("factorize", model, "-o", out, "--rank", "5000", "--calibration", scene, says=("rank",))
    refuses("factorize", model, "-o", out, "--max-psnr-drop", "-1", "--calibration", scene, says=("above 0",))
    write_cube(tmp_path / "flat.tif", np.ones((6, 4, 8), np.float32), CubeMeta())
    refuses("factorize", model, "-o", out, "--calibration", tmp_path / "flat.tif", says=("flat.tif", "rows"))
    assert not out.exists()
