"""docs/environment.md lists every variable of ours that is read anywhere, and no other."""

from __future__ import annotations

import re
from pathlib import Path

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
