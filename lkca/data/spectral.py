"""Spectral metadata in nanometres, whatever the file calls its units."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

__all__ = ["described_wavelengths", "good_band_mask", "to_nanometers"]

_IN_DESCRIPTION = re.compile(  # with a half width, too: 376.8 +/- 4.8 nm
    r"\(?\b(\d+(?:\.\d+)?)\s*(?:(?:\+/-|±)\s*[\d.]+\s*)?"
    r"(nanomet(?:er|re)s?|nm|micromet(?:er|re)s?|microns?|um|µm)\b\)?",
    re.I,
)

_NM_PER_UNIT = {
    "nanometers": 1.0,
    "nanometer": 1.0,
    "nanometres": 1.0,
    "nanometre": 1.0,
    "nm": 1.0,
    "micrometers": 1e3,
    "micrometer": 1e3,
    "micrometres": 1e3,
    "micrometre": 1e3,
    "microns": 1e3,
    "micron": 1e3,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "angstroms": 0.1,
    "angstrom": 0.1,
    "millimeters": 1e6,
    "mm": 1e6,
    "centimeters": 1e7,
    "cm": 1e7,
    "meters": 1e9,
    "m": 1e9,
}
_NM_TIMES_UNIT = {  # of wavenumbers, and of frequencies: the speed of light
    **dict.fromkeys(("wavenumber", "wavenumbers", "cm-1", "1/cm", "cm^-1"), 1e7),
    "ghz": 299792458.0,
    "mhz": 299792458e3,
    "thz": 299792.458,
}


def to_nanometers(
    wavelengths: np.ndarray, fwhm: np.ndarray | None, units: str | None, fwhm_units: str | None = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Wavelengths and fwhm in nm.

    fwhm_units: of the fwhm, where they are a length of its own; else it has the wavelengths'. Units are those of ENVI
    headers and CF attributes, any case. Missing or contradicting units are decided by the values: a list whose largest
    value is below 100 is in micrometres, one that starts at 100 or more is in nanometres (files labelled "Nanometers"
    with 0.4..2.5, and the reverse, exist). Wavenumbers (1/cm) and frequencies (MHz, GHz, THz) are converted; "Index"
    and other units that are no wavelength give (None, None).
    """
    wavelengths = np.asarray(wavelengths, dtype=np.float64)
    fwhm = None if fwhm is None else np.asarray(fwhm, dtype=np.float64)
    own = _NM_PER_UNIT.get(_unit(fwhm_units))
    if fwhm is not None and own is not None and own != _NM_PER_UNIT.get(_unit(units)):
        nm, _ = to_nanometers(wavelengths, None, units)
        return nm, None if nm is None else fwhm * own
    if wavelengths.size == 0 or not np.all(np.isfinite(wavelengths)) or wavelengths.max() <= 0:
        return None, None
    name = _unit(units)
    if name in _NM_TIMES_UNIT:
        if wavelengths.min() <= 0:
            return None, None
        nm = _NM_TIMES_UNIT[name] / wavelengths
        return nm, None if fwhm is None else fwhm * nm / wavelengths
    factor = 1.0 if name in ("unknown", "", "none") else _NM_PER_UNIT.get(name)
    if factor is None:
        return None, None
    if factor == 1.0 and wavelengths.max() < 100:
        factor = 1e3
    elif factor == 1e3 and wavelengths.min() >= 100:
        factor = 1.0
    return wavelengths * factor, None if fwhm is None else fwhm * factor


def _unit(text: str | None) -> str:
    """The unit alone: ``nanometers`` of "Nanometers (nm)", ``cm-1`` of "[cm-1]"."""
    parts = (part.strip() for part in re.split(r"[()\[\],;]", text or ""))
    return next((part for part in parts if part), "").lower()


def described_wavelengths(descriptions: Sequence[str | None]) -> tuple[np.ndarray | None, str | None]:
    """The wavelengths that the bands' names hold, such as "band 1 (418.2 nm)", and their unit; (None, None) where not
    every name has one, or not in one unit."""
    matches = [_IN_DESCRIPTION.search(name or "") for name in descriptions]
    found = [match for match in matches if match]
    if not found or len(found) < len(matches) or len({match[2].lower() for match in found}) > 1:
        return None, None
    return np.array([float(match[1]) for match in found]), found[0][2]


def good_band_mask(values: np.ndarray) -> np.ndarray:
    """A bad-band list (1 good, 0 bad; ENVI ``bbl``) as bool."""
    return np.asarray(values, dtype=np.float64) > 0
