"""``lkca fit``, ``distill`` and ``factorize`` below the command line: from files to a model that can be saved."""

from __future__ import annotations

from lkca.fitting.config import FitConfig
from lkca.fitting.run import FittedModel, fit_scenes

__all__ = ["FitConfig", "FittedModel", "fit_scenes"]
