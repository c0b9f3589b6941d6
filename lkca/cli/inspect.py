"""``lkca inspect``: what lkca understands of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lkca.cli.console import print_json, print_table
from lkca.cli.options import Axes, BandShape, Json, Nodata, Variable, examples, reading

if TYPE_CHECKING:
    from lkca.data import Cube

__all__ = ["EXAMPLES", "inspect_command"]

EXAMPLES = examples(
    "lkca inspect scene.tif",
    "lkca inspect cube.mat::paviaU --json",
    "lkca inspect matrix.mat --shape 100x100",
)

_CACHE = 512 << 20  # bytes of an HDF5 file's chunks
_RANGES = ("wavelengths_nm", "fwhm_nm")  # smallest and largest of a list


def inspect_command(
    file: Annotated[str, typer.Argument(help="Cube to look at.", show_default=False)],
    json: Json = False,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Shows size, bands, wavelengths, nodata, scaling and georeference of a cube, and its value range."""
    from lkca.data import open_cube

    with open_cube(file, **reading(variable, shape, axes, nodata)) as cube:
        facts = _facts(cube)
    if json:
        print_json(facts)
    else:
        rows = [(name, (_range if name in _RANGES else _text)(value)) for name, value in facts.items()]
        print_table(file, ["property", "value"], rows, text_columns=2)


def _facts(cube: Cube) -> dict[str, Any]:
    with cube.caching(_CACHE):
        return {**cube.summary(), **_value_facts(cube)}


def _value_facts(cube: Cube) -> dict[str, Any]:
    """Range and validity, read in bounded row strips so that a large scene never fills the memory."""
    import numpy as np

    from lkca.data.window import row_strips

    low, high, valid, total = np.inf, -np.inf, 0, cube.rows * cube.cols * cube.bands
    band_has_data = np.zeros(cube.bands, dtype=bool)
    for window in row_strips(cube.rows, cube.cols, cube.bands):
        values = cube.read(window)
        finite = np.isfinite(values)
        valid += int(np.count_nonzero(finite))
        band_has_data |= finite.any(axis=(1, 2))
        if finite.any():
            low = min(low, float(np.min(values, where=finite, initial=np.inf)))
            high = max(high, float(np.max(values, where=finite, initial=-np.inf)))
    return {
        "minimum": low if valid else None,
        "maximum": high if valid else None,
        "valid_share": valid / total,
        "empty_bands": np.flatnonzero(~band_has_data).tolist(),
    }


def _range(ends: list[float] | None) -> str:
    return _text(ends) if ends is None else f"{_text(ends[0])} to {_text(ends[1])}"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.8g}"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        if len(value) > 12:
            return f"{_text(value[0])} … {_text(value[-1])} ({len(value)} values)"
        return ", ".join(_text(item) for item in value) or "none"
    return str(value)
