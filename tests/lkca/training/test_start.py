"""What a run starts from: bicubic, with the spectral subspace of its training scenes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch

from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.training.patches import PatchDataset, SourceScene
from lkca.training.start import Lost, first_patches, new_network
from lkca_kernels import bicubic_upsample

BANDS, SCALE = 7, 2


@pytest.fixture(scope="module")
def mixing() -> np.ndarray:
    return np.random.default_rng(3).uniform(0.1, 1, (BANDS, 3))


@pytest.fixture(scope="module")
def patches(mixing: np.ndarray) -> PatchDataset:
    """Spectra of three sources, and a corner without data whose values would be seen in any sum."""
    image = np.tensordot(mixing, np.random.default_rng(0).random((3, 50, 40)), 1).astype(np.float32)
    image[:, 30:, 30:] = np.nan
    return PatchDataset([SourceScene("x", image.shape, lambda w: image[(slice(None), *w.slices)])], 12, seed=0)


def start(config: LKCANetConfig, patches: PatchDataset) -> LKCANet:
    degradation = Degradation(scale=SCALE)
    return new_network(config, Lost.of(first_patches(patches), degradation), patches, degradation)


@pytest.mark.parametrize("rank", (None, 6), ids=("full rank", "two patterns a component"))
def test_a_shared_body_gets_the_scenes_subspace(mixing: np.ndarray, patches: PatchDataset, rank: int | None) -> None:
    config = LKCANetConfig(bands=BANDS, scale=SCALE, width=4, blocks=1, components=3, shared=True, rank=rank)
    torch.manual_seed(0)
    net = start(config, patches)
    assert net.config == config
    learned = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert {"project.weight", "upsample.weight"}.isdisjoint(learned) and "upsample.reduce.weight" in learned
    x = torch.rand(1, BANDS, 5, 6)
    torch.testing.assert_close(net(x), bicubic_upsample(x, SCALE))
    analysis = net.project.weight[:, :, 0, 0]
    weight = net.upsample.weight.unflatten(0, (BANDS, SCALE**2)).unflatten(2, (3, -1))
    patterns = torch.einsum("kc,cpkq->pq", analysis, weight) / 3
    torch.testing.assert_close(patterns.T @ patterns, torch.eye(patterns.shape[1]), atol=1e-5, rtol=0)
    synthesis = torch.einsum("cpkq,pq->ck", weight, patterns) / patterns.shape[1]
    torch.testing.assert_close(weight, torch.einsum("ck,pq->cpkq", synthesis, patterns), atol=1e-5, rtol=0)
    sources = torch.from_numpy(mixing).float()
    torch.testing.assert_close(synthesis @ (analysis @ sources), sources, atol=1e-4, rtol=0)  # the scenes' span
    assert 0.1 < synthesis.square().mean().sqrt() < 1
    torch.manual_seed(0)
    again = start(config, patches)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert net.band_mean.min() > 0.2  # missing samples are left out of it


def test_no_more_components_than_the_scenes_have(patches: PatchDataset) -> None:
    config = LKCANetConfig.preset("tiny", bands=BANDS, scale=SCALE)
    net = start(config, patches)
    assert (config.components, net.config.components, net.config.rank) == (6, 3, 12)


def test_a_dense_body_gets_the_mean_spectrum(mixing: np.ndarray, patches: PatchDataset) -> None:
    net = start(LKCANetConfig(bands=BANDS, scale=SCALE, width=4, blocks=1), patches)
    torch.testing.assert_close(net.band_mean, torch.from_numpy(mixing.sum(1) / 2).float(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("components", (None, 3), ids=("dense", "shared"))
def test_float32_whatever_the_default_dtype(
    patches: PatchDataset, components: int | None, double_by_default: Callable[[], AbstractContextManager[None]]
) -> None:
    config = LKCANetConfig(bands=BANDS, scale=SCALE, width=4, blocks=1, components=components, shared=bool(components))
    with double_by_default():
        net = start(config, patches)
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}


def test_the_unit_is_what_bicubic_leaves() -> None:
    image = (
        np.random.default_rng(0).random((3, 40, 40)).astype(np.float32)
        * np.array([1, 0.01, 0], np.float32)[:, None, None]
    )
    patches = PatchDataset([SourceScene("x", image.shape, lambda w: image[(slice(None), *w.slices)])], 12, seed=0)
    unit = Lost.of(first_patches(patches), Degradation(scale=SCALE)).unit
    assert float(unit[0]) == pytest.approx(0.25, abs=0.03)  # white noise of variance 1/12, less what coarse pixels hold
    assert float(unit[1] / unit[0]) == pytest.approx(0.01, rel=0.1)
    assert float(unit[2] / unit[0]) == pytest.approx(3**-0.5, rel=0.01)  # a constant band
