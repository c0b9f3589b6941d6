"""The page as a file: everything inside, nothing hostile alive, what is missing left out."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from lkca.data import Cube, CubeMeta
from lkca.errors import OutputError
from lkca.evaluation import evaluate_model
from lkca.lowrank import analyze
from lkca.models import LKCANet, LKCANetConfig
from lkca.report.build import report_of_model
from lkca.report.page import Report, render, write_report
from lkca.report.speed import measure_speed
from lkca.report.tables import rank_table, speed_table

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>.tif"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))


def report(name: str = "scene.tif") -> Report:
    values = np.random.default_rng(0).random((6, 24, 24), dtype=np.float32) + 0.1
    scene = Cube.from_array(values, CubeMeta(wavelengths=np.linspace(450, 950, 6)), name)
    return report_of_model([evaluate_model(scene, None, 2, middle=True)], None, command=f"lkca report {name}")


def full(name: str = "scene.tif") -> Report:
    net = LKCANet(LKCANetConfig(bands=6, scale=2, width=8, blocks=1, rank=4)).eval()
    made = report(name)
    made.analysis, made.speed = analyze(net), measure_speed(net, torch.device("cpu"))
    made.facts, made.notes = {name: name}, [name]
    return made


def test_hostile_names_stay_text() -> None:
    page = render(full(EVIL))
    tags = Tags(page).tags
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert not [a for _, a in tags if any(key.startswith("on") for key in a)]
    images = [a["src"] for tag, a in tags if tag == "img"]
    assert images and all(source.startswith("data:image/png;base64,") for source in images)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render(full())
    tags = Tags(page).tags
    for tag, attributes in tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "http" not in page.replace("http-equiv", "") and "url(" not in page and "@import" not in page
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert not [a for _, a in tags if "style" in a]  # the policy would not let it in


def test_pictures_and_controls_have_names() -> None:
    tags = Tags(render(full())).tags
    names = {"img": ("alt",), "svg": ("aria-label", "aria-hidden"), "input": ("aria-label",), "th": ("scope",)}
    assert names.keys() <= {tag for tag, _ in tags}
    for tag, a in tags:
        if tag in names and (tag != "input" or a.get("type") == "range"):
            assert any(a.get(name) for name in names[tag]), (tag, a)


def test_numbers_are_those_of_the_tables() -> None:
    made = full()
    page = render(made)
    assert made.analysis is not None and made.speed is not None
    scores = made.scenes[0].scores
    assert scores is not None
    tables = [scores, rank_table(made.analysis.layers[0], made.analysis.parameters)]
    for table in [*tables, speed_table(made.speed)]:
        for row in table.rows:
            cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
            assert f"{row[0]}</th>{cells}" in page


def test_what_is_missing_is_left_out() -> None:
    page = render(report())
    for heading in ("Rank of the upsampler", "Training", "Speed"):
        assert f"<h2>{heading}</h2>" not in page
    alone = render(Report(title="nothing"))
    assert "<h2>How it was made</h2>" in alone and "<h3>" not in alone and 'href="#rank"' not in alone
    assert not re.search(r"\b(nan|None|undefined)\b", alone + page)


def test_nothing_partial_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_report(tmp_path / "r.html", report())
    before = written.read_bytes()

    def full_disk(self: Path, text: str, **_: object) -> None:
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_report(tmp_path / "r.html", report())
    assert list(tmp_path.iterdir()) == [written] and written.read_bytes() == before
