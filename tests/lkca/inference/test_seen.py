"""Whether a scored scene is told from what the weights have met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lkca.data import Cube, CubeMeta, Window
from lkca.inference.seen import seen
from lkca.models.config import TrainingData
from lkca.models.directory import LoadedModel


@pytest.fixture
def remark(model_of: Callable[..., LoadedModel]) -> Callable[..., str]:
    """What is said of a scene, 36 × 70, that is scored by a model of that record."""

    def of(source: str, data: list[TrainingData], window: str = "0:36,0:70", **details: Any) -> str:
        model = model_of()
        training = model.config.training.model_copy(update={"data": data, "details": details})
        model = replace(model, config=model.config.model_copy(update={"training": training}))
        cube = Cube.from_array(np.ones((5, 36, 70), np.float32), CubeMeta(), source)
        return " ".join(seen(cube, Window.parse(window), model))

    return of


def record(name: str, rows: int = 36, region: str = "0:36,0:70") -> TrainingData:
    return TrainingData(name=name, rows=rows, cols=70, region=region)


@pytest.mark.parametrize(
    ("learned", "scored", "told"),
    [
        ("x/a.tif", "x/a.tif", True),
        ("a.tif", "y/a.img", True),
        ("a.mat::cube", "a.tif", True),
        ("a.mat::one", "a.mat::two", False),
        ("a.h5::/Reflectance/Data", "b.h5::/Reflectance/Data", False),
        ("set.h5::/validation/city_1", "set.h5::/test/city_1", False),
        ("set.h5::/train/two", "two.npz", True),
        ("set.h5::/train/two", "three.npz", False),
        ("two.h5::/train/two", "three.npz", False),
        ("a.tif", "b.tif", False),
    ],
)
def test_names_tell_scenes_apart(remark: Callable[..., str], learned: str, scored: str, told: bool) -> None:
    said = remark(scored, [record(learned)])
    assert bool(said) == told and ("this scene" in said) == (learned == scored)
    said = remark(scored, [], prior={"started_from": {"scenes": [learned]}})
    assert bool(said) == told and (learned in said) == told


def test_another_file_of_the_name_is_not_called_the_same(remark: Callable[..., str]) -> None:
    said = remark("monday/cube.npz", [record("sunday/cube.npz")])
    assert "learned from or was validated on sunday/cube.npz (0:36,0:70); unless that is another scene" in said
    assert not remark("monday/cube.npz", [record("sunday/cube.npz", rows=40)])
    both = [record("sunday/cube.npz"), record("monday/cube.npz")]
    assert "learned from or was validated on this scene" in remark("monday/cube.npz", both)


def test_the_rows_that_were_kept_out_are_a_test(remark: Callable[..., str]) -> None:
    upper = [record("a.tif", region="0:20,0:70")]
    assert remark("a.tif", upper, "10:30,0:70") and not remark("a.tif", upper, "20:36,0:70")


def test_a_region_that_is_not_of_that_size_does_not_fail(remark: Callable[..., str]) -> None:
    """As records of prepared data sets were: the region within the download, the size of that part."""
    assert "validated on two" in remark("set.h5::/train/two", [record("two", region="20:56,5:75")])
