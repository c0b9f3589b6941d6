"""One array through the network, or through bicubic alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lkca.errors import InputError
from lkca.inference.fill import fill_bands, fill_missing, restore_missing
from lkca.models.directory import LoadedModel
from lkca_kernels.reference.bicubic import bicubic_upsample

__all__ = ["Upscaler", "bicubic_array", "resolve_device", "upscale_array"]

_BICUBIC_HALO = 2
_CHUNK_SAMPLES = 1 << 25  # bicubic goes band by band: bound what is in flight (128 MiB of output)


def resolve_device(name: str) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``; InputError where that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"the device '{name}' is unknown; choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"the device '{name}' is not supported; choose auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(
            f"the device '{name}' is not here (torch sees {count} CUDA devices); use cpu, 'lkca doctor' says more"
        )
    return device


class Upscaler:
    """Upscales windows of one scene by a model, or by bicubic where ``model`` is None.

    good_bands: bool (bands,), False for bands that must not reach the network. Bands that the network does not see,
    and bad ones, are upscaled by bicubic. halo: coarse pixels around a window on which its result depends, so that
    a window read with that margin gives what the whole scene would. feature_channels: how many coarse maps the
    network holds at once, for estimates of memory.
    """

    def __init__(
        self,
        model: LoadedModel | None,
        scale: int,
        good_bands: np.ndarray,
        device: torch.device | None = None,
    ) -> None:
        self.scale = scale
        self.device = device or torch.device("cpu")
        self.halo = _BICUBIC_HALO
        self.feature_channels = 0
        self._config = None if model is None else model.config
        self._net: Any = None
        self.by_network = np.zeros(good_bands.shape, dtype=bool)
        if model is None:
            return
        self._net = model.net.to(self.device)
        self._used = np.asarray(model.config.bands.used)
        self._good: np.ndarray = np.asarray(good_bands, dtype=bool)[self._used]
        if not self._good.any():
            raise InputError(
                "every band that the model uses is bad or empty in this cube; bicubic (--bicubic) can still upscale it"
            )
        self.by_network[self._used[self._good]] = True
        net = model.net.config
        # Alive at once in a block: input, depthwise result, hidden channels before and after the activation.
        self.feature_channels = net.groups * net.width * (2 + 2 * net.expansion)
        self.halo = max(model.net.halo, _BICUBIC_HALO)

    def __call__(self, filled: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
        """filled: float32 (bands, rows, cols), physical, complete (:func:`fill_missing`); missing: its mask or None.

        Returns float32 (bands, s·rows, s·cols), NaN under missing samples.
        """
        bands, rows, cols = filled.shape
        if self.by_network.all():
            out = self._network(filled, missing)
        else:
            out = np.empty((bands, rows * self.scale, cols * self.scale), dtype=np.float32)
            if self._net is not None:
                out[self.by_network] = self._network(filled, missing)[self._good]
            _bicubic_into(out, filled, np.flatnonzero(~self.by_network), self.scale)
        restore_missing(out, missing, self.scale)
        return out

    def _network(self, filled: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
        assert self._config is not None
        norm = self._config.normalisation
        broken = ~self._good
        if missing is not None:
            broken = broken | np.all(missing[self._used], axis=(1, 2))
        x = (fill_bands(filled[self._used], broken) - np.float32(norm.offset)) / np.float32(norm.peak)
        with torch.inference_mode():
            y = self._net(torch.from_numpy(np.ascontiguousarray(x)).to(self.device)[None])
            result: np.ndarray = y[0].mul_(norm.peak).add_(norm.offset).cpu().numpy()
        for index in np.flatnonzero(np.isin(self._used, self._config.bands.nonnegative)):
            np.maximum(result[index], 0, out=result[index])
        return result


def upscale_array(
    cube: np.ndarray, model: LoadedModel, *, good_bands: np.ndarray | None = None, device: torch.device | None = None
) -> np.ndarray:
    """Upscales a cube by the model in one piece.

    cube: float32 (bands, rows, cols) in physical units, NaN where missing; bands as the model's files have them.
    Returns float32 (bands, s·rows, s·cols) in physical units, NaN under missing samples. See :class:`Upscaler`.
    """
    if cube.shape[0] != model.config.bands.count:
        raise InputError(f"the array has {cube.shape[0]} bands, but the model was made for {model.config.bands.count}")
    good = np.ones(cube.shape[0], dtype=bool) if good_bands is None else good_bands
    return Upscaler(model, model.config.scale, good, device)(*fill_missing(cube))


def bicubic_array(cube: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic upsampling (MATLAB's convention), float32 (bands, rows, cols) → (bands, s·rows, s·cols).

    Missing samples (NaN) are filled before, and missing again after: they never reach their neighbours.
    """
    return Upscaler(None, scale, np.ones(cube.shape[0], dtype=bool))(*fill_missing(cube))


def _bicubic_into(out: np.ndarray, filled: np.ndarray, bands: np.ndarray, scale: int) -> None:
    step = max(1, _CHUNK_SAMPLES // (filled.shape[1] * filled.shape[2] * scale * scale))
    with torch.inference_mode():
        for start in range(0, bands.size, step):
            part = bands[start : start + step]
            out[part] = bicubic_upsample(torch.from_numpy(filled[part])[None], scale)[0].numpy()
