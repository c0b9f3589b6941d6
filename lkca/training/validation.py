"""How good a network is on scenes that it does not train on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lkca.data.degradation import Degradation
from lkca.metrics import evaluate
from lkca.models import LKCANet
from lkca.training.data import SourceScene
from lkca.training.patches import fill_invalid
from lkca_kernels import bicubic_upsample

__all__ = ["SCORES", "Restored", "measure", "psnr_gain", "restore"]

SCORES = ("mpsnr", "sam", "rmse", "ergas")


class Restored:
    """One validation scene: ``sharp``, ``bicubic`` and ``ours``, (bands, H, W) on the CPU, and ``valid``, (H, W)."""

    def __init__(self, sharp: Tensor, valid: Tensor, bicubic: Tensor, ours: Tensor) -> None:
        self.sharp, self.valid, self.bicubic, self.ours = sharp, valid, bicubic, ours


@torch.no_grad()
def restore(net: LKCANet, scene: SourceScene, degradation: Degradation, device: torch.device) -> Restored:
    """Degrade a scene and restore it. net: eval mode or not, on ``device``."""
    sharp, valid = fill_invalid(scene.whole())
    coarse = degradation.apply(sharp)[None].to(device)
    ours = net(coarse)[0].float().cpu()
    return Restored(sharp, valid, bicubic_upsample(coarse, degradation.scale)[0].cpu(), ours)


def psnr_gain(scene: Restored) -> float:
    """Mean over bands of the PSNR above bicubic, dB; bands that either restores exactly do not count."""
    before = (scene.sharp - scene.bicubic)[:, scene.valid].square().mean(1)
    after = (scene.sharp - scene.ours)[:, scene.valid].square().mean(1)
    alive = (before > 0) & (after > 0)
    return float(10 * torch.log10(before[alive] / after[alive]).mean()) if alive.any() else 0.0


def measure(
    net: LKCANet, scenes: Sequence[SourceScene], degradation: Degradation, device: torch.device
) -> dict[str, dict[str, float]]:
    """{"bicubic", "model"} -> {"mpsnr" dB, "sam" degrees, "rmse", "ergas"}, means over scenes, for peak 1."""
    sums: dict[str, dict[str, float]] = {name: dict.fromkeys(SCORES, 0.0) for name in ("bicubic", "model")}
    for scene in scenes:
        done = restore(net, scene, degradation, device)
        for name, image in (("bicubic", done.bicubic), ("model", done.ours)):
            measured = evaluate(done.sharp, image, scale=degradation.scale, peak=1.0, mask=done.valid)
            for key in SCORES:
                sums[name][key] += getattr(measured, key) / len(scenes)
    return sums
