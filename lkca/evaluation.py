"""Wald's protocol: make a known cube coarser, restore it by the model and by bicubic, compare both with the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from lkca.data import Cube, Window
from lkca.data.degradation import Degradation
from lkca.data.window import pieces, row_strips
from lkca.errors import InputError
from lkca.inference.array import Upscaler
from lkca.inference.checks import check_scale, contradictions, suits
from lkca.inference.choose import model_for
from lkca.inference.degrade import degraded
from lkca.inference.device import card_memory
from lkca.inference.plan import MemoryBudget, size_text, tile_bytes
from lkca.inference.seen import seen
from lkca.inference.stream import stream
from lkca.inference.strips import Piece
from lkca.inference.windows import whole_pixels
from lkca.metrics import PROTOCOL, SSIM_WINDOW, MetricAccumulator, Metrics
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior
from lkca.views import Middle, Overview

__all__ = ["Evaluation", "evaluate_model", "evaluate_prediction"]

_TILE_SAMPLES, _TILE_PIXELS = 1 << 26, 1 << 21  # of a tile's result, at most: larger ones gain little
_HELD_BYTES = 16  # of a sample of it: result, truth, as read
_SCORING_BYTES = 384 << 20  # what scoring and degrading take beside it
_LEAST = 8  # coarse pixels

_Watch = Callable[[Window, np.ndarray, np.ndarray], None]  # a tile of the truth, and both cubes there


@dataclass(frozen=True)
class Evaluation:
    """Scores of one scene, and what is shown of it.

    window: the part of the scene, a multiple of ``scale`` in size. peak: physical value that the metrics take as 1, the
    same for all predictions: what was asked for (``peak_given``), or the largest valid sample of the reference's scored
    bands. scored: (bands,) bool, of the file's. wavelengths: of all bands of the file, nm. scores: {"bicubic": Metrics,
    "model": Metrics}, or {"prediction": Metrics}. middle, overview: what is shown of it, with results by the names of
    ``scores``, where that was asked for. model: the name of what made "model".
    """

    source: str
    window: Window
    scale: int
    peak: float
    scored: np.ndarray
    wavelengths: np.ndarray | None
    degradation: Degradation | None
    scores: dict[str, Metrics]
    notes: tuple[str, ...]
    middle: Middle | None = None
    overview: Overview | None = None
    protocol: str = PROTOCOL
    model: str | None = None
    peak_given: bool = False

    @property
    def bands(self) -> np.ndarray:
        """Indices of the scored bands."""
        return np.flatnonzero(self.scored)

    def summary(self) -> dict[str, Any]:
        """JSON-able: everything but the pictures and the model's name, which the caller gave."""
        return {
            "source": self.source,
            "region": str(self.window),
            "scale": self.scale,
            "peak": self.peak,
            "peak_given": self.peak_given,
            "bands_scored": int(self.bands.size),
            "degradation": None if self.degradation is None else self.degradation.model_dump(),
            "protocol": self.protocol,
            "scores": {name: metrics.as_dict() for name, metrics in self.scores.items()},
            "notes": list(self.notes),
        }


def evaluate_model(
    cube: Cube,
    model: LoadedModel | Prior | None,
    scale: int,
    *,
    region: str | None = None,
    peak: float | None = None,
    degradation: Degradation | None = None,
    device: torch.device | None = None,
    force: bool | None = None,
    memory: str | None = None,
    middle: bool = False,
    overview: bool = False,
) -> Evaluation:
    """Degrades ``cube`` by ``scale``, restores it by bicubic and by ``model`` (None: bicubic alone), and scores both.

    model: a prior, the general model, is adapted to the degraded cube; it never sees the truth. Bands in which the
    model's results are cut at 0 are cut for bicubic too: the comparison is of what was restored. region: 'ROWS,COLS' as
    Python slices; cut to a multiple of ``scale``, said in ``notes``. peak: physical value that the metrics take as 1;
    None: the largest valid sample of the reference's scored bands. degradation: the model's own by default. Bad and
    empty bands are neither scored nor shown to the network. middle, overview: whether what a report and what the panel
    shows is gathered on the way. The scene is done tile by tile.

    force: go on though wavelengths or values are not like the model's; None: the error does not offer it. memory: that
    the process may take, such as "2G", or "half" of what is free; None: half, and the error does not offer --memory.

    Raises InputError where the model was made for other bands or another scale, the region is smaller than ``scale`` or
    without valid samples, the peak is not positive, or the memory does not suffice.
    """
    notes: list[str] = list(cube.warnings)
    if isinstance(model, LoadedModel):
        check_scale(model, scale)
        notes += suits(cube, model, force=force)
    if degradation is None:
        degradation = model.config.degradation if isinstance(model, LoadedModel) else Degradation(scale=scale)
    window, cut = whole_pixels(cube, region, scale)
    notes += cut
    if model is not None:
        notes += seen(cube, window, model)
    with cube.caching(MemoryBudget.of(memory).cache):  # before the first read; the tiles' budget knows all held
        truth = cube.region(window)
        strips = (truth.read(strip) for strip in row_strips(*truth.shape))
        value, scored = _peak(strips, cube.good_bands, cube.source, peak)
        low = degraded(truth, degradation)
        chosen = model_for(low, model, scale)
        upscalers = {"bicubic": Upscaler(None, scale, np.ones(cube.bands, dtype=bool))}
        if chosen is not None:
            upscalers["model"] = Upscaler(chosen, scale, cube.good_bands, device)
        floored = [] if chosen is None else chosen.config.bands.nonnegative
        overall = Overview(truth, low, scored, upscalers) if overview else None
        inner = Middle(truth, low, upscalers) if middle else None
        shown = [view for view in (overall, inner) if view is not None]
        budget = MemoryBudget.of(memory)  # measured once: what the first pass frees, the allocator keeps for the second
        tiles = {name: _tiles(low, upscaler, budget) for name, upscaler in upscalers.items()}
        scores = {}
        for name, upscaler in upscalers.items():
            watched = [partial(view.add, name) for view in shown]
            scores[name] = _restored(truth, low, upscaler, tiles[name], value, scored, floored, watched)
    notes += _without_mssim(scores["bicubic"], cube.source)
    return Evaluation(
        cube.source, window, scale, value, scored, cube.meta.wavelengths, degradation, scores, tuple(notes), inner,
        overall, model=None if chosen is None else chosen.name, peak_given=peak is not None,
    )  # fmt: skip


def evaluate_prediction(
    reference: Cube, prediction: Cube, scale: int, *, region: str | None = None, peak: float | None = None
) -> Evaluation:
    """Scores a finished prediction against its reference, strip by strip: neither is held in memory.

    region: the part of the reference to score. The prediction covers the whole reference, or exactly that part, or
    (without a region) the reference cut to a multiple of ``scale``, as ``lkca degrade`` cuts it. peak: as in
    :func:`evaluate_model`. ``notes`` name what contradicts: place, wavelengths, range of values, a prediction that is
    the reference; and what is not scored because the prediction lacks it. Raises InputError where the sizes do not fit,
    nothing can be scored, or the peak is not positive.
    """
    prediction.check_usable()
    notes = [*reference.warnings, *prediction.warnings]
    whole = Window.full(reference.rows, reference.cols)
    window = whole if region is None else Window.parse(region, (reference.rows, reference.cols))
    size = (prediction.rows, prediction.cols)
    if region is None and size != (whole.height, whole.width):
        cut, remarks = whole_pixels(reference, None, scale)
        if size == (cut.height, cut.width):
            window, notes = cut, notes + remarks
    covers_all = size == (whole.height, whole.width)
    if prediction.bands != reference.bands or not (covers_all or size == (window.height, window.width)):
        found, expected = (f"{c.rows} × {c.cols} × {c.bands}" for c in (prediction, reference))
        raise InputError(
            f"{prediction.source}: is {found} (rows × columns × bands), the reference {reference.source} is "
            f"{expected}; give two cubes of one size, or the prediction's part of the reference as --region"
        )
    truth, guess = reference.region(window), prediction.region(window) if covers_all else prediction
    notes += contradictions(truth, guess)
    strips = list(row_strips(window.height, window.width, 2 * reference.bands))
    good = reference.good_bands & prediction.good_bands
    value, scored = _peak((truth.read(strip) for strip in strips), good, reference.source, peak)
    accumulator = MetricAccumulator(reference.bands, scale, value, good_bands=scored)
    for strip in strips:
        accumulator.update(truth.read(strip), guess.read(strip))
    metrics = _scores(accumulator, prediction.source)
    notes += _without_mssim(metrics, prediction.source)
    if metrics.rmse == 0:
        notes.append(f"{prediction.source} equals {reference.source} in every sample; is it the right file?")
    if metrics.missing:
        notes.append(f"{prediction.source} lacks {metrics.missing} pixels that the reference has; they are not scored")
    lost = np.flatnonzero(reference.good_bands & ~prediction.good_bands)
    if lost.size:
        named = ", ".join(map(str, lost[:8])) + ", …" * (lost.size > 8)
        notes.append(
            f"{prediction.source}: good in the reference, bad or empty here, not scored: band {named} (from 0)"
        )
    return Evaluation(
        prediction.source, window, scale, value, scored, reference.meta.wavelengths, None, {"prediction": metrics},
        tuple(notes), peak_given=peak is not None,
    )  # fmt: skip


def _peak(blocks: Iterable[np.ndarray], good: np.ndarray, source: str, given: float | None) -> tuple[float, np.ndarray]:
    """The given peak, else the largest valid sample of the good bands that hold data, and which these are, (bands,)
    bool; blocks: (bands, rows, cols)."""
    if given is not None and not 0 < given < math.inf:
        raise InputError(f"the peak is {given:g}; give the positive value that stands for 1, in physical units")
    top = np.full(good.size, -np.inf)
    for block in blocks:
        top = np.maximum(top, np.max(block, axis=(1, 2), where=np.isfinite(block), initial=-np.inf))
    scored: np.ndarray = good & (top > -np.inf)
    if not scored.any():
        raise InputError(
            f"{source}: the region has no valid sample in any good band; check the nodata value or give another region"
        )
    peak = float(top[scored].max()) if given is None else given
    if peak <= 0:
        raise InputError(
            f"{source}: the largest valid sample is {peak:g}; metrics need a positive one: give another region, or the "
            "value that stands for 1 (--peak)"
        )
    return peak, scored


def _restored(
    truth: Cube, low: Cube, upscaler: Upscaler, tiles: Sequence[Window], peak: float, scored: np.ndarray,
    floored: Sequence[int], watched: Sequence[_Watch],
) -> Metrics:  # fmt: skip
    """Scores of ``low`` restored, tile by tile, ``floored`` bands cut at 0; each is shown to those who watch."""
    scale, beyond = upscaler.scale, _beyond(upscaler)
    accumulator = MetricAccumulator(truth.bands, scale, peak, good_bands=scored)
    for tile in tiles:
        height, width = min(tile.height + beyond, low.rows - tile.row), min(tile.width + beyond, low.cols - tile.col)
        near = Window(tile.row, tile.col, height, width)
        fine, own = _upscaled(low, upscaler, near), tile.scaled(scale)
        for band in floored:  # one by one, without a copy of the tile
            np.maximum(fine[band], 0, out=fine[band])
        sharp = truth.read(near.scaled(scale))
        accumulator.update_part(sharp, fine, own.height, own.width)
        for watch in watched:
            watch(own, sharp, fine)
        del sharp
    return _scores(accumulator, truth.source)


def _upscaled(low: Cube, upscaler: Upscaler, window: Window) -> np.ndarray:
    fine = np.empty((low.bands, window.height * upscaler.scale, window.width * upscaler.scale), dtype=np.float32)

    def put(_: int, piece: Piece) -> None:
        fine[piece.bands, piece.rows] = piece.samples

    stream(low, upscaler, [window], put)
    return fine


def _beyond(upscaler: Upscaler) -> int:
    """Coarse pixels after a tile that the windows of MSSIM which begin in it reach."""
    return math.ceil((SSIM_WINDOW - 1) / upscaler.scale)


def _tiles(low: Cube, upscaler: Upscaler, budget: MemoryBudget) -> list[Window]:
    """The largest tiles for which, with what is beyond them, the budget has room; no more than are useful."""
    area, device, scale, beyond = Window.full(low.rows, low.cols), upscaler.device, upscaler.scale, _beyond(upscaler)
    side = max(min(max(area.height, area.width), math.isqrt(min(_TILE_SAMPLES // low.bands, _TILE_PIXELS)) // scale), 1)
    while True:
        height, width = min(side + beyond, area.height), min(side + beyond, area.width)
        held = _SCORING_BYTES + _HELD_BYTES * low.bands * height * width * scale**2
        needed = held + tile_bytes(height, width, upscaler)
        room = budget.total - budget.fixed
        on_card = card_memory(device)
        if on_card is not None:
            room = min(room, on_card + held)
        if needed <= room:
            return list(pieces(area, min(side, area.height), min(side, area.width)))
        if side <= _LEAST:
            raise InputError(
                f"{low.source}: scoring it in tiles of {side} × {side} coarse pixels needs "
                f"{size_text(needed + budget.fixed)} of memory, {size_text(budget.total)} are allowed; "
                f"{budget.remedy}"
            )
        side = max(_LEAST, side * 3 // 4)


def _scores(accumulator: MetricAccumulator, source: str) -> Metrics:
    try:
        return accumulator.compute()
    except ValueError as error:
        raise InputError(f"{source}: cannot be scored ({error})") from error


def _without_mssim(metrics: Metrics, source: str) -> list[str]:
    """A remark on the only score that may be NaN."""
    if not math.isnan(metrics.mssim):
        return []
    return [f"{source}: there is no MSSIM: no {SSIM_WINDOW} × {SSIM_WINDOW} pixels without a missing sample"]
