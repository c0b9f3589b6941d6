from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lkca.data import Cube
from lkca.errors import InputError
from lkca.inference.adapt import adapt
from lkca.models.directory import LoadedModel, save_model
from lkca.models.prior import Prior
from lkca.models.shipped import DEFAULT, MEASURED_FILE, SHIPPED, find_model

LIMIT = 8_000_000  # bytes of all shipped files


def test_every_shipped_model_loads_at_each_of_its_scales() -> None:
    assert DEFAULT in SHIPPED
    for name, model in SHIPPED.items():
        assert model.name == name and model.scales
        for scale in model.scales:
            loaded = find_model(name, scale)
            assert isinstance(loaded, Prior) if model.any_bands else isinstance(loaded, LoadedModel)
            assert scale == loaded.config.scale if isinstance(loaded, LoadedModel) else scale in loaded.scales


def test_the_files_are_small() -> None:
    assert 0 < sum(model.size for model in SHIPPED.values()) <= LIMIT
    packed = [p for p in MEASURED_FILE.parents[1].rglob("*") if p.suffix in (".safetensors", ".md", ".json")]
    assert sum(p.stat().st_size for p in packed) <= LIMIT


def test_cards_name_data_terms_and_limits() -> None:
    for model in SHIPPED.values():
        assert model.terms and "## Limits" in model.card and re.search(r"[Tt]erms", model.card), model.name


def test_a_directory_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prior = find_model(DEFAULT, 2)
    assert isinstance(prior, Prior)
    cube = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    adapted = adapt(Cube.from_array(cube), prior, 2)
    save_model(DEFAULT, adapted.net, adapted.config)
    own = find_model("general")
    assert isinstance(own, LoadedModel) and own.path == Path(DEFAULT)
    (tmp_path / "else").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        find_model("else")


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"nonsense: does not exist.*general.*lkca models"):
        find_model("nonsense")
