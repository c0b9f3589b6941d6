"""How a command ends when it is asked to end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lkca.cli.console import note

if TYPE_CHECKING:
    from lkca.training import Progress
    from lkca.training.progress import ProgressCallback

__all__ = ["cleaning_up", "stopping"]

_TERMINATED = 128 + signal.SIGTERM  # exit code
_ONE_WISH = 1.0  # seconds: a terminal and a wrapper may both send a signal for one Ctrl-C


@contextmanager
def cleaning_up() -> Iterator[None]:
    """A polite end (SIGTERM, which torchrun, Slurm and ``timeout`` send) cleans up as Ctrl-C does; exit code 143."""

    def stop(*_: Any) -> None:
        raise SystemExit(_TERMINATED)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def stopping(callback: ProgressCallback) -> Iterator[ProgressCallback]:
    """Yields ``callback`` so that Ctrl-C or SIGTERM (which Slurm sends before SIGKILL) ends the training with its best.

    Before the first step they end the command, as Ctrl-C does. After it they raise KeyboardInterrupt out of the next
    report, between two steps, and leave what follows the training alone. Another one, a second later or more, acts at
    once: on the training, which keeps its best, or on what follows. Signals that were ignored before still are. Where
    SIGTERM ends the command the exit code is 143.
    """
    trains, wished, last = False, 0.0, 0  # wished: when; last: signal

    def heed(number: int, frame: Any) -> None:
        nonlocal wished, last
        last = number
        now = time.monotonic()
        if not trains or (wished and now - wished > _ONE_WISH):
            raise KeyboardInterrupt
        if wished:
            return
        wished = now
        with suppress(Exception):  # the signal met a write to the same stream, or the terminal has gone
            note("stopping; the best model so far is scored and saved (another Ctrl-C, while it is, drops it)")

    def watch(progress: Progress) -> None:
        nonlocal trains
        callback(progress)
        trains = progress.step > 0
        if wished:
            raise KeyboardInterrupt

    heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, heed) for number in heeded}
    try:
        yield watch
    except KeyboardInterrupt:
        if last == signal.SIGTERM:
            raise SystemExit(_TERMINATED) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
