"""A scene from a reader, through a model, to a writer."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch

from lkca.data import Cube, CubeMeta, Window, create_writer, open_cube
from lkca.data.degradation import Degradation
from lkca.data.memory import available_memory, check_memory
from lkca.errors import InputError
from lkca.inference.array import Upscaler, resolve_device
from lkca.inference.checks import check_scale, suits
from lkca.inference.degrade import degrade_array
from lkca.inference.fill import fill_missing
from lkca.inference.windows import row_strips, whole_pixels, widened
from lkca.models.directory import LoadedModel, load_model

__all__ = ["UpscaleReport", "degrade_scene", "upscale", "upscale_scene"]

Progress = Callable[[int, int], None]  # rows done, rows in all (coarse)

_MEMORY_SHARE = 0.4  # of what is free: the allocator and the writer want some too
_STRIP_BYTES = 6 << 30  # a strip much taller than twice the halo wastes little on it
_WORKING_COPIES = 3  # HR-size arrays alive at once: the network's result, the joined cube, the writer's block


@dataclass(frozen=True)
class UpscaleReport:
    """What was written: path, size in pixels, number of bands, bands done by bicubic, seconds, remarks."""

    output: Path
    rows: int
    cols: int
    bands: int
    bicubic_bands: int
    seconds: float
    notes: tuple[str, ...]


@overload
def upscale(
    source: str | os.PathLike[str] | Cube | np.ndarray,
    model: str | os.PathLike[str] | LoadedModel | None,
    *,
    scale: int | None = None,
    output: None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> np.ndarray: ...


@overload
def upscale(
    source: str | os.PathLike[str] | Cube | np.ndarray,
    model: str | os.PathLike[str] | LoadedModel | None,
    *,
    scale: int | None = None,
    output: str | os.PathLike[str],
    overwrite: bool = False,
    device: str = "auto",
) -> UpscaleReport: ...


def upscale(
    source: str | os.PathLike[str] | Cube | np.ndarray,
    model: str | os.PathLike[str] | LoadedModel | None,
    *,
    scale: int | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> np.ndarray | UpscaleReport:
    """Upscales a cube by a model directory, or by bicubic where ``model`` is None (then ``scale`` is needed).

    source: a file, a :class:`Cube`, or an array (bands, rows, cols) of physical values, NaN where missing. Returns
    float32 (bands, s·rows, s·cols) in physical units, or writes ``output`` with the rescaled metadata and returns a
    report. Raises InputError for input that does not suit the model, OutputError where writing fails.
    """
    loaded = load_model(model) if isinstance(model, (str, os.PathLike)) else model
    if isinstance(source, np.ndarray):
        source = Cube.from_array(source)
    cube = source if isinstance(source, Cube) else open_cube(source)
    try:
        if output is not None:
            return upscale_scene(cube, Path(output), loaded, scale=scale, overwrite=overwrite, device=device)
        factor, _ = _prepare(cube, loaded, scale, force=False)
        shape = (cube.bands, cube.rows * factor, cube.cols * factor)
        check_memory(4 * math.prod(shape), f"{cube.source}: the upscaled cube", "give an output file")
        result = np.empty(shape, dtype=np.float32)
        upscaler = Upscaler(loaded, factor, cube.good_bands, resolve_device(device))
        for window, part in _strips(cube, upscaler):
            result[(slice(None), *window.slices)] = part
        return result
    finally:
        if cube is not source:
            cube.close()


def upscale_scene(
    cube: Cube,
    output: Path,
    model: LoadedModel | None,
    *,
    scale: int | None = None,
    overwrite: bool = False,
    device: str = "auto",
    dtype: str | None = None,
    compress: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> UpscaleReport:
    """Upscales a scene strip by strip and writes it with its metadata on the finer grid (see :func:`upscale`).

    dtype: of the stored samples, the input's by default (then scale factor, offset and nodata stay the input's
    too). ``output`` appears when it is whole; a file that was there survives a failure.
    """
    start = time.perf_counter()
    factor, notes = _prepare(cube, model, scale, force=force)
    upscaler = Upscaler(model, factor, cube.good_bands, resolve_device(device))
    shape = (cube.rows * factor, cube.cols * factor, cube.bands)
    writer = create_writer(
        output,
        shape,
        cube.meta.upsampled(factor),
        overwrite=overwrite,
        dtype=dtype,
        compress=compress,
        inputs=cube.files,
    )
    with writer:
        # A storage block is written once, by one strip.
        multiple = writer.block[0] // math.gcd(writer.block[0], factor)
        for window, part in _strips(cube, upscaler, multiple):
            writer.write(window, part)
            if progress is not None:
                progress((window.row + window.height) // factor, cube.rows)
    assert writer.report is not None
    return UpscaleReport(
        output=output,
        rows=shape[0],
        cols=shape[1],
        bands=shape[2],
        bicubic_bands=int(np.count_nonzero(~upscaler.by_network)),
        seconds=time.perf_counter() - start,
        notes=(*notes, *writer.report.warnings),
    )


def degrade_scene(cube: Cube, degradation: Degradation) -> tuple[np.ndarray, CubeMeta, list[str]]:
    """A scene s times coarser: (bands, rows // s, cols // s), its metadata, and remarks."""
    cube.check_usable()
    window, notes = whole_pixels(cube, None, degradation.scale)
    return degrade_array(cube.read(window), degradation), cube.meta.degraded(degradation.scale), notes


def _prepare(cube: Cube, model: LoadedModel | None, scale: int | None, *, force: bool) -> tuple[int, list[str]]:
    """Everything that can be refused before computing: scale, bands, usable samples."""
    cube.check_usable()
    if model is not None:
        check_scale(model, scale)
        return model.config.scale, suits(cube, model, force=force)
    if scale is None:
        raise InputError("bicubic needs a scale factor; give -s, for example -s 4")
    if scale < 2:
        raise InputError(f"the scale factor is {scale}; expected a whole number from 2")
    return scale, []


def _strips(cube: Cube, upscaler: Upscaler, multiple: int = 1) -> Iterator[tuple[Window, np.ndarray]]:
    """(fine window, its samples) from top to bottom; the cuts leave no trace in the result."""
    scale, halo = upscaler.scale, upscaler.halo
    row_bytes = 4 * cube.cols * (cube.bands * (3 + _WORKING_COPIES * scale * scale) + upscaler.feature_channels)
    budget = min(_STRIP_BYTES, int(_MEMORY_SHARE * _free_memory(upscaler.device)))
    height = max(multiple, budget // row_bytes - 2 * halo)
    check_memory(row_bytes * (min(height, cube.rows) + 2 * halo), f"{cube.source}: a strip", "close other programs")
    for core in row_strips(cube.rows, cube.cols, 1, height * cube.cols, multiple=multiple):
        # A hole within reach of a valid pixel has that pixel within 1.5 reaches: read so far, that filling does not
        # depend on the cuts either.
        around = widened(core, 3 * halo, cube.rows)
        filled, missing = fill_missing(cube.read(around))
        inner = widened(core, halo, cube.rows)
        rows = slice(inner.row - around.row, inner.row - around.row + inner.height)
        fine = upscaler(filled[:, rows], None if missing is None else missing[:, rows])
        top = (core.row - inner.row) * scale
        yield core.scaled(scale), fine[:, top : top + core.height * scale]


def _free_memory(device: torch.device) -> int:
    free = available_memory()
    return min(free, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free
