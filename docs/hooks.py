"""MkDocs hooks: what pages state of code and measurements is put in when the site is built, from code and measurements.

A page says ``<!-- generated: NAME -->`` where the text belongs.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = {"cpu": "lkca_kernels.cpu", "triton": "lkca_kernels.triton.support", "cuda": "lkca_kernels.cuda"}


def support() -> str:
    """The table of operators and backends, read from the backends' own modules."""
    from lkca_kernels import cpu
    from lkca_kernels.ops.explain import OPERATORS

    lines = ["| operator | " + " | ".join(["reference", *BACKENDS]) + " |", "|---" * (len(BACKENDS) + 2) + "|"]
    for op in OPERATORS:
        if not hasattr(cpu, f"{op}_bwd"):  # lowrank_upsample is lowrank_pixel_shuffle; the page tells of the stored one
            continue
        cells = ["any floating dtype, any device; forward and backward"]
        for name, where in BACKENDS.items():
            module = importlib.import_module(where)
            home = importlib.import_module(f"lkca_kernels.{name}")
            directions = [
                word for word, end in (("forward", "fwd"), ("backward", "bwd")) if hasattr(home, f"{op}_{end}")
            ]
            dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in module.DTYPES)
            cells.append(f"{dtypes}; {' and '.join(directions)}" if directions else "–")
        lines.append(f"| `{op}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def benchmarks() -> str:
    """A table for every run in bench/results."""
    table = runpy.run_path(str(ROOT / "bench" / "table.py"))["table"]
    parts = []
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        on_a_card = path.with_suffix(".md")  # the report of `make gpu-check`, a heading and its own table
        if on_a_card.is_file():
            parts += [f"## {path.stem}", *on_a_card.read_text(encoding="utf-8").splitlines()[1:], ""]
        elif path.name != "last.json":
            parts += [f"## {path.stem}", "", table(json.loads(path.read_text(encoding="utf-8"))), ""]
    return "\n".join(parts)


GENERATED = {"support": support, "benchmarks": benchmarks}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    for name, text in GENERATED.items():
        mark = f"<!-- generated: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, text())
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """MkDocs calls this for every page; Markdown knows neither the roles of reST in docstrings nor its ``::``."""
    return re.sub(r":[a-z]+:<code>~?", "<code>", html).replace("::</p>", ":</p>")
