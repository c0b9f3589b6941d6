"""Models over scenes: what is filled, normalised, upscaled and restored between a reader and a writer.

The names below are loaded on first use: what only walks over windows does not need torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lkca.inference.array import tile_margin, upscale_array
    from lkca.inference.degrade import degrade_scene
    from lkca.inference.kinds import upscale
    from lkca.inference.ranks import Ranks
    from lkca.inference.scene import ScenePlan, UpscaleReport, plan_scene, upscale_scene
    from lkca.inference.task import SceneOptions

_HOME = {
    "Ranks": "ranks",
    "SceneOptions": "task",
    "ScenePlan": "scene",
    "UpscaleReport": "scene",
    "degrade_scene": "degrade",
    "plan_scene": "scene",
    "tile_margin": "array",
    "upscale": "kinds",
    "upscale_array": "array",
    "upscale_scene": "scene",
}

__all__ = [
    "Ranks",
    "SceneOptions",
    "ScenePlan",
    "UpscaleReport",
    "degrade_scene",
    "plan_scene",
    "tile_margin",
    "upscale",
    "upscale_array",
    "upscale_scene",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"lkca.inference.{_HOME[name]}"), name)
