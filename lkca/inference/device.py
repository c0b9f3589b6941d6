"""The device that a network runs on: which one, and how much of its memory a tile may take."""

from __future__ import annotations

import os

import torch

from lkca.errors import InputError

__all__ = ["card_memory", "resolve_device"]

_CARD_SHARE = 0.8  # of its free memory


def resolve_device(name: str) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``; InputError where that is not here."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = os.environ.get("LOCAL_RANK", "0")  # of the processes that torchrun starts, each has a GPU
        return torch.device("cuda", int(local) % torch.cuda.device_count() if local.isdigit() else 0)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"the device '{name}' is unknown; choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"the device '{name}' is not supported; choose auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(
            f"the device '{name}' is not here (torch sees {count} CUDA devices); use cpu, 'lkca doctor' says more"
        )
    return device


def card_memory(device: torch.device) -> int | None:
    """Bytes that a tile may take on that card; None where the device is the CPU."""
    return int(_CARD_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None
