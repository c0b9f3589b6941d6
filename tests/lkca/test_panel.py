"""The panel: a picture of what differs, and a file that is whole or not there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lkca.data import Cube, CubeMeta, Window
from lkca.data.degradation import degrade
from lkca.data.synthetic import synthesize
from lkca.data.window import pieces
from lkca.errors import InputError, OutputError
from lkca.metrics import evaluate
from lkca.panel import comparison_panel
from lkca.views import Overview
from lkca.visual import Composite, error_map, spectral_angle_map


@pytest.fixture(scope="module")
def scene() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    import torch

    truth, wavelengths, good = synthesize(40, 48, 43)
    low = degrade(torch.from_numpy(truth), 4)
    bicubic = low.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    model = 0.5 * (bicubic + truth)
    return {"low": low.numpy(), "bicubic": bicubic, "model": model, "truth": truth}, wavelengths, good


def overview(
    cubes: dict[str, np.ndarray], wavelengths: np.ndarray | None = None, good: np.ndarray | None = None
) -> Overview:
    truth = Cube.from_array(cubes["truth"], CubeMeta(wavelengths=wavelengths, good_bands=good))
    found = Overview(truth, Cube.from_array(cubes["low"]), truth.good_bands, ("bicubic", "model"))
    for name in ("bicubic", "model"):
        for part in pieces(Window.full(truth.rows, truth.cols), 17, 1000):
            found.add(name, part, truth.read(part), cubes[name][(slice(None), *part.slices)])
    return found


def test_the_panel_is_a_picture_that_shows_the_difference(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    from matplotlib.image import imread

    cubes, wavelengths, good = scene
    scores = {name: evaluate(cubes["truth"], cubes[name], scale=4, good_bands=good) for name in ("bicubic", "model")}
    path = tmp_path / "panel.png"
    had_pyplot = "matplotlib.pyplot" in sys.modules
    comparison_panel(path, overview(cubes, wavelengths, good), metrics=scores, title="a scene")
    picture = imread(path)
    assert picture.shape[0] > 1000 and picture.shape[1] > 1500
    assert 0.2 < picture[..., :3].mean() < 0.95 and picture[..., :3].std() > 0.1
    assert list(tmp_path.iterdir()) == [path]
    comparison_panel(tmp_path / "other.png", overview(cubes | {"model": cubes["bicubic"]}, wavelengths, good))
    assert np.abs(imread(tmp_path / "other.png") - picture).max() > 0.1
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


@pytest.mark.parametrize("cut", [np.s_[:, :16, :], np.s_[:, :, :20]], ids=["flat", "tall"])
def test_pictures_and_maps_fill_their_rows_whatever_the_scenes_shape(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path, cut: tuple[slice, ...]
) -> None:
    """A region of a few rows stood as two thin strips in a page of white."""
    from matplotlib.image import imread

    cubes = {name: cube[cut] for name, cube in scene[0].items() if name != "low"}
    low = scene[0]["low"][(cut[0], *(slice(part.stop and part.stop // 4) for part in cut[1:]))]
    comparison_panel(tmp_path / "panel.png", overview({"low": low, **cubes}))
    white = (imread(tmp_path / "panel.png")[..., :3] == 1).all(axis=(1, 2))
    edges = np.flatnonzero(np.diff(np.concatenate(([False], white, [False])).astype(int)))
    assert (edges[1::2] - edges[::2]).max() < 60  # blank lines on end, of 120 to the inch


def test_the_panel_needs_no_metadata_and_bears_missing_pixels(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    holed = {name: cube[:5].copy() for name, cube in scene[0].items()}
    for cube in holed.values():
        cube[:, 0, 0] = np.nan
    comparison_panel(tmp_path / "panel.svg", overview(holed))
    empty = {name: np.full_like(cube, np.nan) for name, cube in holed.items()}
    comparison_panel(tmp_path / "empty.svg", overview(empty))  # without pixels and spectra
    text = (tmp_path / "panel.svg").read_text()
    assert text.startswith("<?xml") and text.rstrip().endswith("</svg>")


def test_a_band_without_neighbours_is_seen_among_the_spectra(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    gap = np.array([True, True, False, True, False])
    for bands, good in ((1, None), (5, gap)):
        cubes = {name: cube[:bands] for name, cube in scene[0].items()}
        found = overview(cubes, good=good)
        comparison_panel(tmp_path / f"{bands}.svg", found)
        text = (tmp_path / f"{bands}.svg").read_text()
        assert text.count("fill: #2b7bba") >= len(found.pixels) > 0  # bicubic's points; its lines have no fill


def test_an_overview_is_every_kth_pixel_of_what_is_shown_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((7, 12, 2600), dtype=np.float32)
    truth[:, 5, 70:90] = np.nan
    low, bicubic, model = truth[:, ::2, ::2], truth * np.float32(0.9), truth + np.float32(0.01)
    good = np.array([True, True, False, True, True, True, True])
    wavelengths = np.linspace(400, 700, 7)
    found = overview({"truth": truth, "low": low, "bicubic": bicubic, "model": model}, wavelengths, good)
    assert (found.step, found.low_step, found.scale) == (3, 2, 2)
    colours = Composite.of(truth[:, ::3, ::3], wavelengths, good)
    assert found.colours.name == colours.name
    np.testing.assert_array_equal(found.colours.render(found.truth), colours.render(truth[:, ::3, ::3]))
    np.testing.assert_array_equal(found.low, low[list(colours.bands), ::2, ::2])
    assert len(found.pixels) == 4 and all(row % 3 == col % 3 == 0 for row, col in found.pixels)
    at = tuple(np.transpose(found.pixels))
    np.testing.assert_array_equal(found.spectra, truth[:, *at])
    for name, cube in (("bicubic", bicubic), ("model", model)):
        shown = found.result(name)
        np.testing.assert_array_equal(shown.picture, cube[list(colours.bands), ::3, ::3])
        np.testing.assert_array_equal(shown.error, error_map(truth, cube, good)[::3, ::3])
        np.testing.assert_array_equal(shown.angle, spectral_angle_map(truth, cube, good)[::3, ::3])
        np.testing.assert_array_equal(shown.spectra, cube[:, *at])


def test_nothing_partial_is_left(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def full_disk(self: Figure, target: Path, **_: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        comparison_panel(tmp_path / "panel.png", overview(scene[0]))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_of_picture_is_told(
    scene: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is no picture's name"):
        comparison_panel(tmp_path / "panel.xyz", overview(scene[0]))
