"""Finds and loads the compiled extensions, and explains when it cannot. Nothing is loaded before it is asked for."""

from __future__ import annotations

import json
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
    """How the extensions were compiled; empty where nothing was."""
    try:
        from lkca_kernels import _build_info  # type: ignore[attr-defined]
    except ImportError:
        return {}
    return {name: getattr(_build_info, name) for name in ("compiler", "torch_version")}
