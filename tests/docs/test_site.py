"""The documentation site builds without a warning: no dead link, no page outside the navigation, docstrings parsed."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_site_builds_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},  # a word on MkDocs' future, not on this site
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    support = (tmp_path / "reference" / "support.html").read_text(encoding="utf-8")
    assert "<code>channel_attention</code>" in support and "bfloat16" in support  # made from the backends' modules
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "fonts.googleapis" not in text, page
        assert not re.search(r"\\(frac|sum|sqrt|mathrm|mu)\b", text), f"{page}: TeX, which nothing here draws"
    reference = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "reference").glob("lkca*.html"))
    _holds_every_public_name(reference)
    assert not re.search(r":(class|func|meth|data|attr):|::</p>", reference)  # what only Sphinx understands
    assert not re.search(r"\w<em>\w", reference)  # s*h, s*w


def _holds_every_public_name(reference: str) -> None:
    """A function may stand under its module, whose name is the same (lkca.lowrank.factorize.factorize)."""
    there = set(re.findall(r'id="([\w.]+)" class="doc doc-heading"', reference))
    missing = []
    for name in runpy.run_path(str(ROOT / "tests" / "test_public_api.py"))["MODULES"][1:]:  # those of lkca are theirs
        module = importlib.import_module(name)
        for item in module.__all__:
            home = getattr(getattr(module, item), "__module__", name)
            if not {f"{name}.{item}", f"{home}.{item}"} & there:
                missing.append(f"{name}.{item}")
    assert not missing, missing
