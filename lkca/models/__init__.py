"""Networks, and the directories that hold them."""

from __future__ import annotations

from lkca.models.config import ModelConfig
from lkca.models.directory import LoadedModel, load_model, save_model
from lkca.models.lkcanet import PRESETS, LKCANet, LKCANetConfig
from lkca.models.prior import Prior
from lkca.models.shipped import find_model

__all__ = [
    "PRESETS",
    "LKCANet",
    "LKCANetConfig",
    "LoadedModel",
    "ModelConfig",
    "Prior",
    "find_model",
    "load_model",
    "save_model",
]
