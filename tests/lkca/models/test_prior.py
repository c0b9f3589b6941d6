from __future__ import annotations

import numpy as np
import torch

from lkca.data.degradation import degrade
from lkca.models.prior import shipped_prior
from lkca_kernels import bicubic_upsample


def edges(size: int = 96) -> torch.Tensor:
    """Straight edges at many angles: what every scene has."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    for _ in range(30):
        angle, offset = rng.random() * np.pi, rng.normal() * size / 3
        side = (rows - size / 2) * np.cos(angle) + (cols - size / 2) * np.sin(angle) > offset
        image += rng.normal() * side
    return torch.from_numpy(image.astype(np.float32))[None, None]


def test_the_shipped_prior_restores_edges_at_each_of_its_scales() -> None:
    prior = shipped_prior()
    assert prior is not None and {2, 3, 4, 8} <= set(prior.scales)
    sharp = edges()
    for scale in prior.scales:
        coarse = degrade(sharp, scale)
        with torch.no_grad():
            restored = prior.network(scale)(coarse)
        ours, bicubic = ((x - sharp).square().mean() for x in (restored, bicubic_upsample(coarse, scale)))
        assert 10 * torch.log10(bicubic / ours) > 0.5, scale


def test_an_unknown_scale_starts_at_bicubic() -> None:
    prior = shipped_prior()
    assert prior is not None
    x = torch.rand(1, 1, 6, 5)
    torch.testing.assert_close(prior.network(7)(x), bicubic_upsample(x, 7), rtol=0, atol=1e-6)


def test_the_prior_keeps_off_the_test_scenes() -> None:
    prior = shipped_prior()
    assert prior is not None
    held_out = ("jasper", "samson", "airport_4", "enmap", "beads", "pompoms")
    assert prior.origin["scenes"] and not [s for s in prior.origin["scenes"] if any(word in s for word in held_out)]
