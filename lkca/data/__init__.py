"""Hyperspectral cubes: reading, writing and describing them."""

from __future__ import annotations

from lkca.data.cube import Cube
from lkca.data.degradation import degrade
from lkca.data.meta import CubeMeta
from lkca.data.readers import open_cube
from lkca.data.window import Window
from lkca.data.writers import CubeWriter, WriteReport, create_writer, write_cube

__all__ = [
    "Cube",
    "CubeMeta",
    "CubeWriter",
    "Window",
    "WriteReport",
    "create_writer",
    "degrade",
    "open_cube",
    "write_cube",
]
