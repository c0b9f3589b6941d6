"""Every fenced block of README and docs runs as it stands there, in a folder with the files that the pages name.

``python`` and ``bash`` run, ``yaml`` is parsed, ``text`` is not code. What cannot run here says so above the block:
``<!-- skip: next "reason" -->``. Commands of ``lkca`` run in this process, with time budgets cut to a second.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import torch
import yaml
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from typer.testing import CliRunner

from lkca.cli.app import app
from lkca.data import synthetic_scene, write_cube

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
)
NEEDS_REAL_DATA = "<!-- needs: real data -->"
LANGUAGES = {"python", "bash", "yaml", "text"}


def run_lkca(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"


def run_bash(example: Example) -> None:
    """Line by line, so that an error names its command; NAME=value before a command is its environment."""
    script = re.sub(r"\\\n", " ", example.parsed)
    script = re.sub(r"--minutes [\d.]+", "--minutes 0.02", script)
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "lkca" and not re.search(r"[|<>]", line.split("#")[0]):
            run_lkca(words[1:])
            continue
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def parse_yaml(example: Example) -> None:
    assert yaml.safe_load(example.parsed) is not None


PARSERS = [
    SkipParser(),
    PythonCodeBlockParser(),
    CodeBlockParser("bash", run_bash),
    CodeBlockParser("yaml", parse_yaml),
]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages call scene.tif, scene.hdr, other.hdr, cube.mat, model and so on; small."""
    folder = tmp_path_factory.mktemp("world")
    for name, seed in {"scene.tif": 0, "scene.hdr": 0, "other.hdr": 1, "cube.mat": 2, "scene.npz": 0}.items():
        with synthetic_scene(rows=96, cols=64, bands=12, seed=seed) as cube:
            write_cube(folder / name.replace(".hdr", ".img"), cube.read(), cube.meta)
    run_lkca(["fit", str(folder / "scene.tif"), "-s", "4", "-o", str(folder / "model"), "--minutes", "0.02"])
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_run(
    page: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if NEEDS_REAL_DATA in page.read_text(encoding="utf-8"):
        real_data: Path = request.getfixturevalue("real_data")
        shutil.copy(real_data / "cubes" / "jasper_ridge.npz", tmp_path)
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    document = Sybil(parsers=PARSERS, path=str(page.parent)).parse(page)
    namespace: dict[str, Any] = document.namespace
    namespace["__name__"] = "__main__"
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest:
            continue


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_fence_names_its_language(page: Path) -> None:
    """A block without one would run nowhere and nobody would notice."""
    opening, found = True, []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            if opening:
                found.append(line.strip().removeprefix("```"))
            opening = not opening
    assert set(found) <= LANGUAGES, f"{page.name}: fences {sorted(set(found) - LANGUAGES)}, expected {LANGUAGES}"
