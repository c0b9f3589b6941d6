"""Scores of a scene that is done tile by tile are those of the whole at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from lkca import evaluation
from lkca.data import Cube, CubeMeta, Window
from lkca.data.degradation import Degradation, DegradationMethod
from lkca.errors import InputError
from lkca.evaluation import evaluate_model, evaluate_prediction
from lkca.inference.adapt import adapt
from lkca.inference.array import bicubic_array, upscale_array
from lkca.inference.degrade import degrade_array
from lkca.metrics import Metrics, evaluate
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior
from lkca.models.shipped import find_model

Models = Callable[..., LoadedModel]


def close(found: Metrics, expected: Metrics) -> None:
    for name, value in expected.as_dict(per_band=True).items():
        if name != "protocol":
            assert getattr(found, name) == pytest.approx(value, rel=1e-6, abs=1e-9), name


def at_once(
    cube: Cube,
    model: LoadedModel | Prior | None,
    scale: int,
    window: Window,
    degradation: Degradation,
    bands: list[int],
) -> dict[str, Metrics]:
    """What evaluate_model did before it knew tiles."""
    truth = cube.read(window)
    low = degrade_array(truth, degradation)
    guesses = {"bicubic": bicubic_array(low, scale)}
    if isinstance(model, Prior):
        model = adapt(Cube.from_array(low, cube.meta.degraded(scale)), model, scale)
    if model is not None:
        guesses["model"] = upscale_array(low, model, good_bands=cube.good_bands)
    scored = np.zeros(cube.bands, dtype=bool)
    scored[bands] = True
    peak = float(np.nanmax(truth[bands]))
    return {name: evaluate(truth, g, scale=scale, peak=peak, good_bands=scored) for name, g in guesses.items()}


def test_bicubic_is_cut_at_0_where_the_model_is() -> None:
    """Else a dark scene's angle favours the model for what it did not restore."""
    values = np.full((4, 48, 48), 0.002, dtype=np.float32)
    values[:, 16:32, 8:40] = np.linspace(0.5, 1, 4, dtype=np.float32)[:, None, None]
    values[3] -= 0.3  # has true negative values
    cube = Cube.from_array(values, CubeMeta(wavelengths=np.linspace(450, 800, 4)))
    alone, beside = (evaluate_model(cube, model, 4, middle=True) for model in (None, find_model("general", 4)))
    assert alone.middle is not None and beside.middle is not None
    raw, cut = alone.middle.results["bicubic"], beside.middle.results["bicubic"]  # 48 × 48 pixels: all of it
    assert raw.min(axis=(1, 2)).max() < 0
    np.testing.assert_array_equal(cut[:3], np.maximum(raw[:3], 0))
    np.testing.assert_array_equal(cut[3], raw[3])
    close(beside.scores["bicubic"], evaluate(values, cut, scale=4, peak=beside.peak))
    assert beside.scores["bicubic"].sam < alone.scores["bicubic"].sam


@pytest.mark.parametrize("side", [3, 11, 1000])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_tiles_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, model_of: Models, holed_scene: np.ndarray, scale: int, side: int
) -> None:
    good = np.array([True, True, False, True, True])
    holed_scene[2] *= 2  # a bad band is no peak
    cube = Cube.from_array(holed_scene, CubeMeta(good_bands=good))
    monkeypatch.setattr(evaluation, "_TILE_PIXELS", (side * scale) ** 2)
    model, window = model_of("low rank", scale), Window(2, 3, 57 // scale * scale, 50 // scale * scale)
    result = evaluate_model(cube, model, scale, region="2:59,3:53", force=True)
    assert (
        result.middle is None
        and result.overview is None
        and result.window == window
        and result.bands.tolist() == [0, 1, 3, 4]
    )
    expected = at_once(cube, model, scale, window, Degradation(scale=scale), [0, 1, 3, 4])
    assert result.scores.keys() == expected.keys()
    for name, metrics in expected.items():
        close(result.scores[name], metrics)
    shown = evaluate_model(cube, model, scale, region="2:59,3:53", force=True, middle=True, overview=True)
    assert shown.scores == result.scores and shown.middle is not None and shown.overview is not None
    truth = cube.read(window)
    low = degrade_array(truth, Degradation(scale=scale))
    np.testing.assert_array_equal(shown.middle.truth, truth)
    np.testing.assert_array_equal(shown.middle.low, low)
    np.testing.assert_array_equal(shown.middle.results["bicubic"], bicubic_array(low, scale))
    for name, whole in shown.middle.results.items():
        part = shown.overview.result(name)
        np.testing.assert_array_equal(part.picture, whole[[3, 3, 1]])


@pytest.mark.parametrize("method", get_args(DegradationMethod))
def test_the_general_model_and_every_degradation(
    monkeypatch: pytest.MonkeyPatch, model_of: Models, holed_scene: np.ndarray, method: DegradationMethod
) -> None:
    monkeypatch.setattr(evaluation, "_TILE_PIXELS", 20**2)
    cube, prior, degradation = (
        Cube.from_array(holed_scene),
        find_model("general", 2),
        Degradation(scale=2, method=method),
    )
    result = evaluate_model(cube, prior, 2, degradation=degradation)
    for name, metrics in at_once(cube, prior, 2, Window(0, 0, 60, 52), degradation, list(range(5))).items():
        close(result.scores[name], metrics)
    model = model_of("low rank", 2)
    model = replace(model, config=model.config.model_copy(update={"degradation": degradation}))
    own = evaluate_model(cube, model, 2, force=True)  # as it was trained to undo, where nothing else is asked for
    assert own.degradation == degradation and own.scores["bicubic"] == result.scores["bicubic"]


def test_memory_that_does_not_suffice(holed_scene: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"8 × 8 coarse pixels needs .* allowed; give more with --memory"):
        evaluate_model(Cube.from_array(holed_scene), None, 2, memory="100M")


def test_what_the_prediction_lacks_is_not_scored_and_told(holed_scene: np.ndarray) -> None:
    guess = 0.9 * holed_scene
    row, col = np.argwhere(np.isfinite(holed_scene).all(axis=0))[0]
    guess[4, row, col] = np.nan
    lacking = CubeMeta(good_bands=np.array([True, False, True, True, True]))
    result = evaluate_prediction(Cube.from_array(holed_scene), Cube.from_array(guess, lacking, "guess"), 2)
    assert result.bands.tolist() == [0, 2, 3, 4]
    assert [note for note in result.notes if "lacks 1 pixels" in note]
    assert [
        note
        for note in result.notes
        if "guess: good in the reference, bad or empty here, not scored: band 1 (from 0)" in note
    ]
    told = evaluate_prediction(Cube.from_array(guess, lacking), Cube.from_array(0.9 * guess), 2).notes
    assert told == ()  # what the reference itself calls bad, nobody misses


def test_what_cannot_be_scored_is_told_or_left_out(holed_scene: np.ndarray) -> None:
    """A band may hold samples elsewhere in the scene, and none in the region."""
    truth = holed_scene.copy()
    truth[1, :20] = np.nan
    cube = Cube.from_array(truth, source="truth")
    for result in (
        evaluate_model(cube, None, 2, region=":20,:"),
        evaluate_prediction(cube, Cube.from_array(holed_scene), 2, region=":20,:"),
    ):
        assert result.bands.tolist() == [0, 2, 3, 4]
    with pytest.raises(InputError, match="truth: the region has no valid sample in any good band"):
        evaluate_model(Cube.from_array(truth, CubeMeta(good_bands=np.arange(5) == 1), "truth"), None, 2, region=":20,:")
    dark = Cube.from_array(np.zeros_like(truth), source="dark")
    with pytest.raises(
        InputError, match=r"dark: the largest valid sample is 0; .* another region, or the value .*--peak"
    ):
        evaluate_prediction(dark, cube, 2)


def test_scores_without_mssim_say_why() -> None:
    """The table has a nan, which nothing explained."""
    values = np.random.default_rng(0).random((3, 6, 8), dtype=np.float32)
    cube, words = Cube.from_array(values, source="truth"), "there is no MSSIM: no 7 × 7 pixels without a missing sample"
    assert evaluate_model(cube, None, 2).notes == (f"truth: {words}",)
    assert evaluate_prediction(cube, Cube.from_array(0.9 * values, source="x"), 2).notes == (f"x: {words}",)


def test_a_prediction_may_lack_the_edge_that_is_no_whole_coarse_pixel(holed_scene: np.ndarray) -> None:
    """As what comes of lkca degrade and upscale does."""
    cube = Cube.from_array(holed_scene, source="truth")
    result = evaluate_prediction(cube, Cube.from_array(0.9 * holed_scene[:, :60, :52]), 4)
    assert result.window == Window(0, 0, 60, 52)
    assert result.notes == ("truth: region cut from 0:61,0:53 to 0:60,0:52, a multiple of 4",)


def test_a_prediction_of_nothing_is_named(holed_scene: np.ndarray) -> None:
    """The reference was said to have no valid sample."""
    truth, guess = Cube.from_array(holed_scene), Cube.from_array(np.full_like(holed_scene, np.nan), source="guess")
    guess.mark_empty_bands()  # as opening a file does
    with pytest.raises(InputError, match="guess: holds no valid sample"):
        evaluate_prediction(truth, guess, 2)


def test_contradictions_are_told(holed_scene: np.ndarray) -> None:
    utm = CRS.from_epsg(32610).to_wkt()
    wavelengths, transform = np.linspace(400, 470, 5), Affine(5, 0, 5e5, 0, -5, 4e6)
    reference = Cube.from_array(holed_scene, CubeMeta(wavelengths=wavelengths, crs=utm, transform=transform), "truth")
    other = holed_scene * np.float32(1.01)

    def notes(array: np.ndarray = other, region: str | None = None, **changes: Any) -> str:
        prediction = Cube.from_array(array, reference.meta.replace(**changes), "guess")
        return "; ".join(evaluate_prediction(reference, prediction, 2, region=region).notes)

    assert notes() == "" and notes(transform=None, crs=None, wavelengths=None) == ""
    assert "55400.0 pixels apart" in notes(transform=Affine(5, 0, 5e5 + 277e3, 0, -5, 4e6))
    assert "12.2 pixels apart" in notes(transform=Affine(6, 0, 5e5, 0, -6, 4e6))  # at the other corner
    assert "their CRSs differ" in notes(crs=CRS.from_epsg(32611).to_wkt())
    assert "band 0 lies at 1400.0 nm, not at 400.0 nm" in notes(wavelengths=wavelengths + 1000)
    assert "their units or scale factors differ" in notes(holed_scene * 1e4)
    assert "guess equals truth in every sample" in notes(holed_scene)
    part = other[:, 8:48, 4:44]
    assert "pixels apart" in notes(part, "8:48,4:44")
    assert notes(part, "8:48,4:44", transform=transform @ Affine.translation(4, 8)) == ""
