"""What is to be done to a scene: everything that can be refused before computing, and what decides the pixels."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import lkca
from lkca.data import Cube, CubeMeta, CubeWriter, Window, create_writer
from lkca.errors import InputError
from lkca.inference.adapt import PIXELS, sample_windows
from lkca.inference.array import Upscaler
from lkca.inference.checks import check_scale, suits
from lkca.inference.choose import model_for
from lkca.inference.device import card_memory, resolve_device
from lkca.inference.plan import MemoryBudget, TilePlan, plan_tiles
from lkca.inference.windows import parse_roi
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior
from lkca.models.shipped import GENERAL
from lkca.output import check_output, check_picture

__all__ = ["Model", "SceneOptions", "Task", "asked_scale", "fingerprint", "input_checksum", "model_name"]

Model = LoadedModel | Prior | None

_SAMPLE = 64  # pixels per side


@dataclass(frozen=True)
class SceneOptions:
    """How a scene is upscaled.

    scale: of bicubic and of the general model; a model directory has its own. roi: the part to upscale, see
    :func:`lkca.inference.windows.parse_roi`. tile: side in coarse pixels, found by default. memory: budget such as
    "2G", or "half" of what is free; None: half, and errors do not offer --memory. precision: of the network's body.
    dtype, compress: of the output file. overwrite, resume: what may be replaced, what is to go on. force: take a
    cube whose wavelengths or values are not like the model's. preview: a picture to write beside the output file.
    command: for the output's provenance.

    Raises InputError for a scale that is no whole number from 2, a tile that is none from 1, a roi or memory that is no
    text.
    """

    scale: int | None = None
    overwrite: bool = False
    resume: bool = False
    force: bool = False
    device: str = "auto"
    precision: str = "fp32"
    dtype: str | None = None
    compress: str | None = None
    tile: int | None = None
    memory: str | None = None
    roi: str | None = None
    preview: str | os.PathLike[str] | None = None
    command: str = ""

    def __post_init__(self) -> None:
        for field, what, least in (("scale", "scale factor", 2), ("tile", "tile", 1)):
            number = getattr(self, field)
            if number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                raise InputError(f"the {what} is {number!r}; expected a whole number from {least}")
            object.__setattr__(self, field, int(number))  # plain, for the journal
        if self.dtype is not None and not isinstance(self.dtype, str):  # numpy's own are taken too
            object.__setattr__(self, "dtype", np.dtype(self.dtype).name)
        for field, example in (("roi", "0:200,100:400"), ("memory", "2G")):
            text = getattr(self, field)
            if text is not None and not isinstance(text, str):
                raise InputError(f"the {field} is {text!r}; expected text such as '{example}'")


@dataclass(frozen=True)
class Task:
    """A scene, the part of it to upscale, what upscales it, and the description of the result.

    notes: remarks on how the cube differs from what the model was made for.
    """

    cube: Cube
    area: Window
    upscaler: Upscaler
    meta: CubeMeta
    notes: tuple[str, ...]

    @classmethod
    def of(cls, cube: Cube, model: Model, options: SceneOptions, *, made: LoadedModel | None = None) -> Task:
        """Raises InputError for what cannot be done. made: the network that was made for this cube before, if any."""
        cube.check_usable()
        area = parse_roi(options.roi, cube)
        chosen = made or model_for(cube, model, options.scale)
        notes: list[str] = []
        if chosen is not None:
            check_scale(chosen, options.scale)
            scale = chosen.config.scale
            notes = suits(cube, chosen, force=options.force)
        elif options.scale is None:
            raise InputError("bicubic needs a scale factor; give -s, for example -s 4")
        else:
            scale = options.scale
        upscaler = Upscaler(chosen, scale, cube.good_bands, resolve_device(options.device), options.precision)
        meta = cube.meta.window(area).upsampled(scale)
        if options.dtype is not None and (stored := _stored_scale(cube, options.dtype)) != 1.0:
            meta = meta.replace(scale_factor=stored)
            notes.append(f"{cube.source}: float values are stored as {options.dtype} with the scale factor {stored:g}")
        provenance = {
            "LKCA_MODEL": model_name(model),
            "LKCA_VERSION": lkca.__version__,
            "LKCA_COMMAND": options.command or f"lkca.upscale of {cube.source}",
        }
        meta = meta.replace(tags={**meta.tags, **provenance})
        return cls(cube, area, upscaler, meta, tuple(notes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the result: (rows, cols, bands)."""
        scale = self.upscaler.scale
        return self.area.height * scale, self.area.width * scale, self.cube.bands

    def writer(self, output: Path, options: SceneOptions, *, overwrite: bool) -> CubeWriter:
        """Raises InputError for an output that cannot be, OutputError where there is no room for it."""
        if options.preview is not None:
            check_picture(options.preview)
            check_output(options.preview, overwrite=overwrite, inputs=self.cube.files)
        return create_writer(
            output,
            self.shape,
            self.meta,
            overwrite=overwrite,
            dtype=options.dtype,
            compress=options.compress,
            inputs=self.cube.files,
        )

    def plan(
        self, budget: MemoryBudget, tile: int | tuple[int, int] | None, writer: CubeWriter | None = None
    ) -> TilePlan:
        """How the scene is cut by the process that has ``writer``, or (None) by one that helps it."""
        card = card_memory(self.upscaler.device)
        plan = partial(plan_tiles, self.area, self.upscaler, budget, tile=tile, device_memory=card)
        if writer is None:
            return plan()
        assert writer.meta.stored_dtype is not None
        itemsize = writer.meta.stored_dtype.itemsize
        resident = itemsize * math.prod(self.shape) if writer.collects else 0
        return plan(stored_bytes=itemsize, copied=writer.layout is None, resident=resident)

    def plan_in_memory(self, budget: MemoryBudget, tile: int | None) -> TilePlan:
        """How the scene is cut where the result is a float32 array."""
        resident, card = 4 * math.prod(self.shape), card_memory(self.upscaler.device)
        return plan_tiles(self.area, self.upscaler, budget, tile=tile, resident=resident, device_memory=card)


def fingerprint(cube: Cube, model: Model, options: SceneOptions) -> dict[str, Any]:
    """Everything that decides the pixels, JSON-able; two runs may share tiles where this is equal.

    What only decides how the pixels are stored around (compression, the output's name) is not in it.
    """
    files = [file.stat() for file in cube.files]
    return {
        "input": {
            "files": [
                [file.name, found.st_size, found.st_mtime_ns] for file, found in zip(cube.files, files, strict=True)
            ],
            "shape": list(cube.shape),
            "source": cube.source.partition("::")[2],
            "nodata": str(cube.meta.nodata),
            "sample": input_checksum(cube),
        },
        "region": str(parse_roi(options.roi, cube)),
        "model": {"name": model_name(model), "digest": _digest(model)},
        "scale": asked_scale(model, options),
        "dtype": options.dtype,
        "precision": options.precision,
        "device": resolve_device(options.device).type,
        "version": lkca.__version__,
    }


def asked_scale(model: Model, options: SceneOptions) -> int | None:
    """The model's own scale, where it has one, else the options'."""
    return model.config.scale if isinstance(model, LoadedModel) else options.scale


def _stored_scale(cube: Cube, dtype: str) -> float:
    """1, or the power of ten by which integers of ``dtype`` hold the float values of a cube without a scale.

    From a sample of windows: the largest 99.9 % quantile takes at most half the range, of 16 bits at most, as in the
    reflectance products of sensors (10 000 for 1). 1 for whole numbers, counts stored as floats. Above 1, where four
    fifths of the range are taken, only for values that are beyond the range by more than rounding to tens changes them.
    """
    meta = cube.meta
    try:
        target = np.dtype(dtype)
    except TypeError:
        return 1.0  # the writer refuses it
    floats = meta.stored_dtype is None or meta.stored_dtype.kind == "f"
    if target.kind not in "iu" or not floats or np.any(meta.scale_factor != 1.0) or np.any(meta.offset != 0.0):
        return 1.0
    top, seen, whole = 0.0, 0, True
    for window in sample_windows(cube):
        values = np.abs(cube.read(window, cube.good_bands))
        values = values[np.isfinite(values)]
        if values.size:
            top, seen = max(top, float(np.quantile(values, 0.999))), seen + window.height * window.width
            whole = whole and bool((values == np.rint(values)).all())
        if seen >= PIXELS:
            break
    most = np.iinfo(target).max
    fits = top <= most + 5
    if top == 0 or (fits and whole):
        return 1.0
    room = min(most, np.iinfo(np.uint16).max) / 2 if fits else 0.8 * most
    power = -math.floor(math.log10(room / top))
    return 10.0 ** (min(0, power) if fits else power)


def input_checksum(cube: Cube) -> int:
    """Of the middle of a cube, as read: its axes, or an array, are told from others by no file's size and time, and a
    finished output's input (LKCA_INPUT_CRC32) by no name, as it may have been moved.

    Scenes of one grid may share a hole there (clouds, the edge of a swath): then of a window with a sample besides.
    """
    total = 0
    for window in (Window.centre(cube.rows, cube.cols, _SAMPLE, _SAMPLE), *sample_windows(cube)):
        part = cube.read(window)
        total = zlib.crc32(np.ascontiguousarray(part).data, total)
        if np.isfinite(part).any():
            break
    return total


def model_name(model: Model) -> str:
    """What the output's tag LKCA_MODEL says."""
    return "bicubic" if model is None else GENERAL if isinstance(model, Prior) else str(model.path)


def _digest(model: Model) -> str:
    """Of the weights and of what is done around them."""
    if model is None:
        return ""
    total = hashlib.sha256()
    if isinstance(model, Prior):
        state = dict(model.state)
    else:
        state = model.net.state_dict()
        total.update(model.config.model_dump_json(include={"architecture", "scale", "bands", "normalisation"}).encode())
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
