"""Where the channels of a convolution lie in memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

__all__ = ["channels_last"]

M = TypeVar("M", bound=nn.Module)


def channels_last(module: M) -> M:
    """The module with channels-last kernels, which a CPU prefers: depthwise gradients are about three times faster."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module
