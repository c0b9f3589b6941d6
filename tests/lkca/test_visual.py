"""Pictures: which bands, which stretch, which pixels."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lkca.data.synthetic import synthesize
from lkca.metrics import evaluate
from lkca.visual import Composite, choose_pixels, error_map, runs, spectral_angle_map, value_name

NM = np.linspace(400, 2500, 43)  # every 50 nm


def test_colours_are_the_nearest_good_bands() -> None:
    cube = np.random.default_rng(0).random((43, 8, 8))
    assert Composite.of(cube, NM).bands == (5, 3, 1)  # 650, 550, 450 nm
    assert Composite.of(cube, NM, kind="cir").bands == (9, 5, 3)
    good = np.ones(43, dtype=bool)
    good[5] = False
    assert Composite.of(cube, NM, good).bands[0] == 4
    assert Composite.of(cube, NM).name == "650, 550, 450 nm"
    for red, near in ((700, True), (701, False)):  # 60 nm from 640 nm, and more
        assert Composite.of(cube[:3], np.array([460, 550, red])).by_wavelength == near


@pytest.mark.parametrize("wavelengths", [None, NM + 1000])
def test_without_visible_wavelengths_the_colours_are_false_and_say_so(wavelengths: np.ndarray | None) -> None:
    cube = np.random.default_rng(0).random((43, 8, 8))
    good = np.ones(43, dtype=bool)
    good[:22] = False
    composite = Composite.of(cube, wavelengths, good)
    assert all(good[b] for b in composite.bands) and len(set(composite.bands)) == 3
    assert "false colour" in composite.name
    assert Composite.of(cube[:1], None).render(cube[:1]).shape == (8, 8, 3)


def test_the_stretch_is_shared_and_clips_two_percent() -> None:
    cube = np.linspace(0, 1, 10_000).reshape(1, 100, 100) * np.array([1.0, 2.0, 4.0])[:, None, None]
    composite = Composite.of(cube, np.array([460, 550, 640]))
    np.testing.assert_allclose(composite.low, 0.02, rtol=1e-3)
    np.testing.assert_allclose(composite.high, 4 * 0.98, rtol=1e-3)
    picture = composite.render(cube)
    assert picture.min() == 0 and picture.max() == 1
    assert (picture[..., 0] == 1).mean() == pytest.approx(0.02, abs=2e-3)  # red, the brightest
    assert (picture[..., 2] == 0).mean() == pytest.approx(0.02, abs=2e-3)  # blue, the darkest
    false = Composite.of(cube, None)  # no balance to keep: each band by itself
    assert false.bands == (2, 1, 0)
    np.testing.assert_allclose(false.high, np.array([4, 2, 1]) * 0.98, rtol=1e-3)
    dimmer = composite.render(cube * 0.5)  # another picture of the scene: the same limits, so it is darker
    assert dimmer.max() == pytest.approx(((4 * 0.5 - 0.02) / (4 * 0.98 - 0.02)) ** 0.7, rel=1e-3)


def test_missing_pixels_are_grey_and_do_not_move_the_stretch() -> None:
    cube = np.random.default_rng(0).random((3, 20, 20)).astype(np.float32)
    holed = cube.copy()
    holed[1, 4, 5], holed[0, 0, 0] = np.nan, np.inf

    def picture_of(shown: np.ndarray, wavelengths: np.ndarray | None = None) -> np.ndarray:
        return Composite.of(shown, wavelengths).render(shown)

    picture = picture_of(holed, np.array([460, 550, 640]))
    np.testing.assert_allclose(picture[[4, 0], [5, 0]], 0.85, rtol=1e-6)
    assert np.isfinite(picture).all()
    np.testing.assert_allclose(picture[10], picture_of(cube, np.array([460, 550, 640]))[10], atol=0.02)
    assert np.isfinite(picture_of(np.full((3, 4, 4), np.nan))).all()
    assert np.isfinite(picture_of(np.full((3, 4, 4), 0.3))).all()


def test_the_maps_average_to_the_metrics() -> None:
    truth, _, good = synthesize(40, 48, 43)
    blurred = 0.5 * (truth + np.roll(truth, 1, axis=2))
    angles = spectral_angle_map(truth, blurred, good)
    expected = evaluate(truth, blurred, scale=4, good_bands=good).sam
    assert float(angles.mean()) == pytest.approx(expected, rel=1e-5)
    errors = error_map(truth, blurred, good)
    assert float(errors.mean()) == pytest.approx(float(np.abs(truth - blurred)[good].mean()), rel=1e-5)
    dark = truth.copy()
    dark[:, 3, 4] = 0
    dark[:, 5, 6] = np.nan
    assert np.isnan(spectral_angle_map(dark, blurred, good)[[3, 5], [4, 6]]).all()
    assert np.isnan(error_map(dark, blurred, good)[5, 6])


def test_masked_samples_are_missing() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.random((2, 5, 40, 40), dtype=np.float32)
    mask = np.zeros(truth.shape, dtype=bool)
    mask[:, 10:14, 10:14] = mask[2, 30] = True
    masked = [np.ma.array(np.where(mask, -9999, cube), mask=mask) for cube in (truth, guess)]
    holed = [np.where(mask, np.nan, cube) for cube in (truth, guess)]
    for bands in (np.linspace(450, 650, 5), None):
        pictures = [Composite.of(cube, bands).render(cube) for cube in (masked[0], holed[0])]
        np.testing.assert_array_equal(*pictures)
    for measure in (error_map, spectral_angle_map):
        found = measure(*masked)
        assert not isinstance(found, np.ma.MaskedArray)
        np.testing.assert_array_equal(found, measure(*holed))
    assert choose_pixels(masked[0]) == choose_pixels(holed[0])


def test_pixels_are_unlike_and_apart() -> None:
    truth = np.zeros((3, 40, 60))
    truth[0, :, :20], truth[1, :, 20:40], truth[2, :, 40:] = 1.0, 1.0, 1.0
    truth[:, 0, 0] = np.nan
    picked = choose_pixels(truth, count=3)
    assert {col // 20 for _, col in picked} == {0, 1, 2}
    assert len(choose_pixels(truth, count=300)) < 300  # apart, so not that many fit
    assert len(choose_pixels(truth, good_bands=np.zeros(len(truth), dtype=bool))) == 1  # all alike
    assert choose_pixels(np.full((3, 9, 9), np.nan)) == []
    truth[:, 20:24, 5:9] = np.array([0, 0, 0.01])[:, None, None]  # as unlike as can be, but of noise
    truth[2, :, 40:] = 0
    truth[1, :, 40:] = 1
    assert not any(20 <= row < 24 and 5 <= col < 9 for row, col in choose_pixels(truth, count=3))
    assert len(choose_pixels(np.ones((3, 2, 2)))) >= 1


def test_choosing_takes_no_more_memory_than_the_cube_twice() -> None:
    truth = np.random.default_rng(0).random((40, 500, 400), dtype=np.float32)
    tracemalloc.start()
    try:
        assert len(choose_pixels(truth)) == 4
        assert tracemalloc.get_traced_memory()[1] < 2 * truth.nbytes
    finally:
        tracemalloc.stop()


def test_bad_arguments_are_told() -> None:
    cube = np.ones((43, 4, 4))
    with pytest.raises(ValueError, match="3 wavelengths for 43 bands"):
        Composite.of(cube, NM[:3])
    with pytest.raises(ValueError, match="every band is marked bad"):
        Composite.of(cube, None, np.zeros(43, dtype=bool))
    with pytest.raises(ValueError, match="true, cir"):
        Composite.of(cube, NM, kind="thermal")  # type: ignore[arg-type]


def test_values_that_may_be_reflectance() -> None:
    assert value_name(1.9) == "reflectance" and value_name(2.0) == value_name(4095.0) == "value"


def test_runs_of_bad_bands() -> None:
    assert runs(np.array([1, 1, 0, 0, 1, 0, 1], dtype=bool)) == [(0, 1), (4, 4), (6, 6)]
    assert runs(np.zeros(3, dtype=bool)) == []
