"""Geometry, pictures, views and tables: what the page is put together from."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lkca.data import Cube, CubeMeta, Window
from lkca.errors import InputError
from lkca.evaluation import Evaluation, evaluate_model, evaluate_prediction
from lkca.inference.array import bicubic_array
from lkca.lowrank.analyze import Candidate, analyze
from lkca.models import LKCANet, LKCANetConfig
from lkca.nn import PixelShuffleUpsample
from lkca.report.build import report_of_model
from lkca.report.charts import Series, line_chart
from lkca.report.page import render
from lkca.report.pictures import choose_crops, colour_bar, encode, paint, round_limit
from lkca.report.sections import scene_section, training_charts
from lkca.report.speed import Speed, Timing, measure_speed
from lkca.report.tables import rank_table, score_table, speed_table
from lkca.report.view import SceneView, view_of_evaluation, view_of_files
from lkca.training.progress import Progress
from lkca.views import SIDE, central_window, pictured_window
from lkca_kernels.backends import use_backend

NM = np.linspace(450.0, 950.0, 6)


def cube(rows: int, cols: int, *, seed: int = 0, meta: CubeMeta | None = None, name: str = "scene") -> Cube:
    values = np.random.default_rng(seed).random((6, rows, cols), dtype=np.float32) + 0.1
    return Cube.from_array(values, meta or CubeMeta(wavelengths=NM), name)


def viewed(sharp: Cube) -> tuple[Evaluation, SceneView]:
    result = evaluate_model(sharp, None, 2, middle=True)
    view = view_of_evaluation(result)
    assert view is not None
    return result, view


def opened(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def numbers(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_a_chart_puts_values_where_its_ticks_say() -> None:
    chart = line_chart("t", [Series("a", "model", np.array([0.0, 10.0]), np.array([2.0, 4.0]))], "x", "y")
    assert chart is not None
    (left, low), (right, high) = numbers(chart.lines[0].path)
    assert (left, right) == (chart.left, chart.right) and chart.top < high < low < chart.bottom
    for (x, _), value in zip(numbers(chart.lines[0].path), (2.0, 4.0), strict=True):
        at = {label: y for y, label in chart.y_ticks}
        assert at[f"{value:g}"] == pytest.approx({2.0: low, 4.0: high}[value]) and x >= chart.left
    assert "a: 2 to 4." in chart.description


def test_a_chart_breaks_at_missing_values_and_lacking_bands() -> None:
    x = np.array([1.0, 2, 3, 4, 20, 21, 22])
    y = np.array([1.0, np.nan, 1, 1, 1, 1, 1])
    chart = line_chart("t", [Series("a", "model", x, y)], "x", "y", break_gaps=True, shades=[(1.5, 2.5), (50, 60)])
    assert chart is not None and chart.lines[0].path.count("M") == 3
    assert len(chart.shades) == 1 and chart.shades[0][1] > 0
    whole = line_chart("t", [Series("a", "model", x, y)], "x", "y")
    assert whole is not None and whole.lines[0].path.count("M") == 2
    assert line_chart("t", [Series("a", "model", x, np.full(7, np.nan))], "x", "y") is None
    flat = line_chart("t", [Series("a", "model", x, np.zeros(7))], "x", "y", from_zero=True)
    assert flat is not None and "nan" not in flat.lines[0].path


def test_logarithmic_axes_and_long_series() -> None:
    y = 10.0 ** np.linspace(0, -9, 5000)
    chart = line_chart("t", [Series("a", "model", np.arange(5000.0), y)], "x", "y", log_y=True)
    assert chart is not None and 600 < len(numbers(chart.lines[0].path)) <= 1200
    assert chart.description.endswith("a: 1.017e-09 to 1.")
    assert 3 <= len(chart.y_ticks) <= 10 and all(label.startswith(("1", "0.")) for _, label in chart.y_ticks)
    heights = [y for y, _ in chart.y_ticks]
    np.testing.assert_allclose(np.diff(heights), np.diff(heights)[0], atol=0.05)  # whole decades, evenly spaced
    assert line_chart("t", [Series("a", "model", np.arange(3.0), np.array([0.0, -1, 0]))], "x", "y", log_y=True) is None


def test_maps_have_the_colours_of_their_bar() -> None:
    values = np.array([[0.0, 0.5, 1.0, 9.0, np.nan]])
    shown = opened(paint(values, 1.0).uri)[0].astype(int)
    bar = opened(colour_bar().uri)[0].astype(int)
    assert (shown[0] == bar[0]).all() and (shown[2] == bar[-1]).all() and (shown[3] == bar[-1]).all()
    assert np.abs(shown[1] - bar[127]).max() <= 1 and (shown[4] == 217).all()
    assert bar.sum(axis=1)[0] < 30 and bar.sum(axis=1)[-1] > 500


@pytest.mark.parametrize(("top", "limit"), [(0.041, 0.05), (1.0, 1.0), (12.1, 15), (810, 1000), (0.0, 1.0)])
def test_limits_are_plain_numbers_above_nearly_all(top: float, limit: float) -> None:
    assert round_limit(np.full((5, 5), top)) == pytest.approx(limit)
    assert round_limit(np.full((5, 5), np.nan)) == 1.0


def test_crops_have_the_edges_and_do_not_overlap() -> None:
    picture = np.zeros((96, 96, 3))
    picture[40:64:2, 8:32] = 1.0
    crops = choose_crops(picture, 4)
    first = crops[0]
    assert abs(first.row - 36) <= 16 and first.col <= 12 and len(crops) == 3
    assert all(w.row % 4 == w.col % 4 == w.height % 4 == 0 for w in crops)
    seen = np.zeros((96, 96), dtype=int)
    for window in crops:
        seen[window.slices] += 1
    assert seen.max() == 1
    assert choose_crops(np.zeros((8, 8, 3)), 4) == []


def test_large_scenes_are_cut_to_their_middle() -> None:
    window = central_window(5000, 20, 3)
    assert window.height == SIDE // 3 * 3 and window.width == 20 and window.row % 3 == 0
    assert abs(window.row + window.height / 2 - 2500) < 3
    scene_of = cube(2 * SIDE, 24)
    result, view = viewed(scene_of)
    assert view.window == Window(SIDE // 2, 0, SIDE, 24) and not view.whole
    np.testing.assert_array_equal(view.images["truth"], scene_of.read()[:, SIDE // 2 : SIDE // 2 + SIDE])
    assert view.low is not None and view.low.shape == (6, SIDE // 2, 12)
    assert "384 × 24 pixels of it (rows and columns 192:576,0:24)" in scene_section(result, view).about


@pytest.mark.parametrize("rows", [500, 2300])
def test_where_the_middle_is_a_hole_another_part_is_shown(rows: int) -> None:
    """The pictures were blank, and the report of a finished cube was refused, after all its work."""
    values = np.random.default_rng(0).random((3, rows, 500), dtype=np.float32)
    values[:, rows // 5 : rows - 90] = np.nan
    values[:, :, 440:] = np.nan
    holed = Cube.from_array(values, CubeMeta(), "holed")
    part = pictured_window(holed, 4)
    assert (part.height, part.width) == (384, 384) and part.row % 4 == part.col % 4 == 0
    best = max(np.isfinite(values[0, row : row + 384, :384]).sum() for row in range(rows - 383))
    assert np.isfinite(holed.read(part)[0]).sum() >= 0.95 * best
    low = Cube.from_array(values[:, 1::4, 1::4], CubeMeta(), "low")
    fine = Cube.from_array(bicubic_array(low.read(), 4), CubeMeta(), "fine")
    for view in (view_of_files(fine, 4, low=low), view_of_files(fine, 4, low=low, reference=holed)):
        assert view.good.all() and np.isfinite(view.images["prediction"]).any()
    shown = evaluate_model(holed, None, 4, middle=True).middle
    assert shown is not None and shown.part == part and np.isfinite(shown.results["bicubic"]).any()
    empty = Cube.from_array(np.full((2, 500, 500), np.nan, np.float32))
    assert pictured_window(empty, 4) == central_window(500, 500, 4)


def test_an_upscaled_pair_is_seen_as_the_whole_scene_was_upscaled() -> None:
    low = cube(400, 30)
    fine = Cube.from_array(bicubic_array(low.read(), 2), low.meta, "fine")
    view = view_of_files(fine, 2, low=low)
    np.testing.assert_allclose(view.images["bicubic"], view.images["prediction"], atol=1e-6)
    assert view.window.height == SIDE and "truth" not in view.images
    page = scene_section(None, view)
    assert page.scores is None and page.psnr == () and "no error" in page.maps[0].about
    with pytest.raises(InputError, match="expected 1200"):
        view_of_files(fine, 3, low=low)


def test_bicubic_beside_gaps_is_that_of_the_whole_scene() -> None:
    """Samples that are missing are filled from afar: the nearest valid ones may lie beyond bicubic's own reach."""
    rng = np.random.default_rng(0)
    values = rng.random((2, 110, 110), dtype=np.float32)
    values[:, rng.random((110, 110)) < 0.85] = np.nan
    whole = bicubic_array(values, 4)
    view = view_of_files(Cube.from_array(whole), 4, low=Cube.from_array(values))
    np.testing.assert_array_equal(view.images["bicubic"], whole[(slice(None), *view.window.slices)])


def test_a_prediction_of_a_region_lies_on_its_truth() -> None:
    truth = cube(40, 30)
    part = Cube.from_array(truth.read(Window(8, 4, 20, 10)) * 0.9, truth.meta, "part")
    result = evaluate_prediction(truth, part, 2, region="8:28,4:14")
    view = view_of_files(part, 2, reference=truth, result=result)
    assert view.window == Window(8, 4, 20, 10) and view.peak == result.peak
    np.testing.assert_allclose(view.images["prediction"], view.images["truth"] * 0.9, rtol=1e-6)


def test_bad_bands_are_shaded_and_not_drawn() -> None:
    good = np.array([True, True, False, False, True, True])
    page = scene_section(*viewed(cube(24, 24, meta=CubeMeta(wavelengths=NM, good_bands=good))))
    assert all(len(chart.shades) == 1 and chart.lines[0].path.count("M") == 2 for chart in page.spectra)
    assert page.psnr[0].shades and page.psnr_table is not None and len(page.psnr_table.rows) == 4
    assert page.psnr[0].x_label == "wavelength, nm"


def test_without_wavelengths_bands_are_counted_and_colours_are_false() -> None:
    page = scene_section(*viewed(cube(24, 24, meta=CubeMeta())))
    assert [c.title for c in page.colours] == ["False colour"] and page.spectra[0].x_label == "band"
    assert [c.key for c in scene_section(*viewed(cube(24, 24))).colours] == ["true", "cir"]


def test_a_scene_without_pictures_has_the_same_charts() -> None:
    """How many bands it has was guessed from its last scored one where no wavelengths told."""
    result, view = viewed(cube(24, 24, meta=CubeMeta(good_bands=np.arange(6) < 5)))
    assert scene_section(dataclasses.replace(result, middle=None), None).psnr == scene_section(result, view).psnr


def test_the_stretch_is_one_and_printed() -> None:
    result, view = viewed(cube(24, 24))
    colours = scene_section(result, view).colours[0]
    low, high = (float(v) for v in colours.stretch.split(" to "))
    bands = view.base[[2, 1, 0]]  # 650, 550, 450 nm
    assert low == pytest.approx(min(np.percentile(b, 2) for b in bands), rel=1e-3)
    assert high == pytest.approx(max(np.percentile(b, 98) for b in bands), rel=1e-3)
    assert [shown.key for shown in colours.shown] == ["low", "bicubic", "truth"]


def test_training_curves_need_a_history() -> None:
    history = [Progress("prepare", 0, 0.0, 0.0)]
    assert training_charts(history) == ()
    history += [Progress("teacher", i, 1.0, 0.1, 1 / i, 0.1 * i) for i in range(1, 5)]
    history += [Progress("distil", i, 1.0, 0.1, 1 / i, None) for i in range(5, 9)]
    loss, gain = training_charts(history)
    assert [label for _, label in loss.marks] == ["teacher", "distil"]
    assert len(numbers(loss.lines[0].path)) == 8 and len(numbers(gain.lines[0].path)) == 4


def test_scenes_beyond_the_first_four_are_scored_only() -> None:
    results = [evaluate_model(cube(12, 12, seed=i, name=f"s{i}"), None, 2, middle=True) for i in range(6)]
    page = render(report_of_model(results, None))
    assert page.count("data-compare>") == 4 and "2 more are scored only" in page
    for result in results:
        for row in score_table(result).rows:
            assert all(f"<td>{cell}</td>" in page for cell in row[1:])


def test_scores_and_their_differences() -> None:
    worse = SimpleNamespace(mpsnr=30.0, mssim=0.9, sam=2.0, cc=0.98, rmse=0.03, ergas=5.0)
    better = SimpleNamespace(mpsnr=31.256, mssim=0.95, sam=1.877, cc=0.99, rmse=0.025, ergas=4.0)
    scene = {"source": "a.tif", "scale": 2, "window": "", "protocol": "", "peak": 1.0, "bands": NM, "degradation": None}
    table = score_table(SimpleNamespace(scores={"bicubic": worse, "model": better}, peak_given=False, **scene))
    assert table.columns == ("", "MPSNR dB", "MSSIM", "SAM °", "CC", "RMSE", "ERGAS")
    assert table.rows[1:] == (
        ("model", "31.26", "0.9500", "1.877", "0.9900", "0.02500", "4.000"),
        ("difference", "+1.26", "+0.0500", "-0.123", "+0.0100", "-0.00500", "-1.000"),
    )


def test_a_rank_is_weighed_against_the_layer_as_it_is() -> None:
    torch.manual_seed(0)
    layer = dataclasses.replace(
        analyze(PixelShuffleUpsample(6, 4, 2)).layers[0], weights=1000, macs=2000,
        candidates=(Candidate(rank=3, energy=0.9, data_energy=None, weights=400, macs=500),),
    )  # fmt: skip
    assert rank_table(layer, 5000).rows == (("3", "90.00%", "400", "40%", "25%"),)


def test_speed_is_told_in_milliseconds_and_beside_bicubic() -> None:
    timings = (Timing("bicubic", "reference", 0.004), Timing("model", "cpu", 0.001))
    table = speed_table(Speed(timings, bands=3, scale=2, side=500, rounds=7, device="the CPU", threads=1))
    assert table.rows == (("bicubic", "reference", "4.00", "250", "1.00"), ("model", "cpu", "1.00", "1e+03", "0.25"))


def test_speed_is_the_median_without_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def clock() -> float:
        call = next(calls)  # two of each of two candidates in each round, the first of which takes 100 s
        return call % 2 * (100.0, 9, 1, 2, 3, 4, 5, 6)[call // 4]

    monkeypatch.setattr(time, "perf_counter", clock)
    with use_backend("reference"):
        speed = measure_speed(LKCANet(LKCANetConfig(bands=2, scale=2, width=4, blocks=1)), torch.device("cpu"))
    assert [timing.seconds for timing in speed.timings] == [4, 4]


def test_encode_keeps_every_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)) / 255
    np.testing.assert_array_equal(opened(encode(picture).uri), np.round(picture * 255))
