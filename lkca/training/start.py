"""What a training starts from: a new network, its spectral subspace that of the training scenes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.lkcanet import lift, repeat
from lkca.models.subspace import SpectralSubspace
from lkca.nn import LowRankUpsample
from lkca.training.patches import PatchDataset
from lkca_kernels import bicubic_upsample

__all__ = ["Lost", "first_patches", "new_network"]

_PATCHES = 256  # of a run's own, the first: as many samples as a scene of a million pixels at ×4
_LEAST = 1e-30
_FLAT = 1e-6  # of the bands' mean power: what is below is a constant band


def first_patches(patches: PatchDataset) -> Iterator[tuple[Tensor, Tensor]]:
    """The patches of a run that its start is made from."""
    return (patches[number] for number in range(_PATCHES))


@dataclass(frozen=True)
class Lost:
    """What bicubic upsampling misses in sharp patches; all float64.

    mean: spectrum of the patches, (bands,). products: (bands, bands), sum over pixels of band times band of the
    detail. pixels: how many.
    """

    mean: Tensor
    products: Tensor
    pixels: int

    @classmethod
    @torch.no_grad()
    def of(cls, patches: Iterable[tuple[Tensor, Tensor]], degradation: Degradation) -> Lost:
        """patches: (bands, H, W) without NaN, sides multiples of the scale, and their valid pixels, (1, H, W) bool."""
        total, products, pixels = torch.zeros(()), torch.zeros(()), 0
        for sharp, valid in patches:
            detail = _detail(sharp, valid, degradation).flatten(1)
            total = total + sharp[:, valid[0]].sum(1, dtype=torch.float64)
            products = products + detail @ detail.T
            pixels += int(valid.sum())
        return cls(total / max(pixels, 1), products, pixels)

    @property
    def power(self) -> Tensor:
        """Mean square of the detail, (bands,)."""
        return self.products.diagonal() / max(self.pixels, 1)

    @property
    def unit(self) -> Tensor:
        """RMS of the detail, (bands,), float32, for the loss "l2"; of a band without any the bands' mean."""
        mean = self.power.mean().clamp_min(_LEAST)
        return torch.where(self.power > _FLAT * mean, self.power, mean).sqrt().float()


@torch.no_grad()
def new_network(config: LKCANetConfig, lost: Lost, patches: PatchDataset, degradation: Degradation) -> LKCANet:
    """A network that gives bicubic as yet, made from the first patches of a run and torch's random generator alone.

    A shared body behind a projection gets the subspace of what bicubic misses in the patches (fewer components where
    there is no more variance), each component with the s² sub-pixels, or with the strongest combinations of them where
    the rank is lower. Components are scaled to the bands' magnitude; neither map is trainable: a body learns less while
    they move (docs/training.md). Any other network gets the patches' mean spectrum.
    """
    scale = config.scale
    if not (config.shared and config.components):
        net = LKCANet(config).float()
        net.band_mean.copy_(lost.mean)
        return net
    assert config.rank is not None
    space = SpectralSubspace.of_moments(lost.products, lost.power, lost.mean, config.components)
    components, unit = space.synthesis.shape[1], lost.power.mean().clamp_min(_LEAST).sqrt().float()
    per_component = config.rank // config.components
    rank = None if per_component == scale**2 else per_component
    one = LKCANet(replace(config, bands=1, components=None, rank=rank)).float()
    if isinstance(one.upsample, LowRankUpsample):
        nn.init.zeros_(one.upsample.reduce.weight)
        one.upsample.weight.copy_(_subpixels(space, patches, degradation, per_component))
    net = lift(repeat(one, components), space.mean, space.analysis * unit, space.synthesis / unit)
    net.project.requires_grad_(False)
    net.upsample.weight.requires_grad_(False)
    return net


def _detail(sharp: Tensor, valid: Tensor, degradation: Degradation) -> Tensor:
    """(bands, H, W) float64, 0 where not valid."""
    detail = sharp - bicubic_upsample(degradation.apply(sharp)[None], degradation.scale)[0]
    return torch.where(valid, detail, 0).double()


def _subpixels(space: SpectralSubspace, patches: PatchDataset, degradation: Degradation, count: int) -> Tensor:
    """(s², count): the strongest principal patterns of the detail of all components within a coarse pixel."""
    scale = degradation.scale
    products = torch.zeros(scale**2, scale**2).double()
    for sharp, valid in first_patches(patches):
        detail = _detail(sharp, valid, degradation)
        blocks = F.pixel_unshuffle(torch.einsum("kc,chw->khw", space.analysis.double(), detail)[:, None], scale)
        products += torch.einsum("kphw,kqhw->pq", blocks, blocks)
    strongest: Tensor = torch.linalg.eigh(products).eigenvectors.flip(1)[:, :count].float()
    return strongest
