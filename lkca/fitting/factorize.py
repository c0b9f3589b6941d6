"""A model directory of lower rank: as far as the user's scenes allow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lkca.data import Window, open_cube
from lkca.errors import InputError
from lkca.evaluation import Evaluation, evaluate_model
from lkca.inference.array import upscale_array
from lkca.inference.degrade import degrade_array, degraded
from lkca.lowrank.factorize import Factorization, factorize_reported
from lkca.metrics import PROTOCOL, mpsnr
from lkca.models import LKCANet
from lkca.models.config import ModelConfig, ValidationRecord
from lkca.models.directory import LoadedModel, describe_architecture
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
    """net and config: to be saved. before, after: scores of each scene's validation rows. points: what was tried, the
    unchanged model first, then by rank."""

    net: LKCANet
    config: ModelConfig
    factorization: Factorization
    before: tuple[Evaluation, ...]
    after: tuple[Evaluation, ...]
    points: tuple[MeasuredRank, ...]


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
    scale, degradation = model.config.scale, model.config.degradation
    scenes, references, held_out = [], [], []
    for source in sources:
        with open_cube(source, **(how or {})) as cube:
            edge = int(cube.rows * _CALIBRATION_SHARE) // scale * scale
            if edge == 0 or cube.rows - edge < LEAST_HELD * scale:
                raise InputError(f"{source}: has {cube.rows} rows, too few to calibrate on some and validate on others")
            reference = evaluate_model(cube, model, scale, region=f"{edge}:,:")
            truth = cube.read(reference.window)
            known = degraded(cube.region(Window(0, 0, edge, reference.window.width)), degradation)
            known.check_usable()
            references.append(reference)
            held_out.append((truth, degrade_array(truth, degradation)))
            scenes.append((known.read(), cube.good_bands))

    def as_model(net: nn.Module) -> LoadedModel:
        assert isinstance(net, LKCANet)
        return LoadedModel(net.eval(), model.config, model.path)

    def calibrate(net: nn.Module) -> None:
        for low, good in scenes:
            upscale_array(low, as_model(net), good_bands=good)

    tried: dict[int | None, tuple[LKCANet, float]] = {}

    def psnr(net: nn.Module) -> float:
        assert isinstance(net, LKCANet)
        found = []
        for reference, (truth, low), (_, good) in zip(references, held_out, scenes, strict=True):
            guess = upscale_array(low, as_model(net), good_bands=good)
            found.append(mpsnr(truth, guess, reference.peak, np.isin(np.arange(len(truth)), reference.bands)))
        value = float(np.mean(found))
        tried[net.config.rank] = net, value
        return value

    psnr(model.net)
    first = model.net.config.rank
    done = factorize_reported(model.net, calibration=calibrate, validation=psnr, **wanted)
    net = done.model
    assert isinstance(net, LKCANet)
    psnr(net)
    after = []
    for source, reference in zip(sources, references, strict=True):
        with open_cube(source, **(how or {})) as cube:
            after.append(evaluate_model(cube, as_model(net), scale, region=str(reference.window)))
    sets = {"bicubic": (references, "bicubic"), "before": (references, "model"), "after": (after, "model")}
    scores = {name: mean_scores([r.scores[which] for r in results]) for name, (results, which) in sets.items()}
    split = "last quarter of the rows of " + ", ".join(Path(source).name for source in sources)
    rules = f"{PROTOCOL}, peak = the largest valid sample of these rows"
    record = ValidationRecord(protocol=rules, split=split, scores=scores)
    (layer,), training = done.layers, model.config.training
    cut = {
        "model": str(model.path),
        "rank": layer.rank,
        "of": layer.full_rank,
        "calibration": [reference.source for reference in references],
        "command": command,
    }
    cuts = [*training.details.get("factorized", []), cut]
    details = training.details if net.config.rank == first else training.details | {"factorized": cuts}
    config = model.config.model_copy(
        update={
            "architecture": describe_architecture(net),
            "training": training.model_copy(update={"details": details}),
            "validation": record,
        }
    )
    order = sorted(tried, key=lambda rank: (rank != first, -(rank or 0)))
    seconds = latencies([tried[rank][0] for rank in order])
    points = tuple(
        MeasuredRank(rank, tried[rank][1], sum(p.numel() for p in tried[rank][0].upsample.parameters()), spent)
        for rank, spent in zip(order, seconds, strict=True)
    )
    return FactorizedModel(net, config, done, tuple(references), tuple(after), points)


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
