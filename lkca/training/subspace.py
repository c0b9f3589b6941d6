"""The few spectral components in which a scene's lost detail lives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SpectralSubspace"]


@dataclass(frozen=True)
class SpectralSubspace:
    """components = analysis · (x - mean), x ≈ mean + synthesis · components.

    mean: (bands,). analysis: (K, bands). synthesis: (bands, K), with analysis · synthesis = 1.
    """

    mean: Tensor
    analysis: Tensor
    synthesis: Tensor

    @classmethod
    def of(cls, detail: Tensor, mean: Tensor, components: int) -> SpectralSubspace:
        """Principal components of ``detail`` (bands, pixels), what bicubic misses, each band divided by its RMS.

        In these weighted bands the squared error is the first-order change of the bands' mean PSNR, and the components
        are orthonormal, so a sum of squares over components is what a network over components should minimise. A band
        without detail (constant) is left out.
        """
        rms = detail.double().square().mean(1).sqrt()
        floor = 1e-3 * rms.median().clamp_min(torch.finfo(torch.float32).tiny)
        weight = torch.where(rms > floor, 1 / rms.clamp_min(floor), 0)
        weighted = detail.double() * weight[:, None]
        _, vectors = torch.linalg.eigh(weighted @ weighted.T)
        basis = vectors.flip(1)[:, :components]  # largest eigenvalue first
        basis = basis * torch.where(basis.sum(0) < 0, -1.0, 1.0)  # a sign that does not depend on the LAPACK in use
        return cls(mean.float(), (basis.T * weight).float(), (basis * rms[:, None]).float())

    def encode(self, cube: Tensor) -> Tensor:
        """(bands, H, W) -> (K, H, W)."""
        return torch.einsum("kc,chw->khw", self.analysis, cube - self.mean[:, None, None])

    def decode_detail(self, detail: Tensor) -> Tensor:
        """(K, H, W), a difference of components -> (bands, H, W)."""
        return torch.einsum("ck,khw->chw", self.synthesis, detail)
