"""The general model on cubes of any bands and sizes, and that it sees nothing but the coarse cube."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lkca.data import Cube, CubeMeta, Window, open_cube, synthetic_scene
from lkca.data.degradation import Degradation
from lkca.errors import InputError
from lkca.evaluation import evaluate_model
from lkca.inference.adapt import COMPONENTS, _Statistics, adapt
from lkca.inference.array import bicubic_array, upscale_array
from lkca.inference.degrade import degrade_array
from lkca.inference.fill import fill_missing
from lkca.models.directory import load_model, save_model
from lkca.models.prior import Prior, shipped_prior
from lkca.models.subspace import SpectralSubspace
from lkca.report.build import report_of_model
from lkca.report.page import render


@pytest.fixture(scope="module")
def prior() -> Prior:
    prior = shipped_prior()
    assert prior is not None
    return prior


@pytest.fixture(scope="module")
def sharp() -> np.ndarray:
    """float32 (40, 64, 56), reflectance."""
    return synthetic_scene(64, 56, 40, seed=3).read()


@pytest.fixture(scope="module")
def coarse(sharp: np.ndarray) -> np.ndarray:
    return degrade_array(sharp, Degradation(scale=2))


def test_it_beats_bicubic_without_training(sharp: np.ndarray, prior: Prior) -> None:
    for scale in prior.scales:
        cube = Cube.from_array(sharp[:, : 64 // scale * scale, : 56 // scale * scale])
        scores = evaluate_model(cube, prior, scale).scores
        assert scores["model"].mpsnr > scores["bicubic"].mpsnr + 0.3, scale
        assert scores["model"].sam < scores["bicubic"].sam, scale


@pytest.mark.parametrize("name", ["abu_urban_1", "sandiego_b"])
def test_it_beats_bicubic_on_a_scene_kept_from_training(name: str, real_data: Path, prior: Prior) -> None:
    with open_cube(real_data / "cubes" / f"{name}.npz") as cube:
        scores = evaluate_model(cube, prior, 4).scores
    assert scores["model"].mpsnr > scores["bicubic"].mpsnr + 0.4
    assert scores["model"].sam < scores["bicubic"].sam


def test_evaluation_shows_it_the_degraded_cube_only(
    sharp: np.ndarray, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def record(cube: Cube, *args: object) -> object:
        seen.append(cube.read())
        return adapt(cube, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("lkca.inference.choose.adapt", record)
    evaluate_model(Cube.from_array(sharp), prior, 4)
    (given,) = seen
    np.testing.assert_array_equal(given, degrade_array(sharp, Degradation(scale=4)))


def test_order_of_the_bands_changes_the_order_alone(coarse: np.ndarray, prior: Prior) -> None:
    order = np.random.default_rng(1).permutation(coarse.shape[0])
    plain, mixed = (upscale_array(c, adapt(Cube.from_array(c), prior, 2)) for c in (coarse, coarse[order]))
    detail = np.abs(plain - bicubic_array(coarse, 2)).max()
    np.testing.assert_allclose(mixed, plain[order], atol=1e-3 * detail)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_bands(count: int, sharp: np.ndarray, coarse: np.ndarray, prior: Prior) -> None:
    bands = np.linspace(0, coarse.shape[0] - 1, count).astype(int)[::-1]
    model = adapt(Cube.from_array(coarse[bands]), prior, 2)
    assert model.net.config.components == count
    ours, base = upscale_array(coarse[bands], model), bicubic_array(coarse[bands], 2)
    assert np.square(ours - sharp[bands]).mean() < 0.93 * np.square(base - sharp[bands]).mean()


@pytest.mark.parametrize("shape", [(500, 9, 7), (4, 1, 1), (3, 1, 9), (3, 2, 1), (200, 3, 3)])
def test_any_size(shape: tuple[int, int, int], prior: Prior) -> None:
    cube = np.random.default_rng(0).random(shape, dtype=np.float32)
    model = adapt(Cube.from_array(cube), prior, 3)
    out = upscale_array(cube, model)
    assert out.shape == (shape[0], 3 * shape[1], 3 * shape[2]) and np.isfinite(out).all()
    assert (model.net.config.components or 0) <= min(COMPONENTS, shape[0], shape[1] * shape[2])


def test_constant_and_noisy_bands_do_no_harm(sharp: np.ndarray, coarse: np.ndarray, prior: Prior) -> None:
    bad = coarse.copy()
    bad[5] = 0.25
    bad[6] = 1000 * np.random.default_rng(0).standard_normal(bad[6].shape)
    rest = np.delete(np.arange(40), [5, 6])
    clean, spoilt = (upscale_array(c, adapt(Cube.from_array(c), prior, 2)) for c in (coarse, bad))
    np.testing.assert_allclose(spoilt[5], 0.25, rtol=1e-5)
    error = [np.square(x[rest] - sharp[rest]).mean() for x in (clean, spoilt, bicubic_array(coarse, 2))]
    assert error[1] < error[0] + 0.1 * (error[2] - error[0])


@pytest.mark.parametrize("value", [-3.0, 0.0])
def test_a_constant_cube_stays_constant(value: float, prior: Prior) -> None:
    cube = np.full((6, 9, 9), value, dtype=np.float32)
    np.testing.assert_allclose(upscale_array(cube, adapt(Cube.from_array(cube), prior, 2)), value, rtol=1e-5)


def test_what_fills_a_hole_is_not_counted() -> None:
    holed = np.random.default_rng(0).standard_normal((2, 16, 16), dtype=np.float32)
    holed[1, 4:9, 4:9] = np.nan
    found, filled = _Statistics(2), _Statistics(2)
    found.add(holed)
    filled.add(fill_missing(holed)[0])
    assert found.count.tolist() == [256, 256 - 25]
    np.testing.assert_allclose(found.total, np.nansum(holed, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.below, np.nansum(np.minimum(holed, 0) ** 2, axis=(1, 2)), rtol=1e-5)
    ours, theirs = (statistics.products.diagonal() for statistics in (found, filled))
    assert ours[0] == theirs[0] and 0 < ours[1] < theirs[1]


def test_bad_bands_and_missing_samples_stay_out(coarse: np.ndarray, prior: Prior) -> None:
    """What a file stores in bad bands and under missing samples changes no statistic."""
    good = np.ones(40, dtype=bool)
    good[[3, 20]] = False
    meta = CubeMeta(good_bands=good)
    holes = coarse.copy()
    holes[:, 4:9, 5:11] = np.nan
    holes[30] = np.nan
    other = holes.copy()
    other[~good] *= 1e4
    one, two = (adapt(Cube.from_array(c, meta), prior, 2) for c in (holes, other))
    assert one.config.bands.used == [b for b in range(40) if b not in (3, 20, 30)]
    assert one.config.bands.count == 40
    for name, tensor in one.net.state_dict().items():
        assert torch.equal(tensor, two.net.state_dict()[name]), name
    whole = adapt(Cube.from_array(coarse, meta), prior, 2).config.normalisation.peak
    assert whole == pytest.approx(np.quantile(np.abs(coarse[good]), 0.999, axis=(1, 2)).max())
    assert 0.5 * whole < one.config.normalisation.peak <= whole
    said = one.config.training
    assert said.data[0].region == "0:32,0:28" and (said.data[0].rows, said.data[0].cols) == (32, 28)
    assert (said.details["windows"], said.details["pixels"]) == (1, 32 * 28 - 5 * 6)


def test_only_a_sample_of_a_large_scene_is_read(prior: Prior) -> None:
    """A scene of 16 million pixels: few windows, each small, and the same ones again."""
    reads: list[Window] = []

    def read(window: Window, bands: np.ndarray) -> np.ndarray:
        reads.append(window)
        rows, cols = np.mgrid[window.slices]
        return np.stack([np.sin(rows / (3 + b)) * np.cos(cols / 5) for b in bands]).astype(np.float32)

    cube = Cube("large", (4000, 4000, 4), CubeMeta(), read, format="array", physical=True)
    first = adapt(cube, prior, 4)
    once = list(reads)
    assert sum(w.height * w.width for w in once) < 200_000 and max(w.height * w.width for w in once) <= 128**2
    assert max(w.row for w in once) > 3000 and min(w.row for w in once) < 1000
    reads.clear()
    second = adapt(cube, prior, 4)
    assert reads == once
    assert all(torch.equal(tensor, second.net.state_dict()[name]) for name, tensor in first.net.state_dict().items())


def test_nodata_around_a_large_scene_is_skipped(prior: Prior) -> None:
    def read(window: Window, bands: np.ndarray) -> np.ndarray:
        rows, cols = np.mgrid[window.slices]
        image = np.sin(rows / 3) + np.cos(cols / 5)
        return np.stack([np.where(cols < 150, image * (b + 1), np.nan) for b in bands]).astype(np.float32)

    model = adapt(Cube("swath", (700, 1200, 3), CubeMeta(), read, format="array", physical=True), prior, 2)
    assert model.config.training.details["pixels"] > 50_000


def test_nothing_is_below_zero_where_the_cube_has_nothing_below_zero(prior: Prior) -> None:
    cube = np.zeros((4, 24, 24), dtype=np.float32)
    cube[:, 8:16, 8:16] = 1.0
    cube[1, 12, 12] = -1e-4  # a filter's ringing
    cube[2] -= 0.5
    cube[3, 2] = -0.1  # of dark pixels with noise
    model = adapt(Cube.from_array(cube), prior, 4)
    assert model.config.bands.nonnegative == [0, 1]
    out = upscale_array(cube, model)
    assert out[:2].min() == 0 and out[2].min() < -0.501
    assert bicubic_array(cube, 4)[:2].min() < -0.01


@pytest.mark.parametrize("exponents", [(4, 4), (-20, -20), (25, 25), (-6, 6)])
def test_units_do_not_matter(exponents: tuple[int, int], coarse: np.ndarray, prior: Prior) -> None:
    units = np.logspace(*exponents, 40)[:, None, None].astype(np.float32)
    plain = upscale_array(coarse, adapt(Cube.from_array(coarse), prior, 2))
    scaled = upscale_array(units * coarse, adapt(Cube.from_array(units * coarse), prior, 2))
    np.testing.assert_allclose(scaled / units, plain, atol=1e-4)


def test_it_can_be_saved(coarse: np.ndarray, prior: Prior, tmp_path: Path) -> None:
    model = adapt(Cube.from_array(coarse, source="scene.tif"), prior, 2)
    save_model(tmp_path / "m", model.net, model.config)
    again = load_model(tmp_path / "m")
    np.testing.assert_allclose(upscale_array(coarse, again), upscale_array(coarse, model), atol=1e-6)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "adapted to scene.tif without training" in card and "Fitted to" not in card and "that trained" not in card
    page = render(report_of_model([], again, "m", device=torch.device("cpu")))
    assert "<dt>made of</dt><dd>scene.tif" in page and "trained or" not in page


def test_refusals(coarse: np.ndarray, prior: Prior) -> None:
    with pytest.raises(InputError, match="×2, ×3, ×4, ×8, not ×5"):
        adapt(Cube.from_array(coarse), prior, 5)
    with pytest.raises(InputError, match="no valid sample"):
        adapt(Cube.from_array(np.full_like(coarse, np.nan)), prior, 2)
    small = replace(prior, state={k: v for k, v in prior.state.items() if k != "tail.2"})
    with pytest.raises(InputError, match="not ×2"):
        adapt(Cube.from_array(coarse), small, 2)


def test_the_subspace_follows_the_bands_order() -> None:
    torch.manual_seed(0)
    detail, mean = torch.randn(2, 300), torch.tensor([1.0, 2.0])
    detail[1] += 0.5 * detail[0]
    plain = SpectralSubspace.of(detail, mean, 2)
    swapped = SpectralSubspace.of(detail.flip(0), mean.flip(0), 2)
    torch.testing.assert_close(swapped.analysis, plain.analysis.flip(1))
