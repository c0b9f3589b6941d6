"""lkca: hyperspectral super-resolution with LKCA-Net on fused low-rank upsampling operators.

The names below are loaded on first use, so that ``import lkca`` costs nothing and pulls in neither torch nor
GDAL.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lkca.data import Cube as Cube
    from lkca.data import CubeMeta as CubeMeta
    from lkca.data import Window as Window
    from lkca.data import degrade as degrade
    from lkca.data import open_cube as open_cube
    from lkca.data import synthetic_scene as synthetic_scene
    from lkca.data import write_cube as write_cube
    from lkca.errors import InputError as InputError
    from lkca.errors import LkcaError as LkcaError
    from lkca.errors import OutputError as OutputError
    from lkca.inference import upscale as upscale
    from lkca.lowrank import replace_modules as replace_modules
    from lkca.models.directory import load_model as load_model
    from lkca.models.directory import save_model as save_model

_HOME = {
    "Cube": "lkca.data",
    "CubeMeta": "lkca.data",
    "Window": "lkca.data",
    "degrade": "lkca.data",
    "open_cube": "lkca.data",
    "synthetic_scene": "lkca.data",
    "write_cube": "lkca.data",
    "InputError": "lkca.errors",
    "LkcaError": "lkca.errors",
    "OutputError": "lkca.errors",
    "load_model": "lkca.models.directory",
    "replace_modules": "lkca.lowrank",
    "save_model": "lkca.models.directory",
    "upscale": "lkca.inference",
}

__all__ = [
    "Cube",
    "CubeMeta",
    "InputError",
    "LkcaError",
    "OutputError",
    "Window",
    "__version__",
    "degrade",
    "load_model",
    "open_cube",
    "replace_modules",
    "save_model",
    "synthetic_scene",
    "upscale",
    "write_cube",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from lkca.environment import package_version

        # None: run from a checkout that is on sys.path but not installed
        value: Any = package_version("lkca") or "0+uninstalled"
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'lkca' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
