"""The panel: a picture of what differs, and a file that is whole or not there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lkca.data.degradation import degrade
from lkca.data.synthetic import synthesize
from lkca.errors import InputError, OutputError
from lkca.metrics import evaluate
from lkca.panel import comparison_panel


@pytest.fixture(scope="module")
def scene() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    import torch

    truth, wavelengths, good = synthesize(40, 48, 43)
    low = degrade(torch.from_numpy(truth), 4)
    bicubic = low.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    ours = 0.5 * (bicubic + truth)
    return {"lr": low.numpy(), "bicubic": bicubic, "ours": ours, "truth": truth}, wavelengths, good


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
