"""Hyperspectral cubes: reading, writing, degrading and describing them.

``Degradation``, ``degrade`` and ``synthetic_scene`` are loaded on first use: reading a cube does not need torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lkca.data.cube import Cube
from lkca.data.meta import CubeMeta
from lkca.data.readers import open_cube
from lkca.data.window import Window
from lkca.data.writers import CubeWriter, WriteReport, create_writer, write_cube

if TYPE_CHECKING:
    from lkca.data.degradation import Degradation, degrade
    from lkca.data.synthetic import synthetic_scene

__all__ = [
    "Cube",
    "CubeMeta",
    "CubeWriter",
    "Degradation",
    "Window",
    "WriteReport",
    "create_writer",
    "degrade",
    "open_cube",
    "synthetic_scene",
    "write_cube",
]

_LAZY = {
    "Degradation": "lkca.data.degradation",
    "degrade": "lkca.data.degradation",
    "synthetic_scene": "lkca.data.synthetic",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
