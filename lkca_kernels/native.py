"""Finds and loads the compiled extensions, and explains when it cannot. Nothing is loaded before it is asked for."""

from __future__ import annotations

import importlib.util
import json
import struct
import threading
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

__all__ = ["CONVENTIONS", "Library", "build_info", "build_record", "library_path", "load"]

Library = Literal["cpu", "cuda"]
CONVENTIONS = {"matlab": 0, "torch": 1}  # of bicubic skips, as lkca::Bicubic in csrc/common/bicubic.h numbers them

_FOLDER = Path(__file__).resolve().parent
_lock = threading.Lock()
_outcome: dict[str, str | None] = {}


def library_path(library: Library) -> Path | None:
    """The shared library ``_C_<library>*.so`` beside this file, or None."""
    found = sorted(path for suffix in ("so", "pyd") for path in _FOLDER.glob(f"_C_{library}*.{suffix}"))
    return found[0] if found else None


def build_record() -> dict[str, str]:
    """What the build wrote: "built" or the reason why not, per library, and the torch that it was built with."""
    try:
        record = json.loads((_FOLDER / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in record.items()}


def _cut_short(path: Path) -> str | None:
    """How much of a library is there, where an interrupted build or copy left only its beginning; else None.

    Linux loads such a file, and the process dies (SIGBUS) at the first page that is missing. The file's own ELF header
    is asked, since whoever packages a library may strip it, and then has another length than the build's. Loaders of
    other systems, and of files whose header is none, refuse by themselves.
    """
    with path.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:5] != b"\x7fELF\x02":
            return None
        order = "<" if header[5] == 1 else ">"
        segments_at, sections_at = struct.unpack_from(f"{order}QQ", header, 32)
        segment_size, segments, section_size, sections = struct.unpack_from(f"{order}4H", header, 54)
        file.seek(segments_at)
        table = file.read(segment_size * segments)
    whole = max(segments_at + segment_size * segments, sections_at + section_size * sections)
    for k in range(len(table) // segment_size if segment_size == 56 else 0):
        offset, _, _, size = struct.unpack_from(f"{order}4Q", table, 56 * k + 8)
        whole = max(whole, offset + size)
    found = path.stat().st_size
    if found >= whole:
        return None
    return f"it ends after {found} of {whole} bytes, as an interrupted build or copy leaves it; install lkca again"


def _load(library: Library) -> str | None:
    path = library_path(library)
    if path is None:
        reason = build_record().get(library)
        if reason not in (None, "built"):
            return f"was not built: {reason}"
        return f"is not in {_FOLDER} (see docs/install.md)"
    if library == "cuda" and torch.version.cuda is None:
        return f"{path.name} needs a CUDA build of torch, this is {torch.__version__}"
    try:
        if (missing := _cut_short(path)) is not None:
            return f"{path.name} does not load: {missing}"
        torch.ops.load_library(str(path))
    except Exception as error:  # a library of another torch or machine: an OSError, or a RuntimeError from registration
        # torch 2.11 says only that the library could not be loaded; the linker's reason is the cause.
        return f"{path.name} does not load: {' '.join(str(error.__cause__ or error).split())}"
    return None


def load(library: Library) -> str | None:
    """Load a library once per process; None where its operators are there, else the reason. Thread safe."""
    if library not in _outcome:
        with _lock:
            if library not in _outcome:
                _outcome[library] = _load(library)
    return _outcome[library]


@lru_cache(maxsize=1)
def build_info() -> dict[str, str]:
    """How the extensions were compiled; empty where nothing was, or the module that tells it does not load."""
    found = importlib.util.find_spec("lkca_kernels._build_info")
    try:
        if found is None or found.origin is None or _cut_short(Path(found.origin)):
            return {}
        from lkca_kernels import _build_info  # type: ignore[attr-defined]
    except (ImportError, OSError):
        return {}
    return {name: getattr(_build_info, name) for name in ("compiler", "torch_version")}
