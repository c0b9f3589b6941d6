"""What a student is told: the truth, its teacher's word, its teacher's features. docs/distillation.md.

    L = (1 - w) D(student(x), y) + w (D(student(x), taught(x)) + α Σ_p A_p),   A_p = |M_p f_p - g_p|² / |g_p|²

x: degraded, y: sharp; D: a training loss; w: the teacher's weight, which decays; g_p and f_p: features of teacher and
student at point p, M_p a map that makes them comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass
from operator import call
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.config import check_knobs, knob
from lkca.nn import LowRankConv2d, LowRankUpsample
from lkca.training.patches import dihedral, undo_dihedral

__all__ = ["Apply", "Criterion", "Decay", "Distiller", "Point", "self_ensemble", "teacher_weight"]

Criterion = Callable[[Tensor, Tensor], Tensor]
Apply = Callable[[nn.Module, Tensor], Tensor]
Decay = Literal["cosine", "linear", "exponential", "constant"]

_EXPONENT = 5.0  # the exponential decay spans e^-5


def teacher_weight(position: float, start: float = 1.0, end: float = 0.0, decay: Decay = "cosine") -> float:
    """Weight of the teacher's word at ``position`` 0..1, from ``start`` to ``end``; "constant" stays at ``start``.

    end + (start - end) g, with g = (1 + cos πp)/2, 1 - p, (e^(-5p) - e^-5)/(1 - e^-5), or 1.
    """
    p = min(1.0, max(0.0, position))
    left = {
        "cosine": 0.5 * (1 + math.cos(math.pi * p)),
        "linear": 1 - p,
        "exponential": (math.exp(-_EXPONENT * p) - math.exp(-_EXPONENT)) / (1 - math.exp(-_EXPONENT)),
        "constant": 1.0,
    }
    if decay not in left:
        raise ValueError(f"decay: expected one of {', '.join(left)}, got {decay!r}")
    return end + (start - end) * left[decay]


@torch.no_grad()
def self_ensemble(
    model: nn.Module, degraded: Tensor, orientations: Iterable[int] = range(8), apply: Apply = call
) -> Tensor:
    """Mean of the model's outputs over symmetries of the square, each undone afterwards (Timofte et al. 2016)."""
    turned = [undo_dihedral(apply(model, dihedral(degraded, e)), e) for e in orientations]
    return torch.stack(turned).mean(0)


@dataclass(frozen=True)
class Point:
    """Where features of teacher and student are compared. ValueError for another ``where`` or ``mapping``. mapping:

    - factors: the student's module is the first factor (``….reduce``) of a low-rank layer, whose second factor and bias
      take its few channels to those of the teacher's full-rank convolution.
    - identity: none; the shapes are equal.
    - projector: a 1×1 convolution, learned with the student and dropped afterwards (Romero et al. 2015).
    - auto: the first of these that fits.
    """

    teacher: str = knob(MISSING, "The teacher's module, a name as in named_modules.")
    student: str | None = knob(None, "The student's; null: of the same name.")
    where: Literal["input", "output"] = knob("output", "Before or after those modules.")
    mapping: Literal["auto", "identity", "factors", "projector"] = knob(
        "auto", "Of the student's features to the teacher's; see docs/distillation.md."
    )

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def of_student(self) -> str:
        return self.teacher if self.student is None else self.student


class Distiller(nn.Module):
    """A student together with what only its training needs; ``parameters()`` are those to be trained.

    teacher, student: any modules that map (B, C, h, w) to outputs of one shape. example: an input, run through both to
    find the shapes of the features at ``points``. apply: how a model is run, by default by calling it. The teacher is
    only read; it should be in eval mode. ValueError names a point that does not exist or does not fit.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        example: Tensor,
        points: Sequence[Point] = (),
        *,
        apply: Apply = call,
    ) -> None:
        super().__init__()
        self.student = student
        self.projectors = nn.ModuleDict()
        self.points = tuple(points)
        self._teacher = [teacher]  # in a list: no part of this module's parameters and state
        self._call = apply
        with torch.no_grad():
            taught, theirs = self._run(teacher, example, [(p.teacher, p.where) for p in points], "teacher")
            own, ours = self._run(student, example, [(p.of_student, p.where) for p in points], "student")
        if taught.shape != own.shape:
            raise ValueError(
                f"student: its output is {tuple(own.shape)}, its teacher's {tuple(taught.shape)}; expected one shape"
            )
        places = zip(self.points, ours, theirs, strict=True)
        self._mappings = [self._connect(index, *place) for index, place in enumerate(places)]

    def _connect(self, index: int, point: Point, f: Tensor, g: Tensor) -> str:
        """The mapping of a point, which is not "auto" any more; makes its projector. f, g: features there."""
        name, mapping = f"points[{index}] ({point.of_student} -> {point.teacher})", point.mapping
        if f.shape[2:] != g.shape[2:] or len(f) != len(g):
            raise ValueError(f"{name}: features of {tuple(f.shape)} and {tuple(g.shape)} lie on different grids")
        layer = self._low_rank(point)
        fits = layer is not None and point.where == "output" and layer.weight.shape == (g.shape[1], f.shape[1])
        if mapping == "auto":
            mapping = "factors" if fits else "identity" if f.shape == g.shape else "projector"
        if mapping == "identity" and f.shape != g.shape:
            raise ValueError(f"{name}: features of {f.shape[1]} and {g.shape[1]} channels need a mapping, not identity")
        if mapping == "factors" and not fits:
            raise ValueError(f"{name}: no factors map {f.shape[1]} to {g.shape[1]} channels; use a projector")
        if mapping == "projector":
            projector = nn.Conv2d(f.shape[1], g.shape[1], 1).to(f)
            self.projectors[str(index)] = projector
        return mapping

    def _low_rank(self, point: Point) -> LowRankConv2d | LowRankUpsample | None:
        owner, _, last = point.of_student.rpartition(".")
        layer = self.student.get_submodule(owner) if last == "reduce" else None
        return layer if isinstance(layer, (LowRankConv2d, LowRankUpsample)) else None

    def _map(self, index: int, point: Point, f: Tensor) -> Tensor:
        mapping = self._mappings[index]
        if mapping == "factors":
            layer = self._low_rank(point)
            assert layer is not None
            return F.conv2d(f, layer.weight[:, :, None, None], layer.bias)
        return self.projectors[str(index)](f) if mapping == "projector" else f

    def _run(
        self, model: nn.Module, x: Tensor, places: Sequence[tuple[str, str]], who: str
    ) -> tuple[Tensor, list[Tensor]]:
        with _captured(model, places, who) as seen:
            output = self._call(model, x)
        if not isinstance(output, Tensor):
            raise ValueError(
                f"{who}: gives a {type(output).__name__}, expected one tensor; let apply= take the image from it"
            )
        missing = [name for (name, _), f in zip(places, seen, strict=True) if f is None]
        if missing:
            raise ValueError(f"{who}: its module {missing[0]!r} does not take part in its forward pass")
        # a layer that serves groups of channels in turn, or one by one, sees them as a larger batch
        return output, [f.reshape(len(x), -1, *f.shape[2:]) for f in seen if f is not None]

    def loss(
        self,
        degraded: Tensor,
        target: Tensor,
        criterion: Criterion,
        *,
        weight: float,
        alignment: float = 0.1,
        orientations: Sequence[int] = (0,),
    ) -> Tensor:
        """The loss above, a scalar. weight: 0..1; at 0 the teacher does not run. alignment: α.

        orientations: symmetries of the square over which the teacher's outputs are averaged; a random few per step
        teach the mean of all, for less.
        """
        use = self.points if alignment > 0 and weight > 0 else ()
        restored, ours = self._run(self.student, degraded, [(p.of_student, p.where) for p in use], "student")
        loss = (1 - weight) * criterion(restored, target) if weight < 1 else restored.new_zeros(())
        if weight <= 0:
            return loss
        teacher = self._teacher[0]
        with torch.no_grad():
            turned = []
            if use or 0 in orientations:
                upright, theirs = self._run(teacher, degraded, [(p.teacher, p.where) for p in use], "teacher")
                turned = [upright] * (0 in orientations)
            turned += [self_ensemble(teacher, degraded, [e], self._call) for e in orientations if e != 0]
            taught = torch.stack(turned).mean(0)
        loss = loss + weight * criterion(restored, taught)
        for index, (point, f) in enumerate(zip(use, ours, strict=True)):
            g = theirs[index]
            power = g.square().mean().clamp_min(torch.finfo(g.dtype).tiny)
            loss = loss + weight * alignment * (self._map(index, point, f) - g).square().mean() / power
        return loss


@contextmanager
def _captured(model: nn.Module, places: Sequence[tuple[str, str]], who: str) -> Iterator[list[Tensor | None]]:
    """What passes the named modules while inside, last call last; hooks are gone afterwards."""
    seen: list[Tensor | None] = [None] * len(places)
    handles = []
    try:
        for index, (name, _) in enumerate(places):
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise ValueError(f"{who}: has no module {name!r}; see named_modules()") from error

            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any, i: int = index) -> None:
                name, where = places[i]
                if where == "input" and not inputs:
                    raise ValueError(f"{who}: {name!r} is called without positional arguments; compare its output")
                value = inputs[0] if where == "input" else output
                if not isinstance(value, Tensor):
                    raise ValueError(
                        f"{who}: the {where} of {name!r} is a {type(value).__name__}, expected one tensor; take a "
                        "module within or around it"
                    )
                seen[i] = value

            handles.append(module.register_forward_hook(hook))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
