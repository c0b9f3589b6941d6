"""Scenes through a model: strips, no-data, bad bands, units, metadata."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine

import lkca
from lkca.data import Cube, CubeMeta, open_cube, write_cube
from lkca.data.degradation import Degradation
from lkca.errors import InputError
from lkca.inference import SceneOptions, upscale_array, upscale_scene
from lkca.inference.array import Upscaler, bicubic_array
from lkca.inference.checks import wavelength_gap
from lkca.inference.degrade import degrade_array
from lkca.inference.device import resolve_device
from lkca.inference.fill import fill_missing
from lkca.inference.task import Task
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingRecord
from lkca.models.directory import LoadedModel, describe_architecture
from lkca_kernels import bicubic_upsample

SCALE = 2
WAVELENGTHS = np.array([450.0, 500, 550, 600, 650])


def model(used: list[int] | None = None, peak: float = 1.0, offset: float = 0.0, scale: int = SCALE) -> LoadedModel:
    used = used or [0, 1, 2, 3, 4]
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(bands=len(used), scale=scale, width=4, blocks=2, kernel_size=5, window=3, rank=3))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=scale,
        bands=BandSet(count=5, used=used, wavelengths_nm=WAVELENGTHS.tolist()),
        degradation=Degradation(scale=scale),
        normalisation=Normalisation(peak=peak, offset=offset),
        training=TrainingRecord(data=[], seed=0, seconds=0, device="cpu"),
    )
    return LoadedModel(net.eval(), config, Path("model"))


def samples(rows: int = 30, cols: int = 11, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((5, rows, cols), dtype=np.float32) + 0.1


def meta(**changes: Any) -> CubeMeta:
    return CubeMeta(wavelengths=WAVELENGTHS, **changes)


def test_network_sees_normalised_values() -> None:
    x, m = samples(6, 7), model(peak=50.0, offset=3.0)
    cube = x * 50 + 3
    with torch.inference_mode():
        expected = m.net(torch.from_numpy((cube - np.float32(3)) / np.float32(50))[None])[0].numpy() * 50 + 3
    np.testing.assert_allclose(upscale_array(cube, m), expected, atol=1e-6 * np.abs(expected).max())


def test_bands_outside_the_network_are_bicubic() -> None:
    x, m = samples(6, 7), model(used=[0, 2, 4])
    result = upscale_array(x, m)
    np.testing.assert_allclose(result[[1, 3]], bicubic_array(x[[1, 3]], SCALE), rtol=1e-6)
    alone = m.net(torch.from_numpy(x[[0, 2, 4]])[None])[0].detach().numpy()
    np.testing.assert_allclose(result[[0, 2, 4]], alone, rtol=1e-5, atol=1e-6)


def test_a_bad_band_does_not_reach_the_others() -> None:
    x, m = samples(6, 7), model()
    good = np.array([True, True, False, True, True])
    spoiled = x.copy()
    spoiled[2] = 1e6 * samples(6, 7, seed=1)[0]
    one, two = upscale_array(x, m, good_bands=good), upscale_array(spoiled, m, good_bands=good)
    assert np.array_equal(one[good], two[good])
    np.testing.assert_allclose(two[2], bicubic_array(spoiled[2:3], SCALE)[0], rtol=1e-6)
    assert not np.allclose(one[good], upscale_array(spoiled, m)[good])  # it would have, if it had been called good


def test_missing_samples_do_not_bleed() -> None:
    """A hole holds NaN; whatever the file stores there, its neighbours are those of a filled cube."""
    x, m = samples(8, 9), model()
    holed = x.copy()
    holed[:, 3:5, 4] = np.nan
    result = upscale_array(holed, m)
    hole = np.isnan(holed).repeat(SCALE, 1).repeat(SCALE, 2)
    assert np.array_equal(np.isnan(result), hole)
    np.testing.assert_array_equal(result[~hole], upscale_array(fill_missing(holed)[0], m)[~hole])


def test_a_band_missing_far_and_wide_is_made_of_its_neighbours() -> None:
    x = samples(4, 60)
    x[2] = (x[1] + x[3]) / 2
    holed = x.copy()
    holed[2, :, :50] = np.nan
    upscaler = Upscaler(model(), SCALE, np.ones(5, dtype=bool))
    filled, _ = upscaler.prepare(holed)
    far = 50 - upscaler.reach  # no valid sample of the band is as near as that
    assert far > 20
    np.testing.assert_allclose(filled[2, :, :far], x[2, :, :far], rtol=1e-6)
    np.testing.assert_array_equal(filled[2, :, far:50], holed[2, :, 50:51].repeat(50 - far, axis=1))


@pytest.mark.parametrize("suffix", [".tif", ".img", ".npz", ".mat"])
def test_files_keep_their_metadata(tmp_path: Path, suffix: str) -> None:
    source, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    transform = Affine(30, 0, 500_000, 0, -30, 5_000_000)
    good = np.array([True, True, True, False, True])
    description = meta(
        good_bands=good, nodata=-9999.0, scale_factor=1e-4, stored_dtype=np.dtype(np.int16), transform=transform
    )
    x = samples(9, 8)
    x[:, 0, 0] = np.nan
    write_cube(source, x, description)
    m = model()
    with open_cube(source) as cube:
        report = upscale_scene(cube, output, m)
        expected = upscale_array(cube.read(), m, good_bands=good)
    assert (report.rows, report.cols, report.bands, report.bicubic_bands) == (18, 16, 5, 1)
    with open_cube(output) as result:
        assert result.meta.stored_dtype == np.int16 and result.meta.nodata == -9999
        assert np.array_equal(result.good_bands, good)
        assert result.meta.wavelengths is not None
        np.testing.assert_allclose(result.meta.wavelengths, WAVELENGTHS)
        if suffix in (".tif", ".img"):
            assert result.meta.transform == transform @ Affine.scale(1 / SCALE)
        np.testing.assert_allclose(result.read(), np.clip(expected, -3.2768, 3.2767), atol=0.51e-4)


def test_precision_and_tags_of_a_task() -> None:
    cube = Cube.from_array(samples(), meta(tags={"SENSOR": "mine"}))
    task = Task.of(cube, model(), SceneOptions(command="lkca upscale"))
    assert task.meta.tags.items() >= {"SENSOR": "mine", "LKCA_COMMAND": "lkca upscale", "LKCA_MODEL": "model"}.items()
    fine, coarse = (lkca.upscale(cube, model(), precision=precision) for precision in ("fp32", "bf16"))
    assert 0 < np.abs(fine - coarse).max() < 0.1 * np.abs(fine).max()


def test_lone_pixels_and_thin_scenes() -> None:
    m = model()
    for rows, cols in ((1, 1), (1, 9), (5, 1), (2, 3)):
        result = lkca.upscale(samples(rows, cols), m)
        assert result.shape == (5, rows * SCALE, cols * SCALE) and np.isfinite(result).all()


def test_wrong_band_count_names_found_expected_and_remedy() -> None:
    with pytest.raises(InputError, match=r"has 4 bands.*made for 5 \(450–650 nm\).*lkca fit"):
        lkca.upscale(samples()[:4], model())


def test_wrong_scale() -> None:
    with pytest.raises(InputError, match="upscales ×2, but -s asks for ×4"):
        lkca.upscale(samples(), model(), scale=4)


def test_bicubic_needs_a_scale() -> None:
    with pytest.raises(InputError, match="-s"):
        lkca.upscale(samples(), "bicubic")


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, "silent"), (10.0, "remark"), (40.0, "refused")])
def test_wavelengths(tmp_path: Path, shift: float, outcome: str) -> None:
    cube = Cube.from_array(samples(), CubeMeta(wavelengths=WAVELENGTHS + shift), source="shifted")
    if outcome == "refused":
        with pytest.raises(InputError, match=r"band \d of shifted lies at .* nm"):
            upscale_scene(cube, tmp_path / "o.npz", model())
        assert "--force" in upscale_scene(cube, tmp_path / "o.npz", model(), SceneOptions(force=True)).notes[0]
    else:
        assert bool(upscale_scene(cube, tmp_path / "o.npz", model()).notes) == (outcome == "remark")


def test_bands_beside_the_network_need_not_be_those_of_the_model(tmp_path: Path) -> None:
    x, shifted = samples(), CubeMeta(wavelengths=WAVELENGTHS + np.array([0, 40, 0, 0, 0]))
    x[1] *= 1e4
    assert not upscale_scene(Cube.from_array(x, shifted), tmp_path / "o.npz", model(used=[0, 2, 4])).notes


def test_bands_that_share_a_wavelength_are_as_far_from_others_as_their_neighbours() -> None:
    shared = np.array([400.0, 500, 500, 600])
    assert wavelength_gap(shared, shared + 1) == (pytest.approx(0.1), 1)  # a tenth of 100 nm stands for no distance


def test_reversed_bands_are_told_apart() -> None:
    cube = Cube.from_array(samples(), CubeMeta(wavelengths=WAVELENGTHS[::-1].copy()))
    with pytest.raises(InputError, match="reorder"):
        lkca.upscale(cube, model())


def test_unknown_wavelengths_are_remarked_on(tmp_path: Path) -> None:
    notes = upscale_scene(Cube.from_array(samples()), tmp_path / "o.npz", model()).notes
    assert len(notes) == 1 and "names no wavelengths" in notes[0]


@pytest.mark.parametrize(("factor", "refused"), [(1 / 40, True), (1 / 10, False), (10, False), (40, True)])
def test_other_units_are_refused(factor: float, refused: bool) -> None:
    with pytest.raises(InputError, match=r"the values reach .* units") if refused else nullcontext():
        lkca.upscale(Cube.from_array(samples() * np.float32(factor), meta()), model())


def test_a_glint_is_no_other_unit() -> None:
    x = samples()
    x[2, 15, 5] = 1e4
    lkca.upscale(Cube.from_array(x, meta()), model())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_all_missing(tmp_path: Path, value: float) -> None:
    np.save(tmp_path / "empty.npy", np.full((6, 7, 5), value, dtype=np.float32))
    with pytest.raises(InputError, match=r"empty\.npy"):
        lkca.upscale(tmp_path / "empty.npy", "bicubic", scale=2)


def test_failure_leaves_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.tif"
    output.write_bytes(b"precious")
    monkeypatch.setattr("lkca.inference.array.fill_missing", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        upscale_scene(Cube.from_array(samples(), meta()), output, model(), SceneOptions(overwrite=True))
    assert output.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.tif"]


def test_degraded_scene_is_missing_where_half_is() -> None:
    x = samples(8, 8)
    x[0, 0:2, 0:4] = np.nan
    x[0, 0, 0], x[1, 0, 0] = 0.5, np.nan
    low = degrade_array(x, Degradation(scale=4))
    assert np.isfinite(low).all()  # 7 of a coarse pixel's 16, at most, were missing
    x[0, 0, 0] = np.nan
    low = degrade_array(x, Degradation(scale=4, method="area"))
    assert np.isnan(low).sum() == 1 and np.isnan(low[0, 0, 0])
    x[np.isfinite(x)] = 7.0  # gaps darken nothing beside them
    np.testing.assert_allclose(degrade_array(x, Degradation(scale=4)).flat[1:], 7.0, rtol=1e-6)


def test_bicubic_is_the_one_definition() -> None:
    x = samples(5, 6)
    np.testing.assert_array_equal(bicubic_array(x, 3), bicubic_upsample(torch.from_numpy(x)[None], 3)[0].numpy())


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", "mps", ""])
def test_devices_that_are_not_here(name: str) -> None:
    with pytest.raises(InputError, match="device"):
        resolve_device(name)
