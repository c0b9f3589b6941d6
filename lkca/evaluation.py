"""Wald's protocol: make a known cube coarser, restore it by the model and by bicubic, compare both with the truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lkca.data import Cube, Window
from lkca.data.degradation import Degradation
from lkca.errors import InputError
from lkca.inference.array import bicubic_array, upscale_array
from lkca.inference.checks import check_scale, suits
from lkca.inference.choose import model_for
from lkca.inference.degrade import degrade_array
from lkca.inference.windows import row_strips, whole_pixels
from lkca.metrics import PROTOCOL, MetricAccumulator, Metrics, evaluate
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior

__all__ = ["Evaluation", "evaluate_model", "evaluate_prediction"]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one scene, and the arrays they come from.

    window: the part of the scene, a multiple of ``scale`` in size. peak: physical value that the metrics take as 1,
    the largest valid sample of the reference's scored bands; the same for all predictions. bands: indices of the
    scored bands. wavelengths: of all bands of the file, nm. scores: {"bicubic": Metrics, "model": Metrics}, or
    {"prediction": Metrics}. arrays: float32 (bands, rows, cols) in physical units, all bands of the file, under
    "low", "truth" and the names of ``scores``; none for a finished prediction.
    """

    source: str
    window: Window
    scale: int
    peak: float
    bands: np.ndarray
    wavelengths: np.ndarray | None
    degradation: Degradation | None
    scores: dict[str, Metrics]
    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...]
    protocol: str = PROTOCOL

    def summary(self) -> dict[str, Any]:
        """JSON-able: everything but the arrays."""
        return {
            "source": self.source,
            "region": str(self.window),
            "scale": self.scale,
            "peak": self.peak,
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
    degradation: Degradation | None = None,
    device: torch.device | None = None,
    force: bool = False,
) -> Evaluation:
    """Degrades ``cube`` by ``scale``, restores it by bicubic and by ``model`` (None: bicubic alone), and scores both.

    model: a prior, the general model, is adapted to the degraded cube; it never sees the truth. region: 'ROWS,COLS' as
    Python slices; cut to a multiple of ``scale``, said in ``notes``. degradation: the model's own by default. Bad and
    empty bands are neither scored nor shown to the network. Raises InputError where the model was made for other bands
    or another scale, or the region is smaller than ``scale`` or without valid samples.
    """
    notes: list[str] = list(cube.warnings)
    if isinstance(model, LoadedModel):
        check_scale(model, scale)
        notes += suits(cube, model, force=force)
    if degradation is None:
        degradation = model.config.degradation if isinstance(model, LoadedModel) else Degradation(scale=scale)
    window, cut = whole_pixels(cube, region, scale)
    notes += cut
    good = cube.good_bands
    truth = cube.read(window)
    peak, bands = _peak([truth], good, cube.source)
    low = degrade_array(truth, degradation)
    arrays = {"low": low, "truth": truth, "bicubic": bicubic_array(low, scale)}
    chosen = model_for(Cube.from_array(low, cube.meta.degraded(scale), cube.source), model, scale)
    if chosen is not None:
        arrays["model"] = upscale_array(low, chosen, good_bands=good, device=device)
    names: list[str] = [name for name in ("bicubic", "model") if name in arrays]
    scores = {name: _score(truth, arrays[name], bands, scale, peak, cube.source) for name in names}
    return Evaluation(
        cube.source, window, scale, peak, bands, cube.meta.wavelengths, degradation, scores, arrays, tuple(notes)
    )


def evaluate_prediction(reference: Cube, prediction: Cube, scale: int, *, region: str | None = None) -> Evaluation:
    """Scores a finished prediction against its reference, strip by strip: neither is held in memory.

    region: the part of the reference to score. The prediction covers the whole reference, or exactly that part, or
    (without a region) the reference cut to a multiple of ``scale``, as ``lkca degrade`` cuts it. ``arrays`` stay empty.
    Raises InputError where the sizes do not fit or nothing can be scored.
    """
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
    strips = list(row_strips(window.height, window.width, 2 * reference.bands))
    good = reference.good_bands & prediction.good_bands
    peak, bands = _peak((truth.read(strip) for strip in strips), good, reference.source)
    scored = np.zeros(reference.bands, dtype=bool)
    scored[bands] = True
    accumulator = MetricAccumulator(reference.bands, scale, peak, good_bands=scored)
    for strip in strips:
        accumulator.update(truth.read(strip), guess.read(strip))
    try:
        metrics = accumulator.compute()
    except ValueError as error:
        raise InputError(f"{prediction.source}: cannot be scored ({error})") from error
    if metrics.missing:
        notes.append(f"{prediction.source} lacks {metrics.missing} pixels that the reference has; they are not scored")
    return Evaluation(
        prediction.source, window, scale, peak, bands, reference.meta.wavelengths, None, {"prediction": metrics}, {},
        tuple(notes),
    )  # fmt: skip


def _peak(blocks: Iterable[np.ndarray], good: np.ndarray, source: str) -> tuple[float, np.ndarray]:
    """Largest valid sample of the good bands that hold data, and those bands' indices; blocks (bands, rows, cols)."""
    top = np.full(good.size, -np.inf)
    for block in blocks:
        top = np.maximum(top, np.max(block, axis=(1, 2), where=np.isfinite(block), initial=-np.inf))
    bands = np.flatnonzero(good & (top > -np.inf))
    if bands.size == 0:
        raise InputError(
            f"{source}: the region has no valid sample in any good band; check the nodata value or give another region"
        )
    peak = float(top[bands].max())
    if peak <= 0:
        raise InputError(f"{source}: the largest valid sample is {peak:g}; metrics need positive values")
    return peak, bands


def _score(truth: np.ndarray, guess: np.ndarray, bands: np.ndarray, scale: int, peak: float, source: str) -> Metrics:
    scored = np.zeros(truth.shape[0], dtype=bool)
    scored[bands] = True
    try:
        return evaluate(truth, guess, scale=scale, peak=peak, good_bands=scored)
    except ValueError as error:
        raise InputError(f"{source}: cannot be scored ({error})") from error
