"""xarray's DataArrays: dimensions by name, coordinates and attributes carried to the finer grid."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError

from lkca.data import Cube, CubeMeta
from lkca.data.control import moved_gcps
from lkca.data.readers.variables import DIMENSION_NAMES, FWHM_NAMES, WAVELENGTH_NAMES, spectral_lists
from lkca.data.spectral import described_wavelengths, to_nanometers
from lkca.errors import InputError

__all__ = ["as_cube", "like_source"]

_MISSING = ("_FillValue", "missing_value", "nodata")
_AFFINE = 6
_ROUNDING = 0.1  # of a step between coordinates, which may be float32


def as_cube(source: Any) -> Cube:
    """The DataArray's values as a cube of physical values; wavelengths, fwhm, bad bands, nodata value, CRS, transform
    and ground control points as its coordinates and attributes have them. Raises InputError where a dimension cannot be
    told."""
    source = _without_single(source)
    bands, rows, columns = _dims(source)
    values = np.asarray(source.transpose(bands, rows, columns).values)
    if values.dtype.kind not in "biuf":
        raise InputError(f"the DataArray holds {values.dtype}; expected real numbers")
    values = values.astype(np.float32)
    for name in _MISSING:
        for missing in _numbers(source.attrs, name):
            values[values == np.float32(missing)] = np.nan
    for band, (factor, offset) in enumerate(_packing(source, values.shape[0])):
        values[band] = values[band].astype(np.float64) * factor + offset
    nodata = [
        value for where in (source.attrs, source.encoding) for name in _MISSING for value in _numbers(where, name)
    ]
    crs, transform = _place(source, rows, columns)
    gcps = next((points for coord in source.coords.values() if (points := _gcps(coord.attrs))), ())
    names = _band_names(source, bands)
    wavelengths, fwhm, good_bands = _spectral(source, bands, names)
    meta = CubeMeta(
        wavelengths=wavelengths,
        fwhm=fwhm,
        good_bands=good_bands,
        band_names=names,
        nodata=nodata[0] if nodata else None,
        crs=None if gcps else crs,
        transform=transform,
        gcps=gcps,
        gcps_crs=crs if gcps else None,
    )
    return Cube.from_array(values, meta, source=_title(source))


def like_source(result: np.ndarray, source: Any) -> Any:
    """The result (bands, rows, cols) as a DataArray: dimensions in the source's order, its name, attributes, and
    coordinates; those along rows and columns at the finer pixels' centres."""
    import xarray

    dims = _dims(_without_single(source))
    scale = result.shape[1] // source.sizes[dims[1]]
    coords = {}
    for name, coord in source.coords.items():
        finer = coord
        for dim in dims[1:]:
            if finer is not None and dim in coord.dims:
                finer = _finer(finer, dim, scale)
        if finer is not None:
            coords[name] = finer
    for name, coord in source.coords.items():
        if finer_place := {**_finer_geotransform(coord.attrs, scale), **_finer_gcps(coord.attrs, scale)}:
            coords[name] = coord.assign_attrs(finer_place)
    attrs = {**source.attrs, **_finer_geotransform(source.attrs, scale)}
    if np.size(attrs.get("transform", ())) >= _AFFINE:  # xarray.open_rasterio's: a, b, c, d, e, f
        a, b, c, d, e, f = (float(number) for number in tuple(attrs["transform"])[:_AFFINE])
        attrs["transform"] = (a / scale, b / scale, c, d / scale, e / scale, f)
    if "res" in attrs:
        attrs["res"] = tuple(float(size) / scale for size in np.atleast_1d(attrs["res"]))
    for band, (factor, offset) in enumerate(_packing(source, result.shape[0])):
        result[band] = (result[band].astype(np.float64) - offset) / factor
    filling = [value for name in _MISSING for value in _numbers(attrs, name)]
    if filling:
        result[np.isnan(result)] = filling[0]
    single = [dim for dim in source.dims if dim not in dims]
    result = result.reshape((1,) * len(single) + result.shape)
    finer_array = xarray.DataArray(result, dims=(*single, *dims), coords=coords, name=source.name, attrs=attrs)
    return finer_array.transpose(*source.dims)


def _without_single(source: Any) -> Any:
    """The DataArray without dimensions of length 1 beside three others, such as a time, that are none of bands, rows
    and columns."""
    known = {name for names in DIMENSION_NAMES.values() for name in names}
    single = [dim for dim in source.dims if source.sizes[dim] == 1 and str(dim).lower() not in known]
    return source.isel(dict.fromkeys(single, 0)) if source.ndim - len(single) == 3 else source


def _dims(source: Any) -> tuple[str, str, str]:
    given = ", ".join(map(str, source.dims))
    if len(source.dims) != 3:
        raise InputError(f"the DataArray has dimensions {given}; expected bands, rows, columns")
    found = []
    for what, role in (("bands", "b"), ("rows", "r"), ("columns", "c")):
        names = DIMENSION_NAMES[role]
        fitting = [dim for dim in source.dims if str(dim).lower() in names]
        if len(fitting) != 1:
            raise InputError(
                f"the DataArray has dimensions {given}, and none is known to be its {what}; rename one to '{names[0]}'"
            )
        found.append(fitting[0])
    return found[0], found[1], found[2]


def _packing(source: Any, bands: int) -> list[tuple[float, float]]:
    """(factor, offset) of each band, physical = packed * factor + offset: of CF, or rioxarray's by band; none where the
    values are physical."""
    pairs = []
    for names, neutral in ((("scale_factor", "scales"), 1.0), (("add_offset", "offsets"), 0.0)):
        given = ((name, numbers) for name in names if (numbers := _numbers(source.attrs, name)))
        name, found = next(given, (names[0], [neutral]))
        if not all(math.isfinite(number) for number in found) or (neutral and 0.0 in found):
            raise InputError(f"the DataArray's {name} is {source.attrs[name]!r}, which nothing can be packed by")
        if len(found) != bands and len(set(found)) > 1:
            raise InputError(
                f"the DataArray's {name} has {len(found)} numbers for {bands} bands; give those of its bands alone"
            )
        pairs.append((found * bands)[:bands])
    packing = list(zip(*pairs, strict=True))
    return packing if any(pair != (1.0, 0.0) for pair in packing) else []


def _numbers(attrs: Mapping[Any, Any], name: str) -> list[float]:
    """The number, or numbers, of an attribute, text that is one too; empty where there are none."""
    value = np.ravel(attrs.get(name, ()))
    if value.dtype.kind not in "iufSU":
        return []
    try:
        return [float(number) for number in value]
    except ValueError:
        raise InputError(f"the DataArray's {name} is {attrs[name]!r}; expected a number") from None


def _band_names(source: Any, bands: str) -> tuple[str, ...] | None:
    """rioxarray's ``long_name``, else what a coordinate of texts calls the bands; None where nothing does."""
    count, listed = source.sizes[bands], source.attrs.get("long_name")
    if isinstance(listed, (tuple, list)) and len(listed) == count:
        return tuple(map(str, listed))
    along = (source.coords[name] for name in (bands, *source.coords) if name in source.coords)
    texts = (coord.values for coord in along if coord.dims == (bands,) and coord.dtype.kind in "OSUT")
    return next((tuple(map(str, names)) for names in texts if all(isinstance(name, str) for name in names)), None)


def _spectral(
    source: Any, bands: str, names: tuple[str, ...] | None
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Wavelengths and fwhm in nm, and the good bands, by the names that files have too.

    Coordinates along the bands; else attributes, which rioxarray has as text; wavelengths else in the bands' names.
    """
    count, attrs = source.sizes[bands], source.attrs
    along = {str(name).lower(): coord for name, coord in source.coords.items() if coord.dims == (bands,)}
    lists = {name: np.asarray(coord.values) for name, coord in along.items() if coord.dtype.kind in "biuf"}
    named: dict[str, Any] = next((along[name].attrs for name in WAVELENGTH_NAMES if name in lists), {})
    unit = named.get("units", named.get("unit", attrs.get("wavelength_units")))
    wide: dict[str, Any] = next((along[name].attrs for name in FWHM_NAMES if name in lists), {})
    fwhm_unit = wide.get("units", wide.get("unit"))
    lists = {str(name).lower(): _listed(value) for name, value in attrs.items()} | lists
    wavelengths, fwhm, good = spectral_lists(lists, count, unit, fwhm_unit)
    if wavelengths is None and names is not None:
        centres, unit = described_wavelengths(names)
        if centres is not None:
            wavelengths, fwhm = to_nanometers(centres, fwhm, unit, fwhm_unit)
    return wavelengths, fwhm, good


def _listed(value: Any) -> np.ndarray:
    """The numbers of an attribute that lists them, also as text ("1, 0, 1"); empty where it does not."""
    try:
        return np.array(re.split(r"[\s,]+", value.strip("{} ")) if isinstance(value, str) else value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([])


def _place(source: Any, rows: str, columns: str) -> tuple[str | None, Affine | None]:
    """CRS (WKT) and transform: from the attributes of a grid mapping (rioxarray's ``spatial_ref``) or of the array
    (xarray.open_rasterio's); but the coordinates count where they contradict, since a selection moves them alone."""
    mappings = [coord.attrs for coord in source.coords.values()] + [source.attrs]
    names = [attrs[key] for attrs in mappings for key in ("crs_wkt", "spatial_ref", "crs") if key in attrs]
    names = [name for name in names if isinstance(name, (str, int, dict, CRS)) and name]
    try:
        crs = CRS.from_user_input(names[0]).to_wkt() if names else None
    except CRSError:
        crs = None
    written = [Affine.from_gdal(*found) for attrs in mappings if (found := _geotransform(attrs)) is not None]
    if np.size(source.attrs.get("transform", ())) >= _AFFINE:
        written.append(Affine(*(float(number) for number in tuple(source.attrs["transform"])[:_AFFINE])))
    transform = written[0] if written else None
    steps = (None, None) if transform is None or transform.b or transform.d else (transform.a, transform.e)
    x, y = (_start_and_step(source, dim, step) for dim, step in zip((columns, rows), steps, strict=True))
    if x is not None and y is not None:
        regular = Affine(x[1], 0.0, x[0], 0.0, y[1], y[0])
        ends = (0.0, 0.0), (float(source.sizes[columns]), float(source.sizes[rows]))
        if transform is None or any(np.abs(np.subtract(~regular @ (transform @ end), end)).max() > 0.5 for end in ends):
            transform = regular
    unplaced = (Affine.identity(), *([] if crs else [Affine.translation(-0.5, -0.5)]))  # the latter: numbers of pixels
    return crs, None if transform in unplaced else transform


def _start_and_step(source: Any, dim: str, known: float | None) -> tuple[float, float] | None:
    """Where the first pixel begins, and how far apart they are (known: of a single one); None without an even
    coordinate along ``dim``."""
    if dim not in source.coords:  # whose .get counts pixels where there is none
        return None
    coord = source.coords[dim]
    if coord.dtype.kind not in "iuf" or coord.ndim != 1 or not coord.size:
        return None
    values = np.asarray(coord.values, dtype=np.float64)
    if values.size == 1:
        return None if known is None else (float(values[0]) - known / 2, known)
    step = float(values[-1] - values[0]) / (values.size - 1)
    if not np.abs(values - (values[0] + step * np.arange(values.size))).max() < _ROUNDING * abs(step):
        return None
    return float(values[0]) - step / 2, step


def _geotransform(attrs: Mapping[str, Any]) -> list[float] | None:
    """rioxarray's, as GDAL writes it; None where there is none that can be read."""
    try:
        numbers = [float(number) for number in re.split(r"[\s,()\[\]]+", str(attrs.get("GeoTransform", ""))) if number]
    except ValueError:
        return None
    return numbers if len(numbers) == _AFFINE else None


def _finer_geotransform(attrs: Mapping[str, Any], scale: int) -> dict[str, str]:
    written = _geotransform(attrs)
    if written is None:
        return {}
    x, a, b, y, d, e = written
    finer = [x, a / scale, b / scale, y, d / scale, e / scale]
    return {"GeoTransform": " ".join(f"{number:.17g}" for number in finer)}


def _finer_gcps(attrs: Mapping[str, Any], scale: int) -> dict[str, str]:
    points = _gcps(attrs)
    if not points:
        return {}
    written = json.loads(attrs["gcps"])
    for feature, point in zip(written["features"], moved_gcps(points, Affine.scale(1 / scale)), strict=True):
        feature["properties"] |= {"row": point.row, "col": point.col}
    return {"gcps": json.dumps(written)}


def _gcps(attrs: Mapping[str, Any]) -> tuple[GroundControlPoint, ...]:
    """rioxarray's, a GeoJSON text; none where there are none that can be read."""
    try:
        features = json.loads(attrs["gcps"])["features"]
        return tuple(
            GroundControlPoint(
                float(of["row"]), float(of["col"]), *map(float, feature["geometry"]["coordinates"]),
                id=str(of["id"]), info=str(of["info"]),
            )
            for feature in features for of in [feature["properties"]]
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return ()


def _finer(coord: Any, dim: str, scale: int) -> Any:
    """The coordinate at the centres of pixels ``scale`` times smaller along ``dim``: linear between the coarse centres,
    and beyond the outer ones. None where it has no numbers, or a single one, and so no spacing."""
    import xarray

    axis = coord.dims.index(dim)
    size = coord.sizes[dim]
    if coord.dtype.kind not in "iuf" or size < 2:
        return None
    values = np.moveaxis(np.asarray(coord.values, dtype=np.float64), axis, -1)
    at = (np.arange(size * scale) + 0.5) / scale - 0.5
    left = np.clip(np.floor(at).astype(int), 0, size - 2)
    share = at - left
    finer = values[..., left] + share * (values[..., left + 1] - values[..., left])
    return xarray.DataArray(np.moveaxis(finer, -1, axis), dims=coord.dims, attrs=coord.attrs)


def _title(source: Any) -> str:
    return "DataArray" if source.name is None else f"DataArray '{source.name}'"
