"""An EDSR-style baseline (Lim et al. 2017): residual blocks without normalisation, convolution, pixel shuffle."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["EDSR"]


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class EDSR(nn.Module):
    """(B, bands, h, w), normalised -> (B, bands, s*h, s*w), scale s = 2, 3 or a power of 2.

    As in EDSR the upsampler shuffles feature channels, by 2 at a time (3 for ×3), and a convolution over the fine image
    makes the bands; there is no bicubic skip. ValueError for another scale.
    """

    def __init__(self, bands: int, scale: int, width: int = 64, blocks: int = 8) -> None:
        super().__init__()
        self.head = nn.Conv2d(bands, width, 3, padding=1)
        self.body = nn.Sequential(
            *(_ResidualBlock(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1)
        )
        steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        if scale != 3 and (scale < 2 or 2 ** len(steps) != scale):
            raise ValueError(f"scale: expected 3 or a power of 2, got {scale}")
        stages: list[nn.Module] = []
        for step in steps:
            stages += [nn.Conv2d(width, width * step**2, 3, padding=1), nn.PixelShuffle(step)]
        self.upsample = nn.Sequential(*stages)
        self.tail = nn.Conv2d(width, bands, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(self.upsample(x + self.body(x)))
