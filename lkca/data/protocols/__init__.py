"""The field's data sets, made from the user's own downloads: crop, peak, splits. docs/protocols.md has the sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lkca.choices import Protocol
from lkca.data.protocols.cave import write_cave
from lkca.data.protocols.dataset import DatasetWriter, PreparedDataset, SceneEntry, open_dataset, write_dataset
from lkca.data.protocols.scene import CHIKUSEI, HOUSTON2018, PAVIA
from lkca.errors import InputError

__all__ = ["PROTOCOLS", "PreparedDataset", "SceneEntry", "open_dataset", "prepare"]

PROTOCOLS: dict[Protocol, Callable[[DatasetWriter, Path], None]] = {
    "chikusei": CHIKUSEI.write,
    "houston2018": HOUSTON2018.write,
    "pavia": PAVIA.write,
    "cave": write_cave,
}


def prepare(
    name: Protocol,
    root: Path,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> PreparedDataset:
    """Make the data set ``name`` of :data:`PROTOCOLS` from the files under ``root``; returns what was written.

    Holds one strip of 64 rows at a time. Raises InputError for an unknown name, and where a file is missing, has
    another shape, or does not look like an image in the protocol's layout; nothing stands under ``output`` then.
    """
    if name not in PROTOCOLS:
        raise InputError(f"there is no data set '{name}'; there are {', '.join(PROTOCOLS)}")
    with write_dataset(output, overwrite=overwrite, progress=progress) as writer:
        PROTOCOLS[name](writer, root)
    return open_dataset(output)
