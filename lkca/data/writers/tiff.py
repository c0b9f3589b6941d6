"""The directories of a TIFF as bytes (TIFF 6.0, section 2; BigTIFF), to lay a file out anew that GDAL has described."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["BYTE_COUNTS", "OFFSETS", "SHARED", "SIZE", "SUBFILE", "Entry", "head", "longs", "read_directory"]

SUBFILE, WIDTH, HEIGHT, OFFSETS, BYTE_COUNTS = 254, 256, 257, 324, 325
SIZE = (WIDTH, HEIGHT)
# Bits, compression, photometric, samples, planes, sides of tiles, extra samples, sample format, GDAL's nodata: what an
# overview shares with the full size.
SHARED = (258, 259, 262, 277, 284, 322, 323, 338, 339, 42113)
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LONG, _LONG8 = 4, 16


@dataclass(frozen=True)
class Entry:
    """The values of a tag: their type's number, how many they are, their bytes (little-endian)."""

    type: int
    count: int
    values: bytes


@dataclass(frozen=True)
class _Form:
    """How a classic TIFF or a BigTIFF writes its header, a directory's length, an entry and an offset."""

    header: bytes  # without the first directory's offset
    length: str
    entry: str
    offset: str

    @property
    def inline(self) -> int:
        """Bytes of values that stand in the entry itself."""
        return struct.calcsize(self.offset)


_CLASSIC = _Form(b"II*\0", "<H", "<HHI4s", "<I")
_BIG = _Form(struct.pack("<2sHHH", b"II", 43, 8, 0), "<Q", "<HHQ8s", "<Q")


def longs(values: Sequence[int] | np.ndarray, *, big: bool = False) -> Entry:
    """Unsigned numbers of 32 bits, or of 64 (``big``, in a BigTIFF). OverflowError where they have more."""
    numbers = np.asarray(values, dtype="<u8")
    if not big:
        if numbers.max(initial=0) >> 32:
            raise OverflowError(f"a TIFF without 64-bit offsets holds numbers below 2^32, got {numbers.max()}")
        numbers = numbers.astype("<u4")
    return Entry(_LONG8 if big else _LONG, numbers.size, numbers.tobytes())


def read_directory(file: Path) -> tuple[dict[int, Entry], bool]:
    """The tags of the first directory of a little-endian TIFF, and whether it is a BigTIFF."""
    content = file.read_bytes()
    big = content.startswith(_BIG.header)
    form = _BIG if big else _CLASSIC
    (at,) = struct.unpack_from(form.offset, content, len(form.header))
    (length,) = struct.unpack_from(form.length, content, at)
    at += struct.calcsize(form.length)
    tags: dict[int, Entry] = {}
    for _ in range(length):
        tag, kind, count, field = struct.unpack_from(form.entry, content, at)
        at += struct.calcsize(form.entry)
        size = count * _BYTES[kind]
        start = 0
        if size > form.inline:
            (start,) = struct.unpack(form.offset, field)
        tags[tag] = Entry(kind, count, (field if size <= form.inline else content)[start : start + size])
    return tags, big


def head(directories: Sequence[Mapping[int, Entry]], *, big: bool) -> bytes:
    """The beginning of a file: its header, then each directory, followed by the values that do not stand in it."""
    form = _BIG if big else _CLASSIC
    out = bytearray(form.header)
    link = len(out)  # where the next directory's offset belongs
    out += bytes(form.inline)
    for tags in directories:
        out += bytes(-len(out) % 8)
        struct.pack_into(form.offset, out, link, len(out))
        out += struct.pack(form.length, len(tags))
        entries = len(out)
        link = entries + len(tags) * struct.calcsize(form.entry)
        out += bytes(link - entries + form.inline)
        for tag, entry in sorted(tags.items()):
            field = entry.values
            if len(field) > form.inline:
                out += bytes(-len(out) % 8)
                field = struct.pack(form.offset, len(out))
                out += entry.values
            struct.pack_into(form.entry, out, entries, tag, entry.type, entry.count, field)
            entries += struct.calcsize(form.entry)
    return bytes(out)
