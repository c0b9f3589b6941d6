"""What is certain to fail at the end is refused at the start."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lkca.errors import InputError

__all__ = ["check_output"]


def check_output(
    path: str | os.PathLike[str], *, overwrite: bool, inputs: Iterable[str | os.PathLike[str]] = ()
) -> None:
    """Raises InputError where ``path`` is an input, a directory, exists without ``overwrite``, or has no folder.

    ``inputs`` may carry a '::variable' suffix. Permission is asked of the folder, so that a long computation does
    not end in a refusal.
    """
    path = Path(path)
    for source in inputs:
        file = Path(str(source).partition("::")[0])
        try:
            same = os.path.samefile(path, file)
        except OSError:
            same = path.absolute() == file.absolute()
        if same:
            raise InputError(f"{path}: is the input itself; choose another name for the output")
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give the name of a file")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path}: exists; give --overwrite to replace it or choose another name")
    parent = path.absolute().parent
    if not parent.is_dir():
        state = "is not a directory" if parent.exists() else "does not exist"
        raise InputError(f"{path}: the folder {parent} {state}; create it or choose another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in {parent}; choose another folder")
