"""How good a network is on scenes that it does not train on: what is measured, and how a model directory says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lkca.data.degradation import Degradation
from lkca.metrics import PROTOCOL, Metrics, evaluate
from lkca.models import LKCANet
from lkca.models.config import ValidationRecord
from lkca.training.patches import Scene
from lkca_kernels import bicubic_upsample

__all__ = [
    "LEAST_HELD",
    "MIN_COARSE_PIXELS",
    "RULES",
    "SCORES",
    "Restore",
    "Restored",
    "held_rows",
    "hold_out",
    "mean_gain",
    "mean_scores",
    "measure",
    "psnr_gain",
    "restore",
    "split_text",
    "validation_record",
]

LEAST_HELD = 4  # coarse rows of a scene that can validate

# A file of 'lkca train' is cut into patches of coarse pixels; less than this per side leaves nothing to hold out.
MIN_COARSE_PIXELS = 8

SCORES = ("mpsnr", "sam", "rmse", "ergas")
# Of what is measured here, the network's own output at peak 1: said wherever it is shown.
RULES = f"{PROTOCOL}, not cut at 0, peak = the normalisation's"
_ROUNDING = 1e-6  # of a band's values: what bicubic misses of a constant one in float32


@dataclass(frozen=True)
class Restored:
    """One validation scene: ``sharp``, ``bicubic`` and ``ours``, (bands, H, W) on the CPU, and ``valid``, (H, W)."""

    sharp: Tensor
    valid: Tensor
    bicubic: Tensor
    ours: Tensor


Restore: TypeAlias = Callable[[LKCANet, Scene], Restored]
"""How a network's scenes are degraded and restored: :func:`restore`, say."""


def held_rows(rows: int, share: float, *, least: int, kept: int) -> int:
    """How many of a scene's coarse ``rows``, the last ones, validate: that share, rounded down, ``least`` at least.

    0 where fewer than ``kept`` would be left to learn from, and for a share of 0.
    """
    count = max(least, math.floor(rows * share)) if share else 0
    return count if rows - count >= kept else 0


def hold_out(scene: Scene, scale: int, share: float, *, kept: int) -> tuple[Scene, Scene | None]:
    """What is learned from of a scene, and the last rows (:func:`held_rows`), which validate; sides are multiples of
    ``scale``.

    The second is None where no row is held out, or none of them holds a valid pixel; all rows are learned from where
    the others hold none.
    """
    rows = scene.image.shape[1]
    edge = rows - scale * held_rows(rows // scale, share, least=LEAST_HELD, kept=kept)
    if edge == rows or not scene.valid[:edge].any():
        return scene, None
    first, last = (Scene(scene.image[:, part], scene.valid[part]) for part in (slice(edge), slice(edge, None)))
    return first, last if last.valid.any() else None


@torch.no_grad()
def restore(net: LKCANet, scene: Scene, degradation: Degradation, device: torch.device) -> Restored:
    """Degrade a scene and restore it. net: eval mode or not, on ``device``."""
    coarse = degradation.apply(scene.image)[None].to(device)
    ours = net(coarse)[0].float().cpu()
    return Restored(scene.image, scene.valid, bicubic_upsample(coarse, degradation.scale)[0].cpu(), ours)


def psnr_gain(scene: Restored) -> float:
    """Mean over bands of the PSNR above bicubic, dB.

    Bands that the network restores exactly do not count, nor those that bicubic does but for rounding: they are
    constant. NaN where the network gave values that are not finite.
    """

    def errors(restored: Tensor) -> Tensor:
        """In double precision, a band at a time: scenes may be large."""
        bands = zip(scene.sharp, restored, strict=True)
        return torch.stack([(sharp - band)[scene.valid].double().square().mean() for sharp, band in bands])

    before, after, power = (
        errors(image) for image in (scene.bicubic, scene.ours, torch.zeros(()).expand_as(scene.sharp))
    )
    alive = (before > _ROUNDING**2 * power) & (after != 0) | ~after.isfinite()
    return float(10 * torch.log10(before[alive] / after[alive]).mean()) if alive.any() else 0.0


def mean_gain(net: LKCANet, scenes: Sequence[Scene], restored: Restore) -> float:
    """Mean over scenes of :func:`psnr_gain`, dB: what a network is chosen by."""
    return sum(psnr_gain(restored(net, scene)) for scene in scenes) / len(scenes)


def mean_scores(measured: Sequence[Metrics]) -> dict[str, float]:
    """{"mpsnr" dB, "sam" degrees, "rmse", "ergas"}: means over scenes."""
    means = dict.fromkeys(SCORES, 0.0)
    for scene in measured:
        for key in SCORES:
            means[key] += getattr(scene, key) / len(measured)
    return means


def measure(
    nets: Mapping[str, LKCANet], scenes: Iterable[Scene], restored: Restore, scale: int
) -> dict[str, dict[str, float]]:
    """:func:`mean_scores` for peak 1 of "bicubic" and of each network, by its name."""
    measured: dict[str, list[Metrics]] = {name: [] for name in ("bicubic", *nets)}

    def score(name: str, done: Restored, image: Tensor) -> None:
        measured[name].append(evaluate(done.sharp, image, scale=scale, peak=1.0, mask=done.valid))

    for scene in scenes:
        for name, net in nets.items():
            done = restored(net, scene)
            score(name, done, done.ours)
        score("bicubic", done, done.bicubic)
    return {name: mean_scores(scores) for name, scores in measured.items()}


def split_text(share: float, least: int, count: int, total: int, what: str = "scenes") -> str:
    """Where a model is measured: the last ``share`` of the rows of ``count`` scenes, ``least`` coarse rows at least."""
    if count == 0:
        return "training pixels (none could be held out)"
    return f"last {share:.0%} of the rows, at least {least} coarse ones, of {count} of {total} {what}"


def validation_record(scores: dict[str, dict[str, float]], split: str) -> ValidationRecord:
    """Of :func:`mean_scores` at peak 1, the normalisation's, on the pixels that ``split`` says."""
    return ValidationRecord(protocol=RULES, split=split, scores=scores)
