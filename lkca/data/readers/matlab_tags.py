"""The type tags of a MAT-file (level 5), checked before scipy follows them.

scipy (1.17) takes the type of a variable's samples from the file as an index into a table, unchecked: a damaged or
hostile file ends the process (found by tests/fuzz). Format: "MAT-File Format", MathWorks, chapter 1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from lkca.errors import InputError

__all__ = ["complex_variables"]

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_CHAR, _NUMERIC = 4, range(6, 16)  # array classes; the others are structures, objects and the like
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}  # types of samples: int8 ... double, int64, uint64
_CHARACTERS = {1, 2, 4, 16, 17, 18}  # int8, uint8, uint16, UTF-8, UTF-16, UTF-32
_COMPLEX = 0x0800
_MAX_START = 2**14  # bytes of a variable before its samples: flags, dimensions, name


def complex_variables(file: Path, source: str) -> set[str]:
    """Names of the complex arrays, whose second part no one has checked: not to be loaded.

    InputError where an array's samples are of a type that does not exist, or one name stands for two variables.
    """
    found, seen = set(), set()
    for start, order in _starts(file):
        flags, at = _element(start, 0, order)
        (word,) = struct.unpack_from(f"{order}I", flags)
        kind = word & 0xFF
        _, at = _element(start, at, order)  # dimensions
        text, at = _element(start, at, order)
        name = text.decode("latin-1")
        if name in seen:
            raise InputError(f"{source}: holds two variables of the name {name[:40]!r}; it is damaged")
        seen.add(name)
        if kind != _CHAR and kind not in _NUMERIC:
            continue
        (tag,) = struct.unpack_from(f"{order}I", start, at)
        samples = tag & 0xFFFF if tag >> 16 else tag
        if samples not in (_CHARACTERS if kind == _CHAR else _NUMBERS):
            raise InputError(
                f"{source}: variable {name[:40]!r} holds samples of the unknown type {samples}; it is damaged"
            )
        if word & _COMPLEX:
            found.add(name)
    return found


def _starts(file: Path) -> Iterator[tuple[bytes, str]]:
    """The beginning of each variable's contents, and the byte order."""
    with file.open("rb") as stream:
        order = ">" if stream.read(_HEADER_BYTES)[-2:] == b"MI" else "<"
        while len(tag := stream.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            following = stream.tell() + size
            start = stream.read(min(size, _MAX_START))
            if kind == _COMPRESSED:
                start = zlib.decompressobj().decompress(start, _MAX_START)
                kind, size = struct.unpack_from(f"{order}II", start)
                start = start[8:]
            if kind == _MATRIX and size:
                yield start, order
            stream.seek(following)


def _element(start: bytes, at: int, order: str) -> tuple[bytes, int]:
    """Contents of the data element at ``at``, and where the next one begins; short ones stand inside their tag."""
    (tag,) = struct.unpack_from(f"{order}I", start, at)
    if tag >> 16:
        return start[at + 4 : at + 4 + (tag >> 16)], at + 8
    (size,) = struct.unpack_from(f"{order}I", start, at + 4)
    return start[at + 8 : at + 8 + size], at + 8 + -(-size // 8) * 8
