"""Singular values of kernels as matrices, what they say about rank, and the factors that a truncation gives.

A kernel (out, in, k, k) is taken as the matrix (out, in·k²): the split in which the k×k convolution makes the few
channels and a 1×1 map spreads them, the cheap one where out is much larger than in (docs/lowrank.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lkca.nn import PixelShuffleUpsample

__all__ = [
    "Factoriser",
    "Moments",
    "Spectrum",
    "break_even_rank",
    "effective_rank",
    "energy_curve",
    "rank_for_energy",
    "singular_values",
    "spectrum",
    "stable_rank",
]


@dataclass(frozen=True)
class Spectrum:
    """Thin SVD u · diag(singular_values) · v of a convolution's kernel as a matrix (out, in·k²).

    u: (out, n), singular_values: (n,) descending, v: (n, in·k²), n = min(out, in·k²); float64.
    """

    u: Tensor
    singular_values: Tensor
    v: Tensor


def spectrum(layer: nn.Conv2d | PixelShuffleUpsample) -> Spectrum:
    """Singular value decomposition of the layer's kernel. TypeError for another kind of layer, ValueError for NaN.

    Of a low-rank layer :func:`singular_values` takes ``merged_weight().flatten(1)``.
    """
    conv = layer.conv if isinstance(layer, PixelShuffleUpsample) else layer
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"layer: expected nn.Conv2d or PixelShuffleUpsample, got {type(layer).__name__}")
    return Spectrum(*torch.linalg.svd(_finite(conv.weight.detach().flatten(1).double()), full_matrices=False))


@dataclass(frozen=True)
class Moments:
    """First and second moments of a layer's inputs x, the patches (in·k²,) that its kernel meets; float64.

    mean: (in·k²,). second: E[x xᵀ], (in·k², in·k²). count: patches seen.
    """

    mean: Tensor
    second: Tensor
    count: int

    @property
    def covariance(self) -> Tensor:
        """E[(x - mean)(x - mean)ᵀ]."""
        return self.second - torch.outer(self.mean, self.mean)


def _finite(matrix: Tensor) -> Tensor:
    if not matrix.isfinite().all():  # LAPACK's own error names neither the matrix nor what to do
        raise ValueError("matrix: holds values that are not finite")
    return matrix


def _root(matrix: Tensor) -> Tensor:
    """L with L Lᵀ = ``matrix``, symmetric and positive up to rounding, slightly raised where it is singular.

    The floor keeps directions that the data never showed: they come last, but a full rank holds them too.
    """
    values, vectors = torch.linalg.eigh(matrix)
    floor = values[-1].clamp_min(torch.finfo(matrix.dtype).tiny) * 1e-10
    result: Tensor = vectors * values.clamp_min(floor).sqrt()
    return result


def singular_values(matrix: Tensor, moments: Moments | None = None, *, centred: bool = True) -> Tensor:
    """Singular values, descending, float64, of ``matrix`` (out, in·k²), or of its outputs where ``moments`` are given.

    With moments Σ = L Lᵀ (the covariance; the second moment if not ``centred``) they are those of matrix · L: their
    squares are the energies of the principal components of the layer's outputs. ValueError for NaN or infinity.
    """
    matrix = _finite(matrix.double())
    if moments is not None:
        matrix = matrix @ _root(moments.covariance if centred else moments.second)
    result: Tensor = torch.linalg.svdvals(matrix)
    return result


def _check_any(values: Tensor) -> None:
    if values.ndim != 1 or not values.numel():
        raise ValueError(f"values: expected singular values (n,), n of at least 1, got shape {tuple(values.shape)}")


def energy_curve(values: Tensor) -> Tensor:
    """Share of the squared norm that the first 1, 2, … n singular values hold; (n,) -> (n,). 1 for a zero kernel.

    Raises ValueError for none.
    """
    _check_any(values)
    energy = values.double().square().cumsum(0)
    return energy / energy[-1] if energy[-1] > 0 else torch.ones_like(energy)


def rank_for_energy(values: Tensor, energy: float) -> int:
    """Smallest rank that holds at least the share ``energy``, 0 < energy <= 1 (else ValueError), of (n,) values."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy: expected a share in (0, 1], got {energy}")
    curve = energy_curve(values)
    return min(int((curve < energy - 1e-12).sum()) + 1, len(curve))


def stable_rank(values: Tensor) -> float:
    """‖W‖_F² / ‖W‖₂² (Rudelson and Vershynin 2007) of (n,) singular values; 0 for a zero kernel.

    Raises ValueError for none.
    """
    _check_any(values)
    squares = values.double().square()
    return float(squares.sum() / squares[0]) if squares[0] > 0 else 0.0


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of the singular values' shares of their sum (Roy and Vetterli 2007); 0 for a zero kernel."""
    total = values.double().sum()
    if total <= 0:
        return 0.0
    shares = values.double() / total
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))


def break_even_rank(rows: int, columns: int) -> int:
    """Largest rank whose factors cost less than the whole kernel: r (in·k² + out) < in·k² · out.

    Raises ValueError for a kernel without rows or columns.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"rows, columns: expected at least 1 of each, got {rows} and {columns}")
    return (rows * columns - 1) // (rows + columns)


@dataclass(frozen=True)
class Factoriser:
    """Best approximations of one kernel matrix at every rank.

    basis: (out, n), n = min(out, in·k²), the leading components first. values: (n,), their singular values, as
    :func:`singular_values`. mean: of the inputs, where a bias is corrected.
    """

    matrix: Tensor
    basis: Tensor
    values: Tensor
    mean: Tensor | None

    @classmethod
    def of(cls, matrix: Tensor, moments: Moments | None = None, *, centred: bool = True) -> Factoriser:
        """Without moments: the SVD of ``matrix``, best in the Frobenius norm (Eckart and Young 1936).

        With moments: what minimises E‖matrix x − left right x − correction‖²: left spans the leading principal
        components U of the outputs, right = Uᵀ matrix, correction = (matrix − left right) mean. Where a bias is not
        wanted (not ``centred``) the same about zero, without correction.
        """
        matrix = matrix.double()
        weighted = matrix if moments is None else matrix @ _root(moments.covariance if centred else moments.second)
        basis, values, _ = torch.linalg.svd(weighted, full_matrices=False)
        return cls(matrix, basis, values, moments.mean if moments is not None and centred else None)

    def at(self, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """left (out, rank), right (rank, in·k²), of equal norms by component, and the bias correction (out,)."""
        basis = self.basis[:, :rank]
        right = basis.T @ self.matrix
        norm = right.norm(dim=1).sqrt()
        scale = torch.where(norm > 0, norm, 1)
        left, right = basis * scale, right / scale[:, None]
        if self.mean is None:
            return left, right, self.matrix.new_zeros(self.matrix.shape[0])
        return left, right, self.matrix @ self.mean - left @ (right @ self.mean)
