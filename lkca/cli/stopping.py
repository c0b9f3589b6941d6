"""How a command that trains ends when it is asked to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lkca.cli.console import note

if TYPE_CHECKING:
    from lkca.training import Progress
    from lkca.training.progress import ProgressCallback

__all__ = ["stopping"]


@contextmanager
def stopping(callback: ProgressCallback) -> Iterator[ProgressCallback]:
    """Yields ``callback`` so that Ctrl-C or SIGTERM (which Slurm sends before SIGKILL) ends the training with its best.

    Before the first step they end the command, as Ctrl-C does. After it they raise KeyboardInterrupt out of the next
    report, between two steps, and leave what follows the training alone. A second one acts at once.
    """
    trains = wished = False

    def heed(number: int, frame: Any) -> None:
        nonlocal wished
        if wished or not trains:
            raise KeyboardInterrupt
        wished = True
        with suppress(RuntimeError):  # the signal met a write to the same stream
            note("stopping; the best model so far is scored and saved (a second Ctrl-C drops it)")

    def watch(progress: Progress) -> None:
        nonlocal trains
        callback(progress)
        trains = progress.step > 0
        if wished:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield watch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
