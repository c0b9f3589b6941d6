"""What a run learns from: files and their held-out rows, missing pixels, and scenes that leave nothing to score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lkca.config import validated
from lkca.data import Cube
from lkca.data.protocols.dataset import write_dataset
from lkca.errors import InputError
from lkca.losses import WeightedLoss
from lkca.training.config import DataConfig, TrainConfig
from lkca.training.data import open_training_set
from lkca.training.patches import PatchDataset, SourceScene, fill_invalid

from .runs import BANDS, run, scene, settings

pytest.importorskip("accelerate", reason="needs the extra 'train'")


def test_files_of_one_sensor_hold_out_their_last_rows(tmp_path: Path, dataset: Path) -> None:
    cube = scene(48, 40, 4)
    np.savez(tmp_path / "s.npz", cube=cube.read().transpose(1, 2, 0), wavelengths_nm=np.linspace(450, 850, BANDS))
    values = settings(dataset, data={"scenes": [str(tmp_path / "s.npz")], "holdout": 0.25}, steps=4)
    result = run(tmp_path / "run", values)
    assert "last 25% of the rows, at least 8 coarse ones" in result.split and result.metrics  # 8 of 24 coarse rows
    opened = open_training_set(validated(TrainConfig, values, "test").data, 2)
    parts = [part.whole().image.numpy() for part in (*opened.train, *opened.validation)]
    assert [part.shape[1] for part in parts] == [32, 16]
    np.testing.assert_allclose(np.concatenate(parts, 1) * opened.normalisation.peak, cube.read(), rtol=1e-6)
    with pytest.raises(InputError, match=r"s.npz: has 32 x 40 pixels to train on, a patch"):
        run(tmp_path / "other", values | {"patch": 30})


def test_sixteen_coarse_rows_are_enough_to_hold_eight_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", cube=scene(32, 40, 4).read().transpose(1, 2, 0))
    opened = open_training_set(DataConfig(scenes=[str(tmp_path / "s.npz")], holdout=0.1), 2)
    assert [part.shape[1] for part in (*opened.train, *opened.validation)] == [16, 16]


def test_a_data_set_that_lacks_its_training_scenes_is_told(tmp_path: Path) -> None:
    with write_dataset(tmp_path / "own.h5") as writer:
        writer.add("validation", "one", scene(40, 40, 3))
        writer.finish("own", "none", None, None)
    with pytest.raises(InputError, match=r"own\.h5: holds no training scene; prepare it again"):
        open_training_set(DataConfig(dataset=str(tmp_path / "own.h5")), 2)


@pytest.mark.parametrize(("least", "cut"), [(0.0, list(range(BANDS))), (-0.1, [])])
def test_results_of_a_data_set_without_negative_samples_are_cut_at_0(
    tmp_path: Path, least: float, cut: list[int]
) -> None:
    """As those of files are; a trained model gave dark pixels negative reflectances."""
    values = scene(40, 40, 3).read()
    values[2, 5, 6] = least
    with write_dataset(tmp_path / "own.h5") as writer:
        writer.add("train", "one", Cube.from_array(values))
        writer.finish("own", "none", None, None)
    opened = open_training_set(DataConfig(dataset=str(tmp_path / "own.h5")), 2)
    assert opened.bands.nonnegative == cut


def test_missing_pixels_teach_nothing(tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network makes of a pixel without truth does not change its gradient: it is taken for the truth."""
    cube = scene(48, 40, 5).read()
    cube[:, 20:26, 10:30] = np.nan
    np.savez(tmp_path / "s.npz", cube=cube.transpose(1, 2, 0))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = WeightedLoss.forward

    def spy(self: WeightedLoss, restored: torch.Tensor, sharp: torch.Tensor) -> torch.Tensor:
        assert self.unit is not None and self.unit.shape == (BANDS,)  # what bicubic leaves of each band
        seen.append((restored.detach().movedim(1, -1), sharp.movedim(1, -1)))
        return forward(self, restored, sharp)

    def marked(cube: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        filled, valid = fill_invalid(cube)
        return torch.where(valid, filled, 99), valid

    monkeypatch.setattr(WeightedLoss, "forward", spy)
    monkeypatch.setattr("lkca.training.patches.fill_invalid", marked)
    data = {"scenes": [str(tmp_path / "s.npz")], "holdout": 0}
    run(tmp_path / "run", settings(dataset, data=data, steps=2))
    for restored, sharp in seen:
        filled = (sharp == 99).all(-1)
        assert filled.any() and torch.equal(restored[filled], sharp[filled])
        assert not torch.equal(restored[~filled], sharp[~filled])


def test_patches_without_gaps_of_which_half_is_valid() -> None:
    cube = scene(40, 40, 5).read() / 4095
    cube[:, :, 25:] = np.nan
    patches = PatchDataset([SourceScene("x", cube.shape, lambda w: cube[(slice(None), *w.slices)])], 16, seed=0)
    for index in range(40):
        sharp, valid = patches[index]
        assert sharp.isfinite().all() and valid.float().mean() >= 0.5 and valid.shape == (1, 16, 16)
        again, _ = patches[index]
        assert torch.equal(sharp, again)
    assert len({float(patches[i][0].sum()) for i in range(20)}) > 10


def test_a_band_that_a_patch_lacks_teaches_nothing() -> None:
    """The scene has the band elsewhere: what fills it in the patch is no truth."""
    cube = scene(64, 64, 5).read() / 4095
    cube[1, :, 30:] = np.nan
    patches = PatchDataset([SourceScene("x", cube.shape, lambda w: cube[(slice(None), *w.slices)])], 16, seed=0)
    for index in range(20):
        sharp, valid = patches[index]
        assert valid.any() and bool((sharp[1, valid[0]] > 0).all())


def test_held_out_rows_without_samples_do_not_validate(tmp_path: Path, dataset: Path) -> None:
    """As under a georeferenced swath: before, every gain was 0 and the run failed after its last step."""
    for name, bands in (("all", slice(None)), ("one", slice(2, 3))):
        cube = scene(48, 40, 4).read()
        cube[bands, 30:] = np.nan
        np.savez(tmp_path / f"{name}.npz", cube=cube.transpose(1, 2, 0))
    np.savez(tmp_path / "whole.npz", cube=scene(48, 40, 5).read().transpose(1, 2, 0))
    files = [str(tmp_path / f"{name}.npz") for name in ("all", "one", "whole")]
    result = run(tmp_path / "run", settings(dataset, data={"scenes": files, "holdout": 0.25}, steps=4))
    assert "1 of 3 scenes" in result.split and result.metrics["bicubic"]["mpsnr"] < 60
    assert sum("does not validate" in note for note in result.notes) == 2
    result = run(tmp_path / "two", settings(dataset, data={"scenes": files[:2], "holdout": 0.25}, steps=4))
    assert result.model is not None and result.split == "" and not result.metrics


@pytest.mark.parametrize("holdout", [0, 0.25])
def test_a_run_that_validates_nothing_says_so(
    tmp_path: Path, dataset: Path, holdout: float, capsys: pytest.CaptureFixture[str]
) -> None:
    from lkca.cli.train import _print

    np.savez(tmp_path / "low.npz", cube=scene(30, 40, 4).read().transpose(1, 2, 0))  # 15 coarse rows
    values = settings(dataset, data={"scenes": [str(tmp_path / "low.npz")], "holdout": holdout}, steps=4)
    result = run(tmp_path / "run", values)
    assert result.model is not None and not result.metrics
    _print(result, TrainConfig(**values))
    printed = capsys.readouterr()
    assert "no scene validates" in printed.err and "best at" not in printed.out


def test_scenes_without_a_whole_spectrum_are_refused(tmp_path: Path, dataset: Path) -> None:
    cube = scene(48, 40, 4).read()
    cube[1, :, :20], cube[2, :, 20:] = np.nan, np.nan
    np.savez(tmp_path / "s.npz", cube=cube.transpose(1, 2, 0))
    with pytest.raises(InputError, match="no pixel that is valid in every band"):
        run(tmp_path / "run", settings(dataset, data={"scenes": [str(tmp_path / "s.npz")]}))
