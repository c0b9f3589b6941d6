"""Sub-pixel upsampling layers: one full-rank convolution, or its low-rank pair."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.nn.parts import sizes
from lkca_kernels import lowrank_pixel_shuffle, pixel_shuffle_epilogue
from lkca_kernels.arguments import integer
from lkca_kernels.memory_format import memory_format_of

__all__ = ["FusedShuffle", "LowRankConv2d", "LowRankUpsample", "PixelShuffleUpsample"]

Pair = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, Integral) else (value[0], value[1])  # type: ignore[index]


def _same_padding(kernel_size: Pair, dilation: Pair) -> tuple[int, int]:
    """Zeros on each side that keep the size of an image under an odd kernel."""
    (kh, kw), (dh, dw) = _pair(kernel_size), _pair(dilation)
    return dh * (kh // 2), dw * (kw // 2)


def _share(channels: int, groups: int, name: str) -> int:
    if channels % groups:
        raise ValueError(f"{name}: expected a multiple of shared_groups={groups}, got {channels}")
    return channels // groups


def _checked_sizes(upscale_factor: int, **given: int) -> tuple[int, ...]:
    """All of them as Python's integers."""
    if isinstance(upscale_factor, bool) or not isinstance(upscale_factor, Integral) or upscale_factor < 2:
        raise ValueError(f"upscale_factor: expected an integer of at least 2, got {upscale_factor!r}")
    return int(upscale_factor), *sizes(**given)


def in_turn(conv: nn.Conv2d, x: Tensor, groups: int) -> Tensor:
    """``conv`` on each of ``groups`` equal blocks of x's channels, its results side by side."""
    if x.ndim != 4:
        raise ValueError(f"x: expected 4 dimensions (B, in_channels, h, w), got {tuple(x.shape)}")
    if groups == 1:
        result: Tensor = conv(x)
        return result
    batch, _, h, w = x.shape
    y = conv(x.reshape(batch * groups, x.shape[1] // groups, h, w))
    pixels: Tensor = y.reshape(batch, groups * y.shape[1], *y.shape[2:])
    return pixels


def _dense(kernel: Tensor, groups: int) -> Tensor:
    """Kernel (groups·out, groups·in, k, k) of the convolution that ``kernel`` (out, in, k, k) in turn amounts to."""
    eye = torch.eye(groups, dtype=kernel.dtype, device=kernel.device)
    return torch.einsum("gh,oikl->gohikl", eye, kernel).flatten(2, 3).flatten(0, 1)


class FusedShuffle(nn.Identity):
    """Stands where a pixel shuffle stood that the layer before it now does; :func:`lkca.lowrank.merge` undoes it."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = integer("upscale_factor", upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelShuffleUpsample(nn.Module):
    """k×k convolution to ``out_channels * upscale_factor**2`` channels, then the pixel shuffle (Shi et al. 2016).

    (B, in_channels, h, w) -> (B, out_channels, s*h, s*w). ``gate`` (B, out_channels) scales the result per channel;
    ``skip`` is added to it: an HR tensor, or the LR cube (B, out_channels, h, w), whose bicubic upsampling is added.
    ``out``: contiguous tensor for the result, while no gradient is needed. The result is contiguous; without the three,
    that of a channels_last network is channels_last, and PyTorch's own shuffle makes it.
    stride, padding, dilation, bias, padding_mode, device and dtype are those of ``nn.Conv2d``; by default the padding
    keeps the image's size under an odd kernel. With ``shared_groups`` > 1 one convolution serves so many equal blocks
    of the channels in turn. Loads the weights of a plain ``nn.Conv2d`` (keys ``weight``, ``bias``) too. Raises
    ValueError for sizes below 1, a factor below 2, channels that ``shared_groups`` does not divide, and an input of
    other dimensions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upscale_factor: int,
        kernel_size: Pair = 3,
        *,
        stride: Pair = 1,
        padding: Pair | str | None = None,
        dilation: Pair = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        shared_groups: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        upscale_factor, in_channels, out_channels, shared_groups = _checked_sizes(
            upscale_factor, in_channels=in_channels, out_channels=out_channels, shared_groups=shared_groups
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.upscale_factor = upscale_factor
        self.shared_groups = shared_groups
        self.shuffle_apart = False  # whether lkca.lowrank.merge gives back a convolution and a shuffle of their own
        self.conv = nn.Conv2d(
            _share(in_channels, shared_groups, "in_channels"),
            _share(out_channels, shared_groups, "out_channels") * upscale_factor**2,
            kernel_size,
            stride=stride,
            padding=_same_padding(kernel_size, dilation) if padding is None else padding,
            dilation=dilation,
            bias=bias,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )

    def reset_parameters(self) -> None:
        """PyTorch's convolution defaults."""
        self.conv.reset_parameters()

    def forward(
        self, x: Tensor, *, gate: Tensor | None = None, skip: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        y = in_turn(self.conv, x, self.shared_groups)
        if gate is skip is out is None and memory_format_of(y) is torch.channels_last:
            return F.pixel_shuffle(y, self.upscale_factor)  # keeps the layout, which the operator turns
        return pixel_shuffle_epilogue(y, gate, skip, upscale_factor=self.upscale_factor, out=out)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("weight", "bias"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}conv.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        shared = f", shared_groups={self.shared_groups}" if self.shared_groups > 1 else ""
        return f"out_channels={self.out_channels}, upscale_factor={self.upscale_factor}{shared}"


class _LowRank(nn.Module):
    """The two factors: ``reduce``, a k×k convolution to the rank, and ``weight`` (out, rank) with ``bias`` (out,)."""

    def __init__(self, reduce: nn.Conv2d, out: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.rank = rank
        self.reduce = reduce
        self.weight = nn.Parameter(torch.empty(out, rank, device=reduce.weight.device, dtype=reduce.weight.dtype))
        self.bias = nn.Parameter(self.weight.new_empty(out)) if bias else None
        self._reset_last_factor()

    def _expand(self, z: Tensor) -> Tensor:
        """The second factor as a 1×1 convolution."""
        return F.conv2d(z, self.weight[:, :, None, None], self.bias)

    def _reset_last_factor(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.rank)
            nn.init.uniform_(self.bias, -bound, bound)

    def reset_parameters(self) -> None:
        """PyTorch's convolution defaults for both factors."""
        self.reduce.reset_parameters()
        self._reset_last_factor()


class LowRankConv2d(_LowRank):
    """k×k convolution to ``rank`` channels, then a 1×1 convolution to ``out_channels``: ``nn.Conv2d`` of low rank.

    (B, in_channels, H, W) -> (B, out_channels, H', W'); the arguments are those of ``nn.Conv2d``. Stands in for an
    upsampling convolution whose pixel shuffle comes later in the model; where it follows at once,
    :class:`LowRankUpsample` does both in one pass. The two classes share their parameters' names and shapes. Raises
    ValueError for sizes below 1, TypeError where they are no integers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        rank: int,
        *,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_channels, out_channels, rank = sizes(in_channels=in_channels, out_channels=out_channels, rank=rank)
        reduce = nn.Conv2d(
            in_channels,
            rank,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=False,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        super().__init__(reduce, out_channels, rank, bias)
        self.in_channels = in_channels
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self._expand(self.reduce(x))

    def merged_weight(self) -> Tensor:
        """Kernel (out_channels, in_channels, k, k) of the one convolution that this layer equals."""
        return torch.einsum("or,rikl->oikl", self.weight, self.reduce.weight)

    def extra_repr(self) -> str:
        return f"out_channels={self.out_channels}, rank={self.rank}"


class LowRankUpsample(_LowRank):
    """k×k convolution to ``rank`` channels, then a 1×1 map to ``out_channels * s**2`` fused with the pixel shuffle.

    Takes and gives what :class:`PixelShuffleUpsample` does, with the same arguments; its kernel, as an out×(in·k²)
    matrix, has rank ``rank`` at most. weight[c*s² + i*s + j, r] maps rank channel r to sub-pixel (i, j) of output
    channel c. With ``shared_groups`` one convolution serves the blocks of the input channels in turn, each giving its
    share of the rank channels.

    The result is contiguous in a channels_last network too: as its last layer that is fastest. Before another
    convolution, which would turn it, set the attribute ``keeps_layout`` to True (:func:`lkca.lowrank.factorize` does):
    without gate, skip and ``out`` the result is channels_last then, by PyTorch's own shuffle.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upscale_factor: int,
        rank: int,
        kernel_size: Pair = 3,
        *,
        stride: Pair = 1,
        padding: Pair | str | None = None,
        dilation: Pair = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        shared_groups: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        upscale_factor, in_channels, out_channels, rank, shared_groups = _checked_sizes(
            upscale_factor, in_channels=in_channels, out_channels=out_channels, rank=rank, shared_groups=shared_groups
        )
        reduce = nn.Conv2d(
            _share(in_channels, shared_groups, "in_channels"),
            _share(rank, shared_groups, "rank"),
            kernel_size,
            stride=stride,
            padding=_same_padding(kernel_size, dilation) if padding is None else padding,
            dilation=dilation,
            bias=False,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        super().__init__(reduce, out_channels * upscale_factor**2, rank, bias)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.upscale_factor = upscale_factor
        self.shared_groups = shared_groups
        self.shuffle_apart = False  # as in PixelShuffleUpsample
        self.keeps_layout = False

    def forward(
        self, x: Tensor, *, gate: Tensor | None = None, skip: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        z = in_turn(self.reduce, x, self.shared_groups)
        if self.keeps_layout and gate is skip is out is None and memory_format_of(z) is torch.channels_last:
            return F.pixel_shuffle(self._expand(z), self.upscale_factor)
        return lowrank_pixel_shuffle(z, self.weight, self.bias, gate, skip, upscale_factor=self.upscale_factor, out=out)

    def merged_weight(self) -> Tensor:
        """Kernel (out_channels*s², in_channels, k, k) of the one convolution that this layer equals."""
        return torch.einsum("or,rikl->oikl", self.weight, _dense(self.reduce.weight, self.shared_groups))

    def extra_repr(self) -> str:
        shared = f", shared_groups={self.shared_groups}" if self.shared_groups > 1 else ""
        return f"out_channels={self.out_channels}, upscale_factor={self.upscale_factor}, rank={self.rank}{shared}"
