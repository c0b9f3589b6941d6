"""``lkca report`` and ``--report``: the same numbers as the tables, and refusals before any work."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from lkca.data import CubeMeta, write_cube

Cli = Callable[..., Result]
Refuses = Callable[..., str]


def cells(table: str) -> list[str]:
    """Numbers of a printed table."""
    return re.findall(r"[+-]?\d+\.\d+", "\n".join(line for line in table.splitlines() if line.startswith("│")))


def test_a_model_on_a_file(cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    args = ("-m", model_dir, scene_file, "--region", "48:,:")
    done = cli("report", *args, "-o", out)
    assert done.exit_code == 0 and str(out) in done.stdout, done.output
    page = out.read_text(encoding="utf-8")
    found = cells(cli("evaluate", *args).stdout)
    assert len(found) == 18 and all(f"<td>{number}</td>" in page for number in found)
    assert cli("report", *args, "-o", out, "--overwrite", "--memory", "4G").exit_code == 0
    assert all(f"<td>{number}</td>" in out.read_text(encoding="utf-8") for number in found)
    for heading in ("Pictures", "Where it differs", "Spectra", "PSNR by band"):
        assert f"<h3>{heading}</h3>" in page
    for heading in ("Rank of the upsampler", "Training", "Speed"):
        assert f"<h2>{heading}</h2>" in page


def test_a_model_alone(cli: Cli, model_dir: Path, tmp_path: Path) -> None:
    assert cli("report", "-m", model_dir, "-o", tmp_path / "m.html").exit_code == 0
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    assert "<h2>Training</h2>" in page and "<h3>Pictures</h3>" not in page


def test_a_file_that_fails_does_not_stop_the_others(
    cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.tif").write_bytes(b"no picture")
    files, out = ("none.tif", scene_file, "bad.tif"), tmp_path / "r.html"
    done = cli("report", "-m", model_dir, *files, "-o", out)
    assert done.exit_code == 2 and done.stderr.count("error: ") == 2 and "error: bad.tif" in done.stderr
    page = out.read_text(encoding="utf-8")
    assert "<h3>Pictures</h3>" in page and "bad.tif could not be scored" in page
    done = cli("evaluate", "-m", model_dir, *files, "--report", out, "--overwrite")
    assert done.exit_code == 2 and "bad.tif could not be scored" in out.read_text(encoding="utf-8")
    done = cli("report", "-m", model_dir, "bad.tif", "none.tif", "-o", tmp_path / "none.html")
    assert done.exit_code == 2 and done.stdout == "" and not (tmp_path / "none.html").exists()


def test_reports_of_the_other_commands(cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path) -> None:
    low, high = tmp_path / "low.tif", tmp_path / "high.tif"
    evaluated, upscaled, pair, both, fitted = (tmp_path / f"{name}.html" for name in "eupbf")
    assert cli("evaluate", "-m", model_dir, scene_file, "--report", evaluated, "--json").stdout.startswith("{")
    assert cli("degrade", "-i", scene_file, "-o", low, "-s", "2").exit_code == 0
    roi = ("--roi", "4:30,2:18")
    assert cli("upscale", "-i", low, "-o", high, "-m", model_dir, "--report", upscaled, *roi).exit_code == 0
    page = upscaled.read_text(encoding="utf-8")
    assert "no truth is known" in page and "s for 52 × 32 pixels" in page
    again = ("--resume", "--report", tmp_path / "again.html")
    assert cli("upscale", "-i", low, "-o", high, "-m", model_dir, *roi, *again).exit_code == 0
    assert "pixels, 6 bands" in again[2].read_text(encoding="utf-8") and " s for " not in again[2].read_text()
    assert cli("upscale", "-i", low, "-o", high, "-m", model_dir, "--overwrite").exit_code == 0
    assert cli("report", "--input", low, "--prediction", high, "-o", pair).exit_code == 0
    assert cli("report", "-i", low, "--prediction", high, "--reference", scene_file, "-o", both).exit_code == 0
    scores = cells(cli("evaluate", "--reference", scene_file, "--prediction", high, "-s", "2").stdout)
    page = both.read_text(encoding="utf-8")
    assert scores and all(f"<td>{number}</td>" in page for number in scores)
    config = tmp_path / "fit.yaml"
    config.write_text("max_steps: 4\nrecipe: {prior: false, width: 4, blocks: 1}\n")
    done = cli("fit", scene_file, "-s", "2", "-o", tmp_path / "model", "--config", config, "--report", fitted)
    assert done.exit_code == 0, done.output
    page = fitted.read_text(encoding="utf-8")
    assert page.count("no test") == page.count("this scene") == 1 and "Training loss" in page
    scores = cells(done.stdout)
    assert scores and all(f"<td>{number}</td>" in page for number in scores)


def test_refusals(refuses: Refuses, model_dir: Path, scene_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    refuses("report", scene_file, "-m", model_dir, "-o", tmp_path / "r.pdf", says=("r.pdf", ".html"))
    refuses("report", "-o", out, says=("-m", "--prediction"))
    refuses("report", "--prediction", scene_file, "-o", out, says=("--input", "--reference"))
    refuses("report", "--reference", scene_file, "-o", out, says=("--prediction",))
    refuses("report", "--prediction", scene_file, "--reference", scene_file, "-o", out, says=("-s",))
    pair = ("--prediction", scene_file, "--input", scene_file)
    refuses("report", *pair, "-m", model_dir, "-o", out, says=("without files",))
    for option in (
        ("--region", "0:8,:"), ("--peak", "1"), ("--degradation", "area"), ("--sigma", "1"), ("--nodata", "0"),
        ("--variable", "x"), ("--shape", "3x3"), ("--axes", "rcb"), ("--force",),
    ):  # fmt: skip
        refuses("report", "-m", model_dir, "-o", out, *option, says=(option[0], "name the cubes"))
    refuses("report", *pair, "--region", "0:4,:", "-o", out, says=("--region",))
    refuses("report", *pair, "-o", out, says=("scene.tif", "144 × 80"))
    refuses(
        "report", "-m", model_dir, scene_file, "-o", out, "--memory", "10M", says=("10 MiB are allowed", "--memory")
    )
    refuses("evaluate", "-m", model_dir, scene_file, "--report", tmp_path / "x.png", says=(".html",))
    refuses("upscale", "-i", scene_file, "-o", tmp_path / "o.tif", "-m", model_dir, "--report", "x", says=(".html",))
    assert not list(tmp_path.iterdir())
    out.write_text("mine")
    refuses("report", "-m", model_dir, "-o", out, says=("exists", "--overwrite"))
    assert out.read_text() == "mine"


def test_a_region_without_samples_is_refused_before_the_work(cli: Cli, tmp_path: Path) -> None:
    """The cube was written first."""
    values = np.ones((3, 20, 20), dtype=np.float32)
    values[:, :10] = np.nan
    write_cube(tmp_path / "in.tif", values, CubeMeta())
    args = ("upscale", "-i", tmp_path / "in.tif", "-o", tmp_path / "out.tif", "-s", "2", "--bicubic", "--roi", "0:8,:")
    result = cli(*args, "--report", tmp_path / "r.html")
    assert result.exit_code == 2 and "the region 0:8,: holds no valid sample" in result.stderr
    assert not (tmp_path / "out.tif").exists()
    assert cli(*args).exit_code == 0
