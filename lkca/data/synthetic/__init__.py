"""The scene that the package makes itself: a cube to try every command on, known down to its noise.

Surfaces (:mod:`~lkca.data.synthetic.spectra`) lie on a map (:mod:`~lkca.data.synthetic.layout`) drawn at a quarter of
the pixel's size. A pixel is the mean of its 16 sub-pixels, a little blurred by the optics and mixed linearly: direct
sun, where the relief and the shadows leave it, plus bluish skylight. A sensor adds its noise, worst where water vapour
takes the light. Nothing in the scene was measured; metrics on it say whether software works, not how good a method is
on the Earth.
"""

from __future__ import annotations

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

from lkca.data.cube import Cube
from lkca.data.meta import CubeMeta
from lkca.data.synthetic.layout import SceneMap, draw_scene
from lkca.data.synthetic.spectra import MATERIALS, endmembers

__all__ = ["GSD", "MATERIALS", "WATER_VAPOUR_GAPS", "synthesize", "synthetic_scene"]

GSD = 2.5  # m
WATER_VAPOUR_GAPS = ((1340.0, 1460.0), (1790.0, 1960.0))  # nm, without light at the ground

_OPTICS = 0.5  # pixels, standard deviation; with the pixel's square, a gain of 0.19 at the Nyquist frequency
_FINER = 4  # sub-pixels per pixel along each axis
_ORIGIN = (500_000.0, 5_400_000.0)  # UTM 33N, invented
_EPSG = 32633


def synthetic_scene(rows: int = 256, cols: int = 256, bands: int = 128, seed: int = 0) -> Cube:
    """A georeferenced reflectance cube of an agricultural valley with a village, 400 to 2500 nm; the same for a seed.

    Values: reflectance, about 0..0.7, noise may make them slightly negative. The metadata has wavelengths, fwhm, bad
    bands (:data:`WATER_VAPOUR_GAPS`), an invented place in UTM zone 33 north with 2.5 m pixels, and how to store the
    cube (int16, reflectance times 10000). ValueError where rows, cols or bands is below 1.
    """
    cube, wavelengths, good = synthesize(rows, cols, bands, seed)
    meta = CubeMeta(
        wavelengths=wavelengths,
        fwhm=np.full(bands, _spacing(bands)),
        good_bands=good,
        nodata=-9999.0,
        scale_factor=1e-4,
        crs=str(CRS.from_epsg(_EPSG).to_wkt()),
        transform=Affine(GSD, 0, _ORIGIN[0], 0, -GSD, _ORIGIN[1]),
        stored_dtype=np.dtype(np.int16),
        tags={"description": f"lkca synthetic scene, seed {seed}; not measured"},
    )
    return Cube.from_array(cube, meta, source=f"synthetic:{seed}")


def synthesize(rows: int, cols: int, bands: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of :func:`synthetic_scene`, float32 (bands, rows, cols), wavelengths in nm, and good bands (bool)."""
    if min(rows, cols, bands) < 1:
        raise ValueError(f"a synthetic scene needs rows, cols and bands, found {rows} x {cols} x {bands}")
    layout_seed, noise_seed = np.random.SeedSequence(seed).spawn(2)
    scene = draw_scene(rows * _FINER, cols * _FINER, GSD / _FINER, np.random.default_rng(layout_seed))
    wavelengths = np.linspace(400.0, 2500.0, bands) if bands > 1 else np.array([850.0])
    spectra = endmembers(wavelengths)
    lit, all_ = _abundances(scene)
    # skylight: Rayleigh-like blue on top of haze
    sky = (0.06 + 0.22 * (wavelengths / 450) ** -2.5)[:, None]
    mixed = ((1 - sky) * spectra.T).astype(np.float32) @ lit + (sky * spectra.T).astype(np.float32) @ all_
    cube = mixed.reshape(bands, rows, cols)
    cube += _noise(cube, wavelengths, np.random.default_rng(noise_seed))
    good = np.ones(bands, dtype=bool)
    for low, high in WATER_VAPOUR_GAPS:
        good &= (wavelengths < low) | (wavelengths > high)
    return cube, wavelengths, good


def _abundances(scene: SceneMap) -> tuple[np.ndarray, np.ndarray]:
    """Share of every material in every pixel, (materials, pixels) float32: in direct sun, and in all."""
    first, second = scene.table()
    height, width = scene.object.shape
    lit = np.empty((len(MATERIALS), height // _FINER * (width // _FINER)), np.float32)
    all_ = np.empty_like(lit)
    for i in range(len(MATERIALS)):
        share = second[i][scene.object] + scene.cover * (first[i] - second[i])[scene.object]
        lit[i] = _see(share * scene.sun)
        all_[i] = _see(share)
    return lit, all_


def _see(x: np.ndarray) -> np.ndarray:
    """What pixels see of a sub-pixel map: the detector's square, blurred by the optics; flat."""
    x = x.reshape(x.shape[0], -1, _FINER).sum(axis=2)
    x = x.reshape(-1, _FINER, x.shape[1]).sum(axis=1) / np.float32(_FINER**2)
    result: np.ndarray = gaussian_filter(x, _OPTICS, mode="nearest").ravel()
    return result


def _noise(cube: np.ndarray, wavelengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark and shot noise in reflectance: an SNR of some 400 in the visible and 150 at 2200 nm, none in the gaps."""
    sun = (500 / wavelengths) ** 5 * np.expm1(14.388e6 / 5778 / 500) / np.expm1(14.388e6 / 5778 / wavelengths)
    depth = np.zeros_like(wavelengths)
    for centre, width, k in ((760, 5, 0.5), (940, 22, 0.6), (1130, 28, 0.8), (1400, 26, 6.0), (1875, 40, 6.0)):
        depth += k * np.exp(-0.5 * ((wavelengths - centre) / width) ** 2)
    # longer wavelengths have wider bands and larger gains: the signal falls off less than sunlight does
    light = np.maximum(sun**0.4 * np.exp(-depth), 5e-3).astype(np.float32)[:, None, None]
    variance = (4e-4 / light) ** 2 + np.float32(1e-6) * np.maximum(cube, 0) / light
    result: np.ndarray = np.sqrt(variance) * rng.standard_normal(cube.shape, dtype=np.float32)
    return result


def _spacing(bands: int) -> float:
    return 2100.0 / max(bands - 1, 1)
