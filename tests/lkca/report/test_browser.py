"""The page in a browser: no request, no complaint, no sideways scrolling, and controls that work."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lkca.data import Cube, CubeMeta
from lkca.data.synthetic import synthesize
from lkca.evaluation import evaluate_model
from lkca.lowrank import analyze
from lkca.metrics import evaluate
from lkca.models import LKCANet, LKCANetConfig
from lkca.report.page import Report, write_report
from lkca.report.sections import scene_section
from lkca.report.view import view_of_evaluation
from lkca.training.progress import Progress

HOSTILE = "a_very_long_name_" * 12 + "<script>document.title='owned'</script>.tif"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section, of a synthetic scene; the "model" lies halfway between bicubic and truth."""
    truth, wavelengths, good = synthesize(64, 72, 60)
    cube = Cube.from_array(truth, CubeMeta(wavelengths=wavelengths, good_bands=good), HOSTILE)
    found = evaluate_model(cube, None, 4, middle=True)
    assert found.middle is not None
    halfway = 0.5 * (found.middle.results["bicubic"] + truth)
    scores = {**found.scores, "model": evaluate(truth, halfway, scale=4, peak=found.peak, good_bands=good)}
    found.middle.results["model"] = halfway
    result = replace(found, scores=scores)
    net = LKCANet(LKCANetConfig(bands=6, scale=2, width=8, blocks=1, rank=4)).eval()
    history = [Progress("teacher", i, 1.0, 0.1, 1 / i, 0.1 * i) for i in range(1, 9)]
    report = Report(
        title=HOSTILE,
        scenes=[scene_section(result, view_of_evaluation(result))],
        analysis=analyze(net),
        history=history,
        command=f"lkca {HOSTILE}",
    )
    return write_report(tmp_path_factory.mktemp("report") / "page.html", report)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_stays_at_home(browser: Any, page_file: Path, tmp_path: Path, width: int, theme: str) -> None:
    page = browser.open(page_file, width, theme=theme)
    assert page.run("document.documentElement.scrollWidth") <= width
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    assert shot.shape[1] == width and (np.median(shot) > 150) == (theme == "light")
    assert shot.std() > 15  # something is drawn
    assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    outside = page.run(
        "[...document.querySelectorAll('main section *')].filter(e => !e.closest('.scroll, .stage, svg, table') && "
        f"e.getBoundingClientRect().right > {width} + 1).map(e => e.className || e.tagName)"
    )
    assert outside == []
    assert page.run("document.title").startswith("a_very_long")
    assert page.requests() == [page_file.resolve().as_uri()] and page.complaints() == []
    page.close()


def test_text_has_contrast_in_both_themes(browser: Any, page_file: Path) -> None:
    """WCAG AA: 4.5 for text; of every text element against its section's background."""
    measure = """(() => {
      const linear = x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
      const light = c => {
        const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => linear(Number(x) / 255));
        return .2126 * v[0] + .7152 * v[1] + .0722 * v[2];
      };
      const worst = [];
      const text = 'h1, h2, h3, p, dt, dd, dd span, td, th, figcaption, label, summary, button, nav a, .chart text';
      for (const e of document.querySelectorAll(text)) {
        if (e.closest('.stage')) continue;
        const style = getComputedStyle(e), at = e.closest('section, button, nav a') || document.body;
        const a = light(e.tagName === 'text' ? style.fill : style.color);
        const b = light(getComputedStyle(at).backgroundColor);
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) worst.push([e.tagName, e.className, ratio]);
      }
      return worst; })()"""
    for theme in ("light", "dark"):
        page = browser.open(page_file, 1280, theme=theme)
        assert page.run(measure) == []
        page.close()


def test_the_theme_button(browser: Any, page_file: Path) -> None:
    page = browser.open(page_file, 1280, theme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.run(background)
    page.run("document.querySelector('[data-theme-button]').click()")
    assert page.run(background) != before and page.run("document.documentElement.dataset.theme") == "dark"
    page.run("document.querySelector('[data-theme-button]').click()")
    assert page.run(background) == before
    page.close()


def _divider(page: Any) -> float:
    return float(page.run("document.querySelector('[data-divider]').value"))


def _stage(page: Any) -> dict[str, float]:
    page.run("document.querySelector('[data-stage]').scrollIntoView({behavior: 'instant', block: 'center'})")
    box: dict[str, float] = page.run("document.querySelector('[data-stage]').getBoundingClientRect().toJSON()")
    return box


def test_the_slider_by_mouse_and_keyboard(browser: Any, page_file: Path) -> None:
    page = browser.open(page_file, 1280)
    box = _stage(page)
    y = box["y"] + box["height"] / 2
    for kind, share in (("mousePressed", 0.5), ("mouseMoved", 0.25), ("mouseReleased", 0.25)):
        x = box["x"] + share * box["width"]
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    assert _divider(page) == pytest.approx(25, abs=1)
    clip = page.run("getComputedStyle(document.querySelector('.stage img.left')).clipPath")
    assert "75%" in clip or "calc" in clip
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    assert _divider(page) == pytest.approx(26, abs=1)
    assert page.run("document.querySelector('[data-stage]').style.getPropertyValue('--at')") == f"{_divider(page):g}%"
    page.close()


def test_the_slider_by_touch(browser: Any, page_file: Path) -> None:
    page = browser.open(page_file, 390)
    box = _stage(page)
    y = box["y"] + box["height"] / 2
    for kind, share in (("touchStart", 0.5), ("touchMove", 0.65), ("touchMove", 0.8)):
        point = {"x": box["x"] + share * box["width"], "y": y}
        page.call("Input.dispatchTouchEvent", type=kind, touchPoints=[point])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert _divider(page) == pytest.approx(80, abs=2)
    page.close()


def test_other_pictures_and_colours(browser: Any, page_file: Path) -> None:
    page = browser.open(page_file, 1280)

    def choose(what: str, value: str) -> None:
        page.run(
            f"(() => {{ const s = document.querySelector('[data-choose={what}]'); s.value = '{value}'; "
            "s.dispatchEvent(new Event('change')); })()"
        )

    def seen(side: str) -> list[str]:
        keys: list[str] = page.run(
            f"[...document.querySelectorAll('.stage img.{side}')].map(i => i.dataset.colours + ' ' + i.dataset.key)"
        )
        return keys

    assert (seen("left"), seen("right")) == (["true bicubic"], ["true model"])
    choose("right", "truth")
    choose("colours", "cir")
    assert (seen("left"), seen("right")) == (["cir bicubic"], ["cir truth"])
    assert "truth on the right" in page.run("document.querySelector('[data-divider]').getAttribute('aria-label')")
    page.run("document.querySelector('[data-marks]').click()")
    assert page.run("getComputedStyle(document.querySelector('.marks')).display") == "none"
    assert page.complaints() == []
    page.close()
