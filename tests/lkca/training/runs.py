"""A tiny scene, a configuration, a run of the trainer, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from lkca.config import validated
from lkca.data import Cube, CubeMeta
from lkca.training.checkpoint import latest_checkpoint
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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Live and averaged weights of a run's last checkpoint."""
    path = latest_checkpoint(folder / "checkpoints")
    assert path is not None
    return load_file(path / "weights.safetensors")


def worst(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference over all tensors, in units of the tensor's largest entry."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max() / one[k].abs().max().clamp_min(1e-9)) for k in one)
