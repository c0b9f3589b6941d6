"""Training: from a user's scenes to a network."""

from __future__ import annotations

from lkca.training.distill import DistillRecipe, distill
from lkca.training.fit import FitResult, fit
from lkca.training.progress import Progress

__all__ = ["DistillRecipe", "FitResult", "Progress", "distill", "fit"]
