"""Teaching a low-rank network what the full-rank one knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lkca.models import LKCANet
from lkca.training.patches import dihedral, undo_dihedral

__all__ = ["Criterion", "distillation_loss", "self_ensemble", "teacher_weight"]

Criterion = Callable[[Tensor, Tensor], Tensor]


def teacher_weight(position: float, start: float = 1.0, end: float = 0.0) -> float:
    """Weight of the teacher's word, from ``start`` to ``end`` along half a cosine; position 0..1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, position))))


@torch.no_grad()
def self_ensemble(net: LKCANet, degraded: Tensor, orientations: Iterable[int] = range(8)) -> Tensor:
    """Mean of ``net.residual`` over symmetries of the square, each undone afterwards (Timofte et al. 2016)."""
    turned = [undo_dihedral(net.residual(dihedral(degraded, e)), e) for e in orientations]
    return torch.stack(turned).mean(0)


def distillation_loss(
    student: LKCANet,
    teacher: LKCANet,
    degraded: Tensor,
    target: Tensor,
    criterion: Criterion,
    *,
    weight: float,
    alignment: float = 0.1,
    orientations: Iterable[int] = range(8),
) -> Tensor:
    """(1 - weight) criterion(student, target) + weight (criterion(student, taught) + alignment · A).

    taught: the teacher's self-ensemble over ``orientations``; a random few per step teach the mean of all, for less.
    A = |F_N - F_N'|²/|F_N'|² compares the features of student and teacher, of one shape because the student is the
    factorised teacher. degraded: (B, C, h, w). target: (B, C, s*h, s*w), what the residual branch should give.
    weight: 0..1.
    """
    features = student.features(degraded)
    restored = student.upsample(features)
    loss = (1 - weight) * criterion(restored, target)
    if weight > 0:
        with torch.no_grad():
            taught_features = teacher.features(degraded)
        power = taught_features.square().mean().clamp_min(torch.finfo(features.dtype).tiny)
        distance = (features - taught_features).square().mean() / power
        loss = loss + weight * (
            criterion(restored, self_ensemble(teacher, degraded, orientations)) + alignment * distance
        )
    return loss
