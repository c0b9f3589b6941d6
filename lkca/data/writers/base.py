"""Writing a cube window by window, aside, and putting it under its name only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from lkca.data.codec import Encoder, unmasked
from lkca.data.gdal import SIDECARS
from lkca.data.meta import CubeMeta
from lkca.data.window import Window
from lkca.data.writers.layout import Layout
from lkca.errors import LkcaError, OutputError

__all__ = [
    "Backend",
    "CubeWriter",
    "WriteReport",
    "check_disk_space",
    "leftovers",
    "linked",
    "sidecars",
    "temporary_beside",
    "write_error",
]

_FEW_LEVELS = 32


@dataclass(frozen=True)
class WriteReport:
    """What was written. files: all files, the named one first. shape: (rows, cols, bands). meta: as stored. clipped,
    missing: samples beyond the range of an integer dtype, samples stored as nodata. warnings: sentences for the user.
    """

    path: Path
    files: tuple[Path, ...]
    driver: str
    shape: tuple[int, int, int]
    meta: CubeMeta
    clipped: int
    missing: int
    warnings: tuple[str, ...] = ()


class Backend(ABC):
    """One file format. ``meta`` is the output's description; stored blocks come as (bands, height, width).

    pairs: (temporary, final) paths in the order in which they are put in place, the data first.
    remarks: what the format could not hold, sentences for the user.
    block: (rows, cols) of a storage block; windows aligned to it are written fastest.
    layout: how all samples may come in a file; None where they may not. keeps: whether that becomes the data file,
    instead of being copied at the end. collects: whether the whole cube is held in memory until then.
    """

    pairs: list[tuple[Path, Path]]
    remarks: tuple[str, ...] = ()
    block: tuple[int, int] = (1, 1)
    layout: Layout | None = None
    keeps: bool = False
    collects: bool = False

    def lay_out(self, layout: Layout) -> None:
        """Change ``layout`` to that of a file that an earlier writer of the same cube began; InputError if it cannot
        be."""
        self.layout = layout

    def adopt(self, samples: Path) -> None:
        """Take a file of all samples as ``layout`` says, instead of writing."""
        raise NotImplementedError

    @abstractmethod
    def write(self, window: Window, stored: np.ndarray) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Complete the temporary files; raise OSError where they are not whole."""

    @abstractmethod
    def discard(self) -> None:
        """Release the temporary files, which :meth:`remove` can remove then."""

    def remove(self) -> None:
        """Remove the temporary files, and what GDAL put beside them, as far as they are there."""
        for temporary, _ in self.pairs:
            for file in (temporary, *sidecars(temporary)):
                with contextlib.suppress(OSError):
                    file.unlink()


class CubeWriter:
    """Writes windows of physical values; a context manager that keeps nothing if an exception passes.

    Made by ``create_writer``. The file appears under its name when :meth:`close` commits; until then, and
    after :meth:`abort`, nothing is there (or the file that was there before). Windows come in any order and cover the
    scene once. block: (rows, cols) of a storage block; windows that end on its multiples are written fastest. report:
    :class:`WriteReport`, None until then.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], meta: CubeMeta, backend: Backend, driver: str) -> None:
        self.path = path
        self.shape = shape
        self.meta = meta
        self.driver = driver
        self.block = backend.block
        self.keeps, self.collects = backend.keeps, backend.collects
        self.report: WriteReport | None = None
        self._backend = backend
        self._encoder = Encoder(meta)
        self._pixels = 0
        self._open = True

    @property
    def layout(self) -> Layout | None:
        """How all samples may come in a file, see :meth:`adopt`; None where they may not."""
        return self._backend.layout

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that will stand there, the data first."""
        return tuple(final for _, final in self._backend.pairs)

    @property
    def temporaries(self) -> tuple[Path, ...]:
        """The files in which the samples are until then."""
        return tuple(temporary for temporary, _ in self._backend.pairs)

    def write(self, window: Window, array: np.ndarray) -> None:
        """Write (bands, height, width) physical samples; NaN, inf and what a masked array masks become nodata.

        OutputError where the disk is full or the file cannot be written, and for missing samples in an
        integer file that has no nodata value; the writer is then aborted. ValueError for another shape, InputError for
        a window outside the scene.
        """
        self._check(window, array)
        with self._or_abort():
            try:
                stored = self._encoder.encode(unmasked(array))
            except ValueError as error:
                raise OutputError(
                    f"{self.path}: {error}; write a float dtype or set a nodata value in the metadata"
                ) from error
        self._put(window, stored)

    def write_stored(self, window: Window, stored: np.ndarray) -> None:
        """Write samples that an ``Encoder(self.meta)`` has encoded before; what it counted comes by :meth:`count`."""
        self._check(window, stored)
        self._put(window, stored)

    def count(self, counts: Mapping[str, float]) -> None:
        """What an ``Encoder(self.meta)`` counted elsewhere (its ``counts()``)."""
        self._encoder.add(counts)

    def lay_out(self, layout: Layout) -> None:
        """Change ``layout`` to that of a file that an earlier writer of the same cube began; InputError if it cannot
        be."""
        self._backend.lay_out(layout)

    def adopt(self, samples: Path) -> None:
        """Take all samples from a file, as an ``Encoder(self.meta)`` stored them and ``layout`` says.

        The samples have to stay as they are until :meth:`close`, which adds to the file what its format has beside
        them. Where the writer ``keeps`` it, it may lose its name, and must lie in the same file system. What was
        counted comes by :meth:`count`.
        """
        if not self._open:
            raise OutputError(f"{self.path}: is closed; nothing more can be written")
        with self._or_abort():
            self._backend.adopt(samples)
        self._pixels = self.shape[0] * self.shape[1]

    @contextlib.contextmanager
    def _or_abort(self) -> Iterator[None]:
        """Whatever is raised inside aborts the writer; an OSError is told as what could not be written."""
        try:
            yield
        except OSError as error:
            self.abort()
            raise write_error(self.path, error) from error
        except BaseException:
            self.abort()
            raise

    def _put(self, window: Window, stored: np.ndarray) -> None:
        with self._or_abort():
            self._backend.write(window, stored)
        self._pixels += window.height * window.width

    def _check(self, window: Window, array: np.ndarray) -> None:
        if not self._open:
            raise OutputError(f"{self.path}: is closed; nothing more can be written")
        rows, cols, bands = self.shape
        window.check(rows, cols, str(self.path))
        if array.shape != (bands, window.height, window.width):
            raise ValueError(
                f"{self.path}: expected samples of shape {(bands, window.height, window.width)} for {window}, "
                f"found {array.shape}"
            )

    def close(self, commit: bool = True) -> WriteReport | None:
        """Put the file in place (``commit``) and report; OutputError if windows are missing or writing fails."""
        if not self._open:
            return self.report
        if not commit:
            self.abort()
            return None
        rows, cols, _ = self.shape
        if self._pixels < rows * cols:
            self.abort()
            raise OutputError(
                f"{self.path}: only {self._pixels} of {rows * cols} pixels were written; nothing was kept"
            )
        with self._or_abort():
            self._backend.finish()
            self._put_in_place()
        self._open = False
        finals = [final for _, final in self._backend.pairs]
        self.report = WriteReport(
            self.path,
            (self.path, *(final for final in finals if final != self.path)),
            self.driver,
            self.shape,
            self.meta,
            self._encoder.clipped,
            self._encoder.missing,
            tuple(self._remarks()),
        )
        return self.report

    def abort(self) -> None:
        """Keep nothing: remove the temporary files. An earlier file under the name stays. Repeating is fine."""
        if self._open:
            self._open = False
            with contextlib.suppress(Exception):
                self._backend.discard()
            self._backend.remove()

    def __enter__(self) -> CubeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(commit=kind is None)

    def _put_in_place(self) -> None:
        placed: list[Path] = []
        try:
            for temporary, _ in self._backend.pairs:
                _flush(temporary)
            for temporary, final in self._backend.pairs:
                os.replace(temporary, final)
                temporary.unlink(missing_ok=True)  # still there where both were names of one file already
                placed.append(final)
        except OSError:
            for final in placed:  # half a pair is a partial output; beside an old header it would be read wrongly
                with contextlib.suppress(OSError):
                    final.unlink()
            raise
        for temporary, final in self._backend.pairs:
            for name in (*sidecars(temporary), *sidecars(final)):  # the latter describe the old samples
                name.unlink(missing_ok=True)

    def _remarks(self) -> list[str]:
        encoder, dtype = self._encoder, self.meta.stored_dtype
        remarks = list(self._backend.remarks)
        if encoder.clipped:
            remarks.append(
                f"{self.path}: {encoder.clipped} samples were beyond the range of {dtype} and were clipped; a wider "
                "integer or a float dtype keeps them"
            )
        elif encoder.high - encoder.low < _FEW_LEVELS and encoder.high >= encoder.low:
            remarks.append(
                f"{self.path}: the samples fill only {int(encoder.high - encoder.low) + 1} levels of {dtype}; "
                "write a float dtype, or give the metadata a smaller scale factor"
            )
        return remarks


def temporary_beside(final: Path) -> Path:
    """A new, empty file beside ``final`` (so that a rename is atomic); OutputError where none can be made."""
    temporary = final.with_name(f".{final.stem}.{secrets.token_hex(4)}.tmp{final.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OutputError(
            f"{final}: cannot be written into {final.parent} ({error.strerror}); choose a directory you may write to"
        ) from error
    return temporary


def linked(samples: Path, temporary: Path) -> bool:
    """Makes ``temporary`` a second name for ``samples``, so that they are lost in no case; whether the file system has
    such. Where it has none there is no ``temporary`` any more."""
    temporary.unlink()
    try:
        os.link(samples, temporary)
    except OSError:
        return False
    return True


def leftovers(final: Path) -> list[Path]:
    """Files that :func:`temporary_beside` made for ``final`` and whose writer was killed (or still runs)."""
    name = f".{glob.escape(final.stem)}.{'[0-9a-f]' * 8}.tmp{glob.escape(final.suffix)}"
    return [found for end in ("", *SIDECARS) for found in sorted(final.parent.glob(name + end))]


def sidecars(file: Path) -> list[Path]:
    """What GDAL may have put beside a file."""
    return [file.with_name(file.name + end) for end in SIDECARS]


def check_disk_space(path: Path, nbytes: int) -> None:
    """OutputError where the file system has less than ``nbytes`` free."""
    free = shutil.disk_usage(path.parent).free
    if nbytes > free:
        raise OutputError(
            f"{path}: needs {nbytes / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free in {path.parent}; free some "
            "space or choose another directory"
        )


def write_error(path: Path, error: OSError) -> LkcaError:
    """The sentence for a failed write."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        reason = f"the disk is full or a size limit is reached: {reason}"
    return OutputError(
        f"{path}: could not be written ({reason}); nothing was kept, free some space or choose another place"
    )


def _flush(file: Path) -> None:
    """The samples reach the disk before the name does."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
