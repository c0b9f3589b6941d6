"""Teaching a low-rank network what the full-rank one knows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lkca.models import LKCANet

__all__ = ["distillation_loss", "teacher_weight"]


def teacher_weight(position: float, start: float = 1.0) -> float:
    """Weight of the teacher's word, from ``start`` to 0 along a cosine; position 0..1."""
    return start * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, position))))


def distillation_loss(
    student: LKCANet,
    teacher: LKCANet,
    degraded: Tensor,
    target: Tensor,
    criterion: Callable[[Tensor, Tensor], Tensor],
    *,
    weight: float,
    alignment: float = 0.1,
) -> Tensor:
    """(1 - weight) criterion(student, target) + weight (criterion(student, teacher) + alignment · A).

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
            taught = teacher.upsample(taught_features)
        loss = loss + weight * criterion(restored, taught)
        power = taught_features.square().mean().clamp_min(torch.finfo(taught.dtype).tiny)
        loss = loss + weight * alignment * (features - taught_features).square().mean() / power
    return loss
