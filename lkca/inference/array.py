"""One array through the network, or through bicubic alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from lkca.data.codec import Encoder, unmasked
from lkca.errors import InputError
from lkca.inference.bands import band_slices, stores
from lkca.inference.fill import fill_missing, fill_spectra, finer_mask, restore_missing
from lkca.inference.network import PRECISIONS, CubeNetwork
from lkca.inference.strips import EDGE, Part, Piece, Strip, widened
from lkca.models.directory import LoadedModel
from lkca_kernels.reference.bicubic import bicubic_upsample

__all__ = ["Upscaler", "bicubic_array", "tile_margin", "upscale_array"]

# Of a result at once: two of them, and a convolution's, stay in a CPU's last cache; a GPU wants more to do.
_CHUNK_BYTES = {"cpu": 12 << 20, "cuda": 1 << 28}
_STORED_BYTES = 24 << 20  # of one that the operator stores: its threads wait for each other at the end of each
_CHUNK_BANDS = 16  # the operator packs its input for every call; fewer leave a convolution too few channels
_CHUNK_ROWS = 32  # coarse ones, at least: 2 EDGE more are made each time
_STORED_BANDS, _STORED_ROWS = 64, 4  # strips are made for so many bands; of so many rows at least, without margins

_TORCH_DTYPES = {"int16": torch.int16, "uint16": torch.uint16, "float32": torch.float32}


class Upscaler:
    """Upscales windows of one scene by a model, or by bicubic where ``model`` is None.

    good_bands: bool (bands,), False for bands that must not reach the network. Bands that the network does not see,
    and bad ones, are upscaled by bicubic. precision: of the network's body; its upsampling and the bicubic skip stay
    fp32, since they carry the values themselves. by_network: bool (bands,); model: as given.

    halo: coarse pixels around a result on which it depends. reach: how far a missing sample looks for a valid one of
    its band; 1.5 halos, since what a valid pixel depends on lies at most √2 halos from it. A window read with
    ``halo + reach`` pixels around it gives what the whole scene would. features: coarse float32 maps that the network
    holds at once.
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
        self.halo, self.reach = _margins(model)
        self._network = None if model is None else CubeNetwork(model, good_bands, self.device, precision)
        self.features = 0 if self._network is None else self._network.maps
        self.by_network = np.zeros(good_bands.shape, dtype=bool)
        if self._network is not None:
            self.by_network[self._network.intact] = True
        self._encoder: Encoder | None = None

    def store_as(self, encoder: Encoder) -> None:
        """From now on pieces come as ``encoder`` stores them, where that can be had in one pass.

        That is: low-rank upsampling, served by a native backend, and samples of a dtype that it writes, products with
        the encoder's gains.
        """
        if self._network is None or np.dtype(encoder.meta.stored_dtype).name not in _TORCH_DTYPES:
            return
        if stores(self._network.net.upsample) and encoder.gains(slice(0, self.bands)) is not None:
            self._encoder = encoder

    def prepare(self, cube: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """float32 (bands, rows, cols), physical, NaN where missing -> the cube without gaps, and their mask or None."""
        filled, missing = fill_missing(cube, self.reach)
        if missing is not None:
            if self._network is not None:
                intact = self._network.intact
                spectra = filled if intact.size == self.bands else filled[intact]
                fill_spectra(spectra)
                if spectra is not filled:
                    filled[intact] = spectra
            np.copyto(filled, 0.0, where=np.isnan(filled))
        return filled, missing

    def network_input(self, cube: np.ndarray) -> Tensor:
        """What the network is given of a whole array, as :meth:`prepare` takes it: (1, its bands, rows, cols)."""
        assert self._network is not None
        return self._network.inputs(self.prepare(cube)[0])[1]

    def __call__(self, cube: np.ndarray) -> np.ndarray:
        """Upscales a whole array, as :meth:`prepare` takes it: float32 (bands, s·rows, s·cols), NaN where missing."""
        assert self._encoder is None
        _, rows, cols = cube.shape
        result = np.empty((self.bands, rows * self.scale, cols * self.scale), dtype=np.float32)
        buffer = torch.empty(self.buffer_size(rows, cols), dtype=torch.float32)
        for piece in self.pieces(*self.prepare(cube), (slice(0, rows), slice(0, cols)), lambda: buffer):
            result[piece.bands, piece.rows] = piece.samples
        return result

    def pieces(
        self,
        filled: np.ndarray,
        missing: np.ndarray | None,
        core: Part,
        take: Callable[[], Tensor],
    ) -> Iterator[Piece]:
        """Upscales the part ``core`` of what :meth:`prepare` gave: every sample once, in strips from top to bottom.

        take: gives flat float32 memory on the CPU, at least :meth:`buffer_size` of the core; each piece's samples are a
        view of one of them.
        """
        # Large parts of a swath on a map grid.
        empty = missing is not None and bool(missing[(slice(None), *core)].all())
        near_cols, upsampler = widened(core[1], filled.shape[2]), None
        if self._network is not None and not empty:
            upsampler = self._network.upsampler(filled).part(slice(None), near_cols)
        width = core[1].stop - core[1].start
        step = self._strip(core[0].stop - core[0].start, width)
        for row in range(core[0].start, core[0].stop, step):
            rows = slice(row, min(row + step, core[0].stop))
            strip = Strip(filled, missing, rows, core[1], near_cols, core[0].start, empty, upsampler)
            for by_network in (True, False):
                bands = np.flatnonzero(self.by_network == by_network)
                yield from self._of_bands(strip, bands, by_network, take, (step, width))

    def _of_bands(
        self,
        strip: Strip,
        bands: np.ndarray,
        by_network: bool,
        take: Callable[[], Tensor],
        size: tuple[int, int],
    ) -> Iterator[Piece]:
        """Pieces of a strip of at most that ``size``, by which ``take`` measures its memory."""
        if self._encoder is None or not by_network or strip.empty:
            for part in band_slices(bands, self._at_once(*size)):
                yield self._encoded_later(strip, part, by_network, take())
            return
        for part in band_slices(bands, self._stored_at_once(*size)):
            piece = self._stored(strip, part, take(), self._encoder)
            if piece is not None:
                yield piece
                continue
            for few in band_slices(np.arange(part.start, part.stop), self._at_once(*size)):
                yield self._encoded_later(strip, few, by_network, take())

    def _encoded_later(self, strip: Strip, bands: slice, by_network: bool, memory: Tensor) -> Piece:
        near = strip.near
        shape = (bands.stop - bands.start, *((part.stop - part.start) * self.scale for part in near))
        out = memory[: math.prod(shape)].view(shape)
        with torch.inference_mode():
            if strip.empty:
                out.fill_(torch.nan)
            elif by_network:
                self._upsample(strip, bands, out)
            else:
                coarse = torch.from_numpy(strip.filled[(bands, *near)])
                out.copy_(bicubic_upsample(coarse[None], self.scale)[0])
        result: np.ndarray = out.numpy()
        if strip.missing is not None and not strip.empty:
            restore_missing(result, strip.missing[(bands, *near)], self.scale)
        return Piece(bands, strip.fine_rows(self.scale), result[(slice(None), *strip.inner(self.scale))])

    def _stored(self, strip: Strip, bands: slice, memory: Tensor, encoder: Encoder) -> Piece | None:
        """Made as the output stores it; None where that is not enough: see :meth:`lkca.data.codec.Encoder.mend`."""
        gains, lacking = encoder.gains(bands), strip.lacking(bands)
        assert gains is not None and self._network is not None and strip.upsampler is not None
        seen = self._network.position(bands)
        rows, cols = strip.rows.stop - strip.rows.start, strip.near[1].stop - strip.near[1].start
        shape = (bands.stop - bands.start, rows * self.scale, cols * self.scale)
        dtype = _TORCH_DTYPES[np.dtype(encoder.meta.stored_dtype).newbyteorder("=").name]
        out = memory.view(dtype)[: math.prod(shape)].view(1, *shape)
        least = None if self._network.least is None else self._network.least[seen]
        with torch.inference_mode():
            extremes = strip.upsampler.store(seen.start, seen.stop, strip.rows, least, torch.from_numpy(gains), out)
        samples: np.ndarray = out[0].numpy()[:, :, strip.inner(self.scale)[1]]
        mask = None if lacking is None else finer_mask(lacking, self.scale)
        counts = encoder.mend(samples, extremes, mask, exact=samples.size == out.numel())
        return None if counts is None else Piece(bands, strip.fine_rows(self.scale), samples, counts)

    def buffer_size(self, rows: int, cols: int) -> int:
        """Float32 samples of the buffers that a core of ``rows`` × ``cols`` coarse pixels needs."""
        step = self._strip(rows, cols)
        size = self._plane(step, cols) * self._at_once(step, cols)
        if self._encoder is None:
            return size
        stored = step * self._row(cols) * self._stored_at_once(step, cols)
        return max(size, -(-stored * self._stored_bytes() // 4))

    def strip_rows(self, rows: int, cols: int) -> int:
        """Rows of the result that :meth:`pieces` of such a core gives at once."""
        return self._strip(rows, cols) * self.scale

    def _strip(self, rows: int, cols: int) -> int:
        """Coarse rows that are made at once."""
        if self._encoder is None:
            fitting = _CHUNK_BYTES[self.device.type] // (4 * _CHUNK_BANDS * self._row(cols)) - 2 * EDGE
            return min(rows, max(_CHUNK_ROWS, fitting))
        fitting = _STORED_BYTES // (_STORED_BANDS * self._row(cols) * self._stored_bytes())
        return min(rows, max(_STORED_ROWS, fitting))

    def _at_once(self, rows: int, cols: int) -> int:
        """How many bands of such a strip are made at once in float32."""
        fitting = _CHUNK_BYTES[self.device.type] // (4 * self._plane(rows, cols))
        return min(self.bands, max(_CHUNK_BANDS, fitting))

    def _stored_at_once(self, rows: int, cols: int) -> int:
        """How many bands of such a strip are made at once as the output stores them."""
        fitting = _STORED_BYTES // (rows * self._row(cols) * self._stored_bytes())
        return min(self.bands, max(_CHUNK_BANDS, fitting))

    def _stored_bytes(self) -> int:
        assert self._encoder is not None
        return np.dtype(self._encoder.meta.stored_dtype).itemsize

    def _row(self, cols: int) -> int:
        """Samples of a band that a coarse row is made into."""
        return (cols + 2 * EDGE) * self.scale**2

    def _plane(self, rows: int, cols: int) -> int:
        return (rows + 2 * EDGE) * self._row(cols)

    def _upsample(self, strip: Strip, bands: slice, out: Tensor) -> None:
        assert self._network is not None and strip.near_upsampler is not None
        seen = self._network.position(bands)
        on_cpu = self.device.type == "cpu"
        fine = strip.near_upsampler(seen.start, seen.stop, out[None] if on_cpu else None)
        if not on_cpu:
            out.copy_(fine[0])
        for band in self._network.nonnegative:
            if bands.start <= band < bands.stop:
                out[band - bands.start].clamp_(min=0)


def _margins(model: LoadedModel | None) -> tuple[int, int]:
    """halo and reach of :class:`Upscaler`."""
    halo = EDGE if model is None else max(model.net.halo, EDGE)
    return halo, math.ceil(1.5 * halo)


def tile_margin(model: LoadedModel | None) -> int:
    """Coarse pixels that must be read around a tile, so that it comes out as of the whole scene; None: bicubic."""
    return sum(_margins(model))


def upscale_array(
    cube: np.ndarray, model: LoadedModel, *, good_bands: np.ndarray | None = None, device: torch.device | None = None
) -> np.ndarray:
    """Upscales a cube by the model in one piece.

    cube: float32 (bands, rows, cols) in physical units, NaN or masked where missing; bands as in the model's files.
    Returns float32 (bands, s·rows, s·cols) in physical units, NaN under missing samples. Raises InputError for another
    number of bands. See :class:`Upscaler`.
    """
    if cube.shape[0] != model.config.bands.count:
        raise InputError(f"the array has {cube.shape[0]} bands, but the model was made for {model.config.bands.count}")
    good = np.ones(cube.shape[0], dtype=bool) if good_bands is None else good_bands
    upscaler = Upscaler(model, model.config.scale, good, device)
    return upscaler(unmasked(cube))


def bicubic_array(cube: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic upsampling (MATLAB's convention), float32 (bands, rows, cols) → (bands, s·rows, s·cols).

    Missing samples (NaN) are filled before, and missing again after: they never reach their neighbours.
    """
    return Upscaler(None, scale, np.ones(cube.shape[0], dtype=bool))(cube)
