"""Takes finished tiles to the output, in order, while others are still computed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from lkca.data import CubeWriter, Window
from lkca.data.window import pieces
from lkca.errors import OutputError
from lkca.inference.journal import Journal
from lkca.inference.plan import TilePlan, copied_rows
from lkca.inference.preview import Preview
from lkca.inference.ranks import Heartbeat
from lkca.inference.samples import Samples

__all__ = ["Finisher"]

_POLL = 0.1  # seconds between looks for the next tile
_POLL_RANKS = 1.0  # seconds between looks at the other processes
_NAMED = 8


class Finisher:
    """Takes finished tiles from ``samples`` to ``writer`` and ``preview``, in order, in a thread of its own.

    A context manager: to leave it says that this process has computed its share, and waits for the last tile, of other
    processes too, unless an exception passes. progress: called with the tiles that are done, and all.
    """

    def __init__(
        self,
        journal: Journal,
        samples: Samples,
        writer: CubeWriter,
        plan: TilePlan,
        heartbeat: Heartbeat,
        preview: Preview | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._journal, self._samples, self._writer, self._plan = journal, samples, writer, plan
        self._heartbeat, self._preview, self._progress = heartbeat, preview, progress
        self._stop = threading.Event()
        self._alone = threading.Event()  # this process has computed all its tiles
        self._news = threading.Event()  # there may be another tile
        self._looked = 0.0
        self._settled = math.inf  # since when no other process is at work
        self._pool = ThreadPoolExecutor(1, "lkca-finish")
        self._run: Future[None] | None = None

    def __enter__(self) -> Finisher:
        self._run = self._pool.submit(self._finish)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._run is not None
        try:
            if error is None:
                self._alone.set()
                self._news.set()
                self._run.result()
        finally:
            self._stop.set()
            self._news.set()
            self._pool.shutdown()

    def look(self) -> None:
        """This process has finished a tile."""
        self._news.set()

    def check(self) -> None:
        """Raises what stopped the thread, if anything did."""
        assert self._run is not None
        if self._run.done():
            self._run.result()

    def _finish(self) -> None:
        windows = [self._plan.fine(tile) for tile in self._plan.tiles()]
        # At the end: of samples that others still write it must read none (see Samples); a format takes all at once.
        later = self._heartbeat.ranks.world > 1 or self._writer.layout is not None
        for number, window in enumerate(windows):
            while not self._journal.has(number):
                self._news.wait(_POLL)
                self._news.clear()
                if self._stop.is_set():
                    return
                self._look_around(len(windows))
            if not later:
                self._take(number, window)
            if self._progress is not None:
                self._progress(number + 1, len(windows))
        if later:
            for number, window in enumerate(windows):
                if self._stop.is_set():
                    return
                self._take(number, window)
        if self._writer.layout is not None:
            self._writer.adopt(self._samples.path)
        while not self._others_settled():  # who comes late must still find the folder, and see that nothing is left
            if self._stop.wait(_POLL_RANKS):
                return

    def _take(self, number: int, window: Window) -> None:
        """A finished tile, which lies there in the output, to the writer and the preview."""
        self._writer.count(self._journal.counts(number))
        for part in pieces(window, copied_rows(self._writer.shape[2] * window.width), window.width):
            if self._writer.layout is None:
                self._writer.write_stored(part, np.array(self._samples.read(part)))
            if self._preview is not None:
                self._preview.add(part, self._samples.read)

    def _look_around(self, tiles: int) -> None:
        """Raises OutputError where nobody is left who would compute the missing tiles."""
        if not self._alone.is_set() or time.monotonic() - self._looked < _POLL_RANKS:
            return
        self._looked = time.monotonic()
        others = self._heartbeat.others()
        states = {state for state, _ in others.values()}
        if "running" in states:
            return
        self._settled = min(self._settled, self._looked)
        if states == {"done"} and self._looked - self._settled < Heartbeat.SILENT:
            return  # a network file system may show a tile later than the word of its process
        missing = [number for number in range(tiles) if not self._journal.has(number)]
        if missing:
            named = ", ".join(map(str, missing[:_NAMED])) + (", …" if len(missing) > _NAMED else "")
            why = "; ".join(f"rank {rank}: {detail}" for rank, (state, detail) in others.items() if state != "done")
            raise OutputError(f"{self._journal.output}: {len(missing)} of {tiles} tiles are missing ({named}; {why})")

    def _others_settled(self) -> bool:
        return all(state != "running" for state, _ in self._heartbeat.others().values())
