"""The low-rank tools on published networks, as spandrel carries them, small and with random weights.

Not part of the package's own tests: spandrel brings torchvision. ``make test-thirdparty`` makes a venv for it.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

pytest.importorskip("spandrel", reason="run 'make test-thirdparty'")

import torch
from torch import nn

import lkca
from lkca.lowrank import analyze, factorize_reported, merge
from lkca.nn import LowRankConv2d, LowRankUpsample

TRANSFORMER = {"embed_dim": 24, "num_heads": [2], "upscale": 4}

# name: (module in spandrel.architectures, class, arguments, layers, how many of them fuse)
NETWORKS: dict[str, tuple[str, str, dict[str, Any], int, int]] = {
    "SwinIR": (
        "SwinIR.__arch.SwinIR",
        "SwinIR",
        {**TRANSFORMER, "depths": [2], "window_size": 8, "img_size": 16, "upsampler": "pixelshuffle"},
        2,
        2,
    ),
    "SwinIR-light": (
        "SwinIR.__arch.SwinIR",
        "SwinIR",
        {**TRANSFORMER, "depths": [2], "window_size": 8, "img_size": 16, "upsampler": "pixelshuffledirect"},
        1,
        1,
    ),
    "HAT": (
        "HAT.__arch.HAT",
        "HAT",
        {**TRANSFORMER, "squeeze_factor": 4, "depths": [2], "window_size": 8, "img_size": 16},
        2,
        2,
    ),
    "RCAN": ("RCAN.__arch.rcan_arch", "RCAN", {"n_resgroups": 1, "n_resblocks": 2, "n_feats": 16, "scale": 4}, 2, 2),
    "SPAN": ("SPAN.__arch.span", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 12}, 1, 1),
    "SAFMN": ("SAFMN.__arch.safmn", "SAFMN", {"dim": 12, "n_blocks": 1}, 1, 1),
    "DAT": (
        "DAT.__arch.DAT",
        "DAT",
        {**TRANSFORMER, "depth": [2], "split_size": [2, 4], "img_size": 16},
        2,
        2,
    ),
    "OmniSR": ("OmniSR.__arch.OmniSR", "OmniSR", {"num_feat": 16}, 1, 1),
    "RealPLKSR": ("PLKSR.__arch.RealPLKSR", "RealPLKSR", {"dim": 16, "n_blocks": 2}, 1, 0),
    "Compact": ("Compact.__arch.SRVGG", "SRVGGNetCompact", {"num_feat": 12, "num_conv": 2}, 1, 1),
}


def make(name: str) -> nn.Module:
    module, kind, arguments, _, _ = NETWORKS[name]
    torch.manual_seed(0)
    return getattr(importlib.import_module(f"spandrel.architectures.{module}"), kind)(**arguments).eval()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_exact_at_full_rank_and_back(name: str) -> None:
    net, x = make(name), torch.rand(1, 3, 16, 16)
    layers, fused = NETWORKS[name][3:]
    found = analyze(net)  # without being told what an input looks like
    assert len(found.layers) == layers and not found.skipped and found.macs
    for layer in found.layers:
        print(f"{name} {layer.name}: {layer.weight_share:.0%} of parameters, {layer.macs_share:.0%} of macs")
    expected = net(x.clone())
    result = factorize_reported(net, energy=1.0)
    assert sum(layer.fused for layer in result.layers) == fused
    tolerance = 1e-5 * float(expected.abs().max().clamp_min(1))
    torch.testing.assert_close(result.model(x.clone()), expected, atol=tolerance, rtol=0)
    low = factorize_reported(net, rank=4)
    kinds = (LowRankConv2d, LowRankUpsample)
    assert sum(isinstance(m, kinds) for m in low.model.modules()) == layers
    back = merge(low.model)
    assert {k: v.shape for k, v in back.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    torch.testing.assert_close(back(x.clone()), low.model(x.clone()), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("name", "attention"), [("RCAN", 2), ("HAT", 2), ("SwinIR", 0), ("SAFMN", 0), ("OmniSR", 0)])
@torch.no_grad()
def test_replace_modules_keeps_outputs(name: str, attention: int) -> None:
    net, x = make(name), torch.rand(1, 3, 16, 16)
    expected = net(x.clone())
    report = lkca.replace_modules(net)
    print(report)
    assert sum(what == "ChannelAttention" for what in report.swapped.values()) == attention
    assert sum(what == "PixelShuffleUpsample" for what in report.swapped.values()) == NETWORKS[name][4]
    torch.testing.assert_close(net(x.clone()), expected, atol=1e-5 * float(expected.abs().max().clamp_min(1)), rtol=0)
