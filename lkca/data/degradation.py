"""From a sharp cube to the one that a sensor with ``s`` times larger pixels would have seen.

Every method is a separable filter followed by taking each s-th value. The filter of an output pixel is
centred on the middle of the s x s input pixels that it covers, so the pair is aligned by half-pixel centres:
no method shifts its result against another or against bicubic upsampling.
"""

from __future__ import annotations

import math
from typing import Any, Self, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from lkca.choices import DegradationMethod

__all__ = ["MTF_AT_NYQUIST", "Degradation", "DegradationMethod", "crop_to_multiple", "degrade"]

# Gain of a hyperspectral sensor at its own Nyquist frequency, where nothing better is known
# (Aiazzi et al. 2006; Vivone et al. 2015 use it for hyperspectral bands).
MTF_AT_NYQUIST = 0.3

_KEYS_A = -0.5  # MATLAB's imresize
_GAUSSIAN_RADIUS = 4.0  # in sigma; what is cut off weighs 6e-5


class Degradation(BaseModel):
    """What was done to the sharp cube; a part of a model's metadata (``model_dump``, ``model_validate``).

    scale: integer factor s >= 2. method:

    - ``bicubic``: MATLAB ``imresize(x, 1/s)``: Keys kernel (a = -0.5) stretched by s, weights normalised,
      symmetric border (Keys 1981; MATLAB R2007a and later).
    - ``gaussian``: normalised Gaussian of standard deviation ``sigma``, in pixels of the sharp cube, cut at
      4 sigma, symmetric border. Default: the sigma whose gain at the Nyquist frequency of the coarse grid is
      :data:`MTF_AT_NYQUIST`, sigma = s/pi * sqrt(2 ln(1/0.3)) = 0.494 s.
    - ``area``: mean of s x s pixels.

    pydantic's ValidationError (a ValueError) for anything else, unknown fields included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: DegradationMethod = Field(default="bicubic", description="How a sharp cube is made coarse.")
    scale: int = Field(ge=2, strict=True, description="Scale factor.")
    sigma: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Of the Gaussian, in fine pixels; null: a typical sensor's.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_sigma(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("method") == "gaussian" and data.get("sigma") is None:
            scale = data.get("scale")
            if isinstance(scale, int) and scale >= 2:
                return {**data, "sigma": scale / math.pi * math.sqrt(2 * math.log(1 / MTF_AT_NYQUIST))}
        return data

    @model_validator(mode="after")
    def _sigma_is_gaussian(self) -> Self:
        if self.sigma is not None and self.method != "gaussian":
            raise ValueError(f"sigma belongs to method 'gaussian', found it with '{self.method}'; leave it out")
        return self

    @property
    def halo(self) -> int:
        """Pixels of the sharp cube that an output pixel reads beyond the s x s that it covers, on each side."""
        if self.method == "area":
            return 0
        if self.method == "bicubic":
            return 3 * self.scale // 2
        assert self.sigma is not None
        return max(0, math.ceil(_GAUSSIAN_RADIUS * self.sigma - self.scale / 2))

    @property
    def kernel(self) -> list[float]:
        """Weights along one axis: ``scale + 2 * halo`` of them, their sum 1."""
        taps = self.scale + 2 * self.halo
        distances = [t - (taps - 1) / 2 for t in range(taps)]
        if self.method == "area":
            weights = [1.0] * taps
        elif self.method == "bicubic":
            weights = [_keys(d / self.scale) for d in distances]
        else:
            assert self.sigma is not None
            nearest = min(map(abs, distances))  # weighs 1, so that the sum of a very narrow one is not 0
            weights = [math.exp(-0.5 * (abs(d) - nearest) * (abs(d) + nearest) / self.sigma**2) for d in distances]
        total = math.fsum(weights)
        return [w / total for w in weights]

    def apply(self, hr: Tensor) -> Tensor:
        """Degrade (..., H, W), any floating dtype and device -> (..., H/s, W/s), same dtype; differentiable.

        float16 and bfloat16 are computed in float32. A NaN makes every output pixel whose filter reaches it NaN.
        ValueError where H or W is not a multiple of s (see :func:`crop_to_multiple`).
        """
        _check(hr, self.scale)
        if hr.shape[-2] % self.scale or hr.shape[-1] % self.scale:
            raise ValueError(
                f"degrade: height and width must be multiples of scale={self.scale}, found {hr.shape[-2]} x "
                f"{hr.shape[-1]}; crop the cube with crop_to_multiple first"
            )
        x = hr.float() if hr.dtype in (torch.float16, torch.bfloat16) else hr
        for dim in (-2, -1):
            x = self._filter(x, dim)
        return x.to(hr.dtype)

    def _filter(self, x: Tensor, dim: int) -> Tensor:
        size = x.shape[dim]
        if self.halo:
            # F.pad has no symmetric mode, and its reflections stop at the image's size
            index = torch.arange(-self.halo, size + self.halo, device=x.device) % (2 * size)
            x = x.index_select(dim, torch.where(index < size, index, 2 * size - 1 - index))
        span = size - self.scale + 1
        out: Tensor | None = None
        for tap, weight in enumerate(self.kernel):
            part = x.narrow(dim, tap, span)
            part = (part[..., :: self.scale, :] if dim == -2 else part[..., :: self.scale]) * weight
            out = part if out is None else out + part
        assert out is not None
        return out


def degrade(hr: Tensor, scale: int, method: DegradationMethod = "bicubic", *, sigma: float | None = None) -> Tensor:
    """Degrade ``hr`` (..., C, H, W) by ``scale``; :class:`Degradation` defines the methods.

    Returns (..., C, H/s, W/s) of the same dtype and device. ValueError for a scale that is no integer >= 2, an
    unknown method, a non-positive sigma, what is no floating tensor, and sizes that s does not divide.
    """
    if method not in get_args(DegradationMethod):
        raise ValueError(f"degrade: method must be one of {', '.join(get_args(DegradationMethod))}, found {method!r}")
    _check(hr, scale)
    return Degradation(method=method, scale=scale, sigma=sigma).apply(hr)


def crop_to_multiple(hr: Tensor, scale: int) -> Tensor:
    """The upper-left part of (..., H, W) whose height and width are the largest multiples of ``scale``; a view.

    ValueError where nothing would be left.
    """
    _check(hr, scale)
    height, width = (size - size % scale for size in hr.shape[-2:])
    if height == 0 or width == 0:
        raise ValueError(
            f"crop_to_multiple: {hr.shape[-2]} x {hr.shape[-1]} pixels hold no {scale} x {scale} block; "
            "use a larger cube or a smaller scale"
        )
    return hr[..., :height, :width]


def _check(hr: Tensor, scale: int) -> None:
    if not isinstance(scale, int) or scale < 2:  # True is 1
        raise ValueError(f"scale must be an integer of at least 2, found {scale!r}")
    if not isinstance(hr, Tensor):
        raise ValueError(
            f"expected a floating tensor (..., height, width), found a {type(hr).__name__}; torch.from_numpy makes one "
            "of an array"
        )
    if hr.ndim < 2 or not hr.is_floating_point() or min(hr.shape[-2:]) < 1:
        raise ValueError(
            f"expected a floating tensor (..., height, width) with pixels, found {hr.dtype} {tuple(hr.shape)}"
        )


def _keys(x: float) -> float:
    """Cubic convolution kernel (Keys 1981, eq. 15)."""
    x = abs(x)
    if x <= 1:
        return (_KEYS_A + 2) * x**3 - (_KEYS_A + 3) * x**2 + 1
    if x < 2:
        return _KEYS_A * (x**3 - 5 * x**2 + 8 * x - 4)
    return 0.0
