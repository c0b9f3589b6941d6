"""The costly losses with their derivatives written out: a third of the memory traffic of autograd's.

Images of a batch are treated one by one, so that on a CPU what lies between two passes stays in the cache. Second
derivatives, batched gradients, forward mode and torch.func take the same losses in plain PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as _forward_ad
from torch import Tensor

from lkca_kernels.tracing import asked_by_the_tracer

__all__ = ["GRADIENT_EPS", "gradient_difference", "spectral_angle"]

GRADIENT_EPS = 1e-6
_DARK = 1e-4  # a spectrum with a smaller norm has no direction worth learning
_STRAIGHT = 1 - 1e-6  # asin's derivative is infinite at 1, that is for opposite spectra


def spectral_angle(x: Tensor, y: Tensor) -> Tensor:
    """Mean angle between the spectra of x and y, (B, C, H, W), over pi; lkca/losses.py defines it."""
    result: Tensor = _plain_angle(x, y) if _transformed() else _SpectralAngle.apply(x, y)  # type: ignore[no-untyped-call]
    return result


def gradient_difference(x: Tensor, y: Tensor) -> Tensor:
    """Mean |M(x) - M(y)| of 3-D gradient magnitudes, x and y (B, C, H, W); lkca/losses.py defines it."""
    plain = _transformed()
    result: Tensor = _plain_difference(x, y) if plain else _GradientDifference.apply(x, y)  # type: ignore[no-untyped-call]
    return result


@asked_by_the_tracer  # a level cannot be traced
def _transformed() -> bool:
    """Whether torch.func or forward mode look on, which know no autograd.Function of this kind."""
    return torch._C._functorch.maybe_current_level() is not None or _forward_ad._current_level >= 0


def _again(
    plain: Callable[[Tensor, Tensor], Tensor], ctx: Any, x: Tensor, y: Tensor, grad: Tensor
) -> tuple[Tensor | None, Tensor | None] | None:
    """Gradients by way of ``plain``, where they are to be differentiated again or are many at once; else None."""
    if torch.compiler.is_compiling():
        return None
    twice = torch.is_grad_enabled()  # create_graph=True
    if not (twice or torch._C._functorch.is_legacy_batchedtensor(grad) or _transformed()):
        return None
    with torch.enable_grad():
        # views, lest the gradient of one pass through the other where that was made of it
        views = x.view_as(x), y.view_as(y)
        wanted = [view for view, needed in zip(views, ctx.needs_input_grad, strict=True) if needed]
        found = iter(torch.autograd.grad(plain(*views), wanted, grad, create_graph=twice))
    first, second = (next(found) if needed else None for needed in ctx.needs_input_grad)
    return first, second


class _SpectralAngle(torch.autograd.Function):
    """As :func:`spectral_angle`.

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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, *kept = ctx.saved_tensors
        if (found := _again(_plain_angle, ctx, x, y, grad)) is not None:
            return found
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


class _GradientDifference(torch.autograd.Function):
    """As :func:`gradient_difference`."""

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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, *kept = ctx.saved_tensors
        if (found := _again(_plain_difference, ctx, x, y, grad)) is not None:
            return found
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


# ---- in plain PyTorch ----------------------------------------------------------------------------------------------


def _plain_angle(x: Tensor, y: Tensor) -> Tensor:
    square_x, square_y = x.square().sum(1, keepdim=True), y.square().sum(1, keepdim=True)
    bright = ~((square_x <= _DARK**2) | (square_y <= _DARK**2))  # NaN is
    u, v = (t * torch.where(bright, square, 1).rsqrt() for t, square in ((x, square_x), (y, square_y)))
    square = (u - v).square().sum(1, keepdim=True)
    moves = bright & ~((square <= 0) | (square >= (2 * _STRAIGHT) ** 2))
    angle = 2 * torch.asin(0.5 * torch.where(moves, square, 1).sqrt())
    still = torch.where(bright & (square > 0), 2 * math.asin(_STRAIGHT), 0.0)  # opposite, or equal or dark
    return torch.where(moves, angle, still.to(angle.dtype)).mean() / math.pi


def _plain_difference(x: Tensor, y: Tensor) -> Tensor:
    one, other = (_plain_magnitude(t) for t in (x, y))
    return (one - other).abs().mean()


def _plain_magnitude(images: Tensor) -> Tensor:
    corner = images[:, :-1, :-1, :-1]
    ahead = images[:, 1:, :-1, :-1], images[:, :-1, 1:, :-1], images[:, :-1, :-1, 1:]
    return (sum(((a - corner).square() for a in ahead), torch.zeros_like(corner)) + GRADIENT_EPS).sqrt()
