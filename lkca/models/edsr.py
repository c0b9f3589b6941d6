"""An EDSR-style baseline (Lim et al. 2017): residual blocks without normalisation, convolution, pixel shuffle."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lkca.nn import PixelShuffleUpsample

__all__ = ["EDSR"]


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


class EDSR(nn.Module):
    """(B, bands, h, w), normalised -> (B, bands, s*h, s*w).

    As published (``upsampler="features"``) feature channels are shuffled, by 2 at a time (3 for ×3), a convolution over
    the fine image makes the bands, and there is no bicubic skip; ValueError for a scale s other than 3 and powers of 2.
    With ``upsampler="bands"`` the upsampler is LKCA-Net's: one convolution to bands·s² channels, which starts at zero,
    pixel shuffle, bicubic skip; any s >= 2.
    """

    def __init__(
        self,
        bands: int,
        scale: int,
        width: int = 64,
        blocks: int = 8,
        upsampler: Literal["features", "bands"] = "features",
    ) -> None:
        super().__init__()
        if upsampler not in ("features", "bands"):
            raise ValueError(f"upsampler: expected features or bands, got {upsampler!r}")
        self.head = nn.Conv2d(bands, width, 3, padding=1)
        self.body = nn.Sequential(
            *(_ResidualBlock(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1)
        )
        self.upsample: nn.Module
        self.tail: nn.Module | None = None
        if upsampler == "bands":
            self.upsample = PixelShuffleUpsample(width, bands, scale, bias=False)
            nn.init.zeros_(self.upsample.conv.weight)
            return
        steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        if scale != 3 and (scale < 2 or 2 ** len(steps) != scale):
            raise ValueError(f"scale: expected 3 or a power of 2, got {scale}")
        stages: list[nn.Module] = []
        for step in steps:
            stages += [nn.Conv2d(width, width * step**2, 3, padding=1), nn.PixelShuffle(step)]
        self.upsample = nn.Sequential(*stages)
        self.tail = nn.Conv2d(width, bands, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        features = shallow + self.body(shallow)
        upscaled: Tensor
        upscaled = self.upsample(features, skip=x) if self.tail is None else self.tail(self.upsample(features))
        return upscaled
