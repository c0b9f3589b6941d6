"""Small models in the layouts of well-known super-resolution networks, and forms of results, for these tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EdsrLike(nn.Module):
    """Sequential[conv, shuffle] twice, as SwinIR, HAT, RCAN and EDSR build it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(6, 24, 3, 1, 1), nn.PixelShuffle(2), nn.Conv2d(6, 24, 3, 1, 1), nn.PixelShuffle(2)
        )
        self.tail = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.upsample(F.relu(self.head(x))))


class SwinLightLike(nn.Module):
    """One direct Sequential subclass, conv -> shuffle, as SwinIR-light and SAFMN."""

    class Upsample(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(6, 3 * 16, 3, 1, 1), nn.PixelShuffle(4))

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.upsample = self.Upsample()

    def forward(self, x: Tensor) -> Tensor:
        y = self.upsample(F.gelu(self.head(F.pad(x, (0, 2, 0, 1), "reflect"))))
        return y[:, :, : 4 * x.shape[2], : 4 * x.shape[3]]


class CompactLike(nn.Module):
    """The convolution ends the body, shuffle and nearest skip are elsewhere, as in SRVGGNetCompact."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(3, 6, 3, 1, 1), nn.PReLU(6), nn.Conv2d(6, 3 * 4, 3, 1, 1)])
        self.upsampler = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.body:
            out = layer(out)
        out = self.upsampler(out)
        out += F.interpolate(x, scale_factor=2, mode="nearest")
        return out


class PlksrLike(nn.Module):
    """A sum between convolution and shuffle, as in PLKSR."""

    def __init__(self) -> None:
        super().__init__()
        self.feats = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.Mish(), nn.Conv2d(6, 3 * 4, 3, 1, 1))
        self.to_img = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_img(self.feats(x) + torch.repeat_interleave(x, repeats=4, dim=1))


class CropLike(nn.Module):
    """A crop between convolution and shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 3 * 9, 3, padding=2)
        self.shuffle = nn.PixelShuffle(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.last(x)[:, :, 1:-1, 1:-1])


class EdvrLike(nn.Module):
    """Separate attributes, one shuffle called for both, activation after, as in MSRResNet and EDVR."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 1, 1)
        self.upconv1 = nn.Conv2d(6, 24, 3, 1, 1)
        self.upconv2 = nn.Conv2d(6, 24, 3, 1, 1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(6, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.lrelu(self.first(x))
        out = self.lrelu(self.pixel_shuffle(self.upconv1(out)))
        out = self.lrelu(self.pixel_shuffle(self.upconv2(out)))
        return self.last(out)


class FunctionalLike(nn.Module):
    """``F.pixel_shuffle`` in forward, behind a branch that symbolic tracing cannot follow; a 1×1 kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 1, 1)
        self.up = nn.Conv2d(6, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if y.abs().max() > 0:
            y = F.relu(y)
        return F.pixel_shuffle(self.up(y), 2)


class ReshapeLike(nn.Module):
    """The shuffle written as reshape and permutation."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, 12, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        b, c, h, w = y.shape
        return y.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)


class OddConvLike(nn.Module):
    """Stride, reflected padding, dilation and a kernel that is no square, all kept."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Conv2d(3, 12, (3, 5), stride=(2, 1), padding=(2, 4), dilation=2, padding_mode="reflect", bias=False),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x)


class GateLike(nn.Module):
    """A squeeze-excite gate over the convolution's output, before the shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, 12, 3, 1, 1)
        self.squeeze = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        return F.pixel_shuffle(y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True))), 2)


# layout -> (layers that can be factorised, those of them whose shuffle goes into the same pass)
LAYOUTS: dict[Callable[[], nn.Module], tuple[set[str], set[str]]] = {
    EdsrLike: ({"upsample.0", "upsample.2"}, {"upsample.0", "upsample.2"}),
    SwinLightLike: ({"upsample.0"}, {"upsample.0"}),
    CompactLike: ({"body.2"}, {"body.2"}),
    PlksrLike: ({"feats.2"}, set()),
    CropLike: ({"last"}, set()),
    EdvrLike: ({"upconv1", "upconv2"}, {"upconv1", "upconv2"}),
    FunctionalLike: ({"up"}, set()),
    ReshapeLike: ({"up"}, set()),
    OddConvLike: ({"up.0"}, {"up.0"}),
    GateLike: ({"up"}, set()),
}


def make(kind: Callable[[], nn.Module]) -> nn.Module:
    """Always of the same weights."""
    torch.manual_seed(0)
    return kind()


@dataclasses.dataclass
class Result:
    image: Tensor
    scale: int = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    image: Tensor
