"""Choosing the cube among the named arrays of a container, and its companions (wavelengths, sizes)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from lkca.data.meta import CubeMeta
from lkca.data.readers.arrays import check_axes, guess_axes, unfold_axes
from lkca.data.spectral import good_band_mask, to_nanometers
from lkca.errors import InputError

__all__ = [
    "DIMENSION_NAMES",
    "FWHM_NAMES",
    "GOOD_NAMES",
    "OWN_CUBE",
    "WAVELENGTH_NAMES",
    "choose_cube",
    "choose_layout",
    "find_pixels",
    "left_out",
    "own_axes",
    "spectral_lists",
    "with_bands",
]

OWN_CUBE = "cube"  # the name under which lkca writes

# What dimensions are called in NetCDF and xarray, in lower case: of rows, columns and bands, the usual one first.
DIMENSION_NAMES = {
    "r": ("y", "row", "rows", "lat", "latitude", "northing", "line", "lines", "downtrack", "along_track",
          "number_of_lines"),
    "c": ("x", "col", "cols", "column", "columns", "lon", "longitude", "easting", "sample", "samples", "crosstrack",
          "pixels_per_line"),
    "b": ("band", "bands", "wavelength", "wavelengths", "wl", "lambda", "channel", "channels", "spectral",
          "wavelength_3d"),
}  # fmt: skip
WAVELENGTH_NAMES = (
    "wavelength", "wavelengths", "wavelengths_nm", "wavelength_nm", "wavelength_um", "center_wavelength",
    "center_wavelengths", "central_wavelength", "lambda", "wl", "wvl", "waves", "bands_nm", "wavelength_3d",
)  # fmt: skip
FWHM_NAMES = ("fwhm", "fwhm_nm", "bandwidth")
GOOD_NAMES = ("bbl", "good_bands", "good_wavelengths")
_LEAST_NM = 300.0  # of a list called "bands": no list of a sensor's band numbers begins there
_UNCERTAINTY = ("unc", "uncert", "uncertainty", "err", "error", "std")
_THREE_AXES = (
    "a cube has three axes: save it without the others (in Python: array.squeeze() for axes of length 1, array[0] for "
    "the first part)"
)
_ROW_NAMES = ("nrow", "nrows", "rows", "lines", "height")
_COL_NAMES = ("ncol", "ncols", "cols", "samples", "width")
_BAND_NAMES = ("nband", "nbands", "bands")


def choose_cube(
    arrays: Mapping[str, tuple[int, ...]],
    variable: str | None,
    source: str,
    *,
    others: Mapping[str, str] | None = None,
    preferred: str | None = None,
    pixels: tuple[int, int] | None = None,
    bands: int | None = None,
    band_counts: Collection[int] = (),
) -> str:
    """Name of the cube among numeric ``arrays`` (name -> shape).

    The named ``variable``, else ``preferred``, else the only 3-D array, else (with ``pixels``, rows and
    cols) the only 2-D array of which one side counts the pixels; ``bands`` settles it where several do. Of several 3-D
    arrays what is called ``x_uncertainty``, or the like, beside ``x`` does not count, and the only one with an axis as
    long as a wavelength list (``band_counts``) does.
    ``others`` (name -> what it is) are named where someone asks for them. InputError lists the choices.
    """
    listing = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in arrays.items()) or "none"
    if variable is not None:
        name = variable if variable in arrays else _case_insensitive(variable, arrays)
        if name is None:
            kind = (others or {}).get(variable)
            fault = f"{variable!r} is a {kind}, not a numeric array" if kind else f"has no variable {variable!r}"
            raise InputError(f"{source}: {fault}; its numeric arrays are: {listing}{_inside(others, variable)}")
        return name
    if preferred is not None and preferred in arrays:
        return preferred
    cubes = [name for name, shape in arrays.items() if len(shape) == 3 and min(shape) > 0]
    if not cubes and pixels is not None:
        count = pixels[0] * pixels[1]
        cubes = [name for name, shape in arrays.items() if len(shape) == 2 and shape.count(count) == 1]
        if bands is not None and len(cubes) > 1:
            cubes = [name for name in cubes if bands in arrays[name]] or cubes
    if len(cubes) > 1:
        uncertain = {f"{name}_{word}" for name in cubes for word in _UNCERTAINTY}
        certain = [name for name in cubes if name not in uncertain]
        fitting = [name for name in certain if not set(band_counts).isdisjoint(arrays[name])]
        cubes = next((found for found in (certain, fitting) if len(found) == 1), cubes)
    if len(cubes) == 1:
        return cubes[0]
    if cubes:
        choices = ", ".join(f"{name} {'x'.join(map(str, arrays[name]))}" for name in cubes)
        raise InputError(f"{source}: holds several arrays that may be the cube ({choices}); name one: FILE::NAME")
    if any(len(shape) > 3 for shape in arrays.values()):
        raise InputError(f"{source}: holds no 3-D numeric array; its arrays are: {listing}; {_THREE_AXES}")
    if pixels is not None and arrays:
        listing += f", of which none has a side of {pixels[0]} x {pixels[1]} pixels"
    raise InputError(
        f"{source}: holds no 3-D numeric array; its arrays are: {listing}; name a 2-D bands x pixels array with "
        f"FILE::NAME and give its picture size with --shape ROWSxCOLS{_inside(others, *others or ())}"
    )


def _inside(others: Mapping[str, str] | None, *names: str) -> str:
    """What to do about an array inside one of these MATLAB structs or cells; empty where none is one."""
    for name in names:
        if others and others.get(name) in ("struct", "cell"):
            inner = "s.FIELD" if others[name] == "struct" else "c{1}"
            inner = name + inner[1:]
            return (
                f"; the {others[name]} {name} is not looked into: save the array inside as a variable of its own "
                f"(in MATLAB: cube = {inner}; save('NEW.mat', 'cube'))"
            )
    return ""


def own_axes(axes: str | None, stated: str | None, name: str, shape: tuple[int, ...]) -> str | None:
    """The axes asked for, else those that our own metadata state of our cube; None where neither says."""
    return stated if axes is None and name == OWN_CUBE and len(shape) == 3 else axes


def choose_layout(
    shape: tuple[int, ...],
    source: str,
    *,
    axes: str | None,
    pixels: tuple[int, int] | None,
    band_counts: set[int],
    column_major: bool,
) -> tuple[tuple[int, ...], str, str | None]:
    """(3-D shape to reshape to in C order, its axes, warning) of a 3-D or 2-D array. InputError if undecidable.

    pixels: (rows, cols) as they were asked for, or of a 2-D array as the file says.
    """
    if len(shape) == 3:
        pixels = None if pixels is None else (pixels[0], pixels[1])
        fitting = [order for order in ("rcb", "rbc", "brc") if pixels == _picture(shape, order)]
        if axes is not None:
            order, warning = check_axes(axes, source), None
        elif len(fitting) == 1:
            order, warning = fitting[0], None
        else:
            order, warning = guess_axes(shape, source, band_counts)
        if pixels is not None and pixels != _picture(shape, order):
            raise InputError(
                f"{source}: is {shape[0]} x {shape[1]} x {shape[2]}, of which --shape {pixels[0]}x{pixels[1]} is no "
                f"picture{'' if axes is None else f' with the axes {axes}'}; leave it out, or correct it"
            )
        return shape, order, None if warning is None else f"{source}: {warning}"
    if len(shape) != 2:
        what = _THREE_AXES if len(shape) > 3 else "a cube has three axes, or two with --shape"
        raise InputError(f"{source}: is an array of {'x'.join(map(str, shape)) or 'one number'}; {what}")
    if pixels is None:
        raise InputError(
            f"{source}: is 2-D ({shape[0]} x {shape[1]}), bands x pixels or the reverse; give the picture size "
            "with --shape ROWSxCOLS, or give a picture of one band a third axis of length 1"
        )
    if axes is not None:
        order = check_axes(axes, source)
        column_major = order.index("c") < order.index("r")
    unfolded, found = unfold_axes(shape, pixels, source, column_major=column_major)
    if axes is not None and order != found:
        raise InputError(
            f"{source}: --axes {order} does not fit {shape[0]} x {shape[1]} with this --shape; try {found}"
        )
    return unfolded, found, None


def _picture(shape: tuple[int, ...], order: str) -> tuple[int, int]:
    """(rows, cols) of a 3-D array with these axes."""
    return shape[order.index("r")], shape[order.index("c")]


def find_pixels(scalars: Mapping[str, float]) -> tuple[tuple[int, int] | None, int | None]:
    """((rows, cols), bands) that accompanying scalars such as nRow, nCol, nBand tell; None where absent."""
    lower = {name.lower(): value for name, value in scalars.items()}

    def pick(names: tuple[str, ...]) -> int | None:
        values = [lower[name] for name in names if name in lower]
        value = values[0] if values else math.nan
        return int(value) if math.isfinite(value) and value >= 1 and value == int(value) else None

    rows, cols = pick(_ROW_NAMES), pick(_COL_NAMES)
    return (None if rows is None or cols is None else (rows, cols)), pick(_BAND_NAMES)


def spectral_lists(
    vectors: Mapping[str, np.ndarray], bands: int, units: str | None = None, fwhm_units: str | None = None
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """(wavelengths nm, fwhm nm, good bands) among named vectors with ``bands`` entries.

    units: of the wavelengths; fwhm_units: of the fwhm, where it has some of its own."""
    lower = {name.lower(): np.asarray(value).ravel() for name, value in vectors.items() if np.size(value) == bands}

    def pick(names: tuple[str, ...]) -> np.ndarray | None:
        return next((lower[name] for name in names if name in lower), None)

    wavelengths, fwhm, good = pick(WAVELENGTH_NAMES), pick(FWHM_NAMES), pick(GOOD_NAMES)
    if wavelengths is not None:
        wavelengths, fwhm = to_nanometers(wavelengths, fwhm, units, fwhm_units)
    return wavelengths, fwhm, None if good is None else good_band_mask(good)


def left_out(
    vectors: Mapping[str, np.ndarray], meta: CubeMeta, bands: int, source: str, units: str | None = None
) -> list[str]:
    """Remarks on the spectral lists among named vectors of which :func:`spectral_lists` took none into ``meta``."""
    sizes = {name.lower(): np.size(value) for name, value in vectors.items() if np.size(value) > 1}
    remarks = []
    for names, found in ((WAVELENGTH_NAMES, meta.wavelengths), (FWHM_NAMES, meta.fwhm), (GOOD_NAMES, meta.good_bands)):
        listed = [name for name in names if name in sizes]
        if found is not None or not listed:
            continue
        if all(sizes[name] != bands for name in listed):
            remarks.append(f"{source}: {listed[0]} lists {sizes[listed[0]]} values for {bands} bands and is left out")
        elif names is WAVELENGTH_NAMES:
            unit = f" (units: {units})" if units else ""
            remarks.append(f"{source}: its wavelengths{unit} are none that can be in nm; they are left out")
    return remarks


def with_bands(vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``vectors`` by lower-case name; a list ``bands`` that can only be wavelengths in nm (ICVL, ARAD) as such."""
    lower = {name.lower(): np.asarray(value) for name, value in vectors.items()}
    listed = lower.get("bands", np.empty(0))
    known = not lower.keys().isdisjoint(WAVELENGTH_NAMES)
    if not known and listed.size > 1 and listed.dtype.kind in "iuf" and listed.min() >= _LEAST_NM:
        lower["wavelength"] = listed
    return lower


def _case_insensitive(variable: str, arrays: Mapping[str, tuple[int, ...]]) -> str | None:
    matches = [name for name in arrays if name.lower() == variable.lower()]
    return matches[0] if len(matches) == 1 else None
