"""What a training starts from: a new network, its spectral subspace that of the training scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.lkcanet import lift, repeat
from lkca.nn import LowRankUpsample
from lkca.training.data import PatchDataset
from lkca.training.subspace import SpectralSubspace
from lkca_kernels import bicubic_upsample

__all__ = ["new_network"]

_PATCHES = 256  # of a run's own, the first: as many samples as a scene of a million pixels at ×4


@torch.no_grad()
def new_network(config: LKCANetConfig, patches: PatchDataset, degradation: Degradation) -> LKCANet:
    """A network that gives bicubic as yet, made from the first patches of a run and torch's random generator alone.

    A shared body behind a projection gets the subspace of what bicubic misses in the patches (fewer components where
    there is no more variance), each component with the s² sub-pixels, or with the strongest combinations of them where
    the rank is lower. Components are scaled to the bands' magnitude. Any other network gets the patches' mean spectrum.
    """
    scale = config.scale
    total, products = torch.zeros(config.bands).double(), torch.zeros(config.bands, config.bands).double()
    pixels = 0
    for sharp, detail in _details(patches, degradation):
        total += sharp.sum(1)
        products += detail.flatten(1) @ detail.flatten(1).T
        pixels += sharp.shape[1]
    mean, power = total / max(pixels, 1), products.diagonal() / max(pixels, 1)
    if not (config.shared and config.components):
        net = LKCANet(config)
        net.band_mean.copy_(mean)
        return net
    assert config.rank is not None
    space = SpectralSubspace.of_moments(products, power, mean, config.components)
    components, unit = space.synthesis.shape[1], power.mean().sqrt().clamp_min(1e-30).float()
    per_component = config.rank // config.components
    one = LKCANet(replace(config, bands=1, components=None, rank=None if per_component == scale**2 else per_component))
    if isinstance(one.upsample, LowRankUpsample):
        nn.init.zeros_(one.upsample.reduce.weight)
        one.upsample.weight.copy_(_subpixels(space, patches, degradation, per_component))
    return lift(repeat(one, components), space.mean, space.analysis * unit, space.synthesis / unit)


def _details(patches: PatchDataset, degradation: Degradation) -> Iterator[tuple[Tensor, Tensor]]:
    """Valid samples (bands, n), and the detail (bands, H, W) that bicubic misses, 0 where not valid; float64."""
    for number in range(_PATCHES):
        sharp, valid = patches[number]
        detail = sharp - bicubic_upsample(degradation.apply(sharp)[None], degradation.scale)[0]
        yield sharp[:, valid[0]].double(), torch.where(valid, detail, 0).double()


def _subpixels(space: SpectralSubspace, patches: PatchDataset, degradation: Degradation, count: int) -> Tensor:
    """(s², count): the strongest principal patterns of the detail of all components within a coarse pixel."""
    scale = degradation.scale
    products = torch.zeros(scale**2, scale**2).double()
    for _, detail in _details(patches, degradation):
        blocks = F.pixel_unshuffle(torch.einsum("kc,chw->khw", space.analysis.double(), detail)[:, None], scale)
        products += torch.einsum("kphw,kqhw->pq", blocks, blocks)
    strongest: Tensor = torch.linalg.eigh(products).eigenvectors.flip(1)[:, :count].float()
    return strongest
