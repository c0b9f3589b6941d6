"""Versions, sizes, limits and names that pages quote are those of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from lkca.cli.app import app
from lkca.models import LKCANetConfig
from lkca.models.shipped import SHIPPED
from lkca_kernels import cpu, cuda
from lkca_kernels.triton import support

ROOT = Path(__file__).resolve().parents[2]


def page(name: str) -> str:
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


def cells(name: str, heading: str) -> list[list[str]]:
    """Rows of the page's first table whose heading begins so; without the heading and the rule."""
    lines = iter((ROOT / "docs" / name).read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith(heading))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_supported_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pythons = [re.fullmatch(r".*Python :: (3\.\d+)", line) for line in project["classifiers"]]
    named = [found[1] for found in pythons if found]
    assert project["requires-python"] == f">={named[0]}"
    (wanted,) = (need for need in project["dependencies"] if need.startswith("torch"))
    low, high = re.findall(r"2\.(\d+)", wanted)
    torches = f"torch 2.{low} to 2.{int(high) - 1}"
    assert f"Python {named[0]} to {named[-1]}, {torches}" in page("install.md")
    assert torches in page("stability.md")


def test_every_extra_of_users_is_on_the_page() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    users = set(extras) - {"test", "docs", "bench", "lint"}
    assert {row[0].strip("`") for row in cells("install.md", "| extra |")} == users


def test_shipped_models_in_the_questions() -> None:
    text = page("faq.md")
    assert "general makes {}".format(", ".join(f"×{s}" for s in SHIPPED["general"].scales)) in text.replace("`", "")
    sizes = " and ".join(f"{SHIPPED[name].size / 1e6:.1f}" for name in ("general", "cave31"))
    assert f"{sizes} MB" in text


@pytest.mark.parametrize("name", ["tiny", "base", "large"])
def test_sizes_of_presets(name: str) -> None:
    preset = LKCANetConfig.preset(name, bands=31, scale=4)
    (row,) = (row for row in cells("model.md", "| | width |") if row[0] == f"`{name}`")
    assert row[1:4] == [str(preset.width), str(preset.blocks), f"shared by {preset.components} components"]
    assert row[4] == "last block" and preset.attended == 1


def test_every_command_has_its_row() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {re.match(r"`lkca (\w+)", row[0])[1] for row in cells("cli.md", "| command |")} == commands  # type: ignore[index]


@pytest.mark.parametrize(
    ("backend", "device", "can_run"),
    [("cpu", "cpu", cpu.can_run), ("triton", "cuda", support.can_run), ("cuda", "cuda", cuda.can_run)],
)
def test_largest_scales_of_backends(backend: str, device: str, can_run: object) -> None:
    (row,) = (row for row in cells("operators.md", "| | tensors |") if row[0] == f"`{backend}`")
    limit = int(row[3].removeprefix("≤ "))
    reason = can_run("lowrank_pixel_shuffle", torch.device(device), torch.float32, limit + 1)  # type: ignore[operator]
    assert re.search(rf"\b{limit}\b", reason)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_that_the_site_does_not_hold(name: str) -> None:
    """Those of docs/ are checked when the site is built."""
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", (ROOT / target).read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-") for text in headings}
