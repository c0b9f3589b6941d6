"""Wald's protocol: make a known cube coarser, restore it by the model and by bicubic, compare both with the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lkca.data import Cube, Window
from lkca.data.degradation import Degradation
from lkca.errors import InputError
from lkca.inference.array import bicubic_array, upscale_array
from lkca.inference.checks import check_scale, suits
from lkca.inference.degrade import degrade_array
from lkca.inference.windows import whole_pixels
from lkca.metrics import PROTOCOL, Metrics, evaluate
from lkca.models.directory import LoadedModel

__all__ = ["Evaluation", "evaluate_model", "evaluate_prediction"]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one scene, and the arrays they come from.

    window: the part of the scene, a multiple of ``scale`` in size. peak: physical value that the metrics take as 1,
    the largest valid sample of the reference's scored bands; the same for all predictions. bands: indices of the
    scored bands. wavelengths: of all bands of the file, nm. scores: {"bicubic": Metrics, "model": Metrics}, or
    {"prediction": Metrics}. arrays: float32 (bands, rows, cols) in physical units, all bands of the file, under
    "low", "truth" and the names of ``scores``.
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
    model: LoadedModel | None,
    scale: int,
    *,
    region: str | None = None,
    degradation: Degradation | None = None,
    device: torch.device | None = None,
    force: bool = False,
) -> Evaluation:
    """Degrades ``cube`` by ``scale``, restores it by bicubic and by ``model`` (None: bicubic alone), and scores both.

    region: 'ROWS,COLS' as Python slices; cut to a multiple of ``scale``, said in ``notes``. degradation: the model's
    own by default. Bad and empty bands are neither scored nor shown to the network. Raises InputError where the
    model was made for other bands or another scale, or the region is smaller than ``scale`` or without valid samples.
    """
    notes: list[str] = list(cube.warnings)
    if model is not None:
        check_scale(model, scale)
        notes += suits(cube, model, force=force)
    if degradation is None:
        degradation = model.config.degradation if model is not None else Degradation(scale=scale)
    window, cut = whole_pixels(cube, region, scale)
    notes += cut
    good = cube.good_bands
    truth = cube.read(window)
    peak, bands = _peak(truth, good, cube.source)
    low = degrade_array(truth, degradation)
    arrays = {"low": low, "truth": truth, "bicubic": bicubic_array(low, scale)}
    if model is not None:
        arrays["model"] = upscale_array(low, model, good_bands=good, device=device)
    names: list[str] = [name for name in ("bicubic", "model") if name in arrays]
    scores = {name: _score(truth, arrays[name], bands, scale, peak, cube.source) for name in names}
    return Evaluation(
        cube.source, window, scale, peak, bands, cube.meta.wavelengths, degradation, scores, arrays, tuple(notes)
    )


def evaluate_prediction(reference: Cube, prediction: Cube, scale: int) -> Evaluation:
    """Scores a finished prediction against its reference; both must have the same rows, columns and bands."""
    if reference.shape != prediction.shape:
        found, expected = (f"{c.rows} × {c.cols} × {c.bands}" for c in (prediction, reference))
        raise InputError(
            f"{prediction.source}: is {found} (rows × columns × bands), the reference {reference.source} is "
            f"{expected}; give two cubes of one size"
        )
    truth, guess = reference.read(), prediction.read()
    peak, bands = _peak(truth, reference.good_bands & prediction.good_bands, reference.source)
    window = Window(0, 0, reference.rows, reference.cols)
    scores = {"prediction": _score(truth, guess, bands, scale, peak, prediction.source)}
    arrays = {"truth": truth, "prediction": guess}
    lost = scores["prediction"].missing
    notes = [*reference.warnings, *prediction.warnings]
    if lost:
        notes.append(f"{prediction.source} lacks {lost} pixels that the reference has; they are not scored")
    return Evaluation(
        prediction.source, window, scale, peak, bands, reference.meta.wavelengths, None, scores, arrays, tuple(notes)
    )


def _peak(truth: np.ndarray, good: np.ndarray, source: str) -> tuple[float, np.ndarray]:
    """Largest valid sample of the good bands that hold data, and those bands' indices."""
    finite = np.isfinite(truth)
    bands = np.flatnonzero(good & finite.any(axis=(1, 2)))
    if bands.size == 0:
        raise InputError(
            f"{source}: the region has no valid sample in any good band; check the nodata value or give another region"
        )
    peak = float(np.max(truth[bands], where=finite[bands], initial=-np.inf))
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
