"""Training losses for super-resolved cubes.

Every loss compares a prediction and a target of shape (B, C, H, W), values about 0..1, and returns a scalar: a mean,
so that it does not depend on patch or batch size; ValueError for other shapes. float16 and bfloat16 are computed in
float32. Gradients are finite everywhere: at equal inputs, at zero vectors and on constant images. They can be
differentiated again, and torch.func takes the losses. With x the prediction, y the target:

- L1: mean |x - y|.
- L2: mean ((x - y) / u)^2, u a unit for each band, by default 1. With u the RMS of what bicubic upsampling misses in
  the band (as `lkca train` has it) this is the error's share of bicubic's, whose first-order change is that of MPSNR.
- Charbonnier: mean sqrt((x - y)^2 + e^2), e = 1e-3 (Lai et al. 2017).
- SAM: mean over pixels of angle(x, y)/pi, the angle between spectra as 2 asin(|x/|x| - y/|y|| / 2). The common
  acos of the cosine has an infinite derivative at equal spectra, and loses small angles to rounding.
- gradient: mean |M(x) - M(y)| with M the magnitude of the 3-D forward difference along band, row and column,
  sqrt(dc^2 + dh^2 + dw^2 + 1e-6), where all three exist.
- weighted sum: sum over the named terms of weight times loss. L1 + w1 SAM + w2 gradient with w1 = 0.3..0.5 and
  w2 = 0.1 is the field's habit ("spectral-gradient").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.loss_gradients import gradient_difference, spectral_angle

__all__ = [
    "LOSSES",
    "SpectralGradientLoss",
    "WeightedLoss",
    "charbonnier_loss",
    "gradient_loss",
    "l1_loss",
    "l2_loss",
    "sam_loss",
]


def l1_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(*_pair(prediction, target))


def l2_loss(prediction: Tensor, target: Tensor, *, unit: Tensor | None = None) -> Tensor:
    """Mean squared difference; unit: (C,), by which each band's difference is divided first, ValueError for others."""
    x, y = _pair(prediction, target)
    if unit is not None and unit.shape != x.shape[1:2]:
        raise ValueError(f"unit: expected ({x.shape[1]},), one per band, got {tuple(unit.shape)}")
    by_band = (x - y).square().mean((0, 2, 3))
    return (by_band if unit is None else by_band / unit.square()).mean()


def charbonnier_loss(prediction: Tensor, target: Tensor, *, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + eps^2): L1 with a rounded tip, ``eps`` in units of the data."""
    x, y = _pair(prediction, target)
    return torch.sqrt((x - y).square() + eps * eps).mean()


def sam_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean spectral angle over pi: 0 for proportional spectra, 1/2 for orthogonal, 1 for opposite ones.

    A pixel where either spectrum has a norm below 1e-4 counts with angle 0 and sends no gradient.
    """
    return spectral_angle(*_pair(prediction, target))


def gradient_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of 3-D gradient magnitudes. ValueError for less than 2 bands, rows or columns."""
    x, y = _pair(prediction, target)
    if min(x.shape[1:]) < 2:
        raise ValueError(f"gradient_loss: needs at least 2 bands, rows and columns, found {tuple(x.shape)}")
    return gradient_difference(x, y)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": l1_loss,
    "l2": l2_loss,
    "charbonnier": charbonnier_loss,
    "sam": sam_loss,
    "gradient": gradient_loss,
}
"""The losses by the names that configuration files use."""


class WeightedLoss(nn.Module):
    """Sum of ``weights[name]`` * :data:`LOSSES` [name]; a weight of 0 leaves its term uncomputed.

    unit: (C,), of the term "l2". ValueError for an unknown name, a weight that is negative or not finite, and where no
    weight is positive.
    """

    unit: Tensor | None

    def __init__(self, weights: Mapping[str, float], unit: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("unit", unit, persistent=False)
        for name, weight in weights.items():
            if name not in LOSSES:
                raise ValueError(f"loss: {name!r} is unknown; expected {', '.join(LOSSES)}")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"loss: {name}_weight must be a number of at least 0, found {weight!r}")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise ValueError("loss: no term has a weight; expected at least one above 0")

    def terms(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The weighted terms by name (those with a weight); their sum is the loss."""
        options = {"l2": {"unit": self.unit}}
        return {
            name: weight * LOSSES[name](prediction, target, **options.get(name, {}))
            for name, weight in self.weights.items()
        }

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.stack(list(self.terms(prediction, target).values())).sum()

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items())


class SpectralGradientLoss(WeightedLoss):
    """L1 + ``sam_weight`` * SAM + ``gradient_weight`` * gradient."""

    def __init__(self, sam_weight: float = 0.3, gradient_weight: float = 0.1) -> None:
        super().__init__({"l1": 1.0, "sam": sam_weight, "gradient": gradient_weight})


def _pair(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != target.shape or prediction.ndim != 4:
        raise ValueError(
            f"losses: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must both be (B, C, H, W)"
        )
    return _wide(prediction), _wide(target)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
