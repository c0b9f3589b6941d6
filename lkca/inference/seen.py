"""Has a model met the pixels that it is scored on? As far as the names of its training scenes tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lkca.data import Cube, Window
from lkca.errors import InputError
from lkca.models.config import TrainingData
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior

__all__ = ["seen"]


def seen(cube: Cube, window: Window, model: LoadedModel | Prior) -> list[str]:
    """A remark where the weights have met these pixels, as far as names tell: what is scored there is no test."""
    earlier = model.origin
    if isinstance(model, LoadedModel):
        for scene in sorted(model.config.training.data, key=lambda scene: scene.name != cube.source):  # itself first
            same_size = (scene.rows, scene.cols) == (cube.rows, cube.cols)
            if same_size and _may_be_one(scene.name, cube.source) and _holds(scene, window):
                if scene.name == cube.source:
                    what = f"this scene ({scene.region}); its scores are no test"
                else:
                    what = f"{scene.name} ({scene.region}); unless that is another scene, these scores are no test"
                return [f"{cube.source}: the model learned from or was validated on {what}"]
        earlier = {name: value for name, value in earlier.items() if name != "scenes"}
    for name in _scenes(earlier):
        if _may_be_one(name, cube.source):
            return [f"{cube.source}: the weights have met a scene named {name} (see the model's card); perhaps no test"]
    return []


def _may_be_one(name: str, other: str) -> bool:
    """Whether two files, ``FILE`` or ``FILE::VARIABLE``, may be one scene, be it in another folder or format.

    Within HDF5 a scene may go by its own name: "cave.h5::/train/beads" by that of beads.npz.
    """
    (file, _, variable), (file_2, _, variable_2) = name.partition("::"), other.partition("::")
    stem, stem_2 = Path(file).stem, Path(file_2).stem
    if variable and variable_2:
        return (stem, variable) == (stem_2, variable_2)
    inner, inner_2 = (text.rpartition("/")[2] if "/" in text else None for text in (variable, variable_2))
    return stem in (stem_2, inner_2) or stem_2 == inner


def _holds(scene: TrainingData, window: Window) -> bool:
    """Whether the model met pixels of ``window`` of that scene."""
    try:
        common = Window.parse(scene.region, (scene.rows, scene.cols)).overlap(window)
    except InputError:  # older records of prepared data sets: the region within the download, the size of that part
        return True
    return common.height > 0 and common.width > 0


def _scenes(origin: Any) -> list[str]:
    """Names of all scenes that a model's origin holds, however far back."""
    if isinstance(origin, list):
        return [name for item in origin for name in _scenes(item)]
    if not isinstance(origin, Mapping):
        return []
    lists = [origin[key] for key in ("scenes", "calibration") if isinstance(origin.get(key), list)]
    named = [name for names in lists for name in names if isinstance(name, str)]
    return named + _scenes(list(origin.values()))
