"""Pictures: which bands, which stretch, which pixels, and a file that is whole or not there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lkca.data.degradation import degrade
from lkca.data.synthetic import synthesize
from lkca.errors import InputError, OutputError
from lkca.metrics import evaluate
from lkca.visual import Composite, choose_pixels, comparison_panel, rgb, spectral_angle_map

NM = np.linspace(400, 2500, 43)  # every 50 nm


@pytest.fixture(scope="module")
def scene() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    import torch

    truth, wavelengths, good = synthesize(40, 48, 43)
    low = degrade(torch.from_numpy(truth), 4)
    bicubic = low.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    ours = 0.5 * (bicubic + truth)
    return {"lr": low.numpy(), "bicubic": bicubic, "ours": ours, "truth": truth}, wavelengths, good


def test_colours_are_the_nearest_good_bands() -> None:
    cube = np.random.default_rng(0).random((43, 8, 8))
    assert Composite.of(cube, NM).bands == (5, 3, 1)  # 650, 550, 450 nm
    assert Composite.of(cube, NM, kind="cir").bands == (9, 5, 3)
    good = np.ones(43, dtype=bool)
    good[5] = False
    assert Composite.of(cube, NM, good).bands[0] == 4
    assert Composite.of(cube, NM).name == "650, 550, 450 nm"


@pytest.mark.parametrize("wavelengths", [None, NM + 1000])
def test_without_visible_wavelengths_the_colours_are_false_and_say_so(wavelengths: np.ndarray | None) -> None:
    cube = np.random.default_rng(0).random((43, 8, 8))
    good = np.ones(43, dtype=bool)
    good[:22] = False
    composite = Composite.of(cube, wavelengths, good)
    assert all(good[b] for b in composite.bands) and len(set(composite.bands)) == 3
    assert "false colour" in composite.name
    assert rgb(cube[:1], None).shape == (8, 8, 3)


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
    assert dimmer.max() < 0.8


def test_missing_pixels_are_grey_and_do_not_move_the_stretch() -> None:
    cube = np.random.default_rng(0).random((3, 20, 20)).astype(np.float32)
    holed = cube.copy()
    holed[1, 4, 5], holed[0, 0, 0] = np.nan, np.inf
    picture = rgb(holed, np.array([460, 550, 640]))
    np.testing.assert_allclose(picture[[4, 0], [5, 0]], 0.85, rtol=1e-6)
    assert np.isfinite(picture).all()
    np.testing.assert_allclose(picture[10], rgb(cube, np.array([460, 550, 640]))[10], atol=0.02)
    assert np.isfinite(rgb(np.full((3, 4, 4), np.nan), None)).all()
    assert np.isfinite(rgb(np.full((3, 4, 4), 0.3), None)).all()


def test_the_angle_map_averages_to_the_metric(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray],
) -> None:
    cubes, _, good = scene
    angles = spectral_angle_map(cubes["truth"], cubes["bicubic"], good)
    expected = evaluate(cubes["truth"], cubes["bicubic"], scale=4, good_bands=good).sam
    assert float(angles.mean()) == pytest.approx(expected, rel=1e-5)
    dark = cubes["truth"].copy()
    dark[:, 3, 4] = 0
    assert np.isnan(spectral_angle_map(dark, cubes["bicubic"], good)[3, 4])


def test_pixels_are_unlike_and_apart() -> None:
    truth = np.zeros((3, 40, 60))
    truth[0, :, :20], truth[1, :, 20:40], truth[2, :, 40:] = 1.0, 1.0, 1.0
    truth[:, 0, 0] = np.nan
    picked = choose_pixels(truth, count=3)
    assert {col // 20 for _, col in picked} == {0, 1, 2}
    assert len(choose_pixels(truth, count=300)) < 300  # apart, so not that many fit
    assert choose_pixels(np.full((3, 9, 9), np.nan)) == []
    assert len(choose_pixels(np.ones((3, 2, 2)))) >= 1


def test_the_panel_is_a_picture_that_shows_the_difference(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    from matplotlib.image import imread

    cubes, wavelengths, good = scene
    scores = {name: evaluate(cubes["truth"], cubes[name], scale=4, good_bands=good) for name in ("bicubic", "ours")}
    path = tmp_path / "panel.png"
    had_pyplot = "matplotlib.pyplot" in sys.modules
    comparison_panel(path, **cubes, wavelengths=wavelengths, good_bands=good, metrics=scores, title="a scene")
    picture = imread(path)
    assert picture.shape[0] > 1000 and picture.shape[1] > 1500
    assert 0.2 < picture[..., :3].mean() < 0.95 and picture[..., :3].std() > 0.1
    assert list(tmp_path.iterdir()) == [path]
    comparison_panel(tmp_path / "other.png", **(cubes | {"ours": cubes["bicubic"]}), wavelengths=wavelengths)
    assert np.abs(imread(tmp_path / "other.png") - picture).max() > 0.1
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


def test_the_panel_needs_no_metadata_and_bears_missing_pixels(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    holed = {name: cube[:5].copy() for name, cube in scene[0].items()}
    for cube in holed.values():
        cube[:, 0, 0] = np.nan
    comparison_panel(tmp_path / "panel.svg", **holed, pixels=[(5, 5)])
    text = (tmp_path / "panel.svg").read_text()
    assert text.startswith("<?xml") and text.rstrip().endswith("</svg>")


def test_nothing_partial_is_left(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def full_disk(self: Figure, target: Path, **_: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        comparison_panel(tmp_path / "panel.png", **scene[0], pixels=[])
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_told(scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path) -> None:
    cubes = scene[0]
    with pytest.raises(InputError, match="no picture format"):
        comparison_panel(tmp_path / "panel.xyz", **cubes, pixels=[])
    with pytest.raises(ValueError, match="over one integer"):
        comparison_panel(tmp_path / "panel.png", **(cubes | {"lr": cubes["lr"][:, :7]}))
    with pytest.raises(ValueError, match="must be one"):
        comparison_panel(tmp_path / "panel.png", **(cubes | {"ours": cubes["lr"]}))
    with pytest.raises(ValueError, match="3 wavelengths for 43 bands"):
        rgb(cubes["truth"], NM[:3])
    with pytest.raises(ValueError, match="every band is marked bad"):
        rgb(cubes["truth"], None, np.zeros(43, dtype=bool))
    with pytest.raises(ValueError, match="true, cir"):
        rgb(cubes["truth"], NM, kind="thermal")  # type: ignore[arg-type]
