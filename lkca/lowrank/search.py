"""Which rank for which layer: by a budget of weights, or by what the whole model loses on real data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lkca.lowrank.layers import Layer, LowRankError
from lkca.lowrank.moments import Calibration, pairs
from lkca.nn.mode import evaluating

__all__ = ["Validation", "for_budget", "for_psnr_drop", "psnr_function"]

Validation = Calibration | Callable[[nn.Module], float]


def for_budget(layers: Sequence[Layer], values: Sequence[Tensor], budget: float) -> list[int]:
    """Ranks whose weights together stay within ``budget`` (a count, or below 1 a share of what the layers have now).

    Greedy: the next component goes where it holds the largest share of its layer's energy per weight. LowRankError
    where the budget does not even hold rank 1 of each.
    """
    if not 0 < budget < math.inf:
        raise LowRankError(f"budget: expected a number of weights or a share, above 0, got {budget}")
    whole = sum(layer.weights() for layer in layers)
    allowed = int(budget * whole) if budget < 1 else int(budget)
    ranks = [layer.groups for layer in layers]
    spent = sum(layer.weights(rank) for layer, rank in zip(layers, ranks, strict=True))
    if spent > allowed:
        raise LowRankError(f"budget: {allowed} weights do not hold rank 1 of each layer, which takes {spent}")
    shares = [v.square() / v.square().sum().clamp_min(torch.finfo(v.dtype).tiny) for v in values]
    candidates = [
        (float(share[r]) / layer.weights(layer.groups), i)
        for i, (layer, share) in enumerate(zip(layers, shares, strict=True))
        for r in range(1, layer.full_rank // layer.groups)
    ]
    candidates.sort(key=lambda candidate: -candidate[0])
    for _, i in candidates:  # within a layer the shares fall, so that its components come in order
        step = layers[i].weights(layers[i].groups)
        if spent + step <= allowed:
            ranks[i] += layers[i].groups
            spent += step
    return ranks


def psnr_function(validation: Validation | None, model: nn.Module) -> Callable[[nn.Module], float]:
    """model -> PSNR in dB, mean over images and channels, on the (input, target) pairs; callables stay as they are."""
    if validation is None:
        raise LowRankError("max_psnr_drop needs calibration or validation data: (input, target) pairs, or a function")
    if callable(validation) and not isinstance(validation, Tensor):
        return validation
    data = pairs(validation, model)

    def psnr(candidate: nn.Module) -> float:
        total = []
        with evaluating(candidate), torch.no_grad():
            for x, target in data:
                y = candidate(x.clone())  # some write into their input
                if not isinstance(y, Tensor) or y.shape != target.shape:
                    found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
                    raise LowRankError(f"validation: the model gives {found}, its target is {tuple(target.shape)}")
                total.append(-10 * (y.double() - target.double()).square().mean((2, 3)).clamp_min(1e-20).log10())
        return float(torch.cat([t.flatten() for t in total]).mean())

    return psnr


def for_psnr_drop(
    layers: Sequence[Layer],
    apply: Callable[[Sequence[int | None]], nn.Module],
    psnr: Callable[[nn.Module], float],
    max_drop: float,
) -> tuple[list[int | None], float, list[tuple[dict[str, int], float]]]:
    """The smallest rank of each layer, in turn from the heaviest, with a PSNR at most ``max_drop`` dB below the start.

    The i-th of n layers may bring the drop to (i/n) · max_drop, those before it at their ranks; each rank is found by
    bisection, which takes it that more rank loses less. None: no rank that costs less than the whole kernel will do.
    Returns the ranks, the drop that they measured, and every trial.
    """
    if not max_drop > 0:
        raise LowRankError(f"max_psnr_drop: expected dB above 0, got {max_drop}")
    ranks: list[int | None] = [None] * len(layers)
    trials: list[tuple[dict[str, int], float]] = []
    whole = psnr(apply(ranks))
    if not math.isfinite(whole):
        raise LowRankError(
            f"validation: the model's PSNR is {whole} dB; inputs, targets and what the model gives must be finite"
        )

    def drop(trial: Sequence[int | None]) -> float:
        lost = whole - psnr(apply(trial))
        trials.append(({layer.name: r for layer, r in zip(layers, trial, strict=True) if r is not None}, lost))
        return lost

    reached = 0.0
    order = sorted(range(len(layers)), key=lambda i: -layers[i].weights())
    for done, i in enumerate(order, 1):
        layer = layers[i]
        allowed = max_drop * done / len(layers)
        found = ranks
        steps = range(1, layer.full_rank // layer.groups + 1)
        low, high = 0, 1 + sum(layer.weights(r * layer.groups) < layer.weights() for r in steps)
        while low + 1 < high:  # per group: low loses too much, high does not
            middle = (low + high) // 2
            trial = list(ranks)
            trial[i] = middle * layer.groups
            lost = drop(trial)
            if lost <= allowed:
                high, reached, found = middle, lost, trial
            else:
                low = middle
        ranks = found
    return ranks, reached, trials
