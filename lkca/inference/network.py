"""A model's network over the bands of a cube: its body in place, and what it hands to the upsampling."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from lkca.errors import InputError
from lkca.inference.bands import BandUpsampler
from lkca.inference.fill import fill_bands
from lkca.models import LKCANet
from lkca.models.directory import LoadedModel
from lkca.nn import LowRankUpsample
from lkca.nn.layout import channels_last

__all__ = ["PRECISIONS", "CubeNetwork", "for_cpu", "last_features"]

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# Of a feature map on a CPU, lest it leave the cache: groups of a shared body in turn, or 2.5 times slower
# (docs/scenes.md).
_BODY_SAMPLES = 1 << 20


class CubeNetwork:
    """The network of ``model`` on ``device``, for a cube of whose bands only the ``good_bands`` may reach it.

    used: indices of the cube's bands that it sees, rising. intact: those of them that are good. nonnegative: those
    whose results are cut at 0; least: the same as float32 (used,), 0 or -inf, None where there is none. Raises
    InputError where no band that it sees is good.
    """

    def __init__(self, model: LoadedModel, good_bands: np.ndarray, device: torch.device, precision: str) -> None:
        self.net, self.device = model.net.to(device), device
        if device.type == "cpu":
            for_cpu(self.net)
        self.used = np.asarray(model.config.bands.used)
        self._broken: np.ndarray = ~np.asarray(good_bands, dtype=bool)[self.used]
        self.intact: np.ndarray = self.used[~self._broken]
        if not self.intact.size:
            raise InputError(
                "every band that the model uses is bad or empty in this cube; 'lkca upscale --bicubic' can still "
                "upscale it"
            )
        self.nonnegative = model.config.bands.nonnegative
        self.least = None
        if self.nonnegative:
            least = np.where(np.isin(self.used, self.nonnegative), 0.0, -np.inf)
            self.least = torch.from_numpy(least.astype(np.float32))
        self._norm, self._dtype = model.config.normalisation, PRECISIONS[precision]
        self._all_used = self.used.size == good_bands.size

    @property
    def maps(self) -> int:
        """Coarse float32 maps that it holds at once."""
        config = self.net.config
        # What the upsampling takes, in pieces and whole; alive in a block, of one group or as much: input, two
        # residuals, result, hidden channels before and after the activation.
        kept = config.groups * config.width if config.rank is None else config.rank
        return 2 * kept + config.width * (4 + 2 * config.expansion)

    def inputs(self, filled: np.ndarray) -> tuple[Tensor, Tensor]:
        """(1, used bands, rows, cols) of ``filled``, (bands, rows, cols) without gaps: physical, and normalised."""
        physical = fill_bands(filled if self._all_used else filled[self.used], self._broken)
        x = torch.from_numpy(physical)[None].to(self.device)
        return x, (x - float(self._norm.offset)).div_(float(self._norm.peak))

    @torch.inference_mode()
    def upsampler(self, filled: np.ndarray) -> BandUpsampler:
        """What makes physical results of all of ``filled``, as :meth:`inputs` takes it.

        The upsampling is linear, so the last features times the peak, and the physical values as its skip, give them
        without another pass over the results.
        """
        physical, normalised = self.inputs(filled)
        autocast = nullcontext() if self._dtype is None else torch.autocast(self.device.type, self._dtype)
        features = last_features(self.net, normalised, autocast)
        return BandUpsampler(self.net.upsample, features.mul_(float(self._norm.peak)), physical)

    def position(self, bands: slice) -> slice:
        """Of consecutive bands of the cube among those that the network sees: consecutive there too, as they rise."""
        first = int(np.searchsorted(self.used, bands.start))
        return slice(first, first + bands.stop - bands.start)


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
