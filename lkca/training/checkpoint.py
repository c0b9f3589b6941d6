"""States to resume from: written aside, then renamed, so that a kill leaves the old one or the new one, whole.

    RUN/checkpoints/step-00001000/weights.safetensors   live.* and average.*: the network's tensors
                                  state.pt              progress, optimiser, gradient scaler

No random generator's state: patches are a function of the seed and their number, and nothing else draws.

state.pt is read with ``torch.load(weights_only=True)``, which builds tensors, numbers, lists and dictionaries and runs
nothing; safetensors has no place for the optimiser's nested lists.
"""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from lkca.errors import InputError, OutputError
from lkca.training.optimise import Average

__all__ = ["Progressed", "latest_checkpoint", "load_checkpoint", "save_checkpoint"]

_PREFIX, _DIGITS = "step-", 8
_WEIGHTS, _STATE = "weights.safetensors", "state.pt"

# What reading a damaged file raises; of a pickle that is cut short or holds other things, nearly anything.
_DAMAGE = (
    OSError,
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


@dataclass
class Progressed:
    """Where a run stands. step: taken. seconds: spent, over all its parts. best: validation gain in dB of RUN/best,
    taken at best_step. idle: validations since then. data: what it learns from, in words; empty in older states."""

    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    best_step: int = 0
    idle: int = 0
    data: list[str] = field(default_factory=list)


def save_checkpoint(
    folder: Path,
    progressed: Progressed,
    net: nn.Module,
    average: Average,
    optimiser: Optimizer,
    scaler: GradScaler | None,
) -> Path:
    """Write ``folder``/step-N and remove the older ones; a state of this step that is there stays as it is.

    OutputError where the disk is full or not writable.
    """
    final = folder / f"{_PREFIX}{progressed.step:0{_DIGITS}d}"
    if final.is_dir():  # of a run that stops where it was resumed, or right after a state: nothing has changed since
        return final
    aside = folder / f".{final.name}.part"
    weights = {f"live.{k}": v for k, v in net.state_dict().items()}
    weights |= {f"average.{k}": v for k, v in average.state.items()}
    state = {
        "progress": asdict(progressed),
        "optimiser": optimiser.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed while writing
        aside.mkdir(parents=True)
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, aside / _WEIGHTS)
        torch.save(state, aside / _STATE)
        for path in (aside / _WEIGHTS, aside / _STATE):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        aside.rename(final)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OutputError(
            f"{final}: the state could not be written ({error}); free some space, then go on with --resume"
        ) from error
    for old in _complete(folder):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete state in ``folder``, None where there is none."""
    return max(_complete(folder), default=None)


def load_checkpoint(
    path: Path, net: nn.Module, average: Average, optimiser: Optimizer, scaler: GradScaler | None
) -> Progressed:
    """Put a saved state into net, average, optimiser and scaler; returns where it stands.

    InputError where a file is damaged or belongs to another network.
    """
    try:
        weights = load_file(path / _WEIGHTS)
        state = torch.load(path / _STATE, weights_only=True, map_location="cpu")
        net.load_state_dict({k.removeprefix("live."): v for k, v in weights.items() if k.startswith("live.")})
        for name, value in average.state.items():
            value.copy_(weights[f"average.{name}"])
        optimiser.load_state_dict(state["optimiser"])
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        return Progressed(**state["progress"])
    except _DAMAGE as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: is not a state of this run ({detail}); nothing goes on from it: give --overwrite instead of "
            "--resume to begin anew, which replaces best/ too"
        ) from error


def _complete(folder: Path) -> list[Path]:
    return [p for p in folder.glob(f"{_PREFIX}*") if p.is_dir()] if folder.is_dir() else []
