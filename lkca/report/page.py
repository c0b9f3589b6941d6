"""The page: sections into a template, everything inlined, every value escaped."""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lkca.environment import environment
from lkca.lowrank import Analysis
from lkca.models.config import ModelConfig
from lkca.output import written_aside
from lkca.report.charts import Chart
from lkca.report.sections import SceneSection, layer_sections, training_charts
from lkca.report.speed import Speed
from lkca.report.tables import Table, speed_table, validation_table
from lkca.training.progress import Progress

__all__ = ["Report", "render", "write_report"]

_HERE = Path(__file__).parent


@dataclass
class Report:
    """What a report is made of; whatever is empty or None is left out of the page.

    scenes: scored, pictured or both; :func:`lkca.report.sections.scene_section` makes them. model, model_name:
    configuration and where it lies. analysis: of its upsampling layers. history, fit: of the fit, its course and its
    scores. speed: of the upsampling, measured. facts: lines for the end of the page, such as the device. notes:
    remarks. command: as it was given.
    """

    title: str
    scenes: Sequence[SceneSection] = ()
    model: ModelConfig | None = None
    model_name: str = ""
    analysis: Analysis | None = None
    history: Sequence[Progress] = ()
    fit: Table | None = None
    speed: Speed | None = None
    facts: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str = ""


def render(report: Report) -> str:
    """The whole HTML page. It loads nothing: its content-security policy forbids any request."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    found: tuple[Chart, ...] = training_charts(report.history)
    model = report.model
    return templates.get_template("page.html.j2").render(
        report=report,
        unseen=sum(scene.window is None for scene in report.scenes),
        layers=() if report.analysis is None else layer_sections(report.analysis),
        training=found,
        recorded=None if model is None or model.validation is None else validation_table(model.validation),
        speed=None if report.speed is None else speed_table(report.speed),
        environment=environment(),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def write_report(path: str | os.PathLike[str], report: Report) -> Path:
    """Renders and writes the page: aside first, then renamed. OutputError where it cannot be written."""
    path = Path(path)
    page = render(report)
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def _hash(text: str) -> str:
    """As a content-security policy names an inline element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
