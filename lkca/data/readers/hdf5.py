"""HDF5 and NetCDF4 cubes through h5py, by windows.

Conventions read: NEON AOP reflectance (Scale_Factor divides, Data_Ignore_Value, EPSG Code and Map_Info
datasets), CF (scale_factor multiplies, add_offset, _FillValue, missing_value, grid_mapping, coordinate
variables), EMIT (sensor_band_parameters/wavelengths, fwhm, good_wavelengths), Planet Tanager (the same lists as
attributes of the cube), PACE OCI (wavelength_3d), HICO (slope, intercept), PRISMA (``prisma.py``), HDF-EOS5 grids
(``hdfeos.py``).
"""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from lkca.data.cube import Cube
from lkca.data.envi_map import parse_map_info
from lkca.data.memory import check_memory
from lkca.data.meta import CubeMeta
from lkca.data.readers.arrays import ArrayWindows, kept_axes
from lkca.data.readers.cf import MAX_ITEMS, StoredSamples, attribute_text, in_units_of, mapping_crs, written_transform
from lkca.data.readers.chunks import CHUNK_CACHE, ChunkWindows
from lkca.data.readers.hdfeos import grid_place
from lkca.data.readers.matlab import open_matlab73
from lkca.data.readers.prisma import Prisma, read_prisma
from lkca.data.readers.storage import check_storage, is_small
from lkca.data.readers.variables import (
    DIMENSION_NAMES,
    FWHM_NAMES,
    GOOD_NAMES,
    WAVELENGTH_NAMES,
    choose_cube,
    choose_layout,
    left_out,
    spectral_lists,
)
from lkca.data.spectral import to_nanometers
from lkca.errors import InputError

__all__ = ["open_hdf5"]

_SPECTRAL_NAMES = WAVELENGTH_NAMES + FWHM_NAMES + GOOD_NAMES
_BARE_DIMENSION = "This is a netCDF dimension but not a netCDF variable"  # zeros that the netCDF library leaves


def open_hdf5(file: Path, source: str, variable: str | None, shape: tuple[int, int] | None, axes: str | None) -> Cube:
    """A cube in an HDF5 or NetCDF4 file: the only 3-D numeric dataset or ``FILE::/path``."""
    h5 = h5py.File(file, "r", rdcc_nbytes=CHUNK_CACHE)
    try:
        datasets = _datasets(h5)
        if any("MATLAB_class" in dataset.attrs for dataset in datasets.values()) or file.suffix.lower() == ".mat":
            h5.close()
            return open_matlab73(file, source, variable, shape, axes)
        arrays = {
            name: dataset.shape
            for name, dataset in datasets.items()
            if dataset.shape is not None and len(dataset.shape) >= 2 and dataset.dtype.kind in "biuf"
        }
        if variable is not None or all(len(dims) != 3 for dims in arrays.values()):
            arrays = {name: tuple(dims[axis] for axis in _kept_axes(datasets[name])) for name, dims in arrays.items()}
        kinds = {name: f"{dataset.dtype} dataset of shape {dataset.shape}" for name, dataset in datasets.items()}
        wanted = None if variable is None else "/" + variable.strip("/")
        name = choose_cube(
            arrays, wanted, source, others=kinds, pixels=shape, band_counts=_band_counts(datasets, list(arrays))
        )
        return _cube(h5, name, datasets, shape, axes, file)
    except BaseException:
        h5.close()
        raise


def _datasets(h5: h5py.File) -> dict[str, h5py.Dataset]:
    """Every dataset of the file itself by absolute path (soft and external links are not followed)."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found["/" + name] = node

    h5.visititems(visit)
    return found


def _band_counts(datasets: dict[str, h5py.Dataset], cubes: list[str]) -> set[int]:
    """How many bands the wavelength lists tell of, those among the attributes of what may be a cube included."""
    lists = [dataset for path, dataset in datasets.items() if path.rpartition("/")[2].lower() in WAVELENGTH_NAMES]
    own = [_wavelength_counts(_own_lists(datasets[name]), datasets[name].shape) for name in cubes]
    return {int(size) for size in {dataset.size for dataset in lists}.union(*own) if size and size > 1}


def _cube(
    h5: h5py.File,
    name: str,
    datasets: dict[str, h5py.Dataset],
    pixels: tuple[int, int] | None,
    axes: str | None,
    file: Path,
) -> Cube:
    dataset = datasets[name]
    named = f"{file}::{name}"
    check_storage(dataset, file, named)
    prisma = read_prisma(h5.attrs, name, named)
    spectral = _Spectral.of(name, datasets, prisma)
    windows, order, warning = _windows(dataset, named, axes, pixels, spectral.counts)
    bands = windows.shape[2]
    vectors, units, fwhm_units = spectral.lists(dataset, order, bands)
    wavelengths, fwhm, good = spectral_lists(vectors, bands, units, fwhm_units)
    stored = StoredSamples.of(dataset, windows)
    if prisma is None:
        scale, offset = _radiometry(dataset, bands, named)
        nodata = stored.nodata
        transform, crs, remarks = _georeference(dataset, datasets, order, windows.shape[:2], named)
    else:
        scale, offset, nodata = prisma.scale, prisma.offset, prisma.nodata
        transform, crs, remarks = prisma.place(*windows.shape[:2], named)
    if transform is None:
        remarks = [*remarks, *_placed_one_by_one(datasets, windows.shape[:2], named)]
    meta = CubeMeta(
        wavelengths=wavelengths,
        fwhm=fwhm,
        good_bands=good,
        nodata=nodata,
        scale_factor=scale,
        offset=offset,
        crs=crs,
        transform=transform,
        stored_dtype=stored.dtype,
        tags=_tags(h5, dataset),
    )
    remarks = [*remarks, *left_out(vectors, meta, bands, named, units)]
    netcdf = file.suffix.lower() in (".nc", ".nc4") or "_NCProperties" in h5.attrs
    cube = Cube(
        named, windows.shape, meta, stored, format="NetCDF4" if netcdf else "HDF5", files=(file,),
        warnings=[*remarks, warning] if warning else remarks, close=h5.close,
        allow=windows.allow, describes_itself=False,
    )  # fmt: skip
    return cube if prisma is None or wavelengths is None else cube.select(prisma.measured)


def _windows(
    dataset: h5py.Dataset, named: str, axes: str | None, pixels: tuple[int, int] | None, band_counts: set[int]
) -> tuple[ArrayWindows, str, str | None]:
    """What reads the dataset, the order of its axes ("1" for those of length 1 that do not count), and a warning."""
    kept = _kept_axes(dataset)
    by_name = "".join(_role(dataset, axis) or "?" for axis in kept)
    if axes is None and sorted(by_name) == ["b", "c", "r"]:
        axes = by_name
    layout, order, warning = choose_layout(
        tuple(dataset.shape[axis] for axis in kept), named, axes=axes, pixels=pixels, band_counts=band_counts,
        column_major=False,
    )  # fmt: skip
    if dataset.ndim == 2:
        check_memory(dataset.size * dataset.dtype.itemsize, f"{named} (loaded whole)", "store it as a 3-D dataset")
        return ArrayWindows(dataset[()].reshape(layout), order), order, warning
    if dataset.ndim > len(kept):
        order = "".join(order[kept.index(axis)] if axis in kept else "1" for axis in range(dataset.ndim))
    return ChunkWindows(dataset, order), order, warning


@dataclass
class _Spectral:
    """What may be a cube's spectral lists, by lower-case name: beside it in the file, and (own) among its attributes.

    sides: of the cube, in samples. units, fwhm_units: of the wavelengths and the fwhm beside it.
    """

    beside: dict[str, np.ndarray]
    own: dict[str, np.ndarray]
    sides: tuple[int, ...]
    units: str | None
    fwhm_units: str | None

    @classmethod
    def of(cls, name: str, datasets: dict[str, h5py.Dataset], prisma: Prisma | None) -> _Spectral:
        sides = datasets[name].shape
        if prisma is not None:
            return cls({"wavelength": prisma.wavelengths, "fwhm": prisma.fwhm}, {}, sides, "nm", "nm")
        beside, listed = _companions(name, datasets)
        units, fwhm_units = (
            next((listed[key] for key in names if key in beside), None) for names in (WAVELENGTH_NAMES, FWHM_NAMES)
        )
        return cls(beside, _own_lists(datasets[name]), sides, units, fwhm_units)

    @property
    def counts(self) -> set[int]:
        """How many bands the wavelength lists tell of."""
        beside = {values.size for key, values in self.beside.items() if key in WAVELENGTH_NAMES}
        found = beside | _wavelength_counts(self.own, self.sides)
        # A single number the netCDF library stores as a list too.
        return found - {1} if len(found) > 1 else found

    def lists(
        self, dataset: h5py.Dataset, order: str, bands: int
    ) -> tuple[dict[str, np.ndarray], str | None, str | None]:
        """Those that count by name, and the units of the wavelengths and of the fwhm among them.

        Own lists, which have no units, go first; last comes the coordinate of the band axis.
        """
        found, units, fwhm_units = self.beside, self.units, self.fwhm_units
        if not self.counts and (coordinate := _band_coordinate(dataset, order)) is not None:
            values, units = coordinate
            found = found | {"wavelength": values}
        own = {key: values for key, values in self.own.items() if values.size == bands}
        if not own.keys().isdisjoint(WAVELENGTH_NAMES):
            found = {key: values for key, values in found.items() if key not in WAVELENGTH_NAMES}
            units = None
        if not own.keys().isdisjoint(FWHM_NAMES):
            fwhm_units = None
        return self.own | found | own, units, fwhm_units  # the first: those of another length are told


def _companions(name: str, datasets: dict[str, h5py.Dataset]) -> tuple[dict[str, np.ndarray], dict[str, str | None]]:
    """Spectral vectors by lower-case name, the ones nearest to the cube in the tree, and their units."""
    vectors: dict[str, np.ndarray] = {}
    depth: dict[str, int] = {}
    units: dict[str, str | None] = {}
    home = name.split("/")[:-1]
    for path, dataset in datasets.items():
        key = path.rpartition("/")[2].lower()
        if key not in _SPECTRAL_NAMES or dataset.dtype.kind not in "biuf":
            continue
        if not is_small(dataset) or (_text_attr(dataset, "NAME") or "").startswith(_BARE_DIMENSION):
            continue
        shared = sum(1 for a, b in zip(home, path.split("/"), strict=False) if a == b)
        if shared > depth.get(key, -1):
            vectors[key], depth[key] = dataset[()].ravel(), shared
            units[key] = _text_attr(dataset, "units", "Units", "unit")
    return vectors, units


def _own_lists(cube: h5py.Dataset) -> dict[str, np.ndarray]:
    """The spectral vectors among the cube's attributes."""
    lists = {name.lower(): np.asarray(cube.attrs[name]) for name in cube.attrs if name.lower() in _SPECTRAL_NAMES}
    return {key: values for key, values in lists.items() if values.ndim == 1 and values.dtype.kind in "biuf"}


def _wavelength_counts(own: dict[str, np.ndarray], sides: tuple[int, ...]) -> set[int]:
    """Lengths of the wavelength lists among a cube's own that are as long as one of its sides."""
    return {values.size for key, values in own.items() if key in WAVELENGTH_NAMES and values.size in sides}


def _band_coordinate(dataset: h5py.Dataset, order: str) -> tuple[np.ndarray, str] | None:
    """The coordinate variable of the band axis and its units, where it has a wavelength's: CF leaves its name free."""
    axis = order.index("b")
    scale = _scale(dataset, axis) if dataset.ndim > 2 else None
    if scale is None:
        return None
    units = _text_attr(scale, "units")
    if not units or not is_small(scale) or scale.shape != (dataset.shape[axis],) or scale.dtype.kind not in "iuf":
        return None
    values = scale[()]
    return None if to_nanometers(values, None, units)[0] is None else (values, units)  # a time, say, or numbers


def _scale(dataset: h5py.Dataset, axis: int) -> h5py.Dataset | None:
    """The first dimension scale of an axis: a coordinate variable.

    h5py's ``dims`` are not asked: HDF5 (2.0) takes the types of these attributes for granted, and one of another type
    ends the process.
    """
    listed = _axis_attr(dataset, "DIMENSION_LIST", axis)
    first = listed[0] if isinstance(listed, np.ndarray) and listed.size else None
    if type(first) is not h5py.Reference or not first:
        return None
    try:
        node = dataset.file[first]
    except (KeyError, ValueError):  # it was deleted
        return None
    return node if isinstance(node, h5py.Dataset) else None


def _axis_attr(dataset: h5py.Dataset, name: str, axis: int) -> Any:
    """The entry for an axis of an attribute that lists one for each; None where it does not."""
    values = dataset.attrs.get(name)
    return values[axis] if isinstance(values, np.ndarray) and values.shape == (dataset.ndim,) else None


def _dimension_name(dataset: h5py.Dataset, axis: int) -> str:
    scale = _scale(dataset, axis)
    path = attribute_text(_axis_attr(dataset, "DIMENSION_LABELS", axis) or "") if scale is None else scale.name
    return str(path or "").rpartition("/")[2].lower()


def _role(dataset: h5py.Dataset, axis: int) -> str | None:
    """What an axis holds by its name: "r" (rows), "c" (columns) or "b" (bands); None where the name does not tell."""
    dim = _dimension_name(dataset, axis)
    return next((role for role, names in DIMENSION_NAMES.items() if dim in names), None)


def _kept_axes(dataset: h5py.Dataset) -> list[int]:
    return kept_axes(dataset.shape, [axis for axis in range(dataset.ndim) if _role(dataset, axis)])


def _radiometry(dataset: h5py.Dataset, bands: int, source: str) -> tuple[float | np.ndarray, float | np.ndarray]:
    names, told = ("scale_factor", "add_offset"), dataset.attrs.keys()
    if told.isdisjoint({*names, "Scale_Factor", "Scale Factor"}) and {"slope", "intercept"} <= told:
        names = ("slope", "intercept")
    scale, offset = (_by_band(dataset, bands, source, name) for name in names)
    divisor = _by_band(dataset, bands, source, "Scale_Factor", "Scale Factor")
    if scale is None and divisor is not None:
        if np.any(divisor == 0):
            raise InputError(f"{source}: Scale_Factor is 0; expected another number")
        scale = 1.0 / divisor
    return 1.0 if scale is None else scale, 0.0 if offset is None else offset


def _by_band(dataset: h5py.Dataset, bands: int, source: str, *names: str) -> float | np.ndarray | None:
    """The number of an attribute; (bands,) where it lists one for each band."""
    name = next((name for name in names if name in dataset.attrs), None)
    values = np.empty(0) if name is None else np.ravel(dataset.attrs[name])
    if values.dtype.kind not in "iuf" or values.size < 2 or np.all(values == values[0]):
        return _number_attr(dataset, *names)
    if values.size != bands:
        raise InputError(f"{source}: {name} lists {values.size} numbers for {bands} bands; expected one or {bands}")
    return values.astype(np.float64)


def _georeference(
    dataset: h5py.Dataset,
    datasets: dict[str, h5py.Dataset],
    order: str,
    pixels: tuple[int, int],
    source: str,
) -> tuple[Affine | None, str | None, list[str]]:
    transform: Affine | None = None
    crs: str | None = None
    by_name: str | None = None
    remarks: list[str] = []
    for path, candidate in datasets.items():
        key = path.rpartition("/")[2].lower().replace("_", " ")
        if key not in ("epsg code", "map info") or not is_small(candidate):
            continue
        text = attribute_text(candidate[()])
        if key == "map info":
            transform, by_name, remarks = parse_map_info(text, f"{source} ({path})")
            crs = crs or by_name
        elif text.isdigit():
            with contextlib.suppress(CRSError):
                crs = str(CRS.from_epsg(int(text)).to_wkt())
    structure = datasets.get("/HDFEOS INFORMATION/StructMetadata.0")
    if transform is None and structure is not None and is_small(structure):
        place = grid_place(attribute_text(structure[()]), dataset.name, *pixels)
        if place[0] is not None:
            transform, crs = place
    # CF's longer form, "crs: x y other: lat lon", names several; the first is that of the dimensions.
    mapping = (_text_attr(dataset, "grid_mapping") or "").partition(":")[0].strip()
    node = _grid_mapping(dataset, mapping) if mapping else None
    if node is not None:
        crs = mapping_crs(node.attrs) or crs
    if transform is None:
        transform = _coordinate_transform(dataset, order, crs)
        if transform and crs is None and _is_wgs84(dataset, order, node):
            crs = str(CRS.from_epsg(4326).to_wkt())
    if transform is None and node is not None:
        transform = written_transform(node.attrs)
    if by_name is None and crs is not None:  # what the map info does not tell another variable does
        remarks = []
    if transform and crs is None and mapping and not remarks:
        remarks = [f"{source}: its grid mapping, {mapping}, is none that can be read; the cube has no CRS"]
    return transform, crs, remarks


def _placed_one_by_one(datasets: dict[str, h5py.Dataset], pixels: tuple[int, int], source: str) -> list[str]:
    """A warning where the file holds the latitude of each pixel, which is no place that a cube can keep."""
    names = ("lat", "latitude", "latitudes")
    found = [path for path in datasets if path.rpartition("/")[2].lower().partition("_")[0] in names]
    return [
        f"{source}: its place, the latitude and longitude of each pixel ({path}), is not carried over"
        for path in found
        if datasets[path].shape in (pixels, pixels[::-1])
    ][:1]


def _grid_mapping(cube: h5py.Dataset, name: str) -> Any:
    """The variable or group of this path, from the cube's group outwards, as CF looks for it; None where none is.

    Among what the file itself holds: no link leads to another file.
    """
    nodes: dict[str, Any] = {}
    cube.file.visititems(lambda path, node: nodes.update({f"/{path}": node}))
    groups = itertools.accumulate(cube.name.split("/")[:-1], "{}/{}".format)
    paths = [posixpath.normpath(posixpath.join(group or "/", name)) for group in groups]
    return next((nodes[path] for path in reversed(paths) if path in nodes), None)


def _is_wgs84(dataset: h5py.Dataset, order: str, mapping: Any) -> bool:
    """Whether coordinates are latitudes and longitudes (CF: by their units), and no grid mapping names another CRS."""
    scales = [_scale(dataset, order.index(role)) for role in "rc"]
    units = ["" if scale is None else _text_attr(scale, "units") or "" for scale in scales]
    if not (re.fullmatch("degrees?_?N(orth)?", units[0], re.I) and re.fullmatch("degrees?_?E(ast)?", units[1], re.I)):
        return False
    if mapping is None:
        return not _text_attr(dataset, "grid_mapping")  # one that is named, but not found, may be any
    return _text_attr(mapping, "grid_mapping_name") == "latitude_longitude" and _number_attr(
        mapping, "semi_major_axis", "earth_radius"
    ) in (None, 6378137.0)


def _coordinate_transform(dataset: h5py.Dataset, order: str, crs: str | None) -> Affine | None:
    """From regular 1-D coordinate variables (pixel centres) attached to the row and column axes; in units of the CRS,
    where they are in kilometres."""
    if dataset.ndim < 3:
        return None
    ends = []
    for role in "cr":
        scale = _scale(dataset, order.index(role))
        if scale is None or not is_small(scale) or scale.ndim != 1 or scale.size < 2 or scale.dtype.kind not in "iuf":
            return None
        name = (scale.name or "").rpartition("/")[2].lower()
        if name not in ("x", "y", "lon", "lat", "longitude", "latitude", "easting", "northing"):
            return None
        values = scale[()].astype(np.float64) * in_units_of(crs, _text_attr(scale, "units"))
        step = (values[-1] - values[0]) / (len(values) - 1)
        if step == 0 or np.abs(np.diff(values) - step).max() > 1e-3 * abs(step):
            return None
        ends.append((step, values[0] - step / 2))
    (dx, x0), (dy, y0) = ends
    return Affine(dx, 0.0, x0, 0.0, dy, y0)


def _tags(h5: h5py.File, dataset: h5py.Dataset) -> dict[str, str]:
    tags: dict[str, str] = {}
    for node in (h5, dataset):
        for key in node.attrs:
            if key.isupper() or key.startswith("_") or key in _HANDLED_ATTRS:
                continue
            try:
                value = node.attrs[key]
                text = attribute_text(value) if np.size(value) <= MAX_ITEMS else ""
            except (OSError, TypeError, ValueError):
                continue
            if text and len(text) < 1000:
                tags[key] = text
    return tags


_HANDLED_ATTRS = {
    "scale_factor", "add_offset", "slope", "intercept", "Scale_Factor", "Data_Ignore_Value", "missing_value",
    "grid_mapping", "valid_range", "valid_min", "valid_max",
}  # fmt: skip


def _number_attr(node: Any, *names: str) -> float | None:
    for name in names:
        if name in node.attrs:
            value = np.asarray(node.attrs[name]).ravel()
            with contextlib.suppress(ValueError, TypeError, IndexError):
                return float(value[0])
    return None


def _text_attr(node: Any, *names: str) -> str | None:
    return next((attribute_text(node.attrs[name]) for name in names if name in node.attrs), None)
