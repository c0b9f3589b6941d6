"""Reflectance spectra of surfaces, 400 to 2500 nm, built from a few absorbers by simple radiative transfer.

Leaves, soils and built surfaces follow the two-flux theory of Kubelka and Munk for a thick layer, where absorption
over scattering k/s gives the reflectance 1 + k/s - sqrt((k/s)^2 + 2 k/s): adding an absorber bends a spectrum as
nature does, deep bands saturating. Water bodies follow 0.33 bb / (a + bb) (Gordon et al. 1975). Absorber strengths
are of the order of the published ones (liquid water: Palmer and Williams 1974, Kou et al. 1993, Pope and Fry 1997;
leaf pigments and dry matter: Jacquemoud and Baret 1990), not fitted: the spectra are plausible, not measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["MATERIALS", "endmembers"]

# nm, 1/cm: absorption coefficient of liquid water
_WATER = np.array([
    (400, 6.6e-5), (450, 9.2e-5), (500, 2.0e-4), (550, 5.6e-4), (600, 2.2e-3), (650, 3.4e-3), (700, 6.2e-3),
    (750, 0.026), (800, 0.020), (850, 0.043), (900, 0.068), (930, 0.18), (950, 0.39), (970, 0.48), (1000, 0.40),
    (1050, 0.15), (1075, 0.13), (1110, 0.20), (1150, 0.90), (1190, 1.25), (1240, 1.10), (1275, 1.00), (1310, 1.30),
    (1350, 3.0), (1400, 12.0), (1450, 28.6), (1500, 20.0), (1550, 11.0), (1600, 7.2), (1650, 5.8), (1700, 5.9),
    (1750, 6.8), (1800, 8.3), (1850, 11.0), (1890, 45.0), (1930, 125.0), (1960, 105.0), (2000, 68.0), (2050, 42.0),
    (2100, 27.0), (2150, 19.8), (2200, 16.5), (2250, 18.0), (2300, 24.0), (2350, 33.0), (2400, 47.0), (2450, 65.0),
    (2500, 90.0),
])  # fmt: skip


def endmembers(wavelengths: np.ndarray) -> np.ndarray:
    """Spectra of :data:`MATERIALS`: (materials, bands) float64 reflectance 0..1 at ``wavelengths`` (bands,) in nm."""
    return np.stack([make(np.asarray(wavelengths, dtype=np.float64)) for make in _MAKERS.values()])


def _water_absorption(nm: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.exp(np.interp(nm, _WATER[:, 0], np.log(_WATER[:, 1])))
    return result


def _bell(nm: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((nm - centre) / width) ** 2)


def _step(nm: np.ndarray, centre: float, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(-(nm - centre) / width))


def _thick_layer(ratio: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 + ratio - np.sqrt(ratio**2 + 2 * ratio)
    return result


def _absorbed(reflectance: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The same surface with an absorber more, ``ratio`` being its absorption over the surface's scattering."""
    return _thick_layer((1 - reflectance) ** 2 / (2 * reflectance) + ratio)


def _canopy(nm: np.ndarray, chlorophyll: float, water: float, dry: float, cover: float, brown: float = 0) -> np.ndarray:
    """chlorophyll: ug/cm2 of leaf; water: cm; dry matter: g/cm2; cover: part of light that meets leaves."""
    pigment = 0.066 * _bell(nm, 672, 22) + 0.034 * _bell(nm, 625, 38) + 0.075 * _bell(nm, 435, 38)
    pigment += 0.045 * _bell(nm, 480, 28) + 0.0075 * _bell(nm, 550, 60)
    matter = 4 + 9 * _step(nm, 1700, 130) + 9 * _bell(nm, 2110, 60) + 11 * _bell(nm, 2310, 55) + 5 * _bell(nm, 1730, 28)
    absorption = chlorophyll * pigment + water * _water_absorption(nm) + dry * matter
    absorption += brown * np.exp(-(nm - 400) / 220)
    return 0.01 + cover * _thick_layer(absorption / 0.6)


def _soil(nm: np.ndarray, bright: float, iron: float, clay: float, moist: float, carbonate: float = 0) -> np.ndarray:
    base = bright * (0.25 + 0.75 * (1 - np.exp(-(nm - 330) / 480)))
    oxide = 1.6 * np.exp(-(nm - 400) / 95) + 0.8 * _bell(nm, 500, 45) + 0.22 * _bell(nm, 880, 70)
    hydroxyl = 0.16 * _bell(nm, 2205, 22) + 0.10 * _bell(nm, 1410, 28) + 0.22 * _bell(nm, 1915, 45)
    return _absorbed(
        base, iron * oxide + clay * hydroxyl + 0.15 * carbonate * _bell(nm, 2335, 28) + moist * _water_absorption(nm)
    )


def _open_water(nm: np.ndarray, sediment: float, humic: float, algae: float) -> np.ndarray:
    absorption = 100 * _water_absorption(nm) + humic * np.exp(-0.014 * (nm - 440))  # 1/m
    absorption += algae * (0.06 * _bell(nm, 440, 40) + 0.03 * _bell(nm, 675, 15))
    scattering = 0.002 * (500 / nm) ** 4.3 + sediment * (550 / nm) ** 0.8
    return 0.004 + 0.33 * scattering / (absorption + scattering)


def _paint(nm: np.ndarray, level: float, *bands: tuple[float, float, float]) -> np.ndarray:
    """A grey surface of ``level`` with absorptions (centre nm, width nm, strength) of pigment and binder."""
    binder = 0.05 * _bell(nm, 1725, 22) + 0.08 * _bell(nm, 2310, 35) + 0.04 * _bell(nm, 1200, 30)
    return _absorbed(np.full_like(nm, level), binder + sum(k * _bell(nm, c, w) for c, w, k in bands))


_MAKERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "crop, dense": lambda nm: _canopy(nm, 48, 0.020, 0.005, 0.66),
    "crop, young": lambda nm: _canopy(nm, 28, 0.013, 0.004, 0.55),
    "crop, ripening": lambda nm: _canopy(nm, 9, 0.006, 0.009, 0.58, brown=0.6),
    "grass": lambda nm: _canopy(nm, 36, 0.014, 0.008, 0.56),
    "broadleaf": lambda nm: _canopy(nm, 55, 0.016, 0.010, 0.58),
    "poplar": lambda nm: _canopy(nm, 40, 0.011, 0.007, 0.50),
    "conifer": lambda nm: _canopy(nm, 60, 0.030, 0.022, 0.36),
    "straw": lambda nm: _canopy(nm, 1, 0.001, 0.016, 0.66, brown=1.6),
    "litter": lambda nm: _canopy(nm, 2, 0.002, 0.026, 0.50, brown=3.5),
    "loam": lambda nm: _soil(nm, 0.30, 0.9, 1.0, 0.002),
    "sandy soil": lambda nm: _soil(nm, 0.58, 0.5, 0.5, 0.000),
    "red clay": lambda nm: _soil(nm, 0.46, 2.6, 2.0, 0.001),
    "wet soil": lambda nm: _soil(nm, 0.27, 0.8, 1.0, 0.035),
    "gravel": lambda nm: _soil(nm, 0.48, 0.12, 0.3, 0.000, carbonate=1.5),
    "lake": lambda nm: _open_water(nm, 0.012, 0.25, 4.0),
    "river": lambda nm: _open_water(nm, 0.12, 0.9, 6.0),
    "asphalt, new": lambda nm: 0.045 + 0.035 * (nm - 400) / 2100 + _paint(nm, 0.012),
    "asphalt, worn": lambda nm: 0.10 + 0.09 * (1 - np.exp(-(nm - 400) / 700)) - 0.012 * _bell(nm, 2310, 60),
    "concrete": lambda nm: _soil(nm, 0.42, 0.12, 0.25, 0.0008, carbonate=0.8),
    "clay tile": lambda nm: _absorbed(0.06 + 0.40 * _step(nm, 590, 32), 0.18 * _bell(nm, 870, 75)),
    "slate": lambda nm: 0.075 + 0.03 * (nm - 400) / 2100 - 0.008 * _bell(nm, 2250, 40),
    "metal roof": lambda nm: _paint(nm, 0.43, (850, 70, 0.06), (400, 60, 0.3)),
    "blue paint": lambda nm: _paint(nm, 0.36, (610, 75, 2.2), (400, 30, 0.7)),
    "roof membrane": lambda nm: _paint(nm, 0.56, (380, 35, 3.0), (1680, 30, 0.05), (2170, 40, 0.06)),
    "solar panel": lambda nm: 0.035 + 0.10 * _step(nm, 1060, 35) + 0.02 * _bell(nm, 430, 40),
}  # fmt: skip

MATERIALS: tuple[str, ...] = tuple(_MAKERS)
