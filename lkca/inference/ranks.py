"""Several processes on one task, as torchrun or Slurm starts them; a folder that all see is their meeting place.

No process group, port or address: a process says that it lives by touching a file of its own, and how far it is by
what it writes there. Ages are differences of times that the folder's file system gave, so clocks need not agree.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from lkca.errors import InputError, OutputError

__all__ = ["Beginning", "Heartbeat", "Ranks", "Waiting"]

# What a process says of itself: that it is at work, has done its share, or has failed. In a batch, that it has seen all
# others end (lkca.inference.batch); of a refusal, that it has heard it (Waiting).
Said = Literal["running", "done", "failed", "left", "heard"]


@dataclass(frozen=True)
class Ranks:
    """This process's number, how many there are, and how many of them share this machine."""

    rank: int = 0
    world: int = 1
    local: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """RANK, WORLD_SIZE and LOCAL_WORLD_SIZE as torchrun sets them; one process where they are not set."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        texts = [os.environ.get(name, "") for name in names]
        if not texts[0] and not texts[1]:
            return cls()
        try:
            rank, world, local = int(texts[0]), int(texts[1]), int(texts[2] or 1)
        except ValueError:
            rank, world, local = -1, 0, 0
        if not 0 <= rank < world or local < 1:
            said = ", ".join(f"{name}={text!r}" for name, text in zip(names, texts, strict=True))
            raise InputError(f"the environment says {said}; start with torchrun, or unset them")
        return cls(rank, world, local)


class Heartbeat:
    """A context manager that keeps ``folder/rank-N`` fresh, which holds the state of this process for others to read.

    token: names the run that the state belongs to; of other runs' files no state is believed.
    """

    POLL = 0.5  # seconds between looks at the others
    BEAT = 2.0  # seconds between touches
    SILENT = 180.0  # seconds without a touch after which a process counts as dead; network file systems hide it for 60
    LATE = 300.0  # seconds within which each must have started
    HEARD = 60.0  # seconds for which one that fails waits for those that have not come

    def __init__(self, folder: Path, ranks: Ranks, token: str = "") -> None:
        self.folder, self.ranks, self.token = folder, ranks, token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lkca-heartbeat", daemon=True)
        self._began = time.monotonic()
        self._born = 0.0

    def __enter__(self) -> Heartbeat:
        self.say("running")
        self._born = self.touched(self.ranks.rank) or 0.0
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is not None:
            self.say("failed", str(error))

    def say(self, state: Said, detail: str = "") -> None:
        """Write this process's state, and why it failed."""
        path = self._path(self.ranks.rank)
        aside = path.with_name(f".{path.name}.new")
        with contextlib.suppress(OSError):  # the folder goes when the task is finished
            said = {"state": state, "detail": detail, "token": self.token, "process": [_processes_here(), os.getpid()]}
            aside.write_text(json.dumps(said), encoding="utf-8")
            os.replace(aside, path)

    def fail(self, why: str) -> None:
        """Says "failed", and stays until every other rank has come or is late, HEARD seconds at most: who comes when
        this process is gone could not tell the failure from an earlier run's."""
        self.say("failed", why)
        until = time.monotonic() + self.HEARD
        while time.monotonic() < until and any(self._awaited(rank) for rank in self.others()):
            time.sleep(self.POLL)

    def _awaited(self, rank: int) -> bool:
        return (self.touched(rank) or 0.0) < self._born and self.state(rank)[0] == "running"

    def touched(self, rank: int) -> float | None:
        """When a rank last said that it lives, by the clock of the folder's file system; None where it never did."""
        try:
            return self._path(rank).stat().st_mtime
        except OSError:
            return None

    def state(self, rank: int) -> tuple[str, str]:
        """What a rank last said, and why it failed; "dead", and why, where it has ended or says nothing any more."""
        touched, own = self.touched(rank), self.touched(self.ranks.rank)
        said: dict[str, Any] = {"state": "", "detail": "", "token": None}
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(self._path(rank).read_text(encoding="utf-8"))
        fresh = touched is not None and (self.token != "" or touched >= self._born)
        if fresh and said["token"] == self.token and said["state"] != "running":
            return str(said["state"]), str(said["detail"])
        if touched is None or touched < self._born:
            late = time.monotonic() - self._began > self.LATE
            return ("dead", "it did not start") if late else ("running", "")
        if said["token"] == self.token and _ended(*said["process"]):
            return "dead", "its process has ended"
        silent = own is not None and own - touched > self.SILENT
        return ("dead", f"it has said nothing for {self.SILENT:.0f} s") if silent else ("running", "")

    def others(self) -> dict[int, tuple[str, str]]:
        """The state of every other rank."""
        return {rank: self.state(rank) for rank in range(self.ranks.world) if rank != self.ranks.rank}

    def others_here(self) -> bool:
        """Whether another process still uses the folder: of this run, or of an earlier one with more ranks."""
        own = self.touched(self.ranks.rank)
        for path in self.folder.glob("rank-*"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                said = json.loads(path.read_text(encoding="utf-8"))
                fresh = own is None or own - path.stat().st_mtime <= self.SILENT
                if path == self._path(self.ranks.rank) or said["state"] not in ("running", "done"):
                    continue
                if fresh and not _ended(*said["process"]):
                    return True
        return False

    def _beat(self) -> None:
        while not self._stop.wait(min(self.BEAT, self.SILENT / 4)):
            with contextlib.suppress(OSError):
                os.utime(self._path(self.ranks.rank))

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}"


class Beginning:
    """A context manager of the first process, from its first look at a task until the others can see it in ``place``.

    They wait meanwhile, and what is in ``place`` may be another run's. So the first process says that it lives, or why
    it refuses, in a folder of its own beside it, which the others read by :class:`Waiting`.
    """

    def __init__(self, place: Path, ranks: Ranks) -> None:
        self._place, self._shared = place, ranks.world > 1
        self._folder = place.with_name(f".{place.name}.{secrets.token_hex(4)}.begin")
        self._heartbeat = Heartbeat(self._folder, ranks)

    def __enter__(self) -> Beginning:
        if self._shared:
            with contextlib.suppress(OSError):  # where nothing can be written each rank sees that for itself
                self._folder.mkdir()
            self._heartbeat.__enter__()
        return self

    def over(self) -> None:
        """The others can see the task. What killed processes left of their beginnings goes too."""
        self._leave()
        for folder in _beginnings(self._place):
            with contextlib.suppress(OSError, ValueError, KeyError):
                path = folder / "rank-0"
                silent = self._place.stat().st_mtime - path.stat().st_mtime > Heartbeat.SILENT
                if silent or _ended(*json.loads(path.read_text(encoding="utf-8"))["process"]):
                    shutil.rmtree(folder, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._shared and isinstance(error, Exception):
                self._heartbeat.fail(str(error))
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._shared:
            self._shared = False
            self._heartbeat.__exit__(None, None, None)
            shutil.rmtree(self._folder, ignore_errors=True)


class Waiting:
    """Another process that waits for a task in ``place`` listens to the first one's :class:`Beginning`.

    A refusal is believed where no other first process lives: two runs may have one ``place``.
    """

    def __init__(self, place: Path, ranks: Ranks) -> None:
        self._place, self._ranks = place, ranks
        self._touched: dict[Path, float | None] = {}
        self._lived: set[Path] = set()
        self._refused: tuple[float, Heartbeat, str] | None = None
        self.look()

    def look(self) -> bool:
        """Whether a first process has said since the last look that it will begin; OutputError once it has refused
        or was killed."""
        for folder in _beginnings(self._place):
            heartbeat = Heartbeat(folder, self._ranks)
            touched = heartbeat.touched(0)
            before, self._touched[folder] = self._touched.get(folder, touched), touched
            state, why = heartbeat.state(0)
            if before == touched and not (state == "dead" and folder in self._lived):
                continue  # nothing new; perhaps of a process that was killed long ago
            if state == "running":
                self._lived.add(folder)
                self._refused = None
                return True
            said = f"has refused: {why}" if state == "failed" else f"did not begin: {why}"
            self._refused = self._refused or (time.monotonic(), heartbeat, said)
        if self._refused is not None:
            heard, heartbeat, said = self._refused
            if time.monotonic() - heard > 2 * Heartbeat.BEAT:
                heartbeat.say("heard")
                raise OutputError(f"rank 0 {said}")
        return False


def _beginnings(place: Path) -> list[Path]:
    return sorted(place.parent.glob(f".{glob.escape(place.name)}.*.begin"))


def _processes_here() -> str:
    """Whose numbers of processes those of this one are: the machine's, or a container's, which may share its name."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return platform.node()


def _ended(where: str, process: int) -> bool:
    """Whether a process, numbered as :func:`_processes_here` says, is certainly gone."""
    if where != _processes_here() or os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
