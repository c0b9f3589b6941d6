"""Sub-pixel upsampling layers: one full-rank convolution, or its low-rank pair."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lkca_kernels import lowrank_pixel_shuffle, pixel_shuffle_epilogue

__all__ = ["LowRankUpsample", "PixelShuffleUpsample", "dense_kernel"]


def dense_kernel(conv: nn.Conv2d) -> Tensor:
    """Kernel (out, in, k, k) of the ungrouped convolution that ``conv`` equals."""
    if conv.groups == 1:
        return conv.weight
    blocks = conv.weight.unflatten(0, (conv.groups, -1))  # (groups, out/groups, in/groups, k, k)
    eye = torch.eye(conv.groups, dtype=blocks.dtype, device=blocks.device)
    return torch.einsum("goikl,gh->gohikl", blocks, eye).flatten(2, 3).flatten(0, 1)


class PixelShuffleUpsample(nn.Module):
    """k×k convolution to ``out_channels * upscale_factor**2`` channels, then the pixel shuffle (Shi et al. 2016).

    (B, in_channels, h, w) -> (B, out_channels, s*h, s*w). ``gate`` (B, out_channels) scales the result per channel;
    ``skip`` is added to it: an HR tensor, or the LR cube (B, out_channels, h, w), whose bicubic upsampling is added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upscale_factor: int,
        kernel_size: int = 3,
        bias: bool = True,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.upscale_factor = upscale_factor
        self.conv = nn.Conv2d(
            in_channels,
            out_channels * upscale_factor**2,
            kernel_size,
            padding=kernel_size // 2,
            bias=bias,
            groups=groups,
        )

    def forward(self, x: Tensor, skip: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        return pixel_shuffle_epilogue(self.conv(x), gate, skip, upscale_factor=self.upscale_factor)

    def extra_repr(self) -> str:
        return f"out_channels={self.out_channels}, upscale_factor={self.upscale_factor}"


class LowRankUpsample(nn.Module):
    """k×k convolution to ``rank`` channels, then a 1×1 map to ``out_channels * s**2`` fused with the pixel shuffle.

    Takes and gives what :class:`PixelShuffleUpsample` does; its kernel, as an out×(in·k²) matrix, has rank ``rank`` at
    most. weight[c*s² + i*s + j, r] maps rank channel r to sub-pixel (i, j) of output channel c.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upscale_factor: int,
        rank: int,
        kernel_size: int = 3,
        bias: bool = True,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank: expected at least 1, got {rank}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.upscale_factor = upscale_factor
        self.rank = rank
        self.reduce = nn.Conv2d(in_channels, rank, kernel_size, padding=kernel_size // 2, bias=False, groups=groups)
        self.weight = nn.Parameter(torch.empty(out_channels * upscale_factor**2, rank))
        self.bias = nn.Parameter(torch.empty(out_channels * upscale_factor**2)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's convolution defaults for both factors."""
        self.reduce.reset_parameters()
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.rank)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, skip: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        return lowrank_pixel_shuffle(
            self.reduce(x), self.weight, self.bias, gate, skip, upscale_factor=self.upscale_factor
        )

    def merged_weight(self) -> Tensor:
        """Kernel (out_channels*s², in_channels, k, k) of the one convolution that this layer equals."""
        return torch.einsum("or,rikl->oikl", self.weight, dense_kernel(self.reduce))

    def extra_repr(self) -> str:
        return f"out_channels={self.out_channels}, upscale_factor={self.upscale_factor}, rank={self.rank}"
