"""docs/environment.md lists every variable of ours that is read anywhere, and no other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READ = re.compile(r"""(?:environ(?:\.get)?[(\[]|getenv\(|switch\(|[A-Z_]+ = |:-)\s*["'](LKCA_[A-Z_]+)["']""")


def test_the_page_lists_what_is_read() -> None:
    read: set[str] = set()
    for folder, suffixes in (
        ("lkca", {".py"}),
        ("lkca_kernels", {".py"}),
        ("csrc", {".h", ".cpp", ".cu"}),
        ("build_tools", {".py"}),
        ("tests", {".py"}),
        ("bench", {".py"}),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in suffixes:
                read |= set(READ.findall(path.read_text()))
    listed = set(re.findall(r"^\| `(LKCA_[A-Z_]+)`", (ROOT / "docs" / "environment.md").read_text(), re.M))
    assert {"LKCA_BACKEND", "LKCA_BUILD_CPU", "LKCA_CPU_ISA"} <= read  # the pattern finds each way of reading
    assert read == listed


@pytest.mark.parametrize("name", ["LKCA_REQUIRE_DATA", "LKCA_REQUIRE_CHROMIUM", "LKCA_SLOW_TESTS"])
def test_pytest_refuses_a_switch_that_is_neither_on_nor_off(name: str) -> None:
    """It would skip what the caller wants to run, and end well."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--co", "-q", "-n", "0", Path(__file__).name],
        cwd=Path(__file__).parent,
        env={**os.environ, name: "yes"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{name}=yes: expected 1 or 0" in done.stderr
