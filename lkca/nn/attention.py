"""Channel attention, global (squeeze and excitation) and local (independent of the image's extent)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.nn.parts import is_plain, keeps_size, rows, sizes
from lkca_kernels import channel_attention, local_channel_attention
from lkca_kernels.arguments import integer
from lkca_kernels.autocasting import autocast
from lkca_kernels.reference import surroundings

__all__ = ["ChannelAttention", "LocalChannelAttention"]

_SQUEEZE_EXCITE_NAMES = {
    "fc1": "fc1",
    "fc2": "fc2",
    "conv_reduce": "fc1",
    "conv_expand": "fc2",
    "conv_du.0": "fc1",
    "conv_du.2": "fc2",
    "attention.1": "fc1",
    "attention.3": "fc2",
    "fc.0": "fc1",
    "fc.2": "fc2",
}


def _hidden(channels: int, reduction: int) -> tuple[int, int]:
    """Channels and hidden channels."""
    channels, reduction = sizes(channels=channels, reduction=reduction)
    return channels, max(1, channels // reduction)


def _as_made(*layers: nn.Module) -> bool:
    return all(is_plain(fc, nn.Conv2d) and keeps_size(fc, (1, 1)) for fc in layers)


def _gated(x: Tensor, gate: Tensor, residual: Tensor | None) -> Tensor:
    return x * gate if residual is None else residual + x * gate


class ChannelAttention(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): x * sigmoid(W2 relu(W1 mean_hw(x) + b1) + b2), (B, C, H, W) -> same.

    ``channels // reduction`` hidden channels, or ``hidden_channels``. ``residual`` (like x) is added to the result. The
    mean runs over the whole image, so a tile's result depends on where the tile was cut; use
    :class:`LocalChannelAttention` where that matters. Raises ValueError for sizes below 1, TypeError where they are no
    integers.

    Loads the weights of the usual squeeze-excite blocks, with 1×1 convolutions or linear layers: torchvision's and
    timm's (``fc1``, ``fc2``; ``conv_reduce``, ``conv_expand``), and sequences such as RCAN's (``conv_du.0``,
    ``conv_du.2``), HAT's (``attention.1``, ``attention.3``) and SENet's (``fc.0``, ``fc.2``).
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        *,
        hidden_channels: int | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        channels, hidden = _hidden(channels, reduction)
        if hidden_channels is not None:
            (hidden,) = sizes(hidden_channels=hidden_channels)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=bias, device=device, dtype=dtype)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """PyTorch's convolution defaults."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if not _as_made(self.fc1, self.fc2):
            x, residual = autocast(x, residual)
            gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
            return _gated(x, gate, residual)
        w1, w2 = rows(self.fc1), rows(self.fc2)
        b1 = w1.new_zeros(w1.shape[0]) if self.fc1.bias is None else self.fc1.bias
        b2 = w2.new_zeros(w2.shape[0]) if self.fc2.bias is None else self.fc2.bias
        return channel_attention(x, w1, b1, w2, b2, residual)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for theirs, ours in _SQUEEZE_EXCITE_NAMES.items():
            for part in ("weight", "bias"):
                value = state_dict.pop(f"{prefix}{theirs}.{part}", None)
                if value is not None:
                    linear = part == "weight" and value.ndim == 2
                    state_dict[f"{prefix}{ours}.{part}"] = value[:, :, None, None] if linear else value
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"channels={self.fc2.out_channels}" if isinstance(self.fc2, nn.Conv2d) else ""


class LocalChannelAttention(nn.Module):
    """Channel gates from a fixed window around each pixel, the same in training and over a whole scene.

    a = mean over ``window``×``window`` pixels of |x| (pixels inside the image only), (B, C, H, W);
    gate = 2 sigmoid(W2 relu(W1 a/ā)), ā the mean of a over the channels; result x * gate.
    ``residual`` (like x) is added to it. The ratio a/ā makes the gates independent of the signal's scale. W2 starts at
    zero: every gate is 1. Computed by :func:`lkca_kernels.local_channel_attention`. Raises ValueError for an even
    window and sizes below 1, TypeError where they are no integers.
    """

    def __init__(
        self,
        channels: int,
        window: int = 9,
        reduction: int = 4,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        window = integer("window", window)
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window: expected an odd number, got {window}")
        self.window = window
        channels, hidden = _hidden(channels, reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False, device=device, dtype=dtype)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.fc2.weight)

    def reset_parameters(self) -> None:
        """PyTorch's default for W1, zero for W2."""
        self.fc1.reset_parameters()
        nn.init.zeros_(self.fc2.weight)

    @property
    def halo(self) -> int:
        """Pixels on each side that a result depends on."""
        return self.window // 2

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if not (_as_made(self.fc1, self.fc2) and self.fc1.bias is self.fc2.bias is None):
            x, residual = autocast(x, residual)
            if not x.numel():  # convolutions refuse an image without pixels
                return x if residual is None else residual + x
            ratio = surroundings(x, self.window).to(x.dtype)
            gate = 2 * torch.sigmoid(self.fc2(F.relu(self.fc1(ratio))))
            return _gated(x, gate, residual)
        w1, w2 = rows(self.fc1), rows(self.fc2)
        return local_channel_attention(x, w1, w2, residual, window=self.window)

    def extra_repr(self) -> str:
        channels = f"channels={self.fc2.out_channels}, " if isinstance(self.fc2, nn.Conv2d) else ""
        return f"{channels}window={self.window}"
