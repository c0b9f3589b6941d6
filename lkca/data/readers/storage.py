"""What an HDF5 dataset claims against what its file can hold, before any of it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from lkca.data.memory import check_memory
from lkca.data.readers.chunks import chunk_bytes
from lkca.errors import InputError

__all__ = ["MAX_COMPANION", "MAX_RATIO", "check_storage", "is_small"]

MAX_RATIO = 100_000  # claimed bytes per byte of file; the best compressors reach some thousands
MAX_COMPANION = 65536  # entries; what stands beside a cube (wavelengths, sizes, coordinates) is never longer
_MAX_COMPANION_CHUNK = 2**24  # bytes


def check_storage(dataset: h5py.Dataset, file: Path, source: str) -> None:
    """InputError for a dataset that was declared and never filled, claims what no compression could hold, has chunks
    that do not fit into memory, or keeps its samples in other files."""
    if dataset.is_virtual or dataset.external:
        raise InputError(
            f"{source}: keeps its samples in other files, which are not followed; copy it into one file and open that"
        )
    claimed, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if stored == 0 or claimed > MAX_RATIO * file.stat().st_size:
        raise InputError(
            f"{source}: claims {'x'.join(map(str, dataset.shape))} samples ({claimed} bytes), but holds {stored} bytes "
            "of data; it is incomplete or damaged"
        )
    # HDF5 unpacks a whole chunk for any sample of it
    check_memory(chunk_bytes(dataset), f"{source}: each of its chunks", "store it in smaller chunks (h5repack)")


def is_small(node: Any) -> bool:
    """Whether a node is a dataset of the file itself that costs little to read whole."""
    return (
        isinstance(node, h5py.Dataset)
        and node.shape is not None
        and 0 < node.size <= MAX_COMPANION
        and not node.is_virtual
        and not node.external
        and node.dtype.itemsize * node.size <= _MAX_COMPANION_CHUNK
        and chunk_bytes(node) <= _MAX_COMPANION_CHUNK
    )
