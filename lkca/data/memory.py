"""Memory and disk: how much there is, what is refused for want of it, and what is given back."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

from lkca.errors import InputError

__all__ = ["available_memory", "check_memory", "copy_mapped", "keep_freed_memory", "reserve", "resident_memory"]

_TOUCHED_BYTES = 16 << 20
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


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


def resident_memory() -> int:
    """Bytes that this process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 400 << 20  # no such file on this system: about what Python and torch take


def copy_mapped(target: np.ndarray, source: np.ndarray, mapped: np.memmap) -> None:
    """``target[...] = source``, one of which is a part of the 3-D map, both with its axes; piece by piece.

    A process counts the pages of a file that it has touched as its own, and the system maps their neighbours too: they
    are given back after each piece. Nothing is lost: written pages stay in the system's cache of the file.
    """
    memory: mmap.mmap | None = getattr(mapped, "_mmap", None)
    # bytes of the file over which an entry of axis 0 spreads
    touched = max(1, target.shape[1] * abs(mapped.strides[1]))
    step = max(1, _TOUCHED_BYTES // touched)
    for start in range(0, target.shape[0], step):
        target[start : start + step] = source[start : start + step]
        if memory is not None and hasattr(mmap, "MADV_DONTNEED"):
            memory.madvise(mmap.MADV_DONTNEED)


def reserve(path: Path, nbytes: int) -> None:
    """Makes the file so long, with room on the disk for all of it; OSError where there is none."""
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, nbytes)
            return
        zeros = bytes(2**20)
        for start in range(0, nbytes, len(zeros)):
            file.write(zeros[: nbytes - start])


def keep_freed_memory() -> None:
    """For a program that does the same again and again: the process keeps the memory that its large arrays leave.

    glibc gives each back at once, and the next one costs a page fault for every 4 KiB: a third of the time of a
    network whose maps are larger than 32 MiB. Where the C library is another this does nothing.
    PyTorch is told to ask for huge pages, if it has not allocated yet.
    """
    _ask_torch_for_huge_pages()
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _ask_torch_for_huge_pages() -> None:
    """PyTorch reads this variable at its first allocation; then it is taken back, lest other programs inherit it."""
    import torch

    name = "THP_MEM_ALLOC_ENABLE"
    if name in os.environ:
        return
    os.environ[name] = "1"
    torch.empty(1)
    del os.environ[name]


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
