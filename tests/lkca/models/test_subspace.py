"""The subspace of a scene's lost detail: there and back, and what its weights mean."""

from __future__ import annotations

import torch

from lkca.models.subspace import SpectralSubspace


def test_subspace_round_trip_and_weighting() -> None:
    torch.manual_seed(0)
    coefficients = torch.randn(2, 500) * torch.tensor([[3.0], [1.0]])
    mixing = torch.randn(6, 2) * torch.tensor([1.0, 100, 1, 1, 0.01, 0])[:, None]
    detail, mean = mixing @ coefficients, torch.rand(6) + 0.1
    detail[5] = 1e-8 * torch.randn(500)  # a constant band, whose bicubic upsampling is rounded
    space = SpectralSubspace.of(detail, mean, 2)
    assert not space.analysis[:, 5].any() and (space.analysis @ mean > 0).all()
    torch.testing.assert_close(space.analysis @ space.synthesis, torch.eye(2), atol=1e-4, rtol=0)
    encoded = space.encode((detail + mean[:, None])[:, :, None])
    torch.testing.assert_close(space.decode_detail(encoded)[:, :, 0], detail, atol=1e-3, rtol=1e-3)
    # squared error over components is the sum over bands of MSE / what bicubic leaves
    error = torch.randn(2, 40)
    weighted = (space.synthesis @ error)[:5].square().mean(1) / detail[:5].square().mean(1)
    torch.testing.assert_close(error.square().sum(0).mean(), weighted.sum(), rtol=1e-3, atol=0)


def test_no_more_components_than_have_variance_and_one_at_least() -> None:
    torch.manual_seed(0)
    detail, mean = torch.randn(6, 2) @ (torch.randn(2, 500) * torch.tensor([[1.0], [0.01]])), torch.rand(6)
    assert SpectralSubspace.of(detail, mean, 5).synthesis.shape == (6, 2)
    assert SpectralSubspace.of(detail, mean, 1).synthesis.shape == (6, 1)
    assert SpectralSubspace.of(torch.zeros(6, 500), mean, 5).synthesis.shape == (6, 1)


def test_rounding_is_measured_against_the_size_of_a_bands_values() -> None:
    """1e-4 is detail beside values of 1, and nothing beside those of -1000."""
    torch.manual_seed(0)
    detail = 1e-4 * torch.randn(2, 500)
    space = SpectralSubspace.of(detail, torch.tensor([1.0, -1000.0]), 2)
    assert space.analysis.shape == (1, 2) and space.analysis[0, 0] != 0 and space.analysis[0, 1] == 0
