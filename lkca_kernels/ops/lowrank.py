"""Low-rank sub-pixel upsampling: the second stage alone, and the whole layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels.arguments import check_first, integer
from lkca_kernels.autocasting import autocast
from lkca_kernels.ops import _checks
from lkca_kernels.ops._operator import Operator
from lkca_kernels.reference.bicubic import Convention

__all__ = ["lowrank_pixel_shuffle", "lowrank_upsample"]


def _shape(z: Tensor, weight: Tensor, upscale_factor: int) -> tuple[int, int, int, int]:
    batch, _, h, w = z.shape
    return batch, weight.shape[0] // upscale_factor**2, h * upscale_factor, w * upscale_factor


_operator = Operator(
    "lowrank_pixel_shuffle",
    tensors="Tensor z, Tensor weight, Tensor? bias, Tensor? gate, Tensor? skip",
    options=(("int", "upscale_factor"), ("str", "skip_bicubic")),
    reference=reference.lowrank_pixel_shuffle,
    result=lambda z, weight, *_, upscale_factor, skip_bicubic: z.new_empty(_shape(z, weight, upscale_factor)),
    passes=4,
)


def _check(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    skip: Tensor | None,
    upscale_factor: int,
    skip_bicubic: str,
    out: Tensor | None,
) -> None:
    check_first("z", z, "(B, R, h, w)")
    if weight is None:
        raise TypeError("weight: expected a tensor (C*s*s, R), got None")
    _checks.check_kinds(_operator.names, (z, weight, bias, gate, skip))
    channels = _checks.check_second_stage(z, weight, bias, upscale_factor)
    _checks.check_epilogue(z, channels, gate, skip, upscale_factor, skip_bicubic)
    if out is not None:
        tensors = (z, weight, bias, gate, skip)
        _checks.check_out(out, _shape(z, weight, upscale_factor), torch.contiguous_format, _operator.names, tensors)


def lowrank_pixel_shuffle(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    upscale_factor: int,
    skip_bicubic: Convention = "matlab",
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Expand rank-R features to a high-resolution cube, which is written once. With s = ``upscale_factor``::

        out[b, c, y*s+i, x*s+j] = gate[b, c] * (sum_r weight[c*s*s + i*s + j, r] * z[b, r, y, x]
                                                + bias[c*s*s + i*s + j]) + skip[b, c, y*s+i, x*s+j]

    The sub-pixel convolution of Shi et al. (CVPR 2016) with its weight factorised, then gate and skip.

    Args:
        z: (B, R, h, w), float16, bfloat16, float32 or float64, any strides. All tensors share its dtype and device;
            under autocast they are cast to the autocast dtype (float64 is not).
        weight: (C*s*s, R).
        bias: (C*s*s,).
        gate: (B, C).
        skip: (B, C, h*s, w*s); or (B, C, h, w), of which the bicubic upsampling is added.
        upscale_factor: integer s, 2 to 2**20 - 1.
        skip_bicubic: convention of that upsampling, see :func:`lkca_kernels.bicubic_upsample`.
        out: contiguous tensor for the result, in memory of its own; not while a gradient is needed.
        backend: see :func:`lkca_kernels.use_backend`.

    Returns:
        (B, C, h*s, w*s), contiguous. 16-bit tensors are computed in float32 and rounded once. Differentiable in every
        tensor; twice too, then through the reference.

    Raises:
        TypeError, ValueError: an argument that does not fit, named. BackendError (a ValueError): the backend asked for
            cannot serve the call.
    """
    z, weight, bias, gate, skip = autocast(z, weight, bias, gate, skip)
    upscale_factor = _checks.checked_factor(upscale_factor)
    _check(z, weight, bias, gate, skip, upscale_factor, skip_bicubic, out)
    options = {"upscale_factor": _checks.constant(upscale_factor), "skip_bicubic": skip_bicubic}
    return _operator((z, weight, bias, gate, skip), options, out, backend)


def _pair(name: str, value: object, least: int) -> tuple[int, int]:
    """One for rows and one for columns, of an integer or two."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise TypeError(f"{name}: expected an integer or two, got {value!r}")
    rows, columns = (integer(name, one) for one in pair)
    if rows < least or columns < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return rows, columns


def lowrank_upsample(
    x: Tensor,
    weight_down: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    upscale_factor: int,
    bias_down: Tensor | None = None,
    padding: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    skip_bicubic: Convention = "matlab",
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The whole low-rank layer: a convolution of ``x`` to rank R, then :func:`lowrank_pixel_shuffle`.

    Args:
        x: (B, Cin, H, W), as ``z`` there.
        weight_down: (R, Cin, kh, kw), of at least 1 each.
        bias_down: (R,), of the convolution.
        padding: of the convolution, zeros; by default what keeps an odd kernel's size, dilation * (k // 2).
        stride: of the convolution.
        dilation: of the convolution.

    Padding, stride and dilation are an integer or one each for rows and columns. With (h, w) the size that the
    convolution gives, the other arguments and the result are as for :func:`lowrank_pixel_shuffle`.
    The convolution is PyTorch's own; ``backend`` chooses who serves the second stage. Raises as that does, and
    ValueError for an empty image or a kernel larger than the padded one.
    """
    check_first("x", x, "(B, Cin, H, W)")
    check_first("weight_down", weight_down, "(R, Cin, kh, kw)")
    if weight_down.shape[1] != x.shape[1]:
        raise ValueError(
            f"weight_down: expected (R, Cin, kh, kw) with Cin = {x.shape[1]}, the channels of x, "
            f"got {tuple(weight_down.shape)}"
        )
    if not weight_down.numel():
        raise ValueError(
            f"weight_down: expected at least 1 in each place of (R, Cin, kh, kw), got {tuple(weight_down.shape)}"
        )
    x, weight_down, bias_down = autocast(x, weight_down, bias_down)
    _checks.check_kinds(("x", "weight_down", "bias_down", "out"), (x, weight_down, bias_down, out))
    if out is not None:
        _checks.check_apart(out, ("x", "weight_down", "bias_down"), (x, weight_down, bias_down))
    if bias_down is not None:
        _checks.check_shape("bias_down", bias_down, "(R,)", (weight_down.shape[0],))
    if not x.shape[2] or not x.shape[3]:  # PyTorch convolves no empty image, not even one with padding
        raise ValueError(f"x: expected at least one row and column, got {tuple(x.shape)}")
    stride, dilation = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
    kernel = weight_down.shape[2:]
    if padding is None:
        padding = (dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2))
    else:
        padding = _pair("padding", padding, 0)
    for size, k, p, d in zip(x.shape[2:], kernel, padding, dilation, strict=True):
        if size + 2 * p < d * (k - 1) + 1:
            raise ValueError(
                f"weight_down: its kernel {tuple(kernel)} with dilation {dilation} is larger than the image "
                f"{tuple(x.shape[2:])} with padding {padding}"
            )
    z = F.conv2d(x, weight_down, bias_down, stride=stride, padding=padding, dilation=dilation)
    return lowrank_pixel_shuffle(
        z, weight, bias, gate, skip, upscale_factor=upscale_factor, skip_bicubic=skip_bicubic, out=out, backend=backend
    )
