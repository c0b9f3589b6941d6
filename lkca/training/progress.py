"""How far a training run has come, how long it may take, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Budget", "Progress", "ProgressCallback"]


@dataclass(frozen=True)
class Progress:
    """One report of a running training.

    stage: of a fit "prepare", "teacher", then "distil" (which begins with the factorisation); of a distillation
    "distil", of the trainer "train". step: optimiser steps so far, over all stages. elapsed: seconds since the start.
    fraction: share of the budget that is spent, 0..1. loss: of the latest step. gain: held-out MPSNR above bicubic, in
    dB (None: not measured yet, or nothing held out).
    """

    stage: str
    step: int
    elapsed: float
    fraction: float
    loss: float | None = None
    gain: float | None = None

    @property
    def total(self) -> float | None:
        """Estimated seconds of the whole run."""
        return self.elapsed / self.fraction if self.fraction > 0 else None


ProgressCallback = Callable[[Progress], None]


class Budget:
    """Wall-clock seconds, optimiser steps, or both (the first to run out counts).

    With steps alone a run depends on its seed only; with seconds it also depends on the machine. The clock starts when
    it is made. Seconds of 0 or without an end leave the end to the steps. Raises ValueError where nothing ends the run,
    for seconds below 0, and for less than one step.
    """

    def __init__(self, seconds: float | None, steps: int | None) -> None:
        if seconds is not None and not seconds >= 0:
            raise ValueError(f"expected a time of 0 or more, got {seconds:g} seconds")
        if seconds in (None, 0, math.inf):
            seconds = None
        if seconds is None and steps is None:
            raise ValueError("the run has no end; give a time, a number of steps or both")
        if steps is not None and steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        self.seconds = seconds
        self.steps = steps
        self.taken = 0
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, 0..1."""
        by_time = self.elapsed / self.seconds if self.seconds else 0.0
        by_steps = self.taken / self.steps if self.steps else 0.0
        return min(1.0, max(by_time, by_steps))
