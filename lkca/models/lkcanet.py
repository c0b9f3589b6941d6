"""LKCA-Net: I_SR = H_UP(F_N) + Bicubic↑s(I_LR), F_N = LKB_N(…LKB_1(F_0)), F_0 = Conv3×3(I_LR). docs/model.md."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from lkca.config import knob
from lkca.nn import LargeKernelBlock, LowRankUpsample, PixelShuffleUpsample

__all__ = ["PRESETS", "LKCANet", "LKCANetConfig", "lift", "repeat"]

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"components": 6, "width": 24, "blocks": 2, "attended": 1},
    "base": {"components": 8, "width": 32, "blocks": 4, "attended": 1},
    "large": {"components": 12, "width": 48, "blocks": 6, "attended": 1},
}
"""Fields of :class:`LKCANetConfig` by the name of a size; the body is one that spectral components share."""

_STUDENT = 5  # rank channels for each component (docs/model.md)
_BICUBIC_REACH = 2


@dataclass(frozen=True)
class LKCANetConfig:
    """What an :class:`LKCANet` is made of: each field says its meaning. ValueError for values that make no network.

    None: of components, the input is not projected; of rank, the full-rank upsampler; of attended, all blocks. If
    shared, F_N has width × components channels, and the rank is a multiple of the components, at most components ×
    scale². Where the input is projected too, that is the full rank (docs/model.md), and None means it.
    """

    bands: int = knob(MISSING, "Spectral bands of input and output.")
    scale: int = knob(MISSING, "Integer factor of at least 2.")
    width: int = knob(32, "Feature channels.")
    blocks: int = knob(3, "Large-kernel blocks.")
    kernel_size: int = knob(7, "Side of the depthwise kernels, odd.")
    expansion: int = knob(2, "Hidden channels of a block, as a multiple of the width.")
    window: int = knob(9, "Side of the attention's window, odd; 0: no attention.")
    components: int | None = knob(None, "Spectral components that a 1×1 convolution projects the input onto first.")
    shared: bool = knob(
        False,
        "One body, and one convolution of the upsampler, serve every component (or band) in turn; else all components "
        "enter one body together.",
    )
    rank: int | None = knob(None, "Of the upsampler's factors.")
    attended: int | None = knob(None, "At most so many blocks have attention, counted from the last one back.")

    def __post_init__(self) -> None:
        if not isinstance(self.shared, bool):
            raise ValueError(f"shared: expected True or False, got {self.shared!r}")
        for name, least in (("bands", 1), ("scale", 2), ("width", 1), ("blocks", 0), ("expansion", 1)):
            _at_least(name, getattr(self, name), least)
        for name in ("components", "rank"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        _at_least("kernel_size", self.kernel_size, 1)
        _at_least("window", self.window, 0)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, got {self.kernel_size}")
        if self.window and self.window % 2 == 0:
            raise ValueError(f"window: expected 0 or an odd number, got {self.window}")
        if self.attended is not None:
            _at_least("attended", self.attended, 0)
        full = self.groups * self.scale**2
        if self.shared and self.components is not None and self.rank is None:
            object.__setattr__(self, "rank", full)
        if self.shared and self.rank is not None and (self.rank % self.groups or self.rank > full):
            raise ValueError(
                f"rank: a shared body needs a multiple of its {self.groups} groups, up to {full}, got {self.rank}"
            )

    @classmethod
    def preset(cls, name: str, *, bands: int, scale: int, **changes: Any) -> LKCANetConfig:
        """The named size ("tiny", "base", "large") for these bands and scale; ``changes`` override fields.

        No more components than bands.
        """
        if name not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {name!r}")
        size = PRESETS[name] | {"components": min(PRESETS[name]["components"], bands)}
        return cls(bands=bands, scale=scale, **{"shared": True, **size, **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LKCANetConfig:
        """The configuration that ``dataclasses.asdict`` gave; ValueError names unknown or missing keys."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"network configuration: unknown keys {', '.join(unknown)}")
        if missing := sorted({"bands", "scale"} - set(values)):
            raise ValueError(f"network configuration: missing keys {', '.join(missing)}")
        return cls(**values)

    @property
    def groups(self) -> int:
        """How often the body runs per image: once, or for every component."""
        return (self.components or self.bands) if self.shared else 1

    @property
    def windows(self) -> list[int]:
        """Side of the attention's window, block by block; 0 where there is none."""
        attended = self.blocks if self.attended is None else min(self.attended, self.blocks)
        return [0] * (self.blocks - attended) + [self.window] * attended

    @property
    def student_rank(self) -> int:
        """Of a shared body: the rank that a student of this size is given where no number is asked for."""
        return self.groups * min(_STUDENT, self.scale**2)


def _at_least(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")


class LKCANet(nn.Module):
    """(B, bands, h, w), normalised, any h, w >= 1 -> (B, bands, s*h, s*w); floating dtypes.

    A new network's output is exactly the bicubic upsampling of its input (Keys, a = -0.5, symmetric border).
    Every output pixel depends on input pixels at most :attr:`halo` away from the one it lies in, and on nothing else.
    """

    band_mean: Tensor

    def __init__(self, config: LKCANetConfig) -> None:
        super().__init__()
        self.config = config
        inputs = config.components or config.bands
        self.register_buffer("band_mean", torch.zeros(config.bands))
        self.project = nn.Identity() if config.components is None else nn.Conv2d(config.bands, inputs, 1, bias=False)
        self.head = nn.Conv2d(1 if config.shared else inputs, config.width, 3, padding=1, bias=False)
        self.body = nn.Sequential(
            *(LargeKernelBlock(config.width, config.kernel_size, config.expansion, window) for window in config.windows)
        )
        channels, groups = config.groups * config.width, config.groups
        self.upsample: PixelShuffleUpsample | LowRankUpsample
        if config.rank is None:
            self.upsample = PixelShuffleUpsample(channels, config.bands, config.scale, bias=False, shared_groups=groups)
            nn.init.zeros_(self.upsample.conv.weight)
        else:
            self.upsample = LowRankUpsample(
                channels, config.bands, config.scale, config.rank, bias=False, shared_groups=groups
            )
            nn.init.zeros_(self.upsample.weight)

    @property
    def halo(self) -> int:
        """Receptive-field radius in low-resolution pixels: a tile padded by this much gives the scene's own result."""
        blocks = sum(block.halo for block in self.body if isinstance(block, LargeKernelBlock))
        return max(_BICUBIC_REACH, 2 + blocks)

    def features(self, x: Tensor) -> Tensor:
        """F_N: (B, bands, h, w) -> (B, width × groups, h, w)."""
        features = self.backbone(self.grouped(x))
        # Sizes in full: of an empty batch -1 cannot be told.
        return features.reshape(x.shape[0], self.config.groups * self.config.width, *x.shape[2:])

    def grouped(self, x: Tensor) -> Tensor:
        """What the body sees of (B, bands, h, w): (B × groups, channels of its input, h, w)."""
        if x.ndim != 4 or x.shape[1] != self.config.bands:
            raise ValueError(f"x: expected (B, {self.config.bands}, h, w), got {tuple(x.shape)}")
        x = self.project(x - self.band_mean[:, None, None])
        return x.reshape(x.shape[0] * x.shape[1], 1, *x.shape[2:]) if self.config.shared else x

    def backbone(self, x: Tensor) -> Tensor:
        """F_N of what :meth:`grouped` gave, or of a part of it: (N, channels, h, w) -> (N, width, h, w)."""
        shallow = self.head(x)
        result: Tensor = shallow + self.body(shallow)
        return result

    def residual(self, x: Tensor) -> Tensor:
        """What the network adds to bicubic upsampling, (B, bands, s*h, s*w)."""
        result: Tensor = self.upsample(self.features(x))
        return result

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.upsample(self.features(x), skip=x)
        return result


@torch.no_grad()
def repeat(net: LKCANet, components: int) -> LKCANet:
    """The network over ``components`` channels that does to each what the one-channel, shared ``net`` does."""
    if net.config.bands != 1 or not net.config.shared or net.config.components is not None:
        raise ValueError(f"net: expected a network with a shared body over one band, got {net.config}")
    rank = net.config.rank and components * net.config.rank
    wide = LKCANet(replace(net.config, bands=components, rank=rank)).to(net.head.weight)
    wide.head.load_state_dict(net.head.state_dict())
    wide.body.load_state_dict(net.body.state_dict())
    wide.band_mean.fill_(net.band_mean.item())
    old, new = net.upsample, wide.upsample
    if isinstance(old, LowRankUpsample) and isinstance(new, LowRankUpsample):
        new.reduce.load_state_dict(old.reduce.state_dict())
        new.weight.copy_(torch.block_diag(*[old.weight] * components))
    else:
        new.load_state_dict(old.state_dict())
    return wide.train(net.training)


@torch.no_grad()
def lift(net: LKCANet, mean: Tensor, analysis: Tensor, synthesis: Tensor) -> LKCANet:
    """The network over bands that equals ``net``, a network over spectral components, between two linear maps.

    lifted(x) = Bicubic↑s(x) + synthesis · net.residual(analysis · (x - mean)), exactly: ``analysis`` (K, bands) becomes
    the projection, ``synthesis`` (bands, K) is multiplied into the upsampler's last factor. mean: (bands,).
    """
    bands, components = synthesis.shape
    if net.config.components is not None or net.config.bands != components:
        raise ValueError(f"net: expected a network over {components} components, got {net.config}")
    config = replace(net.config, bands=bands, components=components)
    lifted = LKCANet(config).to(synthesis)
    lifted.head.load_state_dict(net.head.state_dict())
    lifted.body.load_state_dict(net.body.state_dict())
    lifted.band_mean.copy_(mean)
    assert isinstance(lifted.project, nn.Conv2d)
    lifted.project.weight.copy_(analysis[:, :, None, None])
    old, new = net.upsample, lifted.upsample
    if isinstance(new, PixelShuffleUpsample):
        assert isinstance(old, PixelShuffleUpsample)
        new.conv.weight.copy_(_expand(synthesis, old.conv.weight))
    elif isinstance(old, PixelShuffleUpsample):  # of a shared body: its channels, one by one, are the rank's
        new.reduce.load_state_dict(old.conv.state_dict())
        new.weight.copy_(_expand(synthesis, torch.eye(new.rank).to(synthesis)))
    else:
        new.reduce.load_state_dict(old.reduce.state_dict())
        new.weight.copy_(_expand(synthesis, old.weight))
    return lifted.train(net.training)


def _expand(synthesis: Tensor, weight: Tensor) -> Tensor:
    """Rows for (component, phase) -> rows for (band, phase)."""
    return torch.einsum("ck,kp...->cp...", synthesis, weight.unflatten(0, (synthesis.shape[1], -1))).flatten(0, 1)
