"""Cloud-optimised GeoTIFFs: directories first, then overviews from coarse to fine, then the full size.

Samples go to their blocks as they come, in any order, and the overviews and directories follow at the end, in the same
file: it is written once. GDAL describes it, in an empty GeoTIFF whose tags are laid out anew. It copies a COG only to
compress it or to interleave its bands by pixel, by its GTiff driver (``COPY_SRC_OVERVIEWS``). Its COG driver cannot be
used for hundreds of bands: it interleaves them by pixel (before GDAL 3.11) and compresses overviews into a temporary
file tile by tile and band by band; with a bounded block cache that file grew to 10.7 GB for a cube of 1.1 GB (2048 x
2048 x 64, float32, GDAL 3.10.3, cache 128 MiB) and was not done after 8 minutes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from lkca.data.codec import Encoder
from lkca.data.gdal import bounded_cache, without_place
from lkca.data.memory import reserve
from lkca.data.meta import CubeMeta
from lkca.data.window import Window
from lkca.data.writers import tiff
from lkca.data.writers.base import Backend, check_disk_space, linked, temporary_beside
from lkca.data.writers.blocks import write_at
from lkca.data.writers.geotiff import Kind, as_os_errors, block_size, check_blocks, create, left_out
from lkca.data.writers.layout import Layout, Pyramid
from lkca.data.writers.overviews import add_overviews
from lkca.errors import InputError

__all__ = ["CogBackend"]

_SLACK = 4096  # bytes at least, for what a run that goes on describes otherwise: its command
_CLASSIC_BYTES = 4 * 10**9  # of the samples in a file without 64-bit offsets, which end at 4.29e9


class CogBackend(Backend):
    """A COG of 256 x 256 blocks."""

    layout: Pyramid

    def __init__(self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, kind: Kind) -> None:
        assert meta.stored_dtype is not None
        self._path, self._kind, self._code = path, kind, Encoder(meta).code
        self.keeps = kind == Kind("BAND", {})
        self.block, self.remarks = block_size(shape), left_out(path, meta)
        self.layout = Pyramid((shape[2], *shape[:2]), meta.stored_dtype, 0, self.block)
        if not self.keeps and not kind.packing:
            check_disk_space(path, 2 * self.layout.nbytes)
        self._made = temporary_beside(path)
        self.pairs = [(self._made, path)]
        self._file = self._made  # of blocks
        self._open: int | None = None
        try:
            if not self.keeps:
                self.pairs = [(temporary_beside(path), path), (self._made, self._made)]
            with as_os_errors():
                create(
                    self._made, shape, meta, INTERLEAVE="BAND", SPARSE_OK="TRUE", ENDIANNESS="LITTLE",
                    BIGTIFF="YES" if self.layout.nbytes > _CLASSIC_BYTES else "NO",
                ).close()  # fmt: skip
            self._tags, self._big = tiff.read_directory(self._made)
            self._made.write_bytes(b"")
            self.layout = replace(self.layout, room=len(self._head(self.layout)) + _SLACK)
        except BaseException:
            self.remove()
            raise

    def lay_out(self, layout: Layout) -> None:
        if not isinstance(layout, Pyramid):
            raise InputError(f"{self._path}: the samples that are there are none of a COG; give --overwrite")
        if len(self._head(layout)) > layout.levels[-1].start:
            raise InputError(
                f"{self._path}: what describes it (tags, the command) is longer than the run that began it left room "
                "for; repeat that command with --resume, or give --overwrite to start anew"
            )
        self.layout = layout

    def write(self, window: Window, stored: np.ndarray) -> None:
        if self._open is None:
            check_disk_space(self._path, self.layout.nbytes)
            reserve(self._made, self.layout.nbytes)
            self._open = os.open(self._made, os.O_WRONLY | getattr(os, "O_BINARY", 0))
        for start, part in self.layout.parts(window, 0, stored):
            write_at(self._open, part, start)

    def adopt(self, samples: Path) -> None:
        """By a name of its own, lest another run that begins anew there meanwhile has its file changed."""
        self._file = self._made if linked(samples, self._made) else samples

    def finish(self) -> None:
        self.discard()
        published = self._path.exists() and self._path.samefile(self._file)
        if not published:  # by a run that was killed right after
            add_overviews(self._file, self.layout.levels, self._code)
            with self._file.open("r+b") as stream:
                stream.write(self._head(self.layout))
        if not self.keeps:
            self._copy()
        elif self._file != self._made:
            os.replace(self._file, self._made)

    def discard(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _head(self, layout: Pyramid) -> bytes:
        """The beginning of the file."""
        directories = []
        for level in layout.levels:
            tags = dict(self._tags)
            if level is not layout.levels[0]:
                tags = {tag: entry for tag, entry in tags.items() if tag in tiff.SHARED}
                tags[tiff.SUBFILE] = tiff.longs([1])  # of reduced resolution
                tags |= {
                    tag: tiff.longs([edge]) for tag, edge in zip(tiff.SIZE, reversed(level.shape[1:]), strict=True)
                }
            tags[tiff.OFFSETS] = tiff.longs(level.offsets, big=self._big)
            tags[tiff.BYTE_COUNTS] = tiff.longs(np.full(level.offsets.size, level.block_bytes))
            directories.append(tags)
        return tiff.head(directories, big=self._big)

    def _copy(self) -> None:
        """As :attr:`_kind` says."""
        target = self.pairs[0][0]
        with as_os_errors(), bounded_cache(), without_place():
            try:
                rasterio.shutil.copy(
                    self._file, target, driver="GTiff", COPY_SRC_OVERVIEWS="YES", TILED="YES", BLOCKYSIZE=self.block[0],
                    BLOCKXSIZE=self.block[1], BIGTIFF="IF_SAFER", INTERLEAVE=self._kind.interleave,
                    **self._kind.packing,
                )  # fmt: skip
            except CPLE_BaseError as error:  # what this function of rasterio raises, as others do not
                raise RasterioError(str(error)) from error
            check_blocks(target)
        self._made.unlink(missing_ok=True)
        self.pairs = self.pairs[:1]
