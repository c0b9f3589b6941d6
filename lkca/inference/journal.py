"""The journal of a scene that is being upscaled: a folder beside the output, with its samples and what is done.

Every finished tile has a small file, written aside and renamed, so its existence says that the tile is done. It holds
what was counted while the samples were encoded, and their checksum: samples that a crash of the whole machine lost are
told apart at the next start, without waiting for the disk after every tile.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lkca.data import Window
from lkca.errors import InputError, OutputError
from lkca.inference.samples import Samples
from lkca.output import check_name

__all__ = ["Journal", "Record", "differences", "part_folder"]

_PLAN = "plan.json"


def part_folder(output: Path) -> Path:
    """Where the journal of an output lies; InputError where that is a directory, which --resume would take for done, or
    too long a name."""
    check_name(output)
    if not output.name or output.is_dir():
        raise InputError(f"{output}: is a directory; give the name of a file")
    return output.with_name(output.name + ".lkca-part")


@dataclass(frozen=True)
class Record:
    """What ``plan.json`` says. run: a name of this run, new at each start. world: its processes.

    fingerprint: everything that decides the pixels, by names for people. tile: rows and columns of a tile. tiles: how
    many there are. todo: the numbers of those that this run computes, dealt in turn to its processes. place: of the
    samples in their file, ``Layout.place``.
    """

    run: str
    world: int
    fingerprint: dict[str, Any]
    tile: tuple[int, int]
    tiles: int
    todo: list[int]
    place: dict[str, Any]


class Journal:
    """The journal of ``output``. Raises OutputError where it cannot be written."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = part_folder(output)
        self.samples = self.folder / "samples"

    def make(self) -> None:
        """Makes the folder where it is not there, and removes what killed runs left of earlier ones."""
        for left in self.folder.parent.glob(f".{glob.escape(self.folder.name)}.*.old"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made ({error.strerror}); choose another folder") from error

    def begin(
        self,
        fingerprint: dict[str, Any],
        tile: tuple[int, int],
        windows: Sequence[Window],
        samples: Samples,
        world: int,
    ) -> Record:
        """Reserves the samples, and says in the folder what this run is to do: the tiles that are not there, or whose
        samples are not those that were written. windows: of the tiles, in the output."""
        try:
            samples.make()
            todo = [number for number, window in enumerate(windows) if not self._whole(number, window, samples)]
            for number in todo:
                self._tile(number).unlink(missing_ok=True)
            samples.forget()
            record = Record(secrets.token_hex(8), world, fingerprint, tile, len(windows), todo, samples.layout.place)
            self._put(_PLAN, json.dumps(record.__dict__, indent=1).encode())
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written ({error.strerror}); free some space") from error
        return record

    def read(self) -> Record | None:
        """What ``plan.json`` says; None where there is none, or none that can be read."""
        try:
            said = json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
            rows, cols = said["tile"]
            return Record(**said | {"tile": (rows, cols)})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def taken_over(self, run: str) -> bool:
        """Whether the folder is another run's now: its record is there, or none as it began anew or has finished."""
        record = self.read()
        return not (self.folder / _PLAN).exists() if record is None else record.run != run

    def check(self, fingerprint: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Record | None:
        """The record to go on with, None where there is none, or none that is wanted (``overwrite``).

        Raises InputError where one is there and neither is asked for, where it belongs to another task, and where the
        folder is none.
        """
        if not self.folder.exists():
            return None
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: is no folder, and tiles are kept under that name; move it away")
        record = self.read()
        differing = [] if record is None else differences(record.fingerprint, fingerprint)
        if resume and record is not None and not differing:
            return record
        if overwrite or (record is None and not self.finished()):
            return None
        if not resume:
            raise InputError(
                f"{self.folder}: holds the finished tiles of an earlier run; give --resume to go on with them, or "
                "--overwrite to start anew"
            )
        why = "its plan.json cannot be read" if record is None else "; ".join(differing)
        raise InputError(f"{self.folder}: cannot be resumed: {why}; give --overwrite to start anew")

    def empty(self) -> None:
        """Removes what an earlier run left in the folder, which stays: its end is the sign that a task is finished."""
        if self.folder.exists():
            for entry in self.folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)

    def has(self, number: int) -> bool:
        return self._tile(number).exists()

    def finished(self) -> int:
        """How many tiles are there."""
        return sum(1 for _ in self.folder.glob("tile-*"))

    def save(self, number: int, checksum: int, rows: int, counts: Mapping[str, float]) -> None:
        """The tile's samples are written; their checksum was taken over so many rows at once. OSError where that cannot
        be said."""
        said = {"checksum": checksum, "rows": rows, "counts": dict(counts)}
        self._put(self._tile(number).name, json.dumps(said).encode())

    def counts(self, number: int) -> dict[str, float]:
        """What was counted in a finished tile."""
        counts: dict[str, float] = self._said(number)["counts"]
        return counts

    def remove(self) -> None:
        """Removes the folder; its name is free at once."""
        aside = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(4)}.old")
        with contextlib.suppress(OSError):
            self.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _whole(self, number: int, window: Window, samples: Samples) -> bool:
        """Whether the tile is said to be there, and is."""
        try:
            said = self._said(number)
            return bool(said["checksum"] == samples.checksum(window, said["rows"]))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _said(self, number: int) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._tile(number).read_text(encoding="utf-8"))
        return said

    def _tile(self, number: int) -> Path:
        return self.folder / f"tile-{number:06}"

    def _put(self, name: str, content: bytes) -> None:
        aside = self.folder / f".{name}.{secrets.token_hex(4)}"
        try:
            aside.write_bytes(content)
            os.replace(aside, self.folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Sentences about the entries that two fingerprints do not share."""
    was, now = _entries(old), _entries(new)
    return [
        _difference(name, was.get(name, "not given"), now.get(name, "not given"))
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def _difference(name: str, was: Any, now: Any) -> str:
    if name == "input's files" and isinstance(was, list) and isinstance(now, list):  # a mosaic may have thousands
        changed = list(dict.fromkeys(file[0] for file in was + now if (file in was) != (file in now)))
        return f"the {name} differ in name, size or time: {', '.join(changed[:4])}{' and more' * (len(changed) > 4)}"
    return f"the {name} was {was}, now it is {now}"


def _entries(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """By names in which those of an entry's parts follow its own."""
    entries: dict[str, Any] = {}
    for name, value in fingerprint.items():
        parts = value if isinstance(value, dict) else {"": value}
        entries |= {f"{name}'s {part}" if part else name: found for part, found in parts.items()}
    return entries
