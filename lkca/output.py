"""Outputs: what is certain to fail at the end is refused at the start, and a file is whole or not there."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lkca.errors import InputError, OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "alone_in",
    "check_folder",
    "check_name",
    "check_output",
    "check_picture",
    "check_utf8",
    "save_figure",
    "written_aside",
]

_PICTURES = (".png", ".pdf", ".svg")
_ASIDE = "..lkca-part.00000000.begin"  # what the longest name beside an output has more than it, for a while
# Folders that this process is alone in: a lock of its own would let its other threads in, and be lost by their end.
_OURS: set[Path] = set()
_OURS_GUARD = threading.Lock()


def check_utf8(path: Path) -> None:
    """InputError for a name that is not UTF-8: GDAL, and the metadata of results, hold nothing else."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        try:
            os.fsencode(path).decode()
        except UnicodeError:
            raise InputError(f"{path}: its name is not UTF-8; rename it") from error
        raise InputError(f"{path}: its name cannot be read in this locale; set LC_ALL=C.UTF-8") from error


def check_name(path: Path) -> None:
    """InputError where the file system cannot hold the name, or those of the files that are written aside for it, or
    where it is not UTF-8."""
    check_utf8(path)
    try:
        os.lstat(path.with_name(path.name + _ASIDE))
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{path}: is too long a name; give the output a shorter one") from error
    except ValueError:  # "." and the like, which are directories
        pass


def check_output(
    path: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[str | os.PathLike[str]] = ()
) -> None:
    """Raises InputError where ``path`` is an input, a directory, too long, exists without ``overwrite``, has no folder.

    inputs may carry a '::variable' suffix. A link that leads nowhere exists too: it would be replaced. Permission is
    asked of the folder, where the output is written aside and renamed, so that a long computation does not end in a
    refusal.
    """
    path = Path(path)
    check_name(path)
    if any(_same_file(path, Path(os.fspath(item).partition("::")[0])) for item in inputs):
        raise InputError(f"{path}: is an input of the same command; choose another name for the output")
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give the name of a file")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path}: exists already; give --overwrite to replace it or choose another name")
    check_folder(path)


def check_folder(path: Path) -> None:
    """InputError where there is no folder for a file or directory of that name, or none that may be written to."""
    parent = path.absolute().parent
    if not parent.is_dir():
        state = "is not a directory" if parent.exists() else "does not exist"
        raise InputError(f"{path}: the folder {parent} {state}; create it or choose another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in {parent}; choose another folder")


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` when the block ends, and goes where the block fails.

    Raises OutputError for an OSError of the block or of the renaming.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            yield aside
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error


def check_picture(path: str | os.PathLike[str]) -> None:
    """InputError, before any work, for a name that is no picture's: PNG, PDF or SVG."""
    if Path(path).suffix.lower() not in _PICTURES:
        raise InputError(f"{path}: is no picture's name; end it in one of {', '.join(_PICTURES)}")


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 120) -> None:
    """Write a figure by :func:`written_aside`; the suffix is the format. InputError as :func:`check_picture`."""
    path = Path(path)
    check_picture(path)
    with written_aside(path) as aside:
        figure.savefig(aside, format=path.suffix.lower().lstrip("."), dpi=dpi)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """The folder is this caller's until the block ends, or the process does, however that comes.

    Raises InputError where another process, or another thread of this one, is in it, OutputError where the lock's file
    cannot be made.
    """
    place = folder.resolve()
    with _OURS_GUARD:
        if place in _OURS:
            raise InputError(f"{folder}: another run of this process is at work in it; wait, or name another folder")
        _OURS.add(place)
    try:
        with _locked(folder):
            yield
    finally:
        _OURS.discard(place)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """As :func:`alone_in`, against other processes: the lock is the operating system's (``folder/.lock``, which stays,
    is empty). Where there are no such locks nothing is guarded."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock's: forked processes would keep it
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise InputError(f"{folder}: another process is at work in it; wait, or name another folder") from error
        yield
    finally:
        os.close(descriptor)


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return first.absolute() == second.absolute()
