"""The synthetic scene: its spectra obey physics, its picture is hard for bicubic, its cube is a proper one."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from rasterio.crs import CRS

from lkca.data import synthetic
from lkca.data.degradation import degrade
from lkca.data.synthetic import GSD, WATER_VAPOUR_GAPS, synthesize, synthetic_scene
from lkca.data.synthetic.layout import draw_scene
from lkca.data.synthetic.spectra import MATERIALS, endmembers
from lkca.metrics import evaluate
from lkca_kernels.reference.bicubic import bicubic_upsample

NM = np.arange(400.0, 2501.0, 10.0)
SPECTRA = dict(zip(MATERIALS, endmembers(NM), strict=True))
PLANTS = ("crop, dense", "crop, young", "grass", "broadleaf", "poplar", "conifer")
WATERS = ("lake", "river")


def at(spectrum: np.ndarray, nm: float) -> float:
    return float(np.interp(nm, NM, spectrum))


def ndvi(spectrum: np.ndarray) -> float:
    red, near_infrared = at(spectrum, 670), at(spectrum, 860)
    return (near_infrared - red) / (near_infrared + red)


def noise_level(cube: np.ndarray) -> np.ndarray:
    """Standard deviation of each band's noise, from a scene's smooth half: second differences along rows."""
    return np.percentile(np.abs(np.diff(cube, 2, axis=2)), 25, axis=(1, 2)) / (0.3186 * np.sqrt(6))


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return synthesize(256, 256, 128)


def test_spectra_are_reflectances_and_smooth() -> None:
    table = endmembers(NM)
    assert table.shape == (len(MATERIALS), len(NM))
    assert table.min() > 0 and table.max() < 0.8
    assert np.abs(np.diff(table, axis=1)).max() < 0.11  # per 10 nm; the steepest is the red edge


@pytest.mark.parametrize("name", PLANTS)
def test_vegetation_has_a_red_edge_a_green_peak_and_leaf_water(name: str) -> None:
    spectrum = SPECTRA[name]
    assert ndvi(spectrum) > 0.65
    assert at(spectrum, 550) > max(at(spectrum, 480), at(spectrum, 670))
    slope = np.gradient(spectrum, NM)
    assert 690 <= NM[slope[:60].argmax()] <= 740
    assert at(spectrum, 970) < at(spectrum, 900) and at(spectrum, 1200) < at(spectrum, 1090)
    assert at(spectrum, 1940) < 0.5 * at(spectrum, 1650) < 0.5 * at(spectrum, 860)


@pytest.mark.parametrize("name", sorted(set(MATERIALS) - set(PLANTS) - {"crop, ripening", "solar panel"}))
def test_nothing_else_looks_like_vegetation(name: str) -> None:
    assert ndvi(SPECTRA[name]) < 0.55


@pytest.mark.parametrize("name", WATERS)
def test_water_is_dark_in_the_infrared(name: str) -> None:
    spectrum = SPECTRA[name]
    assert at(spectrum, 560) > 0.02
    assert ndvi(spectrum) < -0.3
    assert spectrum[NM > 1000].max() < 0.01


def test_soils_brighten_with_wavelength_and_darken_when_wet() -> None:
    for name in ("loam", "sandy soil", "red clay"):
        assert at(SPECTRA[name], 450) < at(SPECTRA[name], 650) < at(SPECTRA[name], 1650)
        assert at(SPECTRA[name], 2205) < min(at(SPECTRA[name], 2130), at(SPECTRA[name], 2270))
    assert (SPECTRA["wet soil"] < SPECTRA["loam"]).all()


def test_same_seed_same_scene_other_seed_other_scene() -> None:
    first, again, other = (synthesize(24, 40, 12, seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.02


def test_bad_bands_are_the_water_vapour_gaps_and_hold_noise(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    cube, wavelengths, good = scene
    inside = np.any([(wavelengths >= low) & (wavelengths <= high) for low, high in WATER_VAPOUR_GAPS], axis=0)
    np.testing.assert_array_equal(good, ~inside)
    assert 10 <= inside.sum() <= 25
    noise = noise_level(cube)
    centre = [int(np.abs(wavelengths - nm).argmin()) for nm in (1400, 1875)]
    assert noise[centre].min() > 0.03  # a signal of some 0.3: no SNR to speak of
    assert noise[good].max() < 0.01


def test_signal_to_noise_ratio_is_that_of_a_sensor() -> None:
    wavelengths = np.linspace(400, 2500, 64)
    flat = np.full((64, 64, 64), 0.3, dtype=np.float32)
    snr = 0.3 / synthetic._noise(flat, wavelengths, np.random.default_rng(0)).std(axis=(1, 2))
    assert 250 < snr[np.abs(wavelengths - 550).argmin()] < 600
    assert 100 < snr[np.abs(wavelengths - 2200).argmin()] < 300


def test_the_scene_holds_vegetation_water_soil_and_bright_roofs(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    cube, wavelengths, good = scene
    red, nir = (cube[int(np.abs(wavelengths - nm).argmin())] for nm in (670, 860))
    index = (nir - red) / (nir + red + 1e-3)
    assert (index > 0.5).mean() > 0.2
    assert 0.01 < (nir < 0.03).mean() < 0.3
    assert ((index > 0) & (index < 0.3)).mean() > 0.1
    assert 0.4 < cube[good].max() < 1.0
    assert cube[good].min() > -0.03


@pytest.mark.parametrize("seed", [0, 1])
def test_bicubic_loses_clearly_and_not_to_noise(seed: int) -> None:
    cube, _, good = synthesize(128, 128, 64, seed)
    hr = torch.from_numpy(cube[good])
    restored = bicubic_upsample(degrade(hr, 4)[None], 4)[0]
    assert 23 < evaluate(hr, restored, scale=4).mpsnr < 33
    # what is lost is in the scene: the noise alone would allow 20 dB more
    spectra = cube[good].reshape(good.sum(), -1).astype(np.float64)
    u, s, vt = np.linalg.svd(spectra - spectra.mean(axis=1, keepdims=True), full_matrices=False)
    clean = spectra.mean(axis=1, keepdims=True) + (u[:, :20] * s[:20]) @ vt[:20]
    assert evaluate(clean.reshape(hr.shape), hr, scale=4).mpsnr > evaluate(hr, restored, scale=4).mpsnr + 15


def test_spectra_span_some_ten_to_twenty_dimensions_above_the_noise(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    cube, _, good = scene
    noise = noise_level(cube[good])
    spectra = cube[good].reshape(good.sum(), -1) / noise[:, None]
    values = np.linalg.eigvalsh(np.cov(spectra))
    assert 10 <= np.count_nonzero(values > 3) <= 24  # noise alone has eigenvalues of about 1


def test_edges_are_mixed_pixels() -> None:
    """Sub-pixels of a map are pure objects; some objects share a pixel, most pixels have but one."""
    scene = draw_scene(4 * 64, 4 * 64, 0.625, np.random.default_rng(0))
    blocks = scene.object.reshape(64, 4, 64, 4).transpose(0, 2, 1, 3).reshape(-1, 16)
    mixed = (blocks != blocks[:, :1]).any(axis=1).mean()
    assert 0.05 < mixed < 0.6
    shares = scene.table()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert scene.object.max() < shares.shape[2] and shares.min() >= 0
    assert scene.cover.min() >= 0 and scene.cover.max() <= 1
    assert 0 < scene.sun.min() < 0.3 and scene.sun.max() < 2


def test_the_cube_is_georeferenced_and_described() -> None:
    cube = synthetic_scene(32, 48, 20, seed=5)
    assert cube.shape == (32, 48, 20)
    meta = cube.meta
    assert meta.transform is not None and meta.crs is not None and meta.wavelengths is not None
    assert (meta.transform.a, meta.transform.e) == (GSD, -GSD)
    assert CRS.from_wkt(meta.crs).is_projected
    assert (meta.wavelengths[0], meta.wavelengths[-1]) == (400.0, 2500.0)
    assert meta.good_bands is not None and meta.fwhm is not None and len(meta.fwhm) == 20
    np.testing.assert_array_equal(cube.read(), synthesize(32, 48, 20, seed=5)[0])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 3), (17, 9, 5), (8, 300, 2)])
def test_any_size(shape: tuple[int, int, int]) -> None:
    cube, wavelengths, good = synthesize(*shape)
    assert cube.shape == (shape[2], *shape[:2]) and np.isfinite(cube).all()
    assert len(wavelengths) == len(good) == shape[2]


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="found 0 x 4 x 3"):
        synthesize(0, 4, 3)


def test_it_is_quick() -> None:
    start = time.process_time()
    synthesize(256, 256, 120)
    assert time.process_time() - start < 12  # seconds of one core; 1.3 when it has the core to itself
