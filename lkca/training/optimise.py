"""What every training shares: the optimiser, the learning rate's course, the average of the weights, the CPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lkca.errors import InputError

__all__ = ["Average", "DivergedError", "adamw", "check_loss", "cpu_by_default", "rate_factor", "set_rate", "unchanged"]


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over what is trainable; vectors and scalars are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))


def rate_factor(position: float, step: int, warmup: int) -> float:
    """Share of the peak learning rate: linear over the first ``warmup`` steps, times half a cosine over position 0..1.

    step: steps taken before this one.
    """
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * position))


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def cpu_by_default() -> AbstractContextManager[Any]:
    """Inside, tensors are made on the CPU whatever ``torch.set_default_device`` says; free where that is the CPU."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


class DivergedError(InputError):
    """A loss that is not finite."""


def unchanged(module: nn.Module, start: Mapping[str, Tensor]) -> bool:
    """Whether the module's state is still that of the start: nothing was learned."""
    return all(torch.equal(value, start[name]) for name, value in module.state_dict().items())


def check_loss(value: float, step: int) -> None:
    """DivergedError for a loss that is not finite: no later step heals the weights."""
    if not math.isfinite(value):
        raise DivergedError(
            f"step {step}: the loss is {value}; look for samples far beyond all others, such as an undeclared nodata "
            "value, or begin anew with a lower learning rate"
        )


class Average:
    """Exponential moving average of a module's weights and buffers (Polyak averaging), kept beside it.

    What cannot be averaged holds its latest value: counters, infinities in what is not trained, state that is no
    tensor. decay: share of the old average that a step keeps. ramp: steps over which it forgets its start faster,
    min(decay, n / (n + ramp)) being kept at step n.
    """

    def __init__(self, module: nn.Module, decay: float, ramp: int = 10) -> None:
        self.decay, self.ramp = decay, ramp
        self.state: dict[str, Any] = module.state_dict()
        for name, value in self.state.items():
            self.state[name] = _own(_wide(value))
        weights = module.named_parameters(remove_duplicate=False)
        self._weights = {name for name, weight in weights if weight.requires_grad} & self.state.keys()

    @property
    def finite(self) -> bool:
        """Whether all trained weights are; what else there is need not be, such as the infinities of a mask."""
        return all(bool(self.state[name].isfinite().all()) for name in self._weights)

    @torch.no_grad()
    def update(self, module: nn.Module, steps: int) -> None:
        """Take in the module's state after its ``steps``-th step."""
        keep = min(self.decay, steps / (steps + self.ramp))
        for name, value in module.state_dict().items():
            value = _wide(value)
            if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
                self.state[name] = _own(value)
            elif name in self._weights:
                self.state[name].lerp_(value, 1 - keep)
            else:
                mixed = self.state[name].lerp(value, 1 - keep)
                self.state[name] = torch.where(mixed.isfinite(), mixed, value)

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """The module holds the average within the context, and its own state again afterwards."""
        live = copy.deepcopy(module.state_dict())
        module.load_state_dict(self.state)
        try:
            yield
        finally:
            module.load_state_dict(live)


def _wide(value: Any) -> Any:
    """16 bits as float32, lest the small part of a step be rounded away; what is loaded takes the module's own type."""
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value


def _own(value: Any) -> Any:
    """A copy of an entry of a state_dict, one by one: a deep copy of all keeps the storage that tied weights share."""
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
