"""Does the exported file compute what the model does?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lkca.export.model import PhysicalModel

__all__ = ["TOLERANCE", "Check", "check_sizes", "compare", "largest"]

TOLERANCE = 1e-4  # of the data range


@dataclass(frozen=True)
class Check:
    """One comparison. error: largest absolute difference / peak, on values that fill [offset, offset + peak]."""

    batch: int
    rows: int
    cols: int
    error: float


def check_sizes(halo: int) -> tuple[tuple[int, int, int], ...]:
    """(batch, rows, cols) of the comparisons: odd, wider than high and the reverse, one smaller than the halo."""
    return (1, 23, 37), (3, 2 * halo + 1, 5), (2, max(1, halo // 2), max(1, halo - 1))


def compare(model: PhysicalModel, run: Callable[[Tensor], Tensor], bands: int, halo: int) -> tuple[Check, ...]:
    """``run`` of the exported file against the model as lkca runs it here. A result of another shape has error inf."""
    generator = torch.Generator().manual_seed(0)
    checks = []
    for batch, rows, cols in check_sizes(halo):
        cube = (
            torch.rand(batch, bands, rows, cols, generator=generator, dtype=torch.float32) * model.peak + model.offset
        )
        with torch.inference_mode():
            expected = model(cube)
        found = run(cube)
        error = float("inf")
        if found.shape == expected.shape:
            error = float((found.double() - expected.double()).abs().max()) / model.peak
        checks.append(Check(batch, rows, cols, float("inf") if error != error else error))
    return tuple(checks)


def largest(checks: tuple[Check, ...]) -> float:
    """The worst of the errors."""
    return max(check.error for check in checks)
