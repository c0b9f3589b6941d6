"""SVD of an LKCA-Net's upsampling layer: its spectrum, and the low-rank network that starts from the truncation."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lkca.models import LKCANet
from lkca.nn import LowRankUpsample, PixelShuffleUpsample
from lkca.nn.upsample import dense_kernel

__all__ = ["Spectrum", "energy_curve", "factorize", "rank_for_energy", "spectrum"]


@dataclass(frozen=True)
class Spectrum:
    """Thin SVD u · diag(singular_values) · v of a kernel as matrices (out, in·k²), one for each group of inputs.

    u: (groups, out, n), singular_values: (groups, n) descending, v: (groups, n, in·k²), n = min(out, in·k²).
    """

    u: Tensor
    singular_values: Tensor
    v: Tensor


def spectrum(layer: PixelShuffleUpsample, groups: int = 1) -> Spectrum:
    """Singular value decomposition of the layer's kernel, its input channels split into ``groups``."""
    kernel = dense_kernel(layer.conv).detach().unflatten(1, (groups, -1))  # (out, groups, in/groups, k, k)
    u, s, v = torch.linalg.svd(kernel.transpose(0, 1).flatten(2).double(), full_matrices=False)
    return Spectrum(u, s, v)


def energy_curve(singular_values: Tensor) -> Tensor:
    """Share of the squared norm that the first 1, 2, … n singular values of all groups hold; (groups, n) -> (n,).

    1 everywhere for a zero kernel.
    """
    energy = singular_values.double().square().sum(0).cumsum(0)
    return energy / energy[-1] if energy[-1] > 0 else torch.ones_like(energy)


def rank_for_energy(singular_values: Tensor, energy: float) -> int:
    """Smallest rank per group that holds at least the share ``energy`` (0 < energy <= 1)."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy: expected a share in (0, 1], got {energy}")
    curve = energy_curve(singular_values)
    return min(int((curve < energy - 1e-12).sum()) + 1, len(curve))


@torch.no_grad()
def factorize(model: LKCANet, *, rank: int | None = None, energy: float | None = None) -> LKCANet:
    """A copy of a full-rank ``model`` whose upsampler is the truncated SVD of the original's; exact at full rank.

    Give either ``rank`` (in all; a multiple of the network's groups, each of which is factorised by itself) or
    ``energy``, the share of the kernel's squared norm to keep. Both factors carry the square root of the singular
    values. ValueError for a model that is low-rank already.
    """
    layer = model.upsample
    if not isinstance(layer, PixelShuffleUpsample):
        raise ValueError(f"model: its upsampler has rank {layer.rank} already; factorise the full-rank network")
    if (rank is None) == (energy is None):
        raise ValueError("give either rank or energy")
    groups = model.config.groups
    parts = spectrum(layer, groups)
    available = parts.singular_values.shape[1]
    if energy is not None:
        per_group = rank_for_energy(parts.singular_values, energy)
    else:
        assert rank is not None
        if rank < 1 or rank % groups:
            raise ValueError(f"rank: expected a positive multiple of the {groups} groups, got {rank}")
        per_group = min(rank // groups, available)

    root = parts.singular_values[:, :per_group].sqrt()
    left = parts.u[:, :, :per_group] * root[:, None]  # (groups, out, rank/groups)
    right = root[:, :, None] * parts.v[:, :per_group]
    config = replace(model.config, rank=groups * per_group)
    student = LKCANet(config).to(layer.conv.weight)
    state = {k: v for k, v in copy.deepcopy(model.state_dict()).items() if not k.startswith("upsample.")}
    student.load_state_dict(state, strict=False)
    upsample = student.upsample
    assert isinstance(upsample, LowRankUpsample)
    upsample.reduce.weight.copy_(right.reshape(upsample.reduce.weight.shape))
    upsample.weight.copy_(left.transpose(0, 1).flatten(1))
    return student.train(model.training)
