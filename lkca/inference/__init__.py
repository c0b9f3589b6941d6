"""Models over scenes: what is filled, normalised, upscaled and restored between a reader and a writer."""

from __future__ import annotations

from lkca.inference.array import upscale_array
from lkca.inference.scene import UpscaleReport, degrade_scene, upscale, upscale_scene

__all__ = ["UpscaleReport", "degrade_scene", "upscale", "upscale_array", "upscale_scene"]
