"""The six quality measures of hyperspectral super-resolution, under one named protocol.

:data:`PROTOCOL` ``"sspsr"`` is that of SSPSR (Jiang et al. 2020) and its successors: values divided by one peak,
then means over bands. docs/metrics.md has every formula, the cases that the formulas leave open, and sources.
Families of metrics differ by decibels on the same image: print the protocol beside the number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from lkca.data.codec import unmasked

__all__ = ["PROTOCOL", "PSNR_LIMIT", "SSIM_WINDOW", "MetricAccumulator", "Metrics", "evaluate", "mpsnr"]

PROTOCOL = "sspsr"
"""Name of the rules by which these metrics are computed."""
PSNR_LIMIT = 100.0
"""dB; what a band without any error is said to have."""
SSIM_WINDOW = 7
"""Pixels per side of a window of MSSIM."""

_K1, _K2 = 0.01, 0.03  # Wang et al. 2004
_BEYOND = SSIM_WINDOW - 1  # how far a window reaches beyond its first pixel
_CONSTANT = 1e-10  # a band whose standard deviation is below this part of its mean is constant
_CHUNK = 1 << 17  # samples that are held in float64 at a time: a megabyte, so that passes over them stay in the caches


@dataclass(frozen=True)
class Metrics:
    """Quality of a prediction; finite, but for ``mssim`` where no 7 x 7 window was valid (NaN).

    mpsnr: dB, mean over bands of the PSNR for peak 1; higher is better. mssim: mean over bands, at most 1.
    sam: mean spectral angle in degrees. cc: mean over bands of the correlation coefficient. rmse: in units of the
    peak. ergas: 100/scale times the root mean square over bands of RMSE/mean. psnr_per_band: dB, one for each
    evaluated band. pixels: how many were evaluated; missing: pixels valid in the reference, not in the prediction.
    """

    mpsnr: float
    mssim: float
    sam: float
    cc: float
    rmse: float
    ergas: float
    psnr_per_band: tuple[float, ...] = field(repr=False)
    scale: int
    peak: float
    pixels: int
    missing: int = 0
    protocol: str = PROTOCOL

    @property
    def bands(self) -> int:
        """How many bands were evaluated."""
        return len(self.psnr_per_band)

    def as_dict(self, *, per_band: bool = False) -> dict[str, Any]:
        """Plain values for JSON (None for an undefined MSSIM); ``psnr_per_band`` only on request."""
        values: dict[str, Any] = {
            "protocol": self.protocol,
            "mpsnr": self.mpsnr,
            "mssim": None if math.isnan(self.mssim) else self.mssim,
            "sam": self.sam,
            "cc": self.cc,
            "rmse": self.rmse,
            "ergas": self.ergas,
            "scale": self.scale,
            "peak": self.peak,
            "bands": self.bands,
            "pixels": self.pixels,
            "missing": self.missing,
        }
        if per_band:
            values["psnr_per_band"] = list(self.psnr_per_band)
        return values


def evaluate(
    reference: np.ndarray | Tensor,
    prediction: np.ndarray | Tensor,
    *,
    scale: int,
    peak: float | None = None,
    mask: np.ndarray | Tensor | None = None,
    good_bands: np.ndarray | None = None,
) -> Metrics:
    """Compare ``prediction`` with ``reference``, both (bands, rows, cols), any real dtype, same units.

    scale: the real factor between the coarse and the fine grid (for ERGAS). peak: the value that stands for 1; by
    default the largest valid reference value of the good bands. mask: (rows, cols) bool, True = evaluate.
    good_bands: (bands,) bool, True = evaluate. Pixels with a value that is not finite, or is masked (numpy.ma), in a
    good band are left out.

    Returns :class:`Metrics`. ValueError where shapes do not fit, no pixel or band is left, or there is no peak.
    """
    reference, prediction = _array(reference), _array(prediction)
    if reference.ndim != 3:
        raise ValueError(f"evaluate: expected a reference of shape (bands, rows, cols), found {reference.shape}")
    bands = reference.shape[0]
    good = _good_index(good_bands, bands)
    if peak is None:
        valid = _valid(reference, mask, good)
        # without any, any peak will do: compute() tells
        peak = max(float(reference[b][valid].max()) for b in good) if valid.any() else 1.0
        if not peak > 0:
            raise ValueError(
                f"evaluate: the largest valid reference value is {peak:g}, which cannot stand for 1; give the peak"
            )
    accumulator = MetricAccumulator(bands, scale, peak, good_bands=good_bands)
    accumulator.update(reference, prediction, mask)
    return accumulator.compute()


def mpsnr(
    reference: np.ndarray | Tensor,
    prediction: np.ndarray | Tensor,
    peak: float,
    good_bands: np.ndarray | None = None,
) -> float:
    """MPSNR in dB, at most :data:`PSNR_LIMIT`: that of :func:`evaluate`, without the time that MSSIM takes.

    Arguments and errors are those of :func:`evaluate`.
    """
    reference = _array(reference)
    accumulator = MetricAccumulator(len(reference), 1, peak, good_bands=good_bands)
    accumulator._add_pixels(*accumulator._pair(reference, prediction), None)
    return accumulator.compute().mpsnr


class MetricAccumulator:
    """Metrics of a scene that is seen strip by strip, or part by part, equal to those of the whole.

    :meth:`update` takes full-width strips of rows, from the first to the last, of any height: the last six rows of a
    strip are kept, so that every 7 x 7 window of MSSIM is seen once. :meth:`update_part` takes tiles with their
    neighbours, in any order. Holds those rows and a few numbers per band; what it computes in between is bounded too.
    Sums are float64.

    bands: of the arrays. scale, peak, good_bands: as in :func:`evaluate`, the peak being needed beforehand.
    """

    def __init__(self, bands: int, scale: int, peak: float, *, good_bands: np.ndarray | None = None) -> None:
        if isinstance(scale, bool) or not isinstance(scale, int | np.integer) or scale < 1:
            raise ValueError(f"metrics: scale must be a positive integer, found {scale!r}")
        if not (math.isfinite(peak) and peak > 0):
            raise ValueError(f"metrics: peak must be a positive number, found {peak!r}")
        self._bands = bands
        self._good = _good_index(good_bands, bands)
        self._scale, self._peak = int(scale), float(peak)
        count = len(self._good)
        self._pixels = self._missing = 0
        self._mean = np.zeros((2, count))  # of reference and prediction
        self._moment = np.zeros((3, count))  # centred sums: reference, prediction, both
        self._error = np.zeros(count)  # sum of squares
        self._angle, self._angles = 0.0, 0  # degrees, pixels with a direction
        self._ssim, self._windows = np.zeros(count), 0
        self._kept: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def update(
        self,
        reference: np.ndarray | Tensor,
        prediction: np.ndarray | Tensor,
        mask: np.ndarray | Tensor | None = None,
    ) -> None:
        """Add the next strip: (bands, height, cols) twice, and (height, cols) bool with True = evaluate."""
        reference, prediction = self._pair(reference, prediction)
        if self._kept is not None and self._kept[0].shape[2] != reference.shape[2]:
            raise ValueError(
                f"metrics: strips must span the scene's {self._kept[0].shape[2]} columns, found {reference.shape[2]}"
            )
        valid = self._add_pixels(reference, prediction, mask)
        if self._kept is not None:
            old = self._kept
            reference = np.concatenate((old[0], reference), axis=1)
            prediction = np.concatenate((old[1], prediction), axis=1)
            valid = np.concatenate((old[2], valid), axis=0)
        keep = slice(-_BEYOND, None)
        self._kept = reference[:, keep].copy(), prediction[:, keep].copy(), valid[keep].copy()
        self._add_windows(reference, prediction, valid)

    def update_part(
        self, reference: np.ndarray | Tensor, prediction: np.ndarray | Tensor, rows: int, cols: int
    ) -> None:
        """Add a part of the scene, whose pixels are the first ``rows`` and ``cols`` of the arrays (bands, ...).

        After them come their neighbours below and to the right, six of each where the scene has them: the windows that
        begin in the part end there. More are not looked at. The parts must cover the scene, each pixel once.
        """
        reference, prediction = self._pair(reference, prediction)
        reference, prediction = (x[:, : rows + _BEYOND, : cols + _BEYOND] for x in (reference, prediction))
        self._add_pixels(reference[:, :rows, :cols], prediction[:, :rows, :cols], None)
        valid = _valid(reference, None, self._good) & _valid(prediction, None, self._good)
        self._add_windows(reference, prediction, valid)

    def compute(self) -> Metrics:
        """Metrics of all strips so far. ValueError where no pixel was valid."""
        if self._pixels == 0:
            raise ValueError("metrics: no pixel is valid in both reference and prediction; check mask and nodata")
        mse = self._error / self._pixels
        relative = mse / self._peak**2
        psnr = np.minimum(-10 * np.log10(np.maximum(relative, 1e-300)), PSNR_LIMIT)
        has_mean = self._mean[0] != 0
        ergas = 0.0
        if has_mean.any():
            ergas = 100 / self._scale * math.sqrt(float(np.mean(mse[has_mean] / self._mean[0, has_mean] ** 2)))
        return Metrics(
            mpsnr=float(psnr.mean()),
            mssim=float(self._ssim.mean() / self._windows) if self._windows else math.nan,
            sam=self._angle / self._angles if self._angles else 0.0,
            cc=self._correlation(),
            rmse=float(math.sqrt(relative.mean())),
            ergas=ergas,
            psnr_per_band=tuple(float(value) for value in psnr),
            scale=self._scale,
            peak=self._peak,
            pixels=self._pixels,
            missing=self._missing,
        )

    def _pair(self, reference: np.ndarray | Tensor, prediction: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
        reference, prediction = _array(reference), _array(prediction)
        if reference.shape != prediction.shape or reference.ndim != 3 or reference.shape[0] != self._bands:
            raise ValueError(
                f"metrics: reference {reference.shape} and prediction {prediction.shape} must both be "
                f"({self._bands} bands, rows, cols)"
            )
        return reference, prediction

    def _add_pixels(
        self, reference: np.ndarray, prediction: np.ndarray, mask: np.ndarray | Tensor | None
    ) -> np.ndarray:
        """All but MSSIM; gives back which pixels are valid, (rows, cols) bool."""
        seen = _valid(reference, mask, self._good)
        valid: np.ndarray = seen & _valid(prediction, None, self._good)
        self._missing += int(np.count_nonzero(seen & ~valid))
        count = int(np.count_nonzero(valid))
        if count == 0:
            return valid
        total = self._pixels + count
        products = np.zeros((3, count))  # r.r, p.p, r.p of each pixel
        step = max(1, _CHUNK // valid.size)
        for start in range(0, len(self._good), step):
            part = slice(start, start + step)
            index = self._good[part]
            r = reference[index][:, valid].astype(np.float64)
            p = prediction[index][:, valid].astype(np.float64)
            products += [np.einsum("bn,bn->n", x, y) for x, y in ((r, r), (p, p), (r, p))]
            self._error[part] += np.sum((r - p) ** 2, axis=1)
            # parallel form of Chan, Golub and LeVeque (1983): no difference of large sums
            mean = np.stack((r.mean(axis=1), p.mean(axis=1)))
            r -= mean[0][:, None]
            p -= mean[1][:, None]
            shift = mean - self._mean[:, part]
            weight = self._pixels * count / total
            for i, (x, y, a, b) in enumerate(((r, r, 0, 0), (p, p, 1, 1), (r, p, 0, 1))):
                self._moment[i, part] += np.einsum("bn,bn->b", x, y) + weight * shift[a] * shift[b]
            self._mean[:, part] += shift * count / total
        self._pixels = total

        has_direction = products[0] > 0
        rr, pp, rp = products[:, has_direction]
        cosine = rp / np.sqrt(rr * np.where(pp > 0, pp, 1.0))  # a zero prediction is at 90 degrees
        self._angle += float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).sum())
        self._angles += len(rr)
        return valid

    def _add_windows(self, reference: np.ndarray, prediction: np.ndarray, valid: np.ndarray) -> None:
        """MSSIM of all windows that lie wholly inside."""
        if min(valid.shape) < SSIM_WINDOW:
            return
        whole = _window_mean(valid[None].astype(np.float64))[0] > 1 - 0.5 / SSIM_WINDOW**2
        windows = int(np.count_nonzero(whole))
        if windows == 0:
            return
        self._windows += windows
        step, lines = max(1, _CHUNK // valid.size), max(1, _CHUNK // valid.shape[1])
        for start in range(0, len(self._good), step):
            index = self._good[start : start + step]
            for row in range(0, len(whole), lines):
                rows = slice(row, row + lines + SSIM_WINDOW - 1)
                r, p = (
                    np.where(valid[rows], cube[index, rows], 0).astype(np.float64) / self._peak
                    for cube in (reference, prediction)
                )
                self._ssim[start : start + step] += _ssim(r, p)[:, whole[row : row + lines]].sum(axis=1)

    def _correlation(self) -> float:
        limit = self._pixels * (_CONSTANT * self._mean) ** 2
        varies = self._moment[:2] > limit
        if not varies[0].any():
            return 1.0 if not self._error.any() else 0.0
        both = varies[0] & varies[1]
        r, p, rp = self._moment[:, both]
        return float(np.sum(rp / np.sqrt(r * p)) / np.count_nonzero(varies[0]))


def _ssim(r: np.ndarray, p: np.ndarray) -> np.ndarray:
    """SSIM of every window wholly inside, (bands, rows, cols) -> (bands, rows - 6, cols - 6); range 1."""
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)  # scikit-image's use_sample_covariance
    mean_r, mean_p = _window_mean(r), _window_mean(p)
    var_r = sample * (_window_mean(r * r) - mean_r * mean_r)
    var_p = sample * (_window_mean(p * p) - mean_p * mean_p)
    cov = sample * (_window_mean(r * p) - mean_r * mean_p)
    c1, c2 = _K1**2, _K2**2
    above = (2 * mean_r * mean_p + c1) * (2 * cov + c2)
    below = (mean_r**2 + mean_p**2 + c1) * (var_r + var_p + c2)
    result: np.ndarray = above / below
    return result


def _window_mean(x: np.ndarray) -> np.ndarray:
    margin = SSIM_WINDOW // 2
    x = uniform_filter1d(x, SSIM_WINDOW, axis=1)[:, margin:-margin]
    result: np.ndarray = uniform_filter1d(x, SSIM_WINDOW, axis=2)[:, :, margin:-margin]
    return result


def _array(x: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(x, Tensor):
        x = x.detach()
        return (x.float() if x.is_floating_point() and x.itemsize < 4 else x).cpu().numpy()
    return np.asarray(unmasked(x))


def _good_index(good_bands: np.ndarray | None, bands: int) -> np.ndarray:
    good = np.ones(bands, dtype=bool) if good_bands is None else np.asarray(good_bands)
    if good.shape != (bands,) or good.dtype != bool:
        raise ValueError(
            f"metrics: good_bands must be a bool array of {bands} entries, found {good.dtype} {good.shape}"
        )
    if not good.any():
        raise ValueError("metrics: every band is marked bad; there is nothing to compare")
    return np.flatnonzero(good)


def _valid(array: np.ndarray, mask: np.ndarray | Tensor | None, good: np.ndarray) -> np.ndarray:
    """(rows, cols) bool: inside the mask, and finite in every good band."""
    shape = array.shape[1:]
    if isinstance(mask, np.ma.MaskedArray):
        mask = mask.filled(False)
    valid = np.ones(shape, dtype=bool) if mask is None else np.array(_array(mask))
    if valid.shape != shape or valid.dtype != bool:
        raise ValueError(f"metrics: mask must be a bool array of shape {shape}, found {valid.dtype} {valid.shape}")
    for band in good:
        valid &= np.isfinite(array[band])
    return valid
