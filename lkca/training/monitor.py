"""TensorBoard: scalars of a run, and pictures of one validation scene."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lkca.errors import InputError
from lkca.training.validation import Restored
from lkca.visual import Composite

__all__ = ["Monitor", "summary_writer"]


def summary_writer() -> Any:
    """TensorBoard's writer; InputError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("TensorBoard is not installed; pip install 'lkca[train]', or set tensorboard=false") from error
    return SummaryWriter


class Monitor:
    """Writes event files into ``folder``; with ``folder`` None it writes nothing.

    start: step that is resumed from; later entries of an earlier process are hidden. InputError where TensorBoard is
    not installed.
    """

    def __init__(self, folder: Path | None, *, start: int = 0, wavelengths: list[float] | None = None) -> None:
        self._writer: Any = None
        self._wavelengths = None if wavelengths is None else np.asarray(wavelengths)
        if folder is None:
            return
        self._writer = summary_writer()(str(folder), purge_step=start + 1 if start else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step, by name."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, scene: Restored) -> None:
        """Bicubic, ours and truth side by side, in the colours of the truth."""
        if self._writer is not None:
            truth = scene.sharp.numpy()
            look = Composite.of(truth, self._wavelengths)
            row = np.concatenate([look.render(x) for x in (scene.bicubic.numpy(), scene.ours.numpy(), truth)], axis=1)
            self._writer.add_image("bicubic, ours, truth", row, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
