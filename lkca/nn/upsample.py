"""Sub-pixel upsampling layers: one full-rank convolution, or its low-rank pair."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lkca_kernels import lowrank_pixel_shuffle, pixel_shuffle_epilogue

__all__ = ["LowRankUpsample", "PixelShuffleUpsample"]


def _share(channels: int, groups: int, name: str) -> int:
    if channels % groups:
        raise ValueError(f"{name}: expected a multiple of shared_groups={groups}, got {channels}")
    return channels // groups


def _in_turn(conv: nn.Conv2d, x: Tensor, groups: int) -> Tensor:
    """``conv`` on each of ``groups`` equal blocks of x's channels, its results side by side."""
    if groups == 1:
        return conv(x)
    batch, _, h, w = x.shape
    return conv(x.reshape(batch * groups, -1, h, w)).reshape(batch, -1, h, w)


def _dense(kernel: Tensor, groups: int) -> Tensor:
    """Kernel (groups·out, groups·in, k, k) of the convolution that ``kernel`` (out, in, k, k) in turn amounts to."""
    eye = torch.eye(groups, dtype=kernel.dtype, device=kernel.device)
    return torch.einsum("gh,oikl->gohikl", eye, kernel).flatten(2, 3).flatten(0, 1)


class PixelShuffleUpsample(nn.Module):
    """k×k convolution to ``out_channels * upscale_factor**2`` channels, then the pixel shuffle (Shi et al. 2016).

    (B, in_channels, h, w) -> (B, out_channels, s*h, s*w). ``gate`` (B, out_channels) scales the result per channel;
    ``skip`` is added to it: an HR tensor, or the LR cube (B, out_channels, h, w), whose bicubic upsampling is added.
    With ``shared_groups`` > 1 one convolution serves so many equal blocks of the channels in turn.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upscale_factor: int,
        kernel_size: int = 3,
        bias: bool = True,
        shared_groups: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.upscale_factor = upscale_factor
        self.shared_groups = shared_groups
        self.conv = nn.Conv2d(
            _share(in_channels, shared_groups, "in_channels"),
            _share(out_channels, shared_groups, "out_channels") * upscale_factor**2,
            kernel_size,
            padding=kernel_size // 2,
            bias=bias,
        )

    def forward(self, x: Tensor, skip: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        y = _in_turn(self.conv, x, self.shared_groups)
        return pixel_shuffle_epilogue(y, gate, skip, upscale_factor=self.upscale_factor)

    def extra_repr(self) -> str:
        return f"out_channels={self.out_channels}, upscale_factor={self.upscale_factor}"


class LowRankUpsample(nn.Module):
    """k×k convolution to ``rank`` channels, then a 1×1 map to ``out_channels * s**2`` fused with the pixel shuffle.

    Takes and gives what :class:`PixelShuffleUpsample` does; its kernel, as an out×(in·k²) matrix, has rank ``rank`` at
    most. weight[c*s² + i*s + j, r] maps rank channel r to sub-pixel (i, j) of output channel c. With ``shared_groups``
    one convolution serves the blocks of the input channels in turn, each giving its share of the rank channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upscale_factor: int,
        rank: int,
        kernel_size: int = 3,
        bias: bool = True,
        shared_groups: int = 1,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank: expected at least 1, got {rank}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.upscale_factor = upscale_factor
        self.rank = rank
        self.shared_groups = shared_groups
        self.reduce = nn.Conv2d(
            _share(in_channels, shared_groups, "in_channels"),
            _share(rank, shared_groups, "rank"),
            kernel_size,
            padding=kernel_size // 2,
            bias=False,
        )
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
        z = _in_turn(self.reduce, x, self.shared_groups)
        return lowrank_pixel_shuffle(z, self.weight, self.bias, gate, skip, upscale_factor=self.upscale_factor)

    def merged_weight(self) -> Tensor:
        """Kernel (out_channels*s², in_channels, k, k) of the one convolution that this layer equals."""
        return torch.einsum("or,rikl->oikl", self.weight, _dense(self.reduce.weight, self.shared_groups))

    def extra_repr(self) -> str:
        return f"out_channels={self.out_channels}, upscale_factor={self.upscale_factor}, rank={self.rank}"
