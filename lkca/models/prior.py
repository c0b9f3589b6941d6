"""The shipped prior: how detail of one spectral component follows from its coarse image, learned once, for any sensor.

A body of large-kernel blocks over a single channel, shared by all scales, and one upsampler per scale. It knows nothing
of bands, so it starts any network with a shared body: each of a scene's components passes through it. Made by
``python -m studies.prior``; the file's metadata say from what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import safetensors
import torch
from torch import Tensor

from lkca.models.lkcanet import LKCANet, LKCANetConfig
from lkca.nn import PixelShuffleUpsample

__all__ = ["PRIOR_FILE", "Prior", "load_prior", "shipped_prior"]

PRIOR_FILE = "prior.safetensors"
_TAIL = "tail."


@dataclass(frozen=True)
class Prior:
    """architecture: width, blocks, kernel_size, expansion, window; attended where not all blocks are. state: tensors
    of ``head`` and ``body``, and ``tail.SCALE`` (s², width, 3, 3). origin: how it was trained.
    """

    architecture: Mapping[str, int]
    state: Mapping[str, Tensor]
    origin: Mapping[str, Any]

    @property
    def scales(self) -> tuple[int, ...]:
        """Scales with a trained upsampler; for others the body alone is known."""
        return tuple(sorted(int(key.removeprefix(_TAIL)) for key in self.state if key.startswith(_TAIL)))

    def network(self, scale: int) -> LKCANet:
        """Full-rank network over one component; bicubic as yet where :attr:`scales` lacks the scale."""
        config = LKCANetConfig(bands=1, scale=scale, shared=True, **self.architecture)
        net = LKCANet(config).float()
        own = {k: v for k, v in self.state.items() if not k.startswith(_TAIL)}
        missing, unexpected = net.load_state_dict(own, strict=False)
        assert not unexpected and set(missing) == {"band_mean", "upsample.conv.weight"}, (missing, unexpected)
        tail = self.state.get(f"{_TAIL}{scale}")
        if tail is not None:
            assert isinstance(net.upsample, PixelShuffleUpsample)
            with torch.no_grad():
                net.upsample.conv.weight.copy_(tail)
        return net


def load_prior(path: str) -> Prior:
    """Read a prior written by ``studies.prior``."""
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["prior"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file is no mapping)
    return Prior(about.pop("architecture"), state, about)


@cache
def shipped_prior() -> Prior | None:
    """The prior inside the package, or None where the package was built without it."""
    with resources.as_file(resources.files("lkca.models") / PRIOR_FILE) as path:
        return load_prior(str(path)) if path.is_file() else None
