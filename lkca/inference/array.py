"""One array through the network, or through bicubic alone."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from lkca.errors import InputError
from lkca.inference.fill import fill_bands, fill_missing, fill_spectra, restore_missing
from lkca.models.directory import LoadedModel
from lkca_kernels.reference.bicubic import bicubic_upsample

__all__ = ["PRECISIONS", "Upscaler", "bicubic_array", "resolve_device", "upscale_array"]

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

_EDGE = 2  # coarse pixels around a result that the upsampling reads: bicubic's reach, more than its convolution's
_BODY_SAMPLES = (
    1 << 20
)  # of a feature map on a CPU: groups of a shared body in turn, or 2.5 times slower (docs/scenes.md)
_CHUNK_SAMPLES = 1 << 22  # bicubic goes band by band: bound what is in flight

Part = tuple[slice, slice]  # rows, columns


def resolve_device(name: str) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``; InputError where that is not here."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = os.environ.get("LOCAL_RANK", "0")  # of the processes that torchrun starts, each has a GPU
        return torch.device("cuda", int(local) % torch.cuda.device_count() if local.isdigit() else 0)
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
    and bad ones, are upscaled by bicubic. precision: of the network's body; its upsampling and the bicubic skip stay
    fp32, since they carry the values themselves. by_network: bool (bands,); model: as given.

    halo: coarse pixels around a result on which it depends. reach: how far a missing sample looks for a valid one of
    its band; 1.5 halos, since what a valid pixel depends on lies at most √2 halos from it. A window read with
    ``halo + reach`` pixels around it gives what the whole scene would. features: coarse float32 maps that the network
    holds at once; fine_copies: arrays of the result's size that it holds beside the result.
    """

    def __init__(
        self,
        model: LoadedModel | None,
        scale: int,
        good_bands: np.ndarray,
        device: torch.device | None = None,
        precision: str = "fp32",
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"the precision '{precision}' is unknown; choose {', '.join(PRECISIONS)}")
        self.model = model
        self.scale = scale
        self.bands = good_bands.size
        self.device = device or torch.device("cpu")
        self.precision = precision
        self.halo = _EDGE
        self.features = 0
        self.fine_copies = 0.0
        self.by_network = np.zeros(good_bands.shape, dtype=bool)
        self._net = None
        if model is not None:
            self._net = model.net.to(self.device)
            self._norm = model.config.normalisation
            self._used = np.asarray(model.config.bands.used)
            self._nonnegative = model.config.bands.nonnegative
            self._good: np.ndarray = np.asarray(good_bands, dtype=bool)[self._used]
            if not self._good.any():
                raise InputError(
                    "every band that the model uses is bad or empty in this cube; bicubic (--bicubic) can still "
                    "upscale it"
                )
            self.by_network[self._used[self._good]] = True
            net = model.net.config
            # What the body gives and the upsampler reads, twice; alive in a block: input, depthwise result, hidden
            # channels before and after the activation, at most _BODY_SAMPLES or a single group of each.
            self.features = net.groups * net.width * (2 if net.shared else 4 + 2 * net.expansion)
            if net.shared:
                self.features += net.width * (4 + 2 * net.expansion)
            self.halo = max(model.net.halo, _EDGE)
            self._all = self._used.size == self.bands
            shuffled = self._used.size if net.rank is None else 0  # the convolution's result before its shuffle
            self.fine_copies = (shuffled + (0 if self._all else self._used.size)) / self.bands
        self.reach = math.ceil(1.5 * self.halo)

    def prepare(self, cube: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """float32 (bands, rows, cols), physical, NaN where missing -> the cube without gaps, and their mask or None."""
        filled, missing = fill_missing(cube, self.reach)
        if missing is not None:
            if self._net is not None:
                intact = self._used[self._good]
                spectra = filled[intact]
                fill_spectra(spectra)
                filled[intact] = spectra
            filled[np.isnan(filled)] = 0.0
        return filled, missing

    def __call__(
        self, filled: np.ndarray, missing: np.ndarray | None, core: Part | None = None, buffer: Tensor | None = None
    ) -> np.ndarray:
        """Upscales the part ``core`` of what :meth:`prepare` gave (all of it by default).

        buffer: flat float32 memory on the CPU for the result, at least :meth:`buffer_size` of the core. Returns float32
        (bands, s·height, s·width), NaN under missing samples; a view of the buffer where there is one.
        """
        _, rows, cols = filled.shape
        core = core or (slice(0, rows), slice(0, cols))
        near = (_widened(core[0], rows), _widened(core[1], cols))
        shape = (self.bands, *((part.stop - part.start) * self.scale for part in near))
        if buffer is None:
            buffer = torch.empty(math.prod(shape))
        out = buffer[: math.prod(shape)].view(shape)
        result: np.ndarray
        if missing is not None and missing[(slice(None), *core)].all():  # large parts of a swath on a map grid
            result = out.fill_(torch.nan).numpy()
            return result[(slice(None), *self._inner(core, near))]
        with torch.inference_mode():
            if self._net is not None:
                self._network(filled, near, out)
            self._bicubic(filled[(slice(None), *near)], out)
        result = out.numpy()
        if missing is not None:
            restore_missing(result, missing[(slice(None), *near)], self.scale)
        return result[(slice(None), *self._inner(core, near))]

    def buffer_size(self, rows: int, cols: int) -> int:
        """Samples that a core of ``rows`` × ``cols`` coarse pixels takes in a buffer."""
        return self.bands * (rows + 2 * _EDGE) * (cols + 2 * _EDGE) * self.scale**2

    def _inner(self, core: Part, near: Part) -> tuple[slice, ...]:
        """The core's place in the result for ``near``."""
        return tuple(
            slice((part.start - wide.start) * self.scale, (part.stop - wide.start) * self.scale)
            for part, wide in zip(core, near, strict=True)
        )

    def _network(self, filled: np.ndarray, near: Part, out: Tensor) -> None:
        """The body sees all of ``filled``, the upsampling ``near`` alone: what is added around it costs little.

        The upsampling is linear: given physical values to add to, and features times the peak, it gives physical values
        without another pass over them.
        """
        assert self._net is not None
        physical = fill_bands(filled if self._all else filled[self._used], ~self._good)
        peak, offset = float(self._norm.peak), float(self._norm.offset)
        x = torch.from_numpy(physical)[None].to(self.device)
        with self._autocast():
            pieces = max(1, _BODY_SAMPLES // (self._net.config.width * x.shape[2] * x.shape[3]))
            features = self._net.features((x - offset).div_(peak), pieces if self.device.type == "cpu" else None)
        near_all = (slice(None), slice(None), *near)
        features, skip = features[near_all].float().mul(peak), x[near_all].contiguous()
        fits = self._all and self.device.type == "cpu"
        fine = self._net.upsample(features, skip=skip, out=out[None] if fits else None)
        if not fits:
            out[torch.from_numpy(self._used)] = fine[0].to(out.device)
        for band in self._nonnegative:
            out[band].clamp_(min=0)

    def _bicubic(self, filled: np.ndarray, out: Tensor) -> None:
        bands = np.flatnonzero(~self.by_network)
        step = max(1, _CHUNK_SAMPLES // (out.shape[1] * out.shape[2]))
        for start in range(0, bands.size, step):
            part = bands[start : start + step]
            out[torch.from_numpy(part)] = bicubic_upsample(torch.from_numpy(filled[part])[None], self.scale)[0]

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


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
    upscaler = Upscaler(model, model.config.scale, good, device)
    return upscaler(*upscaler.prepare(cube))


def bicubic_array(cube: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic upsampling (MATLAB's convention), float32 (bands, rows, cols) → (bands, s·rows, s·cols).

    Missing samples (NaN) are filled before, and missing again after: they never reach their neighbours.
    """
    upscaler = Upscaler(None, scale, np.ones(cube.shape[0], dtype=bool))
    return upscaler(*upscaler.prepare(cube))


def _widened(part: slice, size: int) -> slice:
    return slice(max(0, part.start - _EDGE), min(size, part.stop + _EDGE))
