"""Training: from a user's scenes to a network."""

from __future__ import annotations

from lkca.training.distill import DistillRecipe, distill
from lkca.training.distillation import Point
from lkca.training.fit import FitResult, Recipe, fit
from lkca.training.progress import Budget, Progress

__all__ = ["Budget", "DistillRecipe", "FitResult", "Point", "Progress", "Recipe", "distill", "fit"]
