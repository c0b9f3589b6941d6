"""The body of a network over large planes, group by group where the maps of all would leave a CPU's cache."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from lkca.models import LKCANet
from lkca.nn import LowRankUpsample
from lkca.nn.layout import channels_last

__all__ = ["for_cpu", "last_features"]

# Of a feature map on a CPU: groups of a shared body in turn, or 2.5 times slower (docs/scenes.md).
_BODY_SAMPLES = 1 << 20


def for_cpu(net: LKCANet) -> None:
    """The body's kernels as a CPU is fastest with them: 0.5 to 0.9 of the time. The upsampling reads planes."""
    for part in (net.head, net.body):
        channels_last(part)


@torch.inference_mode()
def last_features(net: LKCANet, x: Tensor, autocast: AbstractContextManager[object]) -> Tensor:
    """What the last stage of the upsampling takes: the rank features of a low-rank one, else F_N; float32, contiguous.

    x: (1, bands, h, w), normalised. The projection and the upsampler's own convolution run in float32, the body as
    ``autocast`` has it.
    """
    config, layer = net.config, net.upsample
    inputs = net.grouped(x)
    of_group = layer.rank // config.groups if isinstance(layer, LowRankUpsample) else config.width
    found = x.new_empty(inputs.shape[0], of_group, *x.shape[2:], dtype=torch.float32)
    fitting = max(1, _BODY_SAMPLES // (config.width * x.shape[2] * x.shape[3]))
    if x.device.type != "cpu":
        fitting = config.groups
    for part, planes in zip(inputs.split(fitting), found.split(fitting), strict=True):
        with autocast:
            features = net.backbone(part)
        features = features.float()
        if isinstance(layer, LowRankUpsample):
            features = layer.reduce(features)
        for mine, plane in zip(features, planes, strict=True):
            plane.flatten(1).copy_(mine.flatten(1))  # two dimensions: PyTorch turns those twice as fast as three
    return found.reshape(1, -1, *x.shape[2:])
