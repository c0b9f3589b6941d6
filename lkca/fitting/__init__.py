"""``lkca fit`` below the command line: from files to a model that can be saved."""

from __future__ import annotations

from lkca.fitting.config import FitConfig
from lkca.fitting.run import FittedModel, fit_scenes
from lkca.fitting.scenes import TrainingScenes, prepare_scenes

__all__ = ["FitConfig", "FittedModel", "TrainingScenes", "fit_scenes", "prepare_scenes"]
