"""The trainer on a tiny data set: killed and resumed, in parts, on two processes, stopped early, and refused."""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lkca.config import validated
from lkca.data import Cube, CubeMeta, open_cube
from lkca.data.degradation import Degradation
from lkca.data.protocols.dataset import write_dataset
from lkca.errors import InputError, LkcaError
from lkca.evaluation import evaluate_model
from lkca.inference.checks import match_bands
from lkca.losses import WeightedLoss
from lkca.models.directory import load_model
from lkca.training import Progress
from lkca.training.checkpoint import latest_checkpoint
from lkca.training.config import DataConfig, TrainConfig
from lkca.training.data import open_training_set
from lkca.training.optimise import adamw, rate_factor, set_rate
from lkca.training.patches import PatchDataset, micro_batches
from lkca.training.start import Lost, first_patches, new_network
from lkca.training.trainer import TrainResult, check_run
from lkca.visual import Composite
from lkca_kernels import use_backend

from .runs import BANDS, STEPS, run, scene, settings, weights, worst

pytest.importorskip("accelerate", reason="needs the extra 'train'")


@pytest.fixture(scope="module")
def unbroken(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress], TrainResult]:
    """By one thread, as the runs that are compared with it: PyTorch's sums depend on how many there are."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    seen: list[Progress] = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = run(folder, settings(dataset), callback=seen.append)
    finally:
        torch.set_num_threads(before)
    return folder, seen, result


def test_a_run_learns_and_leaves_a_model(unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path) -> None:
    folder, seen, result = unbroken
    assert [p.step for p in seen] == list(range(1, STEPS + 1)) and result.end == "done"
    assert [p.fraction for p in seen] == [step / STEPS for step in range(1, STEPS + 1)]
    gains = {p.step: p.gain for p in seen if p.gain is not None}
    assert list(gains) == [4, 8, 12] and result.best_step == max(gains, key=lambda step: gains[step])
    kept = result.metrics["model"]["mpsnr"] - result.metrics["bicubic"]["mpsnr"]
    assert kept > 0 and gains[result.best_step] == pytest.approx(kept, abs=1e-4)  # of the averaged weights
    best = load_model(folder / "best")
    assert best.config.normalisation.peak == 4095 and best.config.bands.count == BANDS
    assert best.config.training.recipe["model"]["width"] == 6 and best.config.validation is not None
    names = [d.name for d in best.config.training.data]  # as open_cube takes them
    assert names == [f"{dataset}::/{s}" for s in ("train/one", "train/two", "validation/three")]
    assert "1 validation scenes" in result.split
    assert "Scenes that trained it, or validated:" in (folder / "best" / "README.md").read_text()
    stored = weights(folder)
    last = load_file(folder / "last" / "model.safetensors")
    assert worst(last, {k: stored[f"average.{k}"] for k in last}) == 0
    assert worst(last, {k: stored[f"live.{k}"] for k in last}) > 0
    assert not (folder / "tensorboard").exists()


def test_the_table_of_a_run_is_that_of_evaluate_but_for_the_cut_at_0(tmp_path: Path) -> None:
    """On dark pixels the cut narrows the angle: what parts the two tables has to stand beside the numbers."""
    with write_dataset(tmp_path / "dark.h5") as writer:
        for split, seed in (("train", 0), ("validation", 1)):
            values = np.maximum(scene(40, 45, seed).read() - 1500, 0)
            writer.add(split, split, Cube.from_array(values, CubeMeta(stored_dtype=np.dtype(np.uint16))))
        writer.finish("dark", "none", 4095.0, None)
    run(tmp_path / "run", settings(tmp_path / "dark.h5"))
    best = load_model(tmp_path / "run" / "best")
    record = best.config.validation
    assert record is not None and record.protocol == "sspsr, not cut at 0, peak = the normalisation's"
    assert len(best.config.bands.nonnegative) == BANDS
    bands = best.config.bands.model_copy(update={"nonnegative": []})
    uncut = replace(best, config=best.config.model_copy(update={"bands": bands}))
    with open_cube(f"{tmp_path / 'dark.h5'}::/validation/validation") as cube:
        same, cut = (evaluate_model(cube, model, 2, peak=4095).scores for model in (uncut, best))
    for name, scores in record.scores.items():
        assert scores == pytest.approx({key: getattr(same[name], key) for key in scores}, rel=1e-4)
        assert cut[name].sam < 0.99 * scores["sam"]


def test_a_run_is_this_loop(dataset: Path, tmp_path: Path) -> None:
    """Every key that shapes the weights, each far from its default, in a loop that leaves all else out."""
    values = settings(
        dataset, seed=3, steps=3, warmup=2, ema=0.06, weight_decay=0.5, clip=0.05, accumulate=2,
        loss={"sam": 0.3, "l2": 1}, degradation="gaussian", sigma=1.0,
    )  # fmt: skip
    result = run(tmp_path / "run", values, command="lkca train it")
    config = validated(TrainConfig, values, "test")
    degradation = Degradation(scale=2, method="gaussian", sigma=1.0)
    patches = PatchDataset(open_training_set(config.data, 2).train, 8 * 2, seed=3)
    lost = Lost.of(first_patches(patches), degradation)
    loss = WeightedLoss({"sam": 0.3, "l2": 1}, lost.unit)
    torch.manual_seed(3)
    net = new_network(config.model.build(BANDS, 2), lost, patches, degradation)
    optimiser, average = adamw(net, 1.0, 0.5), copy.deepcopy(net)
    for step in range(3):
        set_rate(optimiser, 5e-3 * min(1, (step + 1) / 2) * 0.5 * (1 + math.cos(math.pi * step / 3)))
        sharp = torch.stack([patches[4 * step + number][0] for number in range(4)])
        optimiser.zero_grad()
        loss(net(degradation.apply(sharp)), sharp).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.05)
        optimiser.step()
        with torch.no_grad():
            for mean, value in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                mean.lerp_(value, 1 - 0.06)
    stored = weights(tmp_path / "run")
    for name, expected in (("live", net), ("average", average)):
        assert worst({k: stored[f"{name}.{k}"] for k in net.state_dict()}, expected.state_dict()) < 1e-4
    assert result.model is not None
    config_of_best = load_model(result.model).config
    assert config_of_best.degradation == degradation
    assert (config_of_best.training.seed, config_of_best.training.command) == (3, "lkca train it")


def test_a_model_of_five_bands_refuses_others(unbroken: tuple[Path, list[Progress], TrainResult]) -> None:
    config = load_model(unbroken[0] / "best").config
    assert match_bands(scene(20, 20, 3), config) == []
    with pytest.raises(InputError, match="has 4 bands, but the model was made for 5"):
        match_bands(scene(20, 20, 3).select(np.arange(4)), config)
    shifted = Cube.from_array(np.ones((5, 9, 9), np.float32), CubeMeta(wavelengths=np.linspace(900, 1300, 5)), "other")
    with pytest.raises(InputError, match=r"band \d of other lies at"):
        match_bands(shifted, config)


KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lkca.config import validated
from lkca.training import checkpoint
from lkca.training.config import DataConfig, TrainConfig
from lkca.training.data import open_training_set
from lkca.training.patches import PatchDataset, micro_batches
from lkca.training.trainer import train
values, folder, plan = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

# what is loaded at first use is loaded once, before the forks
train(validated(TrainConfig, values | {"steps": 1}, "test"), folder.with_name("first"))

for where in [*plan, None]:
    if os.fork() == 0:
        def callback(progress):
            if progress.step == where:
                die()
        if where == "writing":  # one of the two files is there
            checkpoint.torch.save = die
        if where == "renaming":
            Path.rename = die
        train(validated(TrainConfig, values, "test"), folder, resume=True, callback=callback)
        os._exit(0)
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == (0 if where is None else -signal.SIGKILL), (where, status)
"""


def test_killed_at_any_step_and_resumed_is_as_if_unbroken(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path
) -> None:
    """Before the first checkpoint, right after one, between two, while writing one, after a validation."""
    import json

    plan = json.dumps([1, 3, "writing", 5, "renaming", 8, 11])
    command = [sys.executable, "-c", KILLED, json.dumps(settings(dataset)), str(tmp_path / "run"), plan]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    folder, _, result = unbroken
    assert worst(weights(folder), weights(tmp_path / "run")) < 1e-5
    for name in ("best", "last"):
        one, other = load_model(folder / name), load_model(tmp_path / "run" / name)
        assert worst(one.net.state_dict(), other.net.state_dict()) < 1e-5
    assert other.config.training.steps == STEPS
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]
    assert load_model(tmp_path / "run" / "best").config.training.steps == result.best_step


def test_two_processes_train_as_one(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path
) -> None:
    """torchrun with gloo on the same global batch."""
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings(dataset)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
               "--standalone", "-m", "lkca", "train", "c.yaml", "-o", "run"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("done: 12 steps") == 1  # the second process is quiet
    gains = [float(gain) for gain in re.findall(r"([+-][\d.]+) dB vs bicubic", done.stderr)]
    assert gains == pytest.approx([p.gain for p in unbroken[1] if p.gain is not None], abs=0.02)
    assert worst(weights(unbroken[0]), weights(tmp_path / "run")) < 1e-3
    assert load_model(tmp_path / "run" / "last").config.training.details["processes"] == 2


@pytest.mark.parametrize("share", (0.25, 0.0), ids=("in memory", "patch by patch"))
def test_processes_that_read_patches_read_the_same(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """And each process of a run its share of every part of a step, in the order of the patches' numbers."""
    monkeypatch.setattr("lkca.training.data._SHARE", share)
    patches = PatchDataset(open_training_set(DataConfig(dataset=str(dataset)), 2).train, 16, seed=0)
    patches[0]  # the file is open, and the processes inherit it

    def numbers(rank: int, world: int, workers: int) -> list[int]:
        batches = micro_batches(
            patches, batch=8, accumulate=2, steps=range(1, 3), rank=rank, world=world, workers=workers
        )
        return [own.index(float(sharp.double().sum())) for batch, _ in batches for sharp in batch]

    own = [float(patches[number][0].double().sum()) for number in range(24)]
    assert numbers(0, 1, 0) == numbers(0, 1, 2) == list(range(8, 24))
    assert numbers(1, 2, 0) == [10, 11, 14, 15, 18, 19, 22, 23]
    with pytest.raises(InputError, match="a multiple of 6"):
        numbers(0, 3, 0)


def test_parts_of_a_batch_add_up(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    run(tmp_path / "run", settings(dataset, accumulate=2), callback=seen.append)
    assert worst(weights(unbroken[0]), weights(tmp_path / "run")) < 1e-3
    np.testing.assert_allclose([p.loss for p in seen], [p.loss for p in unbroken[1]], rtol=1e-4)


def test_bf16_stays_near_and_its_weights_are_float32(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    run(tmp_path / "run", settings(dataset, amp="bf16"), callback=seen.append)
    losses, reference = [p.loss for p in seen], [p.loss for p in unbroken[1]]
    assert losses != reference
    np.testing.assert_allclose(losses, reference, rtol=0.05)
    assert {v.dtype for v in weights(tmp_path / "run").values()} == {torch.float32}


def test_fused_operators_and_the_reference_learn_alike(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    with use_backend("reference"):
        run(tmp_path / "run", settings(dataset), callback=seen.append)
    np.testing.assert_allclose([p.loss for p in seen], [p.loss for p in unbroken[1]], rtol=1e-4)
    assert [p.gain for p in seen] == pytest.approx([p.gain for p in unbroken[1]], abs=1e-3)


def test_a_compiled_network_learns_alike_and_is_resumed(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as for inductor, whose own compilation (tests/lkca_kernels has it) takes a minute."""
    graphs: list[Any] = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: graphs.append(module) or real(module, backend="aot_eager"))
    seen: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == 6:
            signal.raise_signal(signal.SIGTERM)

    values = settings(dataset, compile=True)
    assert run(tmp_path / "run", values, callback=interrupt).end == "interrupted"
    assert run(tmp_path / "run", values, resume=True, callback=seen.append).end == "done"
    np.testing.assert_allclose([p.loss for p in seen], [p.loss for p in unbroken[1]], rtol=1e-3)
    assert worst(weights(unbroken[0]), weights(tmp_path / "run")) < 1e-3 and len(graphs) == 2
    assert load_model(tmp_path / "run" / "best").net.config.width == 6


def test_early_stop_and_later_resumption(dataset: Path, tmp_path: Path) -> None:
    still = settings(dataset, lr=1e-12, validate_every=1, patience=2, steps=50)
    result = run(tmp_path / "run", still)
    assert result.end == "early" and result.steps < 10 and (tmp_path / "run" / "last").is_dir()


def test_the_default_device_plays_no_part(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    with torch.device("meta"):
        run(tmp_path / "run", settings(dataset), callback=seen.append)
    assert [p.loss for p in seen] == pytest.approx([p.loss for p in unbroken[1]], rel=1e-4)


def test_a_gain_that_is_no_number_is_not_the_best(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = iter((1.0, math.nan, 0.5))
    monkeypatch.setattr("lkca.training.learner.psnr_gain", lambda done: next(gains))
    assert run(tmp_path / "run", settings(dataset)).best_step == 4


def test_patience_counts_from_the_last_best(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains = iter((1.0, 0.5, 2.0, 1.5, 1.2))
    monkeypatch.setattr("lkca.training.learner.psnr_gain", lambda done: next(gains))
    result = run(tmp_path / "run", settings(dataset, validate_every=1, patience=2))
    assert (result.end, result.steps, result.best_step) == ("early", 5, 3)


def test_the_last_step_is_validated_over_all_scenes_and_leaves_a_state(tmp_path: Path, dataset: Path) -> None:
    files = [str(tmp_path / f"{seed}.npz") for seed in (4, 5)]
    for file, seed in zip(files, (4, 5), strict=True):
        np.savez(file, cube=scene(48, 40, seed).read().transpose(1, 2, 0))
    seen: list[Progress] = []
    values = settings(dataset, data={"scenes": files, "holdout": 0.25}, steps=3, validate_every=9, checkpoint_every=9)
    metrics = run(tmp_path / "run", values, callback=seen.append).metrics
    assert [p.gain is None for p in seen] == [True, True, False]
    assert seen[-1].gain == pytest.approx(metrics["model"]["mpsnr"] - metrics["bicubic"]["mpsnr"], abs=0.01)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") == tmp_path / "run" / "checkpoints" / "step-00000003"


def test_tensorboard_gets_scalars_and_a_picture(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the colours of the bands' wavelengths; a run that goes on shows no step twice."""
    pytest.importorskip("tensorboard", reason="needs the extra 'train'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    states, values = tmp_path / "run" / "checkpoints", settings(dataset, tensorboard=True, steps=4)

    looks, of = list[Any](), Composite.of
    monkeypatch.setattr(Composite, "of", lambda truth, wavelengths: looks.append(wavelengths) or of(truth, wavelengths))

    def keep(progress: Progress) -> None:
        if progress.step == 3:
            shutil.copytree(states, tmp_path / "kept")

    run(tmp_path / "run", values, callback=keep)
    shutil.rmtree(states)
    (tmp_path / "kept").rename(states)  # as after a kill
    run(tmp_path / "run", values, resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    rates = [5e-3 * rate_factor(step / 4, step, 3) for step in range(4)]
    assert [e.value for e in events.Scalars("learning rate")] == pytest.approx(rates)
    assert [e.step for e in events.Scalars("validation gain over bicubic, dB")] == [4]
    assert events.Images("bicubic, ours, truth")[0].height == 30
    np.testing.assert_allclose(looks[0], np.linspace(450, 850, BANDS))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 6, "accumulate": 4}, "no multiple of accumulate"),
        ({"loss": {"l3": 1.0}}, "'l3' is unknown"),
        ({"loss": {}}, "no term has a weight"),
        ({"sigma": 2.0}, "sigma belongs to the gaussian"),
        ({"stepps": 3}, "did you mean 'steps'"),
        ({"model": {"preset": "tiny", "widht": 3}}, "did you mean 'width'"),
        ({"model": {"preset": "huge"}}, "model.preset"),
        ({"model": {"kernel_size": 4}}, "kernel_size: expected an odd number"),
        ({"data": {}}, "give either 'dataset'"),
        ({"amp": "fp16"}, "fp16 needs a GPU"),
        ({"patch": 20}, "lower 'patch'"),
        ({"loss": {"l1": 1e40}}, "the loss is"),
    ],
)
def test_what_cannot_be_trained_is_told(dataset: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(tmp_path / "run", settings(dataset) | changes)


def test_a_loss_that_becomes_nan_beside_a_best_model(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([1.0, 1.0, math.nan, 1.0])
    monkeypatch.setattr("lkca.training.learner.rate_factor", lambda *_: next(rates))
    with pytest.raises(LkcaError, match=r"step 4: the loss is nan; .*run/best holds the best model until then") as told:
        run(tmp_path / "run", settings(dataset, validate_every=1))
    assert told.value.exit_code == 1
    load_model(tmp_path / "run" / "best")


def test_a_run_is_neither_overwritten_nor_resumed_differently_by_accident(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path
) -> None:
    folder = unbroken[0]
    with pytest.raises(InputError, match="--resume to go on with it, or --overwrite"):
        run(folder, settings(dataset))
    with pytest.raises(InputError, match=r"lr: the run in .* began with 0.005, not 0.1"):
        run(folder, settings(dataset, lr=0.1), resume=True)
    with pytest.raises(InputError, match=r"^model.width: the run in .* began with 6, not 7; resume"):
        run(folder, settings(dataset, model={"preset": "tiny", "width": 7, "blocks": 1}), resume=True)
    with pytest.raises(InputError, match=r"^loss.sam: the run in .* began with 0.3, not None; resume"):
        run(folder, settings(dataset, loss={"l1": 1.0, "l2": 0.01, "gradient": 0.1}), resume=True)
    for key, value in (("seed", 1), ("steps", 13), ("ema", 0.5), ("batch", 8), ("degradation", "area")):
        with pytest.raises(InputError, match=f"^{key}: the run in .* began with"):
            run(folder, settings(dataset, **{key: value}), resume=True)
    free = {"threads": 1, "minutes": 3.0, "tensorboard": True, "checkpoint_every": 99}
    check_run(folder, validated(TrainConfig, settings(dataset, **free), "test"), resume=True, overwrite=False)
    (tmp_path / "own").mkdir()
    own = validated(TrainConfig, settings(dataset, data={"scenes": ["a.tif"], "nodata": math.nan}), "test")
    (tmp_path / "own" / "config.yaml").write_text(yaml.safe_dump(own.model_dump(mode="json")))
    check_run(tmp_path / "own", own, resume=True, overwrite=False)  # NaN is what it was
    shutil.rmtree(tmp_path / "own")
    (tmp_path / "notes.txt").write_text("mine")
    for name, words in (("notes.txt", "is a file; name a folder"), ("no/run", "the folder .*no does not exist")):
        with pytest.raises(InputError, match=words):
            run(tmp_path / name, settings(dataset))
    with pytest.raises(InputError, match=r"files that are not a run's \(notes.txt\)"):
        run(tmp_path, settings(dataset), overwrite=True)


def test_the_models_of_a_run_without_a_state_are_kept(
    unbroken: tuple[Path, list[Progress], TrainResult], dataset: Path, tmp_path: Path
) -> None:
    """Its checkpoints were removed to save space: --resume began anew, and removed the models first."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken[0], folder)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(InputError, match=r"run: is at its end and holds no state .* give --overwrite"):
        run(folder, settings(dataset), resume=True)
    assert load_model(folder / "best").config.training.steps == unbroken[2].best_step
