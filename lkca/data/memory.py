"""Refuse what the machine cannot hold before asking for it, and give back what is not needed any more."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from lkca.errors import InputError

__all__ = ["available_memory", "check_memory", "copy_mapped"]

_TOUCHED_BYTES = 16 << 20


def available_memory() -> int:
    """Bytes that a new allocation may use: free memory of the machine, the control group (if it has a limit) and the
    process (``ulimit -v``, as some clusters set it)."""
    free = min(_meminfo_available(), _address_space())
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        if limit != "max":
            free = min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        pass
    return free


def copy_mapped(target: np.ndarray, source: np.ndarray, mapped: np.memmap) -> None:
    """``target[...] = source``, one of which is a part of the 3-D map, both with its axes; piece by piece.

    A process counts the pages of a file that it has touched as its own, and the system maps their neighbours too: they
    are given back after each piece. Nothing is lost: written pages stay in the system's cache of the file.
    """
    memory: mmap.mmap | None = getattr(mapped, "_mmap", None)
    touched = max(
        1, target.shape[1] * abs(mapped.strides[1])
    )  # bytes of the file over which an entry of axis 0 spreads
    step = max(1, _TOUCHED_BYTES // touched)
    for start in range(0, target.shape[0], step):
        target[start : start + step] = source[start : start + step]
        if memory is not None and hasattr(mmap, "MADV_DONTNEED"):
            memory.madvise(mmap.MADV_DONTNEED)


def check_memory(nbytes: int, what: str, remedy: str) -> None:
    """Raise InputError where ``nbytes`` do not fit into the memory that is free now."""
    free = available_memory()
    if nbytes > free:
        raise InputError(f"{what} needs {nbytes / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; {remedy}")


def _address_space() -> int:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return 1 << 62
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        return max(0, limit - used)
    except (ImportError, OSError, ValueError):  # not Linux
        return 1 << 62


def _meminfo_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62  # unknown platform: no limit of ours
