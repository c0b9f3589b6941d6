"""Which of a kernel's few tiles a call uses: the default, or, where the user asks for it, the fastest on this card.

``LKCA_TRITON_TUNE=1`` asks. Then the first call of each key (operator, channels, rank, scale, dtype and what else is
compiled in; never height and width) times every candidate of `config.py` on its own arguments, and the winner is kept:
in the process, and in ``$XDG_CACHE_HOME/lkca/triton_tiles.json`` by card and Triton version. Without the variable no
file is read and nothing is timed.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton

from .support import tuning_asked_for

__all__ = ["cache_file", "candidate", "choose", "forget", "seconds"]

Tile = TypeVar("Tile")
Stored = dict[str, dict[str, dict[str, Any]]]  # card and Triton version → key → fields of the tile

_winners: dict[tuple[str, str], Any] = {}  # of this process: (card and Triton version, key) → tile
_file: Stored | None = None  # as it was read at the first choice
_forced: ContextVar[int | None] = ContextVar("lkca_triton_candidate", default=None)


def cache_file() -> Path:
    """Where winners are kept between processes (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lkca" / "triton_tiles.json"


@contextmanager
def candidate(index: int) -> Iterator[None]:
    """Use candidate ``index`` (0 = the default; counted round where there are fewer): for tests and the AOT report."""
    token = _forced.set(index)
    try:
        yield
    finally:
        _forced.reset(token)


def forget() -> None:
    """Drop what this process knows; the file stays."""
    global _file
    _winners.clear()
    _file = None


def choose(
    operator: str,
    key: tuple[object, ...],
    candidates: Sequence[Tile],
    run: Callable[[Tile], object],
    device: torch.device,
) -> Tile:
    """The tile for one call: the first candidate unless tuning is asked for and possible.

    ``run`` does the whole call with a tile, and may be done any number of times. Nothing is timed while a CUDA graph is
    captured, since that may not wait for the card.
    """
    forced = _forced.get()
    if forced is not None:
        return candidates[forced % len(candidates)]
    if not tuning_asked_for() or not _can_time(device) or len(candidates) == 1:
        return candidates[0]
    card, name = _card(device), f"{operator} {' '.join(map(str, key))}"
    found: Tile | None = _winners.get((card, name))
    if found is None:
        found = _read(card, name, candidates)
    if found is None:
        if _capturing():
            return candidates[0]
        found = _fastest(candidates, run, device)
        _winners[card, name] = found
        _write()
    _winners[card, name] = found
    return found


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Median time of ``run`` by CUDA events, the L2 cache emptied before each; infinite where the tile does not fit."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError
    from triton.testing import do_bench

    try:
        with torch.cuda.device(device):
            return float(do_bench(run, warmup=5, rep=30, return_mode="median")) / 1e3
    except (CompilationError, OutOfResources, PTXASError, torch.OutOfMemoryError):
        return math.inf


def _fastest(candidates: Sequence[Tile], run: Callable[[Tile], object], device: torch.device) -> Tile:
    """The candidate with the least time; of equals, and where none runs, the first."""
    times = [seconds(lambda tile=tile: run(tile), device) for tile in candidates]  # type: ignore[misc]
    return candidates[times.index(min(times))]


def _can_time(device: torch.device) -> bool:
    return device.type == "cuda"


def _capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def _card(device: torch.device) -> str:
    return f"{torch.cuda.get_device_name(device)}, Triton {triton.__version__}"


def _read(card: str, name: str, candidates: Sequence[Tile]) -> Tile | None:
    """The winner that the file names; None where it has none, or one that is no candidate (any more)."""
    global _file
    if _file is None:
        _file = _load(cache_file())
    stored = _file.get(card, {}).get(name)
    return next((tile for tile in candidates if asdict(tile) == stored), None)  # type: ignore[call-overload]


def _load(path: Path, *, warn: bool = True) -> Stored:
    """The file's content, empty where it is absent or damaged."""
    try:
        content = json.loads(path.read_text())
        if all(isinstance(tile, dict) for tiles in content.values() for tile in tiles.values()):
            return dict(content)
        problem: object = "not the file's form"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        problem = error
    if warn:
        warnings.warn(f"{path}: kept Triton tiles ignored, it is written anew ({problem})", stacklevel=5)
    return {}


def _write() -> None:
    """Add this process's winners to the file, which is replaced as a whole: readers never see half of it.

    Of two processes that write in the same moment one may lose an entry, which it adds again with its next winner.
    """
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        merged = _load(path, warn=False)
        for (card, name), tile in _winners.items():
            merged.setdefault(card, {})[name] = asdict(tile)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(merged, file, indent=1)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        warnings.warn(f"{path}: tuned Triton tiles are kept in this process only ({error})", stacklevel=5)
