"""The costly losses with their derivatives written out: a third of the memory traffic of autograd's.

Images of a batch are treated one by one, so that on a CPU what lies between two passes stays in the cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["GRADIENT_EPS", "GradientDifference", "SpectralAngle"]

GRADIENT_EPS = 1e-6
_DARK = 1e-4  # a spectrum with a smaller norm has no direction worth learning
_STRAIGHT = 1 - 1e-6  # asin's derivative is infinite at 1, that is for opposite spectra


class SpectralAngle(torch.autograd.Function):
    """Mean angle between the spectra of x and y, (B, C, H, W), over pi; lkca/losses.py defines it.

    With u = x/|x|, v = y/|y| and the chord c = |u - v|, the angle is 2 asin(c/2) and its derivative by x is
    ((u - v) - u c²/2) / (|x| c sqrt(1 - c²/4)): no difference of near numbers, however small the angle.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        kept, total = [], x.new_zeros(())
        for a, b in zip(x, y, strict=True):
            norm_a, norm_b = _norm(a), _norm(b)
            bright = (norm_a > _DARK) & (norm_b > _DARK)
            per_a, per_b = (torch.where(bright, 1 / n.clamp_min(_DARK), 0) for n in (norm_a, norm_b))
            difference = (a * per_a).sub_(b * per_b)  # u - v; both products are rounded alike
            chord = _norm(difference)
            half = (0.5 * chord).clamp_(max=_STRAIGHT)
            total += 2 * torch.asin(half).sum()
            moves = (chord > 0) & (0.5 * chord < _STRAIGHT)
            slope = torch.where(moves, 1 / (chord * (1 - half * half).sqrt()), 0)
            kept += [difference, per_a, per_b, slope, 0.5 * chord * chord]
        count = x.shape[0] * x.shape[2] * x.shape[3]
        ctx.save_for_backward(x, y, *kept)
        return total / (math.pi * count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, *kept = ctx.saved_tensors
        factor = grad / (math.pi * x.shape[0] * x.shape[2] * x.shape[3])
        grads = [
            torch.empty_like(t) if needed else None for t, needed in zip((x, y), ctx.needs_input_grad, strict=True)
        ]
        for i in range(x.shape[0]):
            difference, per_a, per_b, slope, half_square = kept[5 * i : 5 * i + 5]
            for out, image, per, sign in ((grads[0], x[i], per_a, 1), (grads[1], y[i], per_b, -1)):
                if out is not None:
                    scale = factor * slope * per
                    torch.mul(difference, sign * scale, out=out[i])
                    out[i].addcmul_(image, scale * half_square * per, value=-1)
        return grads[0], grads[1]


class GradientDifference(torch.autograd.Function):
    """Mean |M(x) - M(y)| of 3-D gradient magnitudes, x and y (B, C, H, W); lkca/losses.py defines it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        total, kept = x.new_zeros(()), []
        for a, b in zip(x, y, strict=True):
            one, per_one = _magnitude(a)
            other, per_other = _magnitude(b)
            difference = one.sub_(other)
            total += difference.abs().sum()
            sign = difference.sgn_()
            kept += [per_one.mul_(sign), per_other.mul_(sign).neg_()]
        ctx.save_for_backward(x, y, *kept)
        return total / (x.shape[0] * (x.shape[1] - 1) * (x.shape[2] - 1) * (x.shape[3] - 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, *kept = ctx.saved_tensors
        factor = grad / (x.shape[0] * (x.shape[1] - 1) * (x.shape[2] - 1) * (x.shape[3] - 1))
        grads: list[Tensor | None] = []
        for number, (t, needed) in enumerate(zip((x, y), ctx.needs_input_grad, strict=True)):
            out = torch.zeros_like(t) if needed else None
            if out is not None:
                for i, image in enumerate(t):
                    weight = kept[2 * i + number] * factor
                    for axis, step in enumerate(_steps(image)):
                        pull = step.mul_(weight)
                        _ahead(out[i], axis).add_(pull)
                        _corner(out[i]).sub_(pull)
            grads.append(out)
        return grads[0], grads[1]


def _corner(image: Tensor) -> Tensor:
    return image[:-1, :-1, :-1]


def _ahead(image: Tensor, axis: int) -> Tensor:
    """The neighbours of the corner part, one further along ``axis``."""
    return image[tuple(slice(1, None) if a == axis else slice(None, -1) for a in range(3))]


def _steps(image: Tensor) -> list[Tensor]:
    """Forward differences of (C, H, W) along its three axes, where all three exist."""
    return [_ahead(image, axis) - _corner(image) for axis in range(3)]


def _magnitude(image: Tensor) -> tuple[Tensor, Tensor]:
    """The magnitude of (C, H, W)'s gradient, and one over it; rsqrt is several times faster than sqrt on a CPU."""
    first, second, third = _steps(image)
    square = first.square_().addcmul_(second, second).addcmul_(third, third).add_(GRADIENT_EPS)
    inverse = square.rsqrt()
    return square.mul_(inverse), inverse


def _norm(image: Tensor) -> Tensor:
    """Of the spectra, (C, H, W) -> (H, W); vector_norm along the first axis is many times slower on a CPU."""
    return (image * image).sum(0).sqrt_()
