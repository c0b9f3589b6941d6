"""The large-kernel block of LKCA-Net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lkca.nn.attention import LocalChannelAttention

__all__ = ["LargeKernelBlock"]


class LargeKernelBlock(nn.Module):
    """Large depthwise kernel, pointwise expansion, local channel attention, residual; (B, C, H, W) -> same.

    x + CA(P2 relu(P1 D(x))): D is a ``kernel_size``² depthwise convolution, P1 and P2 are 1×1 convolutions to
    ``expansion * channels`` and back, CA is :class:`~lkca.nn.LocalChannelAttention` (left out with ``window=0``).
    No bias anywhere: the block is positively homogeneous, block(a x) = a block(x) for a > 0.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        expansion: int = 2,
        window: int = 9,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}")
        hidden = expansion * channels
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.depthwise = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False, **kind
        )
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False, **kind)
        self.activation = nn.ReLU()
        self.contract = nn.Conv2d(hidden, channels, 1, bias=False, **kind)
        self.attention = LocalChannelAttention(channels, window, **kind) if window else nn.Identity()
        self._near_identity()

    @torch.no_grad()
    def _near_identity(self) -> None:
        """A small branch whose large kernel hardly blurs yet: depth starts harmless (docs/model.md)."""
        nn.init.normal_(self.contract.weight, std=0.2 / self.contract.in_channels**0.5)
        kernel = self.depthwise.weight.mul_(0.1)
        kernel[..., kernel.shape[2] // 2, kernel.shape[3] // 2] += 1

    def reset_parameters(self) -> None:
        """A fresh start, for a block that was made on the meta device."""
        self.depthwise.reset_parameters()
        self.expand.reset_parameters()
        self._near_identity()
        if isinstance(self.attention, LocalChannelAttention):
            self.attention.reset_parameters()

    @property
    def halo(self) -> int:
        """Pixels on each side that a result depends on."""
        attention = self.attention.halo if isinstance(self.attention, LocalChannelAttention) else 0
        return self.depthwise.kernel_size[0] // 2 + attention

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.contract(self.activation(self.expand(self.depthwise(x))))
        if isinstance(self.attention, LocalChannelAttention):
            result: Tensor = self.attention(y, residual=x)
            return result
        return x + y

    def extra_repr(self) -> str:
        return f"channels={self.depthwise.in_channels}, kernel_size={self.depthwise.kernel_size[0]}"
