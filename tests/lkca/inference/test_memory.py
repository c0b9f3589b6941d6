"""The memory that a scene takes stays within its budget, whatever the scene's size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def upscale(budget: str, rows: int, cols: int, bands: int, kind: str, output: Path) -> dict[str, Any]:
    arguments = [budget, rows, cols, bands, kind, output]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("memory.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "tools")},
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(("kind", "suffix"), [("low rank", ".tif"), ("full rank", ".img")])
def test_small_budget(tmp_path: Path, kind: str, suffix: str) -> None:
    """Three results would not fit."""
    result = upscale("800M", 320, 300, 64, kind, tmp_path / f"o{suffix}")
    assert result["peak"] <= 800 << 20
    assert 4 * result["samples"] > 350 << 20


def test_degrading(tmp_path: Path) -> None:
    """The scene alone would not fit."""
    result = upscale("", 1200, 1300, 150, "degrade", tmp_path / "o.tif")
    assert result["peak"] <= 850 << 20
    assert 4 * result["samples"] > 890 << 20


def test_evaluating_with_panel_and_report(tmp_path: Path) -> None:
    """Truth and both results would not fit beside the program and what scoring takes."""
    result = upscale("1250M", 2000, 1200, 24, "evaluate", tmp_path / "o.png")
    assert result["peak"] <= 1250 << 20
    assert 3 * 4 * result["samples"] > 650 << 20
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".html"}


@pytest.mark.skipif(os.environ.get("LKCA_SLOW_TESTS") != "1", reason="takes 9 GB of disk; LKCA_SLOW_TESTS=1 runs it")
@pytest.mark.parametrize(("kind", "suffix"), [("bicubic", ".tif"), ("low rank", ".img")])
def test_four_gigabytes(tmp_path: Path, kind: str, suffix: str) -> None:
    result = upscale("1G", 1040, 1000, 64, kind, tmp_path / f"o{suffix}")
    print(result)
    assert result["peak"] <= 1 << 30
    assert 4 * result["samples"] > 4e9
