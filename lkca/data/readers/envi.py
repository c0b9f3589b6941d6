"""ENVI cubes: a header and a flat binary file, read through a memory map.

GDAL is not used here because its ENVI driver ignores the reflectance scale factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from pathlib import Path

import numpy as np

from lkca.data.cube import Cube
from lkca.data.readers.arrays import ArrayWindows
from lkca.data.readers.envi_header import AXES, EnviLayout, parse_layout, parse_meta, read_header
from lkca.errors import InputError

__all__ = ["DATA_SUFFIXES", "described", "find_data", "find_header", "find_tiff", "is_header", "of_tiff", "open_envi"]

DATA_SUFFIXES = (".img", ".dat", ".raw", ".bsq", ".bil", ".bip", ".bin", ".hyspex")
_TIFF_SUFFIXES = (".tif", ".tiff", ".TIF", ".TIFF")


def find_header(data: Path) -> Path | None:
    """The header of a data file: ``x.img.hdr`` or ``x.hdr`` beside ``x.img``; None where there is none.

    InputError for a pipe or a device of that name, on which GDAL, asked next, would wait for ever.
    """
    for suffix in (".hdr", ".HDR"):
        for candidate in (data.with_name(data.name + suffix), data.with_suffix(suffix)):
            if candidate != data and candidate.is_file():
                return candidate
            if candidate.exists() and not candidate.is_dir():
                raise InputError(f"{candidate}: is not a regular file; an ENVI header was expected there")
    return None


def find_data(header: Path) -> tuple[Path, list[str]]:
    """The data file of a header ``x.hdr``: ``x``, ``x.img``, ``x.dat``, ...; a warning where others may be it too.

    The first of those that the header describes, else the first; InputError where there is none.
    """
    names = described(header) or _data_names(header)[:1]
    if not names:
        stem = header.with_suffix("").name
        raise InputError(
            f"{header}: its data file is missing: expected {stem} or {stem}{{{','.join(DATA_SUFFIXES)}}} beside "
            "the header, or a file of any suffix that has the size it claims; put it there or name the data file itself"
        )
    data, *others = names
    listing = " or ".join(other.name for other in others)
    return data, [f"{header}: {data.name} is taken for its data; name {listing} itself if it is that"] * bool(others)


def find_tiff(header: Path) -> Path | None:
    """The TIFF that a header of the file type TIFF describes, ``x.tif`` for ``x.hdr`` or ``x.tif.hdr``; else None."""
    stem = header.with_suffix("")
    names = [stem, *(stem.with_name(stem.name + suffix) for suffix in _TIFF_SUFFIXES)]
    tiff = next((name for name in names if name.suffix in _TIFF_SUFFIXES and name.is_file()), None)
    return tiff if tiff and of_tiff(header) else None


def of_tiff(header: Path) -> bool:
    """Whether a header is of the file type TIFF, be there one or not."""
    try:
        return "tiff" in read_header(header).get("file type", "").lower()
    except InputError:
        return False


def described(header: Path) -> list[Path]:
    """The files that may be the data of a header: without another header, of the size that it claims if it can be read.

    A file that is named after the interleave comes first. Where none has a usual name, any of the very size may be.
    """
    usual = _data_names(header)
    names = [name for name in usual if find_header(name) == header]
    try:
        layout = parse_layout(read_header(header), str(header))
    except InputError:
        return names
    names = [name for name in names if layout.nbytes <= name.stat().st_size < layout.nbytes + layout.row_nbytes]
    if not usual:
        alike = sorted(header.parent.glob(f"{escape(header.stem)}.*"))
        names = [name for name in alike if name.stem == header.stem and name != header and name.is_file()]
        names = [name for name in names if name.stat().st_size == layout.nbytes and find_header(name) == header]
    return sorted(names, key=lambda name: name.suffix.lower() != f".{layout.interleave}")


def _data_names(header: Path) -> list[Path]:
    stem = header.with_suffix("")
    names = [stem] + [
        stem.with_name(stem.name + variant) for suffix in DATA_SUFFIXES for variant in (suffix, suffix.upper())
    ]
    found: list[Path] = []
    for name in names:  # two names may be one file
        if name.is_file() and not any(name.samefile(other) for other in found):
            found.append(name)
    return found


def is_header(file: Path) -> bool:
    """Whether a .hdr file is ENVI's (ESRI and others use the suffix too)."""
    with file.open("rb") as stream:
        return stream.read(16).lstrip(b"\xef\xbb\xbf \t").upper().startswith(b"ENVI")


def open_envi(header: Path, data: Path, source: str, warnings: Sequence[str] = ()) -> Cube:
    """Open an ENVI cube from its two files; ``warnings``: of finding them."""
    fields = read_header(header)
    layout = parse_layout(fields, str(header))
    meta, remarks = parse_meta(fields, layout, str(header))
    _check_size(layout, data, header)
    axes, sizes = AXES[layout.interleave], {"r": layout.rows, "c": layout.cols, "b": layout.bands}
    shape = tuple(sizes[axis] for axis in axes)
    try:
        samples = np.memmap(data, dtype=layout.dtype, mode="r", offset=layout.offset, shape=shape)
    except (OSError, ValueError) as error:
        raise InputError(f"{data}: cannot be mapped into memory ({error})") from error
    return Cube(
        source,
        (layout.rows, layout.cols, layout.bands),
        meta,
        ArrayWindows(samples, axes),
        format="ENVI",
        files=(data, header),
        warnings=[*warnings, *remarks],
    )


def _check_size(layout: EnviLayout, data: Path, header: Path) -> None:
    """The header's claim against the file, before any memory is asked for."""
    found, expected = data.stat().st_size, layout.nbytes
    if expected <= found < expected + layout.row_nbytes:
        return  # a few trailing bytes do no harm
    claim = (
        f"{layout.rows} lines x {layout.cols} samples x {layout.bands} bands of {layout.dtype.itemsize}-byte samples"
        f"{f' after {layout.offset} bytes' if layout.offset else ''}"
    )
    if others := [name for name in described(header) if name != data]:
        raise InputError(f"{data}: is not what {header.name} describes, {others[0].name} is; name that or the header")
    fault = "is truncated" if found < expected else "does not match its header"
    raise InputError(
        f"{data}: {fault}: holds {found} bytes, {header.name} claims {claim} = {expected} bytes; "
        "copy the file again or correct lines, samples, bands, data type or header offset"
    )
