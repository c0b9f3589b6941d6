"""A tiny scene, a configuration and a run of the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lkca.config import validated
from lkca.data import Cube, CubeMeta
from lkca.training.config import TrainConfig
from lkca.training.trainer import TrainResult, train

BANDS, STEPS = 5, 12


def scene(rows: int, cols: int, seed: int) -> Cube:
    """Sharp-edged patches of a few spectra, uint16."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (rows // 5 + 1, cols // 4 + 1)), np.ones((5, 4), int))[:rows, :cols]
    spectra = np.random.default_rng(99).integers(300, 4000, (4, BANDS))
    meta = CubeMeta(wavelengths=np.linspace(450, 850, BANDS), stored_dtype=np.dtype(np.uint16))
    return Cube.from_array(spectra[labels].transpose(2, 0, 1).astype(np.uint16), meta, source=f"scene {seed}")


def settings(dataset: Path, **changes: Any) -> dict[str, Any]:
    return {
        "scale": 2,
        "data": {"dataset": str(dataset)},
        "model": {"preset": "tiny", "width": 6, "blocks": 1},
        "loss": {"l1": 1.0, "l2": 0.01, "sam": 0.3, "gradient": 0.1},
        "steps": STEPS,
        "batch": 4,
        "patch": 8,
        "warmup": 3,
        "lr": 5e-3,
        "ema": 0.8,
        "validate_every": 4,
        "checkpoint_every": 3,
        "tensorboard": False,
        "device": "cpu",
    } | changes


def run(folder: Path, values: dict[str, Any], **how: Any) -> TrainResult:
    return train(validated(TrainConfig, values, "test"), folder, **how)
