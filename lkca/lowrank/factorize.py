"""SVD of an LKCA-Net's upsampling layer: its spectrum, and the low-rank network that starts from the truncation."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lkca.models import LKCANet
from lkca.nn import LowRankUpsample, PixelShuffleUpsample

__all__ = ["Spectrum", "energy_curve", "factorize", "rank_for_energy", "spectrum"]


@dataclass(frozen=True)
class Spectrum:
    """Thin SVD u · diag(singular_values) · v of a convolution's kernel as a matrix (out, in·k²).

    u: (out, n), singular_values: (n,) descending, v: (n, in·k²), n = min(out, in·k²); float64.
    """

    u: Tensor
    singular_values: Tensor
    v: Tensor


def spectrum(layer: PixelShuffleUpsample) -> Spectrum:
    """Singular value decomposition of the layer's kernel."""
    return Spectrum(*torch.linalg.svd(layer.conv.weight.detach().flatten(1).double(), full_matrices=False))


def energy_curve(singular_values: Tensor) -> Tensor:
    """Share of the squared norm that the first 1, 2, … n singular values hold; (n,) -> (n,). 1 for a zero kernel."""
    energy = singular_values.double().square().cumsum(0)
    return energy / energy[-1] if energy[-1] > 0 else torch.ones_like(energy)


def rank_for_energy(singular_values: Tensor, energy: float) -> int:
    """Smallest rank that holds at least the share ``energy`` (0 < energy <= 1)."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy: expected a share in (0, 1], got {energy}")
    curve = energy_curve(singular_values)
    return min(int((curve < energy - 1e-12).sum()) + 1, len(curve))


@torch.no_grad()
def factorize(model: LKCANet, *, rank: int | None = None, energy: float | None = None) -> LKCANet:
    """A copy of a full-rank ``model`` whose upsampler is the truncated SVD of the original's; exact at full rank.

    Give either ``rank`` or ``energy``, the share of the kernel's squared norm to keep. A shared convolution is
    factorised once, and ``rank`` is that of all its groups together, a multiple of them. Both factors carry the square
    root of the singular values. ValueError for a model that is low-rank already.
    """
    layer = model.upsample
    if not isinstance(layer, PixelShuffleUpsample):
        raise ValueError(f"model: its upsampler has rank {layer.rank} already; factorise the full-rank network")
    if (rank is None) == (energy is None):
        raise ValueError("give either rank or energy")
    groups = layer.shared_groups
    parts = spectrum(layer)
    if energy is not None:
        kept = rank_for_energy(parts.singular_values, energy)
    else:
        assert rank is not None
        if rank < 1 or rank % groups:
            raise ValueError(f"rank: expected a positive multiple of the {groups} groups, got {rank}")
        kept = min(rank // groups, len(parts.singular_values))
    root = parts.singular_values[:kept].sqrt()
    config = replace(model.config, rank=groups * kept)
    student = LKCANet(config).to(layer.conv.weight)
    state = {k: v for k, v in copy.deepcopy(model.state_dict()).items() if not k.startswith("upsample.")}
    student.load_state_dict(state, strict=False)
    upsample = student.upsample
    assert isinstance(upsample, LowRankUpsample)
    upsample.reduce.weight.copy_((root[:, None] * parts.v[:kept]).reshape(upsample.reduce.weight.shape))
    upsample.weight.copy_(torch.block_diag(*[parts.u[:, :kept] * root] * groups))
    return student.train(model.training)
