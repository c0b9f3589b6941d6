"""Train and eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model is in eval mode within the context; afterwards each of its modules is in its own mode again.

    By its own ``train()``, for layers that act on a change (LoRA's merge their weights for inference).
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:  # parents first: their train() turns their children's
            if module.training is not mode:
                module.train(mode)
                module.training = mode  # a train() may leave it (a part that is frozen for good)
