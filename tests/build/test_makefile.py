"""The Makefile beside a user's own settings: another Python's PYTHONPATH, no goal, an old Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def make(*words: str, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), *words],
        cwd=cwd,
        env={**os.environ, "MAKEFLAGS": "", **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_the_venv_is_not_mixed_with_the_modules_of_another_python(tmp_path: Path) -> None:
    """``make gpu-check`` runs one script by PYTHON: here, a command that shows what it was given."""
    told = make("gpu-check", "PYTHON=env; true", cwd=tmp_path, PYTHONPATH="/of/another", PYTHONHOME="/nowhere")
    assert "PATH=" in told and "PYTHONPATH" not in told and "PYTHONHOME" not in told


def test_no_goal_means_the_demo() -> None:
    """The first rule of the file is the venv's: it would be made, and nothing said."""
    assert "bin/lkca demo" in make("--dry-run")


def test_an_absent_python_is_told() -> None:
    told = make("demo", "PYTHON=no-such-python", "VENV=no-such-folder/.venv")
    assert "lkca needs Python 3.11 or newer, and no-such-python is not. Try: make PYTHON=python3.11 demo" in told
