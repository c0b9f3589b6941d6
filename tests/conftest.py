"""Fixtures shared by both test trees."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

# Started in the background of a shell, pytest ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SWITCHES = ("LKCA_REQUIRE_DATA", "LKCA_REQUIRE_CHROMIUM", "LKCA_SLOW_TESTS")
_DEFAULT_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_configure() -> None:
    for name in _SWITCHES:
        if (value := os.environ.get(name, "")) not in ("", "0", "1"):
            raise pytest.UsageError(f"{name}={value}: expected 1 or 0")


def real_data_root() -> Path | None:
    """Folder of the real cubes: ``LKCA_DATA``, else ``../shared/data`` beside the repository."""
    root = Path(os.environ.get("LKCA_DATA") or _DEFAULT_DATA)
    return root if root.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real cubes; skips visibly where they are absent, fails where LKCA_REQUIRE_DATA=1 says they must be there."""
    root = real_data_root()
    if root is None:
        reason = f"real cubes not found at {os.environ.get('LKCA_DATA') or _DEFAULT_DATA} (set LKCA_DATA)"
        if os.environ.get("LKCA_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return root


@pytest.fixture
def double_by_default() -> Callable[[], AbstractContextManager[None]]:
    """A context in which torch makes float64 where nobody names a dtype."""

    @contextmanager
    def context() -> Iterator[None]:
        import torch

        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    return context


@contextmanager
def _full_disk(nbytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """``with full_disk(nbytes):`` no file may grow beyond ``nbytes``; a write then fails like one on a full disk.

    A context manager, since a limit that outlived the test's body would meet pytest's own log.
    """
    return _full_disk
