"""A model directory of lower rank: as far as the user's scenes allow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lkca.data import Window, open_cube
from lkca.errors import InputError
from lkca.evaluation import Evaluation, evaluate_model
from lkca.inference.array import Upscaler, upscale_array
from lkca.inference.degrade import degrade_array, degraded
from lkca.inference.network import last_features
from lkca.lowrank.factorize import Factorization, factorize_reported
from lkca.metrics import PROTOCOL, mpsnr
from lkca.models import LKCANet
from lkca.models.config import ModelConfig, TrainingRecord, ValidationRecord
from lkca.models.directory import LoadedModel, describe_architecture
from lkca.nn import PixelShuffleUpsample
from lkca.training.validation import LEAST_HELD, mean_scores

__all__ = ["FactorizedModel", "MeasuredRank", "factorize_directory", "latencies"]

_CALIBRATION_SHARE = 0.75
_PROBE = 32  # coarse pixels per side of the image that latency is measured on


@dataclass(frozen=True)
class MeasuredRank:
    """One rank that was measured. mpsnr: dB on the validation rows. seconds: latency, 32 × 32 coarse pixels."""

    rank: int | None
    mpsnr: float
    weights: int
    seconds: float


@dataclass(frozen=True)
class FactorizedModel:
    """net and config: to be saved. before: scores of each scene's validation rows by the model as it was. points: what
    was tried, the unchanged model first, then by rank."""

    net: LKCANet
    config: ModelConfig
    factorization: Factorization
    before: tuple[Evaluation, ...]
    points: tuple[MeasuredRank, ...]


@dataclass(frozen=True)
class _Scene:
    """What calibrates, made coarse; what validates: the truth, the same made coarse, and how the model restores it.

    known: as the network is given it, (1, its bands, h, w). low: (bands, h, w), truth: (bands, rows, cols), float32.
    good: (bands,) bool.
    """

    known: Tensor
    truth: np.ndarray
    low: np.ndarray
    good: np.ndarray
    before: Evaluation

    def mpsnr(self, guess: np.ndarray) -> float:
        """Of the truth restored, by the rules of ``before``."""
        return mpsnr(self.truth, guess, self.before.peak, self.before.scored)


def factorize_directory(
    model: LoadedModel,
    sources: Sequence[str],
    *,
    how: Mapping[str, Any] | None = None,
    command: str = "",
    **wanted: Any,
) -> FactorizedModel:
    """Lower the rank of a loaded model's upsampler by one of rank, energy, max_psnr_drop, budget, as :func:`factorize`.

    The upper three quarters of each scene's rows, made coarser as the model was trained to undo, calibrate the factors;
    the rest validates. PSNR is that of :func:`lkca.evaluation.evaluate_model` on those rows, with their peak. ``how``:
    keyword arguments for :func:`lkca.data.open_cube`. ``command``: kept in the model's record. Raises InputError for
    scenes that do not fit the model.
    """
    how = how or {}
    scenes = [_scene(source, model, how) for source in sources]
    tried: dict[int | None, tuple[LKCANet, float]] = {}

    def as_model(net: nn.Module) -> LoadedModel:
        assert isinstance(net, LKCANet)
        return LoadedModel(net.eval(), model.config, model.path)

    def calibrate(net: nn.Module) -> None:
        assert isinstance(net, LKCANet)
        for scene in scenes:
            features = last_features(net, scene.known, nullcontext())  # of a low-rank layer its first factor runs here
            if isinstance(net.upsample, PixelShuffleUpsample):
                net.upsample(features)

    def psnr(net: nn.Module) -> float:
        assert isinstance(net, LKCANet)
        found = [scene.mpsnr(upscale_array(scene.low, as_model(net), good_bands=scene.good)) for scene in scenes]
        value = float(np.mean(found))
        tried[net.config.rank] = net, value
        return value

    psnr(model.net)
    done = factorize_reported(model.net, calibration=calibrate, validation=psnr, **wanted)
    net = done.model
    assert isinstance(net, LKCANet)
    psnr(net)
    before = tuple(scene.before for scene in scenes)
    after = []
    for source, earlier in zip(sources, before, strict=True):
        with open_cube(source, **how) as cube:
            after.append(evaluate_model(cube, as_model(net), model.config.scale, region=str(earlier.window)))
    config = model.config.model_copy(
        update={
            "architecture": describe_architecture(net),
            "training": _training(model, done, net, before, command),
            "validation": _validation(sources, before, after),
        }
    )
    return FactorizedModel(net, config, done, before, _points(tried, model.net.config.rank))


def _scene(source: str, model: LoadedModel, how: Mapping[str, Any]) -> _Scene:
    scale, degradation = model.config.scale, model.config.degradation
    with open_cube(source, **how) as cube:
        edge = int(cube.rows * _CALIBRATION_SHARE) // scale * scale
        if edge == 0 or cube.rows - edge < LEAST_HELD * scale:
            raise InputError(f"{source}: has {cube.rows} rows, too few to calibrate on some and validate on others")
        before = evaluate_model(cube, model, scale, region=f"{edge}:,:")
        truth = cube.read(before.window)
        known = degraded(cube.region(Window(0, 0, edge, before.window.width)), degradation)
        known.check_usable()
        seen = Upscaler(model, scale, cube.good_bands).network_input(known.read())
        return _Scene(seen, truth, degrade_array(truth, degradation), cube.good_bands, before)


def _training(
    model: LoadedModel, done: Factorization, net: LKCANet, before: Sequence[Evaluation], command: str
) -> TrainingRecord:
    """The model's record, with this cut where the rank was cut."""
    record, (layer,) = model.config.training, done.layers
    if net.config.rank == model.net.config.rank:
        return record
    cut = {
        "model": str(model.path),
        "rank": layer.rank,
        "of": layer.full_rank,
        "calibration": [result.source for result in before],
        "command": command,
    }
    cuts = [*record.details.get("factorized", []), cut]
    return record.model_copy(update={"details": record.details | {"factorized": cuts}})


def _validation(sources: Sequence[str], before: Sequence[Evaluation], after: Sequence[Evaluation]) -> ValidationRecord:
    sets = {"bicubic": (before, "bicubic"), "before": (before, "model"), "after": (after, "model")}
    return ValidationRecord(
        protocol=f"{PROTOCOL}, peak = the largest valid sample of these rows",
        split="last quarter of the rows of " + ", ".join(Path(source).name for source in sources),
        scores={name: mean_scores([r.scores[which] for r in results]) for name, (results, which) in sets.items()},
    )


def _points(tried: Mapping[int | None, tuple[LKCANet, float]], first: int | None) -> tuple[MeasuredRank, ...]:
    """Of each rank that was tried what it reaches and costs; that of the unchanged model first."""
    order = sorted(tried, key=lambda rank: (rank != first, -(rank or 0)))
    seconds = latencies([tried[rank][0] for rank in order])
    return tuple(
        MeasuredRank(rank, tried[rank][1], sum(p.numel() for p in tried[rank][0].upsample.parameters()), spent)
        for rank, spent in zip(order, seconds, strict=True)
    )


def latencies(nets: Sequence[LKCANet], side: int = _PROBE, rounds: int = 9) -> list[float]:
    """Seconds of one forward pass of each over ``side`` × ``side`` coarse pixels, where it lives.

    Least of ``rounds`` in which the networks take turns: what else the machine does meets all of them alike.
    """
    best = [float("inf")] * len(nets)
    with torch.inference_mode():
        for number in range(rounds + 1):  # the first one warms up
            for i, net in enumerate(nets):
                x = torch.rand(1, net.config.bands, side, side).to(net.head.weight)
                begin = time.perf_counter()
                net(x)
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
                if number:
                    best[i] = min(best[i], time.perf_counter() - begin)
    return best
