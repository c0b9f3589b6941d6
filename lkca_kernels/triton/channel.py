"""channel_gate and channel_attention: one read of the image for its means, one for the scaled copy.

The two small layers between them are recomputed by every program of the second kernel while they are small, so that
they cost no launch of their own.
"""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lkca_kernels.memory_format import memory_format_of

from .config import ChannelTile, channel_tiles, power_of_two, splits
from .guard import check
from .launch import launch, streaming_multiprocessors, strides
from .tiles import low_res_pixels
from .tune import choose

__all__ = ["channel_attention_bwd", "channel_attention_fwd", "channel_gate_bwd", "channel_gate_fwd", "flat_planes"]

Layers = tuple[Tensor, Tensor, Tensor, Tensor]  # w1, b1, w2, b2

_FUSED_WEIGHTS = 16384  # C * Cr up to which a program recomputes the gate: it then costs less than its tile of x


@triton.jit
def _hidden(
    part_ptr, w1_ptr, b1_ptr, b, B, C, Cr, parts, inverse, w1_sr, w1_sc, b1_sr,
    BLOCK_C: tl.constexpr, CRP: tl.constexpr,
):  # fmt: skip
    """relu(w1 · mean + b1) of image b, (CRP,) float32, 0 from Cr on."""
    cr = tl.arange(0, CRP)
    hidden = tl.load(b1_ptr + cr.to(tl.int64) * b1_sr, mask=cr < Cr, other=0.0).to(tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        mean = _mean(part_ptr, b, c, B, C, parts, inverse, BLOCK_C)
        w1 = tl.load(
            w1_ptr + (cr.to(tl.int64) * w1_sr)[:, None] + (c.to(tl.int64) * w1_sc)[None, :],
            mask=(cr < Cr)[:, None] & (c < C)[None, :],
            other=0.0,
        )
        hidden += tl.sum(w1.to(tl.float32) * mean[None, :], 1)
    # Keeps a NaN, as maximum does not; but not that of an infinite mean times the zeros past Cr.
    return tl.where((hidden <= 0.0) | (cr >= Cr), 0.0, hidden)


@triton.jit
def _mean(part_ptr, b, c, B, C, parts, inverse, BLOCK_C: tl.constexpr):
    """Means of channels c of image b from their partial sums, added in order."""
    total = tl.zeros([BLOCK_C], tl.float32)
    for part in range(parts):
        total += tl.load(part_ptr + (part * B + b) * C + c, mask=c < C, other=0.0)
    return total * inverse


@triton.jit
def _gate(
    part_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, b, c, B, C, Cr, parts, inverse,
    w1_sr, w1_sc, b1_sr, w2_sc, w2_sr, b2_sc,
    BLOCK_K: tl.constexpr, CRP: tl.constexpr,
):  # fmt: skip
    """sigmoid(w2 · hidden + b2) of channels c of image b, float32."""
    hidden = _hidden(
        part_ptr, w1_ptr, b1_ptr, b, B, C, Cr, parts, inverse, w1_sr, w1_sc, b1_sr, BLOCK_K, CRP
    )  # fmt: skip
    cr = tl.arange(0, CRP)
    w2 = tl.load(
        w2_ptr + (c.to(tl.int64) * w2_sc)[:, None] + (cr.to(tl.int64) * w2_sr)[None, :],
        mask=(c < C)[:, None] & (cr < Cr)[None, :],
        other=0.0,
    )
    b2 = tl.load(b2_ptr + c.to(tl.int64) * b2_sc, mask=c < C, other=0.0).to(tl.float32)
    return tl.sigmoid(tl.sum(w2.to(tl.float32) * hidden[None, :], 1) + b2)


@triton.jit(do_not_specialize=["c_blocks", "splits", "length", "h"])
def channel_sum_kernel(
    x_ptr,  # (B, C, h, w)
    grad_ptr,  # (B, C, h, w) or None
    part_ptr,  # (splits, B, C) float32: sums of x, or of x * grad
    B, C, h, w, c_blocks, splits, length,
    x_sb, x_sc, x_sy, x_sx,
    grad_sb, grad_sc, grad_sy, grad_sx,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    split = (pid % splits).to(tl.int64)
    c = pid // splits % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (pid // splits // c_blocks).to(tl.int64)
    total = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for step in range(length):
        y, x = low_res_pixels((split * length + step) * BLOCK_P, w, BLOCK_P)
        mask = (c < C)[:, None] & (y < h)[None, :]
        pixel = y * x_sy + x.to(tl.int64) * x_sx
        value = tl.load(
            x_ptr + b * x_sb + (c.to(tl.int64) * x_sc)[:, None] + pixel[None, :], mask=mask, other=0.0
        ).to(tl.float32)  # fmt: skip
        if grad_ptr is not None:
            pixel = y * grad_sy + x.to(tl.int64) * grad_sx
            grad = tl.load(
                grad_ptr + b * grad_sb + (c.to(tl.int64) * grad_sc)[:, None] + pixel[None, :], mask=mask, other=0.0
            )  # fmt: skip
            value *= grad.to(tl.float32)
        total += value
    tl.store(part_ptr + (split * B + b) * C + c, tl.sum(total, 1), mask=c < C)


@triton.jit(do_not_specialize=["c_blocks", "parts"])
def channel_gate_fwd_kernel(
    part_ptr,  # (parts, B, C) float32
    w1_ptr, b1_ptr, w2_ptr, b2_ptr,  # (Cr, C), (Cr,), (C, Cr), (C,)
    mean_ptr,  # (B, C) float32
    gate_ptr,  # (B, C)
    B, C, Cr, c_blocks, parts, inverse,
    w1_sr, w1_sc, b1_sr, w2_sc, w2_sr, b2_sc,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, CRP: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    c = pid % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (pid // c_blocks).to(tl.int64)
    gate = _gate(
        part_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, b, c, B, C, Cr, parts, inverse,
        w1_sr, w1_sc, b1_sr, w2_sc, w2_sr, b2_sc, BLOCK_K, CRP,
    )  # fmt: skip
    tl.store(mean_ptr + b * C + c, _mean(part_ptr, b, c, B, C, parts, inverse, BLOCK_C), mask=c < C)
    tl.store(gate_ptr + b * C + c, gate.to(gate_ptr.dtype.element_ty), mask=c < C)


@triton.jit(do_not_specialize=["c_blocks", "p_blocks", "parts", "h"])
def channel_scale_kernel(
    x_ptr,  # (B, C, h, w)
    gate_ptr,  # (B, C) float32, or None: made here from the partial sums
    shift_ptr,  # (B, C) float32 or None, added after the gate
    residual_ptr,  # (B, C, h, w) or None, added after the gate
    part_ptr,  # (parts, B, C) float32, or None where the gate is given
    w1_ptr, b1_ptr, w2_ptr, b2_ptr,  # (Cr, C), (Cr,), (C, Cr), (C,)
    mean_ptr,  # (B, C) float32, written where the gate is made here
    out_ptr,  # (B, C, h, w)
    B, C, Cr, h, w, c_blocks, p_blocks, parts, inverse,
    x_sb, x_sc, x_sy, x_sx,
    residual_sb, residual_sc, residual_sy, residual_sx,
    out_sb, out_sc, out_sy, out_sx,
    w1_sr, w1_sc, b1_sr, w2_sc, w2_sr, b2_sc,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, CRP: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p_block = pid % p_blocks
    c = pid // p_blocks % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (pid // p_blocks // c_blocks).to(tl.int64)
    c64 = c.to(tl.int64)
    y, x = low_res_pixels(p_block.to(tl.int64) * BLOCK_P, w, BLOCK_P)
    mask = (c < C)[:, None] & (y < h)[None, :]
    pixel = y * x_sy + x.to(tl.int64) * x_sx
    tile = tl.load(x_ptr + b * x_sb + (c64 * x_sc)[:, None] + pixel[None, :], mask=mask, other=0.0).to(tl.float32)
    if gate_ptr is not None:
        gate = tl.load(gate_ptr + b * C + c, mask=c < C, other=0.0)
    else:
        gate = _gate(
            part_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, b, c, B, C, Cr, parts, inverse,
            w1_sr, w1_sc, b1_sr, w2_sc, w2_sr, b2_sc, BLOCK_K, CRP,
        )  # fmt: skip
        if p_block == 0:
            tl.store(mean_ptr + b * C + c, _mean(part_ptr, b, c, B, C, parts, inverse, BLOCK_C), mask=c < C)
    tile *= gate[:, None]
    if shift_ptr is not None:
        tile += tl.load(shift_ptr + b * C + c, mask=c < C, other=0.0)[:, None]
    if residual_ptr is not None:
        pixel = y * residual_sy + x.to(tl.int64) * residual_sx
        residual = tl.load(
            residual_ptr + b * residual_sb + (c64 * residual_sc)[:, None] + pixel[None, :], mask=mask, other=0.0
        )  # fmt: skip
        tile += residual.to(tl.float32)
    pixel = y * out_sy + x.to(tl.int64) * out_sx
    tl.store(
        out_ptr + b * out_sb + (c64 * out_sc)[:, None] + pixel[None, :], tile.to(out_ptr.dtype.element_ty), mask=mask
    )  # fmt: skip


def flat_planes(*tensors: Tensor | None) -> tuple[list[Any], int, int]:
    """The tensors with (h, w) seen as one long row where none of them has gaps: then every row is aligned."""
    present = [t for t in tensors if t is not None]
    h, w = present[0].shape[2:]
    if all(t.stride(2) == w * t.stride(3) for t in present):
        views = [
            None if t is None else t.as_strided((*t.shape[:2], 1, h * w), (*t.stride()[:2], 0, t.stride(3)))
            for t in tensors
        ]
        return views, 1, h * w
    return list(tensors), h, w


def _choose(operator: str, x: Tensor, run: Callable[[ChannelTile], object], *key: object) -> ChannelTile:
    channels_last = memory_format_of(x) == torch.channels_last
    layout = "channels_last" if channels_last else "contiguous"
    return choose(operator, (x.shape[1], layout, x.dtype, *key), channel_tiles(channels_last), run, x.device)


def _partial_sums(x: Tensor, grad: Tensor | None, tile: ChannelTile) -> Tensor:
    """Sums of x (or x * grad) over parts of the image, (parts, B, C) float32."""
    batch, channels = x.shape[:2]
    (x, grad), h, w = flat_planes(x, grad)
    c_blocks, p_blocks = triton.cdiv(channels, tile.block_c), triton.cdiv(h * w, tile.block_p)
    parts, length = splits(p_blocks, batch * c_blocks, 8 * streaming_multiprocessors(x.device))
    sums = torch.empty((parts, batch, channels), dtype=torch.float32, device=x.device)
    arguments = {
        "x_ptr": x, "grad_ptr": grad, "part_ptr": sums,
        "B": batch, "C": channels, "h": h, "w": w, "c_blocks": c_blocks, "splits": parts, "length": length,
        **strides("x", x, "bcyx"), **strides("grad", grad, "bcyx"),
        "BLOCK_C": tile.block_c, "BLOCK_P": tile.block_p,
    }  # fmt: skip
    launch(channel_sum_kernel, batch * c_blocks * parts, arguments, device=x.device, num_warps=tile.num_warps)
    return sums


def _layers(layers: Layers | None) -> dict[str, object]:
    """Kernel arguments of the two small layers, absent where the kernel is given their gate."""
    w1, b1, w2, b2 = layers or (None, None, None, None)
    reduced, channels = (1, 1) if w1 is None else w1.shape
    crp = power_of_two(reduced)
    return {
        "w1_ptr": w1, "b1_ptr": b1, "w2_ptr": w2, "b2_ptr": b2, "Cr": reduced,
        **strides("w1", w1, "rc"), **strides("b1", b1, "r"), **strides("w2", w2, "cr"), **strides("b2", b2, "c"),
        "BLOCK_K": max(1, min(power_of_two(channels), 2048 // crp)), "CRP": crp,
    }  # fmt: skip


def _gate_of(sums: Tensor, pixels: int, layers: Layers, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gate in ``dtype`` and mean in float32, (B, C) both."""
    parts, batch, channels = sums.shape
    mean = torch.empty((batch, channels), dtype=torch.float32, device=sums.device)
    gate = torch.empty_like(mean, dtype=dtype)
    block_c = max(1, min(power_of_two(channels), 2048 // power_of_two(layers[0].shape[0])))
    c_blocks = triton.cdiv(channels, block_c)
    arguments = {
        "part_ptr": sums, "mean_ptr": mean, "gate_ptr": gate,
        "B": batch, "C": channels, "c_blocks": c_blocks, "parts": parts, "inverse": 1.0 / pixels,
        **_layers(layers), "BLOCK_C": block_c,
    }  # fmt: skip
    launch(channel_gate_fwd_kernel, batch * c_blocks, arguments, device=sums.device, num_warps=4)
    return gate, mean


def _scale(
    x: Tensor,
    gate: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    tile: ChannelTile,
    *,
    sums: Tensor | None = None,
    layers: Layers | None = None,
    mean: Tensor | None = None,
) -> Tensor:
    """out = x * gate + shift + residual; without ``gate``, the one that ``layers`` make of ``sums``."""
    batch, channels = x.shape[:2]
    pixels = x.shape[2] * x.shape[3]
    (x, residual, view), h, w = flat_planes(x, residual, out)
    c_blocks, p_blocks = triton.cdiv(channels, tile.block_c), triton.cdiv(h * w, tile.block_p)
    arguments = {
        "x_ptr": x, "gate_ptr": gate, "shift_ptr": shift, "residual_ptr": residual, "part_ptr": sums,
        "mean_ptr": mean, "out_ptr": view,
        "B": batch, "C": channels, "h": h, "w": w, "c_blocks": c_blocks, "p_blocks": p_blocks,
        "parts": 0 if sums is None else sums.shape[0], "inverse": 1.0 / pixels,
        **_layers(layers),
        **strides("x", x, "bcyx"), **strides("residual", residual, "bcyx"), **strides("out", view, "bcyx"),
        "BLOCK_C": tile.block_c, "BLOCK_P": tile.block_p,
    }  # fmt: skip
    launch(channel_scale_kernel, batch * c_blocks * p_blocks, arguments, device=x.device, num_warps=tile.num_warps)
    return out


def _check(x: Tensor, layers: Layers, *others: tuple[str, Tensor | None, tuple[int, ...]]) -> None:
    _, channels, _, _ = x.shape
    w1, b1, w2, b2 = layers
    if any(layer is None for layer in layers):
        raise ValueError("w1, b1, w2, b2: expected tensors, got None")
    reduced = b1.numel()
    check(
        x,
        ("w1", w1, (reduced, channels)),
        ("b1", b1, (reduced,)),
        ("w2", w2, (channels, reduced)),
        ("b2", b2, (channels,)),
        *others,
    )


def channel_gate_fwd(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """Gate (B, C) in the dtype of x, and mean (B, C) in float32."""
    _check(x, (w1, b1, w2, b2))
    sums = partial(_partial_sums, x, None)
    return _gate_of(sums(_choose("channel_gate_fwd", x, sums)), x.shape[2] * x.shape[3], (w1, b1, w2, b2), x.dtype)


def channel_attention_fwd(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None, *, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x * gate + residual in the layout of x, and mean (B, C) in float32."""
    _check(x, (w1, b1, w2, b2), ("residual", residual, x.shape), ("out", out, x.shape))
    if out is None:
        out = torch.empty_like(x, memory_format=memory_format_of(x))
    run = partial(_attend, x, (w1, b1, w2, b2), residual, out)
    return out, run(_choose("channel_attention_fwd", x, run, w1.shape[0], residual is not None))


def _attend(x: Tensor, layers: Layers, residual: Tensor | None, out: Tensor, tile: ChannelTile) -> Tensor:
    """Fills ``out``; the mean."""
    sums = _partial_sums(x, None, tile)
    if layers[0].numel() > _FUSED_WEIGHTS:
        gate, mean = _gate_of(sums, x.shape[2] * x.shape[3], layers, torch.float32)
        _scale(x, gate, None, residual, out, tile)
    else:
        mean = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
        _scale(x, None, None, residual, out, tile, sums=sums, layers=layers, mean=mean)
    return mean


def _layers_bwd(d_gate: Tensor, mean: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, ...]:
    """Gate, and gradients of mean, w1, b1, w2, b2, all float32. (B, C)-sized, so PyTorch's own operations.

    Products are sums of products: no matrix library, hence deterministic and in full float32.
    """
    wide1, wide2 = w1.float(), w2.float()
    before = (wide1 * mean[:, None, :]).sum(2) + b1.float()
    hidden = before.relu()
    gate = torch.sigmoid((wide2 * hidden[:, None, :]).sum(2) + b2.float())
    d_last = d_gate.float() * gate * (1 - gate)
    d_before = (wide2 * d_last[:, :, None]).sum(1).masked_fill(before <= 0, 0)  # so that a NaN is not spread, or lost
    d_mean = (wide1 * d_before[:, :, None]).sum(1)
    d_w1 = (d_before[:, :, None] * mean[:, None, :]).sum(0)
    d_w2 = (d_last[:, :, None] * hidden[:, None, :]).sum(0)
    return gate, d_mean, d_w1, d_before.sum(0), d_w2, d_last.sum(0)


def channel_gate_bwd(
    grad_gate: Tensor,
    x: Tensor,
    mean: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, w1, b1, w2, b2; that of x is constant over each plane."""
    _check(x, (w1, b1, w2, b2), ("grad", grad_gate, x.shape[:2]))
    _, d_mean, *d_layers = _layers_bwd(grad_gate, mean, w1, b1, w2, b2)
    d_x = None
    if needs[0]:
        d_x = torch.empty_like(x, memory_format=memory_format_of(x))
        d_x.copy_((d_mean / (x.shape[2] * x.shape[3]))[:, :, None, None].expand_as(x))
    return d_x, *_wanted(d_layers, (w1, b1, w2, b2), needs[1:])


def channel_attention_bwd(
    grad_out: Tensor,
    x: Tensor,
    mean: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, w1, b1, w2, b2: grad_out and x read once for the gate's, grad_out once more for that of x."""
    _check(x, (w1, b1, w2, b2), ("grad", grad_out, x.shape))
    run = partial(_attend_bwd, grad_out, x, mean, (w1, b1, w2, b2), needs)
    return run(_choose("channel_attention_bwd", x, run, needs[0]))


def _attend_bwd(
    grad_out: Tensor, x: Tensor, mean: Tensor, layers: Layers, needs: tuple[bool, ...], tile: ChannelTile
) -> tuple[Tensor | None, ...]:
    d_gate = _partial_sums(x, grad_out, tile).sum(0)
    gate, d_mean, *d_layers = _layers_bwd(d_gate, mean, *layers)
    d_x = None
    if needs[0]:
        d_x = torch.empty_like(x, memory_format=memory_format_of(x))
        _scale(grad_out, gate, d_mean / (x.shape[2] * x.shape[3]), None, d_x, tile)
    return d_x, *_wanted(d_layers, layers, needs[1:])


def _wanted(gradients: list[Tensor], inputs: tuple[Tensor, ...], needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    return tuple(
        gradient.to(tensor.dtype).contiguous() if need else None
        for gradient, tensor, need in zip(gradients, inputs, needs, strict=True)
    )
