"""``lkca.upscale``: one call for files, cubes, arrays, tensors and xarray's DataArrays; what goes in comes out."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from lkca.data import Cube, open_cube
from lkca.data.memory import check_memory
from lkca.errors import InputError
from lkca.inference.plan import MemoryBudget
from lkca.inference.scene import UpscaleReport, upscale_scene
from lkca.inference.stream import stream
from lkca.inference.strips import Piece
from lkca.inference.task import Model, SceneOptions, Task
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior
from lkca.models.shipped import GENERAL, find_model

if TYPE_CHECKING:
    from xarray import DataArray

__all__ = ["upscale"]

_BICUBIC = "bicubic"
_OF_FILES = ("overwrite", "resume", "dtype", "compress", "preview")  # options that say something about an output
_Named: TypeAlias = str | os.PathLike[str] | LoadedModel | Prior


@overload
def upscale(
    source: str | os.PathLike[str] | Cube | np.ndarray,
    model: _Named = GENERAL,
    *,
    output: None = None,
    **options: Any,
) -> np.ndarray: ...


@overload
def upscale(source: Tensor, model: _Named = GENERAL, *, output: None = None, **options: Any) -> Tensor: ...


@overload
def upscale(source: DataArray, model: _Named = GENERAL, *, output: None = None, **options: Any) -> DataArray: ...


@overload
def upscale(
    source: str | os.PathLike[str] | Cube | np.ndarray | Tensor | DataArray,
    model: _Named = GENERAL,
    *,
    output: str | os.PathLike[str],
    **options: Any,
) -> UpscaleReport: ...


def upscale(
    source: Any,
    model: str | os.PathLike[str] | LoadedModel | Prior = GENERAL,
    *,
    output: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Upscales a cube by a model; by the general model, which takes any cube, where none is given.

    source: a file, a :class:`Cube`; or physical values, NaN or masked where missing: a numpy array or tensor (bands,
    rows, cols), or an xarray DataArray with dimensions named as bands, rows and columns usually are. model: a model
    directory, the name of a shipped model, a loaded one, or ``"bicubic"`` for plain bicubic upsampling. options: the
    fields of :class:`SceneOptions`, such as ``scale`` (which bicubic and the general model need), ``roi``, ``memory``,
    ``precision``, ``overwrite``.

    Without ``output`` the result is float32 (bands, s·rows, s·cols), in memory and of the source's kind: an array for
    files, cubes and arrays, a tensor on its device, a DataArray with its coordinates and attributes on the finer grid.
    With it, a file is written with the rescaled metadata (a DataArray's wavelengths, fwhm, bad bands, nodata value,
    CRS, transform) and the report returned (see :func:`upscale_scene`). Raises InputError for input that does not suit
    the model and for options of a file where none is written, OutputError where writing fails, TypeError for an unknown
    option.
    """
    settings = SceneOptions(**{"memory": "half", **options})
    loaded = _find(model, settings.scale)
    if isinstance(source, (str, os.PathLike)):
        with open_cube(source) as cube:
            return _upscale_cube(cube, loaded, output, settings)
    if isinstance(source, Cube):
        return _upscale_cube(source, loaded, output, settings)
    if isinstance(source, np.ndarray):
        return _upscale_cube(Cube.from_array(source), loaded, output, settings)
    if isinstance(source, Tensor):
        result = _upscale_cube(Cube.from_array(_values(source), source="tensor"), loaded, output, settings)
        return torch.from_numpy(result).to(source.device) if isinstance(result, np.ndarray) else result
    if hasattr(source, "data_vars"):
        names = ", ".join(repr(name) for name in source.data_vars) or "none"
        raise InputError(f"an xarray.Dataset holds several arrays; pick the cube with dataset[NAME], of {names}")
    if hasattr(source, "dims") and hasattr(source, "coords"):
        from lkca.inference.dataarray import as_cube, like_source

        if output is None and settings.roi is not None:
            raise InputError("a DataArray is upscaled as it is; select the part first, with .isel or .sel")
        result = _upscale_cube(as_cube(source), loaded, output, settings)
        return like_source(result, source) if isinstance(result, np.ndarray) else result
    raise InputError(
        f"a {type(source).__name__} cannot be upscaled; give a file, a Cube, a numpy array, a tensor or an "
        "xarray.DataArray"
    )


def _find(model: _Named, scale: int | None) -> Model:
    if model is None:
        raise InputError(
            "the model is None; leave it out for the general model, or give 'bicubic' or a model directory"
        )
    if model == _BICUBIC:
        return None
    if isinstance(model, (str, os.PathLike)):
        return find_model(model, scale)
    if not isinstance(model, (LoadedModel, Prior)):
        raise InputError(
            f"{type(model).__name__} is no model; give a model directory, a name or what load_model returns (the scale "
            "factor is a keyword, scale=4)"
        )
    return model


def _upscale_cube(
    cube: Cube, model: Model, output: str | os.PathLike[str] | None, options: SceneOptions
) -> np.ndarray | UpscaleReport:
    if output is not None:
        return upscale_scene(cube, output, model, options)
    if idle := [name for name in _OF_FILES if getattr(options, name)]:
        raise InputError(f"{', '.join(idle)}: of no use without an output file; give output, or leave it out")
    budget = MemoryBudget.of(options.memory)
    with cube.caching(budget.cache):
        task = Task.of(cube, model, options)
        rows, cols, bands = task.shape
        check_memory(4 * math.prod(task.shape), f"{cube.source}: the upscaled cube", "give an output file")
        plan = task.plan_in_memory(budget, options.tile)
        tiles = plan.tiles()
        result = np.empty((bands, rows, cols), dtype=np.float32)

        def put(number: int, piece: Piece) -> None:
            result[(piece.bands, *plan.fine(tiles[number]).slices)][:, piece.rows] = piece.samples

        stream(cube, task.upscaler, tiles, put)
    return result


def _values(tensor: Tensor) -> np.ndarray:
    if tensor.is_complex():
        raise InputError("the tensor is complex; give real values")
    if tensor.is_meta or tensor.layout != torch.strided:
        what = "a meta tensor, without values" if tensor.is_meta else f"stored as {tensor.layout}"
        raise InputError(f"the tensor is {what}; give a dense one")
    result: np.ndarray = tensor.to(torch.float32).numpy(force=True)
    return result
