"""Reports of what the commands do: an evaluated or fitted model, and finished files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from lkca.data import Cube, Window, open_cube
from lkca.errors import InputError
from lkca.evaluation import Evaluation, evaluate_model, evaluate_prediction
from lkca.fitting import FittedModel
from lkca.lowrank import analyze
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior
from lkca.report.page import Report
from lkca.report.sections import SceneSection, scene_section
from lkca.report.speed import measure_speed
from lkca.report.tables import fit_table
from lkca.report.view import view_of_evaluation, view_of_files
from lkca.views import pictured_window

__all__ = ["MOST_PICTURED", "report_of_files", "report_of_fit", "report_of_model"]

MOST_PICTURED = 4  # scenes with pictures; the others are scored only, or the page would grow without bound

_HELD_OUT = "The scores on what the fit held out stand under Training."  # that the scene is no test, its own note says


def report_of_model(
    results: Iterable[Evaluation],
    model: LoadedModel | Prior | None,
    name: str = "",
    *,
    device: torch.device | None = None,
    command: str = "",
) -> Report:
    """Evaluated scenes, and of the model its ranks, its record and its speed on ``device``. name: of the model.

    results: the first four are pictured, where their middle is there; none is held longer than that takes.
    """
    device = device or torch.device("cpu")
    scenes = list(map(_pictured, count(), results))
    report = Report(title=_title(name, [s.source for s in scenes]), scenes=scenes, command=command)
    report.facts = _facts(device)
    if isinstance(model, LoadedModel):
        report.model, report.model_name = model.config, name
        report.analysis = analyze(model.net)
        report.speed = measure_speed(model.net, device)
    return report


def report_of_fit(
    fitted: FittedModel,
    name: str,
    sources: Sequence[str],
    *,
    how: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
    command: str = "",
) -> Report:
    """A fit: its scores, its curves, the model, and the middle of the first training region. name: of the model."""
    model = LoadedModel(fitted.result.net, fitted.config, Path(name))
    with open_cube(sources[0], **(how or {})) as cube:
        trained = Window.parse(fitted.config.training.data[0].region, (cube.rows, cube.cols))
        scale = fitted.config.scale
        part = pictured_window(cube.region(trained), scale).shifted(trained.row, trained.col)
        shown = evaluate_model(cube, model, scale, region=str(part), device=device, middle=True)
    report = report_of_model([shown], model, name, device=device, command=command)
    report.fit, report.history = fit_table(fitted, name), fitted.result.history
    report.notes = (*fitted.notes, _HELD_OUT)
    return report


def report_of_files(
    prediction: Cube,
    scale: int | None = None,
    *,
    low: Cube | None = None,
    reference: Cube | None = None,
    region: str | None = None,
    peak: float | None = None,
    command: str = "",
) -> Report:
    """A finished cube beside the input it was made of, its truth, or both; scored where the truth is known.

    scale: needed where there is no input. region: of the reference, without an input. peak: that the scores take as 1,
    as in :func:`lkca.evaluation.evaluate_model`. Raises InputError where sizes do not fit, or neither input nor
    reference is given.
    """
    if low is None and reference is None:
        raise InputError("a finished cube needs something to be compared with: the input it was made of, or its truth")
    if low is not None:
        if region is not None:
            raise InputError("--region picks a part of a reference; leave it out where --input is given")
        scale = scale or _scale(low, prediction)
    if scale is None:
        raise InputError("give the scale factor with -s, for example -s 4")
    if reference is None and peak is not None:
        raise InputError("--peak belongs to scores, which need a --reference; leave it out")
    result = None if reference is None else evaluate_prediction(reference, prediction, scale, region=region, peak=peak)
    view = view_of_files(prediction, scale, low=low, reference=reference, result=result)
    report = Report(title=_title("", [prediction.source]), scenes=[scene_section(result, view)], command=command)
    for what, cube in (("prediction", prediction), ("input", low), ("reference", reference)):
        if cube is not None:
            rows, cols, bands = cube.shape
            report.facts[what] = f"{cube.source}, {cube.format}, {rows} × {cols} pixels, {bands} bands"
    if result is None:
        report.notes = tuple(dict.fromkeys([*(low.warnings if low is not None else ()), *prediction.warnings]))
    return report


def _pictured(number: int, result: Evaluation) -> SceneSection:
    return scene_section(result, view_of_evaluation(result) if number < MOST_PICTURED else None)


def _scale(low: Cube, prediction: Cube) -> int:
    """How many times finer the prediction is; one that does not fit is refused later, with both sizes."""
    return max(2, round(prediction.rows / low.rows))


def _title(name: str, sources: Sequence[str]) -> str:
    scenes = [Path(source).name for source in sources]
    about = scenes[0] if len(scenes) == 1 else f"{len(scenes)} scenes" if scenes else ""
    return " on ".join(part for part in (Path(name).name, about) if part) or "Report"


def _facts(device: torch.device) -> dict[str, str]:
    if device.type == "cuda":
        return {"device": f"{device} ({torch.cuda.get_device_name(device)})"}
    return {"device": f"{device}, {torch.get_num_threads()} threads"}
