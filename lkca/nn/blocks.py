"""The large-kernel block of LKCA-Net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lkca.nn.attention import LocalChannelAttention
from lkca.nn.parts import is_plain, keeps_size, rows, sizes
from lkca_kernels import large_kernel_branch

__all__ = ["LargeKernelBlock"]

_PARTS = (nn.Conv2d, nn.Conv2d, nn.ReLU, nn.Conv2d)


class LargeKernelBlock(nn.Module):
    """Large depthwise kernel, pointwise expansion, local channel attention, residual; (B, C, H, W) -> same.

    x + CA(P2 relu(P1 D(x))): D is a ``kernel_size``² depthwise convolution, P1 and P2 are 1×1 convolutions to
    ``expansion * channels`` and back, CA is :class:`~lkca.nn.LocalChannelAttention` (left out with ``window=0``).
    No bias anywhere: the block is positively homogeneous, block(a x) = a block(x) for a > 0. Computed by
    :func:`lkca_kernels.large_kernel_branch`. Raises ValueError for an even kernel or window and other sizes below 1,
    TypeError where they are no integers.
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
        channels, kernel_size, expansion = sizes(channels=channels, kernel_size=kernel_size, expansion=expansion)
        if kernel_size % 2 == 0:
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
        attended = isinstance(self.attention, LocalChannelAttention)
        y = self._branch(x, None if attended else x)
        if not attended:
            return y
        result: Tensor = self.attention(y, residual=x)
        return result

    def _branch(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """P2 relu(P1 D(x)) + residual; step by step where a part has been replaced, or is listened to by a hook."""
        if self._is_as_made():
            depthwise = rows(self.depthwise).view(self.depthwise.weight.shape)
            return large_kernel_branch(x, depthwise, rows(self.expand), rows(self.contract), residual)
        y: Tensor = self.contract(self.activation(self.expand(self.depthwise(x))))
        return y if residual is None else residual + y

    def _is_as_made(self) -> bool:
        depthwise, expand, _, contract = parts = self.depthwise, self.expand, self.activation, self.contract
        return (
            all(is_plain(part, kind) for part, kind in zip(parts, _PARTS, strict=True))
            and depthwise.bias is expand.bias is contract.bias is None
            and keeps_size(depthwise, depthwise.kernel_size, depthwise.in_channels)
            and keeps_size(expand, (1, 1))
            and keeps_size(contract, (1, 1))
        )

    def extra_repr(self) -> str:
        return f"channels={self.depthwise.in_channels}" if isinstance(self.depthwise, nn.Conv2d) else ""
