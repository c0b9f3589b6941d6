from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import lkca
from lkca.data import Cube, CubeMeta
from lkca.errors import InputError
from lkca.evaluation import evaluate_model
from lkca.inference.adapt import adapt
from lkca.models.directory import LoadedModel, save_model
from lkca.models.prior import Prior
from lkca.models.shipped import GENERAL, MEASURED_FILE, SHIPPED, find_model

LIMIT = 8_000_000  # bytes of all shipped files


def test_every_shipped_model_loads_at_each_of_its_scales() -> None:
    assert GENERAL in SHIPPED
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
        assert "## Limits" in model.card and model.terms in model.card, model.name


def test_measured_numbers_are_of_test_scenes_and_reach_the_goals() -> None:
    """The record that ``python -m studies.shipped.measure --write`` made; it is not measured again here."""
    record = json.loads(MEASURED_FILE.read_text(encoding="utf-8"))
    assert record.keys() == SHIPPED.keys()
    for name, model in SHIPPED.items():
        assert record[name]["weights"] == model.digest, f"{name}: other weights since; run the study again"
        assert set(model.gains) == set(model.scales), name
    at_four = record[GENERAL]["scores"]["4"]
    gains = {scene: s["model"]["mpsnr"] - s["bicubic"]["mpsnr"] for scene, s in at_four.items()}
    assert (gains.pop("beads") + gains.pop("pompoms")) / 2 >= 1.0
    assert len(gains) == 4
    for scene, gain in gains.items():
        assert gain >= 0.3 and at_four[scene]["model"]["sam"] <= at_four[scene]["bicubic"]["sam"], scene


def test_a_directory_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / GENERAL).mkdir()
    (tmp_path / GENERAL / "notes.txt").touch()
    prior = find_model(GENERAL, 2)
    assert isinstance(prior, Prior)  # a folder that is no model hides none
    (tmp_path / GENERAL / "notes.txt").rename(tmp_path / GENERAL / "config.json")
    with pytest.raises(InputError, match=r"no readable model\.safetensors"):
        find_model(GENERAL, 2)  # a damaged one does
    (tmp_path / GENERAL / "best").mkdir()
    (tmp_path / GENERAL / "config.json").rename(tmp_path / GENERAL / "best" / "config.json")
    (tmp_path / GENERAL / "best" / "model.safetensors").touch()
    with pytest.raises(InputError, match="is no model, give one of those in it: general/best"):
        find_model(GENERAL, 2)  # and a run folder: who names it means none of ours
    shutil.rmtree(tmp_path / GENERAL)
    cube = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    adapted = adapt(Cube.from_array(cube), prior, 2)
    save_model(GENERAL, adapted.net, adapted.config)
    own = find_model("general")
    assert isinstance(own, LoadedModel) and own.path == Path(GENERAL)
    (tmp_path / "else").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        find_model("else")


def test_results_name_a_shipped_model_as_the_user_does(tmp_path: Path) -> None:
    """Their tag held the folder where lkca is installed, by which runs on two machines were taken for others."""
    cube = 4000 * np.random.default_rng(0).random((31, 8, 8), dtype=np.float32)
    lkca.upscale(cube, "cave31", scale=4, output=tmp_path / "o.tif")
    with lkca.open_cube(tmp_path / "o.tif") as made:
        assert made.meta.tags["LKCA_MODEL"] == "cave31"


def test_a_model_of_several_scales_asks_for_one() -> None:
    with pytest.raises(InputError, match=r"cave31.*-s.*2, 4"):
        find_model("cave31")
    with pytest.raises(InputError, match=r"cave31.*×3.*2, 4"):
        find_model("cave31", 3)


@pytest.mark.parametrize("scale", [2, 4])
def test_the_visible_model_beats_bicubic_and_knows_its_sensor(scale: int) -> None:
    rng = np.random.default_rng(0)
    spectra = rng.random((31, 6)).cumsum(0)[:, rng.integers(6, size=(6, 6))] / 20
    sharp = 4000 * spectra.repeat(16, 1).repeat(16, 2).astype(np.float32)  # counts, as CAVE's
    wavelengths = np.linspace(400, 700, 31)
    cube = Cube.from_array(sharp, CubeMeta(wavelengths=wavelengths))
    model = find_model("cave31", scale)
    scores = evaluate_model(cube, model, scale).scores
    assert scores["model"].mpsnr > scores["bicubic"].mpsnr + 1
    other = Cube.from_array(sharp, CubeMeta(wavelengths=wavelengths + 40))
    with pytest.raises(InputError, match=r"440\.0 nm"):
        evaluate_model(other, model, scale)


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"nonsense: does not exist.*general.*lkca models"):
        find_model("nonsense")
