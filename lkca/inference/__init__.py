"""Models over scenes: what is filled, normalised, upscaled and restored between a reader and a writer.

The names below are loaded on first use: what only walks over windows does not need torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lkca.inference.array import upscale_array
    from lkca.inference.scene import UpscaleReport, degrade_scene, upscale, upscale_scene

__all__ = ["UpscaleReport", "degrade_scene", "upscale", "upscale_array", "upscale_scene"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "array" if name == "upscale_array" else "scene"
    return getattr(importlib.import_module(f"lkca.inference.{home}"), name)
