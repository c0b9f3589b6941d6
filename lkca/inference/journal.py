"""The journal of a scene that is being upscaled: a folder beside the output, one file per finished tile.

A tile's file is written aside and renamed, so its existence says that the tile is done. It holds the samples as the
output stores them, what was counted while they were encoded, and a checksum: a file that a crash of the whole machine
left short or empty is told apart, without waiting for the disk after every tile.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lkca.errors import InputError, OutputError

__all__ = ["Journal", "Record", "differences", "part_folder"]

_PLAN = "plan.json"


def part_folder(output: Path) -> Path:
    """Where the journal of an output lies."""
    return output.with_name(output.name + ".lkca-part")


@dataclass(frozen=True)
class Record:
    """What ``plan.json`` says. run: a name of this run, new at each start. world: its processes.

    fingerprint: everything that decides the pixels, by names for people. tile: rows and columns of a tile. tiles: how
    many there are. todo: the numbers of those that this run computes, dealt in turn to its processes.
    """

    run: str
    world: int
    fingerprint: dict[str, Any]
    tile: list[int]
    tiles: int
    todo: list[int]


class Journal:
    """The journal of ``output``. Raises OutputError where it cannot be written."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = part_folder(output)
        self._latest: tuple[int, np.ndarray, dict[str, float]] | None = None

    def make(self) -> None:
        """Makes the folder where it is not there, and removes what killed runs left of earlier ones."""
        for left in self.folder.parent.glob(f".{glob.escape(self.folder.name)}.*.old"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made ({error.strerror}); choose another folder") from error

    def begin(self, fingerprint: dict[str, Any], tile: tuple[int, int], tiles: int, world: int) -> Record:
        """Says in the folder what this run is to do: the tiles that are not there, or not whole."""
        todo = [number for number in range(tiles) if not self._whole(number)]
        record = Record(secrets.token_hex(8), world, fingerprint, list(tile), tiles, todo)
        try:
            self._put(_PLAN, json.dumps(record.__dict__, indent=1).encode())
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written ({error.strerror}); free some space") from error
        return record

    def read(self) -> Record | None:
        """What ``plan.json`` says; None where there is none, or none that can be read."""
        try:
            return Record(**json.loads((self.folder / _PLAN).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def check(self, fingerprint: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Record | None:
        """The record to go on with, None where there is none; empties a folder that is not wanted (``overwrite``).

        Raises InputError where one is there and neither is asked for, or where it belongs to another task.
        """
        if not self.folder.exists():
            return None
        record = self.read()
        differing = [] if record is None else differences(record.fingerprint, fingerprint)
        if resume and record is not None and not differing:
            return record
        if overwrite or (record is None and not self.finished()):
            for entry in self.folder.iterdir():  # the folder stays: its end is the sign that a task is finished
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
            return None
        if not resume:
            raise InputError(
                f"{self.folder}: holds the finished tiles of an earlier run; give --resume to go on with them, or "
                "--overwrite to start anew"
            )
        why = "its plan.json cannot be read" if record is None else "; ".join(differing)
        raise InputError(f"{self.folder}: cannot be resumed: {why}; give --overwrite to start anew")

    def has(self, number: int) -> bool:
        return self._tile(number).exists()

    def finished(self) -> int:
        """How many tiles are there."""
        return sum(1 for _ in self.folder.glob("tile-*"))

    def save(self, number: int, stored: np.ndarray, counts: Mapping[str, float]) -> None:
        """stored: (bands, rows, cols). OSError where it cannot be written; nothing stands under the tile's name."""
        stored = np.ascontiguousarray(stored)
        head = {
            "shape": stored.shape,
            "dtype": stored.dtype.str,
            "crc": zlib.crc32(stored.data),
            "counts": dict(counts),
        }
        self._put(self._tile(number).name, json.dumps(head).encode() + b"\n", stored.data)
        self._latest = number, stored, dict(counts)

    def load(self, number: int) -> tuple[np.ndarray, dict[str, float]]:
        """The tile's samples and counts. Raises OutputError, and forgets the tile, where it is damaged.

        The tile that this process saved last is still in memory.
        """
        if (latest := self._latest) is not None and latest[0] == number:
            return latest[1], latest[2]
        path = self._tile(number)
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline())
                stored = np.fromfile(file, dtype=head["dtype"])
            if zlib.crc32(stored.data) == head["crc"]:
                return stored.reshape(head["shape"]), head["counts"]
        except (ValueError, KeyError):
            pass
        path.unlink(missing_ok=True)
        raise OutputError(f"{path}: is damaged and was removed; run again with --resume to compute that tile anew")

    def remove(self) -> None:
        """Removes the folder; its name is free at once."""
        aside = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(4)}.old")
        with contextlib.suppress(OSError):
            self.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _whole(self, number: int) -> bool:
        """Whether the tile is there in its full length; a shorter file is what a crash left."""
        path = self._tile(number)
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline())
                samples = int(np.prod(head["shape"], dtype=np.int64))
                whole = os.fstat(file.fileno()).st_size == file.tell() + samples * np.dtype(head["dtype"]).itemsize
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            path.unlink(missing_ok=True)
        result: bool = whole
        return result

    def _tile(self, number: int) -> Path:
        return self.folder / f"tile-{number:06}"

    def _put(self, name: str, *parts: bytes | memoryview) -> None:
        aside = self.folder / f".{name}.{secrets.token_hex(4)}"
        try:
            with aside.open("wb", buffering=0) as file:
                for part in parts:
                    rest = memoryview(part).cast("B")
                    while rest:  # one call writes 2 GiB at most, and less on a disk that fills up
                        rest = rest[file.write(rest) :]
            os.replace(aside, self.folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Sentences about the entries that two fingerprints do not share."""
    new = json.loads(json.dumps(new))
    return [
        f"the {name} was {old.get(name, 'not given')}, now it is {new.get(name, 'not given')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
