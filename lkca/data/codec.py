"""Stored samples to physical values and back: the one place where scale, offset and nodata are applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lkca.data.meta import CubeMeta

__all__ = ["Encoder", "beside", "nodata_code", "to_physical", "unmasked"]

_CACHED_SAMPLES = 2**18
_ENCODED_SAMPLES = 2**16  # of a piece whose intermediates stay in the cache
_EXACT_BYTES = 2  # integers of so many bytes are exact in float32, with room for the rounding of a division
_LEAST_SCALE = 1e-37  # whose inverse float32 holds


def to_physical(stored: np.ndarray, meta: CubeMeta) -> np.ndarray:
    """Physical values of stored samples.

    stored: (bands, rows, cols), any real dtype; ``meta`` describes exactly these bands.
    Returns float32 of the same shape: stored * scale_factor + offset, rounded once from float64;
    nodata and non-finite samples become NaN.
    """
    bands = stored.shape[0]
    scale = np.broadcast_to(np.asarray(meta.scale_factor, dtype=np.float64), bands)
    offset = np.broadcast_to(np.asarray(meta.offset, dtype=np.float64), bands)
    missing = nodata_code(stored.dtype, meta.nodata)
    out = np.empty(stored.shape, dtype=np.float32)
    # where the bands are interleaved, transpose piece by piece in the cache (3 times faster than band by band)
    interleaved = stored.strides[0] < stored.strides[2]
    step = max(1, _CACHED_SAMPLES // (bands * stored.shape[2])) if interleaved else stored.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        for row in range(0, stored.shape[1], step):
            part = np.ascontiguousarray(stored[:, row : row + step]) if interleaved else stored
            for band in range(bands):
                values, target = part[band], out[band, row : row + step]
                if scale[band] == 1.0 and offset[band] == 0.0:
                    target[...] = values
                else:
                    target[...] = values.astype(np.float64) * scale[band] + offset[band]
                if missing is not None:
                    target[values == missing] = np.nan
    if stored.dtype.kind == "f":
        out[~np.isfinite(out)] = np.nan
    return out


def nodata_code(dtype: np.dtype, nodata: float | None) -> np.generic | None:
    """The nodata value as a sample of ``dtype``; None where no sample of that dtype can equal it (or it is NaN)."""
    if nodata is None or np.isnan(nodata):
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            result: np.generic | None = dtype.type(nodata)
            return result
    if dtype.kind == "b" or not float(nodata).is_integer():  # infinite included
        return None
    info = np.iinfo(dtype)
    return dtype.type(int(nodata)) if info.min <= nodata <= info.max else None


def beside(code: np.generic) -> np.generic:
    """What a valid sample is stored as where its own value is ``code``, that of missing samples: the next value (at the
    end of the type, the one before), of floats the next that is finite and not subnormal."""
    dtype: np.dtype = code.dtype
    following: np.generic
    if dtype.kind == "f":
        towards = np.inf if code < np.finfo(dtype).max else -np.inf
        following = np.nextafter(code, dtype.type(towards)) if code else np.finfo(dtype).tiny
    else:
        following = dtype.type(int(code) + (1 if int(code) < np.iinfo(dtype).max else -1))
    return following


def unmasked(array: np.ndarray) -> np.ndarray:
    """A numpy masked array of real numbers with NaN under its mask, in the float dtype that holds the others; else the
    array itself."""
    if not isinstance(array, np.ma.MaskedArray) or array.dtype.kind not in "biuf":
        return array
    filled: np.ndarray = np.ma.filled(array.astype(np.result_type(array.dtype, np.float32)), np.nan)
    return filled


@dataclass
class Encoder:
    """Physical values to stored samples, block by block, counting what did not fit.

    meta: its scale_factor, offset, nodata and stored_dtype are those of the output.
    clipped: samples beyond the range of an integer dtype; missing: NaN samples; low, high: the extreme codes.
    """

    meta: CubeMeta
    clipped: int = 0
    missing: int = 0
    low: float = np.inf
    high: float = -np.inf

    def counts(self) -> dict[str, float]:
        """What was counted, JSON-able, for :meth:`add` of another encoder."""
        return {"clipped": self.clipped, "missing": self.missing, "low": self.low, "high": self.high}

    def add(self, counts: Mapping[str, float]) -> None:
        """Count what another encoder of the same output counted."""
        self.clipped += int(counts["clipped"])
        self.missing += int(counts["missing"])
        self.low, self.high = min(self.low, counts["low"]), max(self.high, counts["high"])

    def gains(self, which: slice) -> np.ndarray | None:
        """float32 (bands,): factors that make stored samples of physical ones; None where that takes more.

        Who multiplies float32 values by them, and rounds to even and clips to the range of an integer dtype, may let
        :meth:`mend` make of the products what :meth:`encode` gives.
        """
        dtype = np.dtype(self.meta.stored_dtype)
        scale, offset = (np.asarray(each, dtype=np.float64) for each in (self.meta.scale_factor, self.meta.offset))
        scale = scale[which] if scale.ndim else np.full(which.stop - which.start, scale)
        return _gain(dtype, scale, offset) if dtype.isnative else None

    def mend(
        self,
        stored: np.ndarray,
        extremes: tuple[float, float],
        missing: np.ndarray | None = None,
        *,
        exact: bool = False,
    ) -> dict[str, float] | None:
        """Makes of products with :meth:`gains`, in place, what :meth:`encode` gives.

        extremes: before they were bounded, of the products (``exact``), or of more than them; NaN where any is not
        finite. missing: bool, broadcast to ``stored``: what becomes the nodata code, whatever it was. Returns what
        would have been counted, see :meth:`counts`; None, with ``stored`` as it was, where it cannot be told from the
        products.
        """
        code = nodata_code(stored.dtype, self.meta.nodata)
        counted = stored.dtype.kind != "f"
        counts: dict[str, float] = {"clipped": 0, "missing": 0, "low": np.inf, "high": -np.inf}
        if missing is not None and self.code is None:
            return None
        accepted = self._accepts(*extremes)
        if not accepted:
            if code is None or not self._passes_no_end_but(code, *extremes):
                return None
            on_code = stored == code
            np.copyto(stored, beside(code), where=on_code)
            if counted:  # they were clipped, or would have been stored as the code at the end of the range
                counts["clipped"] = int(np.count_nonzero(on_code if missing is None else on_code & ~missing))
        if missing is not None:
            counts["missing"] = int(np.count_nonzero(missing)) * (stored.size // missing.size)
            valid = np.unravel_index(np.argmin(missing), missing.shape)
            counted = counted and not missing[valid]
            if counted:  # no extreme then: five times as fast as to leave them out
                np.copyto(stored, stored[valid], where=missing)
        if counted and accepted and exact and missing is None:
            counts["low"], counts["high"] = extremes
        elif counted:
            counts["low"], counts["high"] = float(stored.min()), float(stored.max())
        if missing is not None:
            np.copyto(stored, np.nan if code is None else code, where=missing)
        return counts

    def _accepts(self, least: float, most: float) -> bool:
        """Whether samples from ``least`` to ``most`` (NaN where any is not finite) are stored as they are."""
        dtype = np.dtype(self.meta.stored_dtype)
        if not (np.isfinite(least) and np.isfinite(most)):
            return False
        if dtype.kind != "f" and (least < np.iinfo(dtype).min or most > np.iinfo(dtype).max):
            return False
        code = self.code
        return code is None or not least <= code <= most

    def _passes_no_end_but(self, code: np.generic, least: float, most: float) -> bool:
        """Whether samples from ``least`` to ``most`` are within the dtype, but for an end that is the code."""
        if not (np.isfinite(least) and np.isfinite(most)):
            return False
        dtype: np.dtype = code.dtype
        if dtype.kind == "f":
            return True
        ends = np.iinfo(dtype)
        return (code == ends.min and most <= ends.max) or (code == ends.max and least >= ends.min)

    @property
    def code(self) -> float | None:
        """What missing samples are stored as; None where there is no such code."""
        dtype = np.dtype(self.meta.stored_dtype)
        code = nodata_code(dtype, self.meta.nodata)
        return float(code) if code is not None else np.nan if dtype.kind == "f" else None

    def encode(self, physical: np.ndarray, which: slice = slice(None)) -> np.ndarray:
        """(bands, rows, cols) physical -> stored samples in ``meta.stored_dtype``.

        Integers are rounded to nearest, halves to even, and clipped; a valid sample that would be stored as the nodata
        code moves to the next code. which: the bands among those that ``meta`` describes. ValueError where NaN samples
        meet an integer dtype without a nodata value.
        """
        meta = self.meta
        assert meta.stored_dtype is not None
        dtype = np.dtype(meta.stored_dtype)
        bands = physical.shape[0]
        scale, offset = (
            np.broadcast_to(each[which] if each.ndim else each, bands)
            for each in (np.asarray(meta.scale_factor, dtype=np.float64), np.asarray(meta.offset, dtype=np.float64))
        )
        code = nodata_code(dtype, meta.nodata)
        out = np.empty(physical.shape, dtype=dtype)
        step = max(1, _ENCODED_SAMPLES // max(1, physical.shape[2]))
        for band in range(bands):
            for row in range(0, physical.shape[1], step):
                part, target = physical[band, row : row + step], out[band, row : row + step]
                if not self._encode_plain(part, target, scale[band], offset[band]):
                    self._encode_any(part, target, scale[band], offset[band], code)
        return out

    def _encode_plain(self, part: np.ndarray, target: np.ndarray, scale: float, offset: float) -> bool:
        """The common case, in few passes: float32 samples of which none is missing, clipped or on the nodata code.

        False, with nothing counted, where it is not that case.
        """
        integer, gain = target.dtype.kind != "f", _gain(target.dtype, scale, offset)
        if part.dtype != np.float32 or gain is None or part.size == 0:
            return False
        least, most = part.min(), part.max()  # NaN where any sample is
        if integer and np.isfinite(least) and np.isfinite(most):
            with np.errstate(over="ignore"):
                least, most = sorted((np.rint(least * gain), np.rint(most * gain)))
        if not self._accepts(float(least), float(most)):
            return False
        if not integer:
            target[...] = part
            return True
        rounded = np.multiply(part, gain)
        np.copyto(target, np.rint(rounded, out=rounded), casting="unsafe")
        self.low, self.high = min(self.low, float(least)), max(self.high, float(most))
        return True

    def _encode_any(
        self, part: np.ndarray, target: np.ndarray, scale: float, offset: float, code: np.generic | None
    ) -> None:
        gain = _gain(target.dtype, scale, offset)
        if part.dtype == np.float32 and gain is not None:
            with np.errstate(over="ignore"):
                stored = (part * gain).astype(np.float64)
            invalid = ~np.isfinite(part)
        else:
            stored = (part.astype(np.float64) - offset) / scale
            invalid = ~np.isfinite(stored)
        self.missing += int(np.count_nonzero(invalid))
        if target.dtype.kind != "f":
            target[...] = self._to_integer(stored, invalid, target.dtype, code)
            return
        target[...] = stored
        if code is not None:
            target[target == code] = beside(code)
        target[invalid] = np.nan if code is None else code

    def _to_integer(
        self, stored: np.ndarray, invalid: np.ndarray, dtype: np.dtype, code: np.generic | None
    ) -> np.ndarray:
        if code is None and invalid.any():
            raise ValueError("missing (NaN) samples, but no nodata value to store them as")
        info = np.iinfo(dtype)
        stored[invalid] = 0
        low, high = int(info.min), int(info.max)
        reserved = None if code is None else int(code)
        if reserved is not None:  # the nodata code at an end of the range is not a value
            low, high = low + (reserved == low), high - (reserved == high)
        rounded = np.rint(stored)
        if stored.size and not invalid.any():
            least, most = float(rounded.min()), float(rounded.max())
            if least >= low and most < float(high + 1) and (reserved is None or not least <= reserved <= most):
                self.low, self.high = min(self.low, least), max(self.high, most)
                common: np.ndarray = rounded.astype(dtype)  # nothing is clipped, missing or on the nodata code
                return common
        below, above = rounded < low, rounded >= high + 1  # float64 cannot hold the ends of 64 bits
        outside = below | above
        clips = bool(outside.any())
        if clips:
            self.clipped += int(np.count_nonzero(outside & ~invalid))
            rounded[outside] = 0
        samples = rounded.astype(dtype)
        if clips:
            samples[below], samples[above] = low, high
        if reserved is not None:
            hit = (samples == reserved) & ~invalid
            if hit.any():  # never at an end of the range, see above
                up = stored >= reserved
                samples[hit & up], samples[hit & ~up] = reserved + 1, reserved - 1
            samples[invalid] = reserved
        valid = samples[~invalid] if invalid.any() else samples
        if valid.size:
            self.low = min(self.low, float(valid.min()))
            self.high = max(self.high, float(valid.max()))
        result: np.ndarray = samples
        return result


def _gain(dtype: np.dtype, scale: float | np.ndarray, offset: float | np.ndarray) -> np.ndarray | None:
    """float32, by which float32 samples are multiplied to be stored; None where that is not exact enough, or not all.

    Decided by the bands' description alone, lest a code depend on what lies around its sample.
    """
    if np.any(offset != 0.0):
        return None
    if dtype.kind == "f":
        return np.asarray(scale, dtype=np.float32) if dtype == np.float32 and np.all(scale == 1.0) else None
    exact = dtype.itemsize <= _EXACT_BYTES and np.all(np.abs(scale) > _LEAST_SCALE)
    return np.asarray(1.0 / scale, dtype=np.float32) if exact else None
