"""Channel attention, global (squeeze and excitation) and local (independent of the image's extent)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca_kernels import channel_attention

__all__ = ["ChannelAttention", "LocalChannelAttention"]


class ChannelAttention(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): x * sigmoid(W2 relu(W1 mean_hw(x) + b1) + b2), (B, C, H, W) -> same.

    The mean runs over the whole image, so a tile's result depends on where the tile was cut; use
    :class:`LocalChannelAttention` where that matters.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        w1, w2 = self.fc1.weight.flatten(1), self.fc2.weight.flatten(1)
        assert self.fc1.bias is not None and self.fc2.bias is not None
        return channel_attention(x, w1, self.fc1.bias, w2, self.fc2.bias, residual)


class LocalChannelAttention(nn.Module):
    """Channel gates from a fixed window around each pixel, the same in training and over a whole scene.

    a = mean over ``window``×``window`` pixels of |x| (pixels inside the image only), (B, C, H, W);
    gate = 2 sigmoid(W2 relu(W1 a/ā)), ā the mean of a over the channels; result x * gate.
    The ratio a/ā makes the gates independent of the signal's scale. W2 starts at zero: every gate is 1.
    """

    def __init__(self, channels: int, window: int = 9, reduction: int = 4) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window: expected an odd number, got {window}")
        self.window = window
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)
        nn.init.zeros_(self.fc2.weight)

    @property
    def halo(self) -> int:
        """Pixels on each side that a result depends on."""
        return self.window // 2

    def forward(self, x: Tensor) -> Tensor:
        magnitude = x.abs()
        # W1 and the window's mean commute: pooling the few hidden channels is the cheaper order
        pooled = torch.cat([self.fc1(magnitude), magnitude.mean(1, keepdim=True)], 1)
        pooled = F.avg_pool2d(pooled, self.window, stride=1, padding=self.window // 2, count_include_pad=False)
        hidden = pooled[:, :-1] / (pooled[:, -1:] + torch.finfo(x.dtype).tiny ** 0.5)
        return x * (2 * torch.sigmoid(self.fc2(F.relu(hidden))))

    def extra_repr(self) -> str:
        return f"window={self.window}"
