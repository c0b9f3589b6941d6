"""The few spectral components in which a scene's lost detail lives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SpectralSubspace"]

_NO_DETAIL = 1e-6  # of a band's mean: less is float32's rounding in a constant band
_LEAST = 1e-30  # and less has no reciprocal in float32
_NO_VARIANCE = 1e-9  # of all components' variance: what is left of rounding


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
        """Of ``detail`` (bands, pixels), what bicubic misses; see :meth:`of_moments`."""
        detail = detail.double()
        return cls.of_moments(detail @ detail.T, detail.square().mean(1), mean, components)

    @classmethod
    def of_moments(cls, products: Tensor, power: Tensor, mean: Tensor, components: int) -> SpectralSubspace:
        """Principal components of what bicubic misses, each band divided by its RMS.

        products: (bands, bands), the detail's sum over pixels of band times band. power: (bands,), its mean square.
        In these weighted bands the squared error is the first-order change of the bands' mean PSNR, and the components
        are orthonormal, so a sum of squares over components is what a network over components should minimise. A band
        without detail (constant) is left out. Fewer components where there is no more variance, at least one.
        """
        rms = power.double().sqrt()
        floor = (_NO_DETAIL * mean.double().abs()).clamp_min(_LEAST)
        weight = torch.where(rms > floor, 1 / rms.clamp_min(floor), 0)
        values, vectors = torch.linalg.eigh(products.double() * weight * weight[:, None])
        count = max(1, min(components, int((values > _NO_VARIANCE * values.sum()).sum())))
        basis = vectors.flip(1)[:, :count]  # largest eigenvalue first
        analysis = basis.T * weight
        # A sign that depends neither on the LAPACK in use nor on the order of the bands: brighter is more.
        sign = torch.where(analysis @ mean.double() < 0, -1.0, 1.0).double()
        return cls(mean.float(), (sign[:, None] * analysis).float(), (basis * sign * rms[:, None]).float())

    def encode(self, cube: Tensor) -> Tensor:
        """(bands, H, W) -> (K, H, W)."""
        return torch.einsum("kc,chw->khw", self.analysis, cube - self.mean[:, None, None])

    def decode_detail(self, detail: Tensor) -> Tensor:
        """(K, H, W), a difference of components -> (bands, H, W)."""
        return torch.einsum("ck,khw->chw", self.synthesis, detail)
