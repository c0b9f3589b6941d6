from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from lkca.models import PRESETS, LKCANet, LKCANetConfig
from lkca.models.edsr import EDSR
from lkca.models.lkcanet import lift, repeat
from lkca_kernels import bicubic_upsample

VARIANTS = [
    {},
    {"rank": 5},
    {"components": 3, "window": 5},
    {"components": 3, "rank": 4},
    {"shared": True},
    {"components": 2, "shared": True, "rank": 6},
    {"components": 2, "shared": True},
    {"window": 0, "blocks": 1},
    {"attended": 1},
]


def randomised(net: LKCANet) -> LKCANet:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * 0.2)
        net.band_mean.copy_(torch.rand_like(net.band_mean))
    return net.eval()


def small(bands: int, scale: int, **changes: object) -> LKCANetConfig:
    return LKCANetConfig(bands=bands, scale=scale, **{"width": 8, "blocks": 2, "window": 3, **changes})


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize(("bands", "scale", "h", "w"), [(7, 2, 5, 6), (4, 3, 1, 1), (6, 5, 2, 1)])
def test_a_new_network_is_exactly_bicubic(changes: dict, bands: int, scale: int, h: int, w: int) -> None:
    x = torch.rand(2, bands, h, w)
    out = LKCANet(small(bands, scale, **changes))(x)
    assert out.shape == (2, bands, scale * h, scale * w)
    torch.testing.assert_close(out, bicubic_upsample(x, scale), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", VARIANTS)
def test_an_empty_batch_gives_an_empty_batch(changes: dict) -> None:
    """As a convolution does; a process that has run out of images still takes part in DDP's sums."""
    net = LKCANet(small(4, 3, **changes))
    y = net(torch.rand(0, 4, 5, 6))
    assert y.shape == (0, 4, 15, 18)
    y.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


def test_training_compiled_on_images_of_two_sizes() -> None:
    """As docs/model.md says; without the option Inductor fails at the second size (torch 2.13)."""
    torch._dynamo.reset()
    net = randomised(LKCANet(small(3, 2, shared=True, components=2)))
    compiled = torch.compile(net, fullgraph=True, options={"layout_optimization": False})
    for size in (8, 9):
        x = torch.rand(2, 3, size, size + 1)
        results = []
        for run in (net, compiled):
            net.zero_grad()
            y = run(x)
            y.square().mean().backward()
            results.append([y.detach(), *(p.grad.clone() for p in net.parameters())])  # type: ignore[union-attr]
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_one_band() -> None:
    net = randomised(LKCANet(small(1, 4)))
    assert net(torch.rand(1, 1, 3, 2)).shape == (1, 1, 12, 8)


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_tile_with_its_halo_gives_the_scenes_result(changes: dict) -> None:
    net = randomised(LKCANet(small(5, 2, **changes))).double()
    halo, tile = net.halo, 4
    x = torch.rand(1, 5, 2 * halo + tile + 7, 2 * halo + tile + 5, dtype=torch.float64)
    whole = net(x)[..., 2 * (halo + 3) : 2 * (halo + 3 + tile), 2 * (halo + 2) : 2 * (halo + 2 + tile)]
    part = net(x[..., 3 : 3 + 2 * halo + tile, 2 : 2 + 2 * halo + tile])
    torch.testing.assert_close(part[..., 2 * halo : -2 * halo, 2 * halo : -2 * halo], whole)


def test_the_halo_is_no_larger_than_it_must_be() -> None:
    net = randomised(LKCANet(small(2, 2)))
    size = 2 * net.halo + 1
    x = torch.rand(1, 2, size, size, requires_grad=True)
    net(x)[0, 0, size - 1 : size + 1, size - 1 : size + 1].sum().backward()
    assert (x.grad[0, :, 0].abs().max() > 0) and (x.grad[0, :, :, -1].abs().max() > 0)


def test_the_body_adds_to_the_shallow_features() -> None:
    net, x = randomised(LKCANet(small(3, 2))), torch.rand(2, 3, 5, 4)
    shallow = net.head(x - net.band_mean[:, None, None])
    torch.testing.assert_close(net.features(x), shallow + net.body(shallow))


def test_attention_stands_in_the_last_blocks() -> None:
    for attended, windows in ((None, [5, 5, 5]), (0, [0, 0, 0]), (1, [0, 0, 5]), (9, [5, 5, 5])):
        assert small(2, 2, blocks=3, window=5, attended=attended).windows == windows


@pytest.mark.parametrize("rank", [None, 6])
def test_repeat_does_to_each_component_what_the_one_does(rank: int | None) -> None:
    one = randomised(LKCANet(small(1, 3, shared=True, rank=rank))).double()
    x = torch.rand(2, 4, 5, 3).double()
    four = repeat(one, 4)
    torch.testing.assert_close(four(x), torch.cat([one(x[:, k : k + 1]) for k in range(4)], 1))
    assert not four.training and repeat(one.train(), 4).training
    with pytest.raises(ValueError, match="one band"):
        repeat(LKCANet(small(1, 3)), 4)


@pytest.mark.parametrize(("rank", "shared"), [(None, False), (6, False), (6, True), (None, True)])
def test_lift_is_exact(rank: int | None, shared: bool) -> None:
    net = randomised(LKCANet(small(3, 2, rank=rank, shared=shared))).double()
    net.band_mean.zero_()
    mean, analysis, synthesis = torch.rand(7).double(), torch.randn(3, 7).double(), torch.randn(7, 3).double()
    x = torch.rand(2, 7, 4, 5).double()
    encoded = torch.einsum("kc,bchw->bkhw", analysis, x - mean[:, None, None])
    expected = bicubic_upsample(x, 2) + torch.einsum("ck,bkhw->bchw", synthesis, net.residual(encoded))
    lifted = lift(net, mean, analysis, synthesis)
    torch.testing.assert_close(lifted(x), expected)
    assert not lifted.training and lift(net.train(), mean, analysis, synthesis).training


def test_configuration_round_trip_and_refusals() -> None:
    config = LKCANetConfig.preset("base", bands=10, scale=4, rank=16, width=20)
    assert config.shared and (config.width, config.rank) == (20, 16)
    assert LKCANetConfig.from_dict(asdict(config)) == config
    with pytest.raises(ValueError, match="unknown keys colour"):
        LKCANetConfig.from_dict({**asdict(config), "colour": 1})
    for name, value in {"bands": 0, "scale": 1, "kernel_size": 4, "rank": 0, "window": 2, "attended": -1}.items():
        with pytest.raises(ValueError, match=name):
            LKCANetConfig(**{"bands": 2, "scale": 2, name: value})
    with pytest.raises(ValueError, match="shared: expected True or False, got 'no'"):
        LKCANetConfig(bands=2, scale=2, shared="no")  # type: ignore[arg-type]
    for name, value in {"kernel_size": "7", "window": 9.0}.items():
        with pytest.raises(ValueError, match=f"{name}: expected an integer"):
            LKCANetConfig(**{"bands": 2, "scale": 2, name: value})
    with pytest.raises(ValueError, match="multiple of its 2 groups"):
        LKCANetConfig(bands=2, scale=2, shared=True, rank=3)
    with pytest.raises(ValueError, match="up to 8, got 10"):
        LKCANetConfig(bands=2, scale=2, shared=True, rank=10)
    with pytest.raises(ValueError, match="expected \\(B, 2, h, w\\)"):
        LKCANet(small(2, 2))(torch.rand(1, 3, 4, 4))


def test_presets_are_full_rank_unless_told_and_have_no_more_components_than_bands() -> None:
    for name, size in PRESETS.items():
        for bands in (1, 5, 31):
            config = LKCANetConfig.preset(name, bands=bands, scale=3)
            components = min(size["components"], bands)
            assert (config.components, config.rank) == (components, 9 * components)
            assert config.student_rank % components == 0 and config.student_rank <= config.rank
    assert [LKCANetConfig.preset("tiny", bands=31, scale=scale).student_rank for scale in (2, 4)] == [6 * 4, 6 * 5]


def test_the_baseline_refuses_an_upsampler_that_it_has_not() -> None:
    with pytest.raises(ValueError, match="upsampler: expected features or bands, got 'band'"):
        EDSR(3, 2, upsampler="band")  # type: ignore[arg-type]
