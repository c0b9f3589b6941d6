"""Training: from a user's scenes to a network."""

from __future__ import annotations

from lkca.training.fit import FitResult, fit
from lkca.training.progress import Progress

__all__ = ["FitResult", "Progress", "fit"]
