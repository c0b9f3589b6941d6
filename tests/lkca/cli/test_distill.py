"""``lkca distill``, on a fitted model and on a full-rank one."""

from __future__ import annotations

import importlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import Result

from lkca.data import Window, open_cube, write_cube
from lkca.fitting.config import DistillConfig
from lkca.fitting.distill import distill_directory
from lkca.metrics import evaluate
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import Normalisation
from lkca.models.directory import describe_architecture, load_model, save_model
from lkca.training.distill import DistillRecipe, distill
from lkca.training.distillation import Point
from lkca.training.loop import LoopResult
from lkca.training.patches import PatchSampler, Scene
from lkca_kernels import bicubic_upsample


@pytest.fixture(scope="module", params=("dense", "preset"))
def full_rank(model_dir: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The fitted model's records with a full-rank network of random weights, and another normalisation."""
    torch.manual_seed(0)
    if request.param == "dense":
        net = LKCANet(LKCANetConfig(bands=6, scale=2, width=8, blocks=1, window=3))
        torch.nn.init.normal_(net.upsample.conv.weight, std=0.01)  # type: ignore[union-attr, arg-type]
    else:
        net = LKCANet(LKCANetConfig.preset("tiny", bands=6, scale=2, components=3, width=8, blocks=1))
        torch.nn.init.normal_(net.upsample.weight, std=0.01)  # type: ignore[union-attr, arg-type]
    changes = {"architecture": describe_architecture(net), "normalisation": Normalisation(peak=0.8, offset=0.05)}
    config = load_model(model_dir).config.model_copy(update=changes)
    return save_model(tmp_path_factory.mktemp("teacher") / "full", net, config)


def test_a_full_rank_teacher(
    full_rank: Path,
    scene_file: Path,
    cli: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    seen: list[Scene] = []
    told: dict[str, Any] = {}

    def spy(scenes: list[Scene], *args: Any, **options: Any) -> PatchSampler:
        seen.extend(scenes)
        assert (options["patch"], options["batch"], options["generator"].initial_seed()) == (8, 2, 5)
        return PatchSampler(scenes, *args, **options)

    def distil(mentor: LKCANet, student: LKCANet, draw: Any, **options: Any) -> LoopResult:
        assert torch.initial_seed() == 5 and all(p.requires_grad for p in student.parameters()) and student.training
        told.update(options)
        return distill(mentor, student, draw, **options)

    monkeypatch.setattr("lkca.fitting.distill.PatchSampler", spy)
    monkeypatch.setattr("lkca.fitting.distill.distill", distil)
    config = tmp_path / "kd.yaml"
    config.write_text(
        "max_steps: 6\nbatch: 2\npatch: 8\nenergy: 0.5\nholdout: 0.25\nseed: 5\nloss: {l1: 2.0}\n"
        "recipe: {decay: linear, warmup_share: 0.3}\n"
    )
    out = tmp_path / "small"
    result = cli("distill", "--teacher", full_rank, "--rank", "3", "-o", out, config, "--data", scene_file)
    assert result.exit_code == 0, result.stderr
    assert "rank 3, 6 steps; protocol sspsr, not cut at 0, peak = the normalisation's 0.8" in " ".join(
        result.stdout.split()
    )
    assert "factorised, untrained" in result.stdout
    assert "note: distil (after" in result.stderr  # a log shows no bar
    with open_cube(scene_file) as cube:
        first = cube.read(Window(0, 0, 54, cube.cols))  # of 72 rows: the others validate
    (trained,) = seen
    np.testing.assert_allclose(trained.image, (first - 0.05) / 0.8, atol=1e-6)
    rank_too = (Point("upsample.conv", "upsample.reduce"),) if "dense" in request.node.name else ()
    points = (Point("upsample", where="input"), *rank_too)
    assert told["recipe"] == DistillRecipe(decay="linear", warmup_share=0.3, points=points)
    assert told["criterion"].weights == {"l1": 2.0} and told["generator"].initial_seed() == 5
    small = load_model(out)
    details = small.config.training.details
    assert small.net.config.rank == 3 and (details["teacher"], details["rank"]) == ("full", 3)
    of_teacher = load_model(full_rank).config.training  # its factors are the student's start
    assert details["prior"]["model"] == str(full_rank)
    assert details["prior"]["scenes"] == [scene.name for scene in of_teacher.data] != []
    assert "Started from another model" in (out / "README.md").read_text()
    assert small.config.validation is not None and "last 25% of the rows, at least 4" in small.config.validation.split
    scores = small.config.validation.scores
    assert set(scores) == {"bicubic", "teacher", "lr", "student"} and scores["student"] != scores["lr"]
    assert cli("upscale", "-i", scene_file, "-o", tmp_path / "big.tif", "-m", out).exit_code == 0


def test_rows_that_the_teacher_has_seen_are_no_test(full_rank: Path, scene_file: Path) -> None:
    """It learned from rows 0 to 48: the last half holds some of them, the last quarter none."""
    for share, told in ((0.5, True), (0.25, False)):
        config = DistillConfig(rank=3, minutes=None, max_steps=1, batch=1, patch=8, holdout=share)
        notes = " ".join(distill_directory(load_model(full_rank), [str(scene_file)], config).notes)
        assert ("was validated on this scene (0:48,0:40); its scores are no test" in notes) == told


def test_a_constant_band_does_not_choose_the_student(full_rank: Path, scene_file: Path, tmp_path: Path) -> None:
    """Bicubic restores it but for rounding: what a network over all bands adds there outweighed all other bands."""
    with open_cube(scene_file) as cube:
        values, meta = cube.read(), cube.meta
    values[2] = 0.3
    scene = write_cube(tmp_path / "flat.tif", values, meta).path
    gains: list[float] = []
    made = distill_directory(
        load_model(full_rank),
        [str(scene)],
        DistillConfig(rank=3, minutes=None, max_steps=4, batch=2, holdout=0.01),  # four coarse rows all the same
        callback=lambda progress: gains.append(progress.gain) if progress.gain is not None else None,
    )
    sharp = torch.from_numpy((values[:, 64:] - 0.05) / np.float32(0.8))
    sharp = sharp[:, : sharp.shape[1] // 2 * 2, : sharp.shape[2] // 2 * 2]
    coarse = made.config.degradation.apply(sharp)[None]
    bicubic = bicubic_upsample(coarse, 2)
    before, after = ((sharp - restored[0]).square().mean((1, 2)) for restored in (bicubic, made.net(coarse)))
    assert made.scores["bicubic"]["mpsnr"] == pytest.approx(evaluate(sharp, bicubic[0], scale=2, peak=1.0).mpsnr)
    others = torch.tensor([0, 1, 3, 4, 5])
    expected = 10 * torch.log10(before / after)[others].mean()
    assert min(abs(gain - expected.item()) for gain in gains) < 1e-3


def test_a_fitted_model_of_low_rank(
    model_dir: Path, scene_file: Path, cli: Callable[..., Result], tmp_path: Path
) -> None:
    before = load_model(model_dir).net.config
    assert before.rank is not None
    groups = before.groups
    out = tmp_path / "small"
    arguments = ("distill", "--teacher", model_dir, "--rank", groups, "-o", out, "--data", scene_file)
    result = cli(*map(str, arguments), "--max-steps", "3")
    assert result.exit_code == 0, result.stderr
    assert load_model(out).net.config.rank == groups < before.rank


def test_steps_alone_are_repeatable(
    model_dir: Path, scene_file: Path, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time budget steers the schedule too: how fast the machine is shows in the weights."""
    groups, clock = load_model(model_dir).net.config.groups, time.monotonic
    weights = []
    for out, slower in ((tmp_path / "a", 1), (tmp_path / "b", 300)):
        monkeypatch.setattr(time, "monotonic", lambda slower=slower: clock() * slower)
        start = ("distill", "--teacher", model_dir, "--rank", groups, "-o", out, "--data", scene_file)
        result = cli(*map(str, start), "--max-steps", "3", "--minutes", "0")
        assert result.exit_code == 0, result.stderr
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_sigterm_keeps_the_best_so_far(
    full_rank: Path, scene_file: Path, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stopping(*_: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGTERM)
        return 1.0

    def missed(*_: object) -> None:
        pytest.fail("SIGTERM came through")

    monkeypatch.setattr("lkca.training.loop.rate_factor", stopping)
    out = tmp_path / "small"
    before = signal.signal(signal.SIGTERM, missed)
    try:
        command = ("distill", "--teacher", full_rank, "--rank", "3", "-o", out, "--data", scene_file)
        result = cli(*command, "--max-steps", "50")
        assert signal.getsignal(signal.SIGTERM) is missed  # again
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 0, result.stderr
    assert "rank 3, 3 steps" in result.stdout and load_model(out).config.training.interrupted


@pytest.mark.parametrize("command", ["fit", "distill"])
@pytest.mark.parametrize("at", [1, 30])
def test_a_loss_that_becomes_nan_keeps_the_best_so_far(
    command: str,
    at: int,
    full_rank: Path,
    scene_file: Path,
    cli: Callable[..., Result],
    refuses: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An hour's training ended without a model; where nothing was learned, there is none to keep."""
    taken = iter(range(1, 1000))
    monkeypatch.setattr("lkca.training.loop.rate_factor", lambda *_: 1.0 if next(taken) != at else float("nan"))
    out = tmp_path / "out"
    fitted = ("fit", scene_file, "-s", "2")
    distilled = ("distill", "--teacher", full_rank, "--rank", "3", "--data", scene_file)
    arguments = (*(fitted if command == "fit" else distilled), "-o", out, "--max-steps", "60", "--minutes", "0")
    if at == 1:
        refuses(*arguments, says=("step 2: the loss is nan; look for",))
        assert not out.exists()
        return
    result = cli(*arguments)
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert said.startswith("error: step 31: the loss is nan; look for") and f"{out} holds the best" in said
    assert "Next:" not in result.stdout and "31 steps" in result.stdout
    assert load_model(out).config.training.interrupted


def test_ctrl_c_while_the_trained_model_is_scored_and_saved(
    full_rank: Path, scene_file: Path, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training was over, and all of it was lost."""
    for where, at in (("lkca.fitting.distill", "validation_record"), ("lkca.models.directory", "save_file")):
        real = getattr(importlib.import_module(where), at)

        def interrupted(*args: Any, real: Callable[..., Any] = real, **options: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return real(*args, **options)

        out = tmp_path / at
        command = ("distill", "--teacher", full_rank, "--rank", "3", "-o", out, "--data", scene_file)
        with monkeypatch.context() as patch:
            patch.setattr(f"{where}.{at}", interrupted)
            result = cli(*command, "--max-steps", "2", "--minutes", "0")
        assert result.exit_code == 0 and "note: stopping; the best model so far is" in result.stderr, result.stderr
        assert not load_model(out).config.training.interrupted


@pytest.mark.parametrize("command", ["fit", "distill"])
def test_ctrl_c_before_the_first_step_leaves_no_model(
    command: str,
    full_rank: Path,
    scene_file: Path,
    cli: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A student of 0 steps was saved, and the command ended with 0."""

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("lkca.training.loop.rate_factor", interrupted)
    out = tmp_path / "out"
    fitted = ("fit", scene_file, "-s", "2")
    distilled = ("distill", "--teacher", full_rank, "--rank", "3", "--data", scene_file)
    result = cli(*(fitted if command == "fit" else distilled), "-o", out, "--max-steps", "9")
    assert result.exit_code == 130 and not list(tmp_path.iterdir()), result.stderr


def test_a_scene_that_lacks_a_band_of_the_model(
    model_dir: Path, scene_file: Path, cli: Callable[..., Result], refuses: Callable[..., str], tmp_path: Path
) -> None:
    """It was learned as 0, and bicubic restored it exactly: 100 dB."""
    with open_cube(scene_file) as cube:
        samples = cube.read()
        samples[2] = np.nan
        write_cube(tmp_path / "lacks.tif", samples, cube.meta)
    config = tmp_path / "kd.yaml"
    config.write_text("minutes: null\nmax_steps: 2\nholdout: 0\n")
    rank = load_model(model_dir).net.config.groups
    start = ("distill", "--teacher", model_dir, "--rank", rank, "-o", tmp_path / "out", config, "--data")
    refuses(*start, tmp_path / "lacks.tif", says=("no pixel", "every band"))
    result = cli(*map(str, (*start, tmp_path / "lacks.tif", "--data", scene_file)))
    assert result.exit_code == 0, result.stderr
    validation = load_model(tmp_path / "out").config.validation
    assert validation is not None and validation.scores["bicubic"]["mpsnr"] < 60
    assert "measured on the training pixels (none" in " ".join(result.stdout.split())


def test_a_scene_whose_only_valid_pixels_are_its_last_rows(
    model_dir: Path, scene_file: Path, cli: Callable[..., Result], tmp_path: Path
) -> None:
    """They were held out, and no pixel was left to learn from."""
    with open_cube(scene_file) as cube:
        samples = cube.read()
        samples[2, :58] = np.nan
        write_cube(tmp_path / "low.tif", samples, cube.meta)
    rank = load_model(model_dir).net.config.groups
    start = ("distill", "--teacher", model_dir, "--rank", rank, "-o", tmp_path / "out", "--data", tmp_path / "low.tif")
    result = cli(*map(str, start), "--max-steps", "2")
    assert result.exit_code == 0, result.stderr
    assert "measured on the training pixels (none" in " ".join(result.stdout.split())


def test_what_it_refuses(full_rank: Path, scene_file: Path, refuses: Callable[..., str], tmp_path: Path) -> None:
    start = ("distill", "--teacher", full_rank, "-o", tmp_path / "out", "--data", scene_file)
    refuses(*start, says=("--rank", "--energy"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("recipe: {decai: linear}\n")
    refuses(*start, "--rank", "3", bad, says=("bad.yaml", "decay"))
    bad.write_text("recipe: {points: [{teacher: nothing}]}\n")
    refuses(*start, "--rank", "3", bad, says=("recipe", "'nothing'"))
    bad.write_text("recipe: {points: [{where: input}]}\n")
    refuses(*start, "--rank", "3", bad, says=("points.0.teacher", "missing"))
    bad.write_text("minutes: null\n")
    refuses(*start, "--rank", "3", bad, says=("no end",))
    other = tmp_path / "other.npy"
    np.save(other, np.ones((40, 40, 4), np.float32))
    refuses(
        "distill", "--teacher", full_rank, "--rank", "3", "-o", tmp_path / "out", "--data", other, says=("4 bands",)
    )
    assert not (tmp_path / "out").exists()
