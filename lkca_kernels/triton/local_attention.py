"""local_channel_attention, forward and backward: gates from the mean magnitudes in a window around each pixel.

With u = |x|, P the window's mean, and per pixel

    q = w1 · u    m = mean_C(u)    r = P q / (P m + eps)    gate = 2 sigmoid(w2 · relu(r))    out = x * gate

the few rows of q and m are made first (w1 and P commute), (B, K + 1, H*W) in float32, so that the window is taken over
K + 1 channels, not C. Backward, from d_logit = grad * x * gate * (1 - gate / 2):

    d_r = (w2ᵀ · d_logit) where r > 0    d_q = Pᵀ (d_r / (P m + eps))    d_m = Pᵀ (-sum_K(d_r * r) / (P m + eps))
    d_x = grad * gate + sign(x) * (w1ᵀ · d_q + d_m / C)    d_w1 = sum d_q uᵀ    d_w2 = sum d_logit relu(r)ᵀ

Sums over pixels are partial sums per program, added in a fixed order: the result is deterministic.
"""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from lkca_kernels.memory_format import memory_format_of

from .box import box_mean
from .channel import flat_planes
from .config import LocalTile, local_tiles
from .guard import check
from .launch import launch, precision, strides
from .tiles import low_res_pixels
from .tune import choose

__all__ = ["local_channel_attention_bwd", "local_channel_attention_fwd"]

_EPS = torch.finfo(torch.float32).tiny ** 0.5


@triton.jit
def _image_tile(ptr, b, c, y, x, C, h, sb, sc, sy, sx):
    """The tile (BLOCK_C, BLOCK_P) of one image, in its own dtype, 0 outside."""
    pixel = y * sy + x.to(tl.int64) * sx
    mask = (c < C)[:, None] & (y < h)[None, :]
    return tl.load(ptr + b * sb + (c.to(tl.int64) * sc)[:, None] + pixel[None, :], mask=mask, other=0.0)


@triton.jit
def _store_image(ptr, tile, b, c, y, x, C, h, sb, sc, sy, sx):
    pixel = y * sy + x.to(tl.int64) * sx
    mask = (c < C)[:, None] & (y < h)[None, :]
    tl.store(
        ptr + b * sb + (c.to(tl.int64) * sc)[:, None] + pixel[None, :], tile.to(ptr.dtype.element_ty), mask=mask
    )  # fmt: skip


@triton.jit
def _matrix(ptr, i, j, M, N, si, sj):
    """Rows i and columns j of a matrix (M, N), 0 outside."""
    offsets = (i.to(tl.int64) * si)[:, None] + (j.to(tl.int64) * sj)[None, :]
    return tl.load(ptr + offsets, mask=(i < M)[:, None] & (j < N)[None, :], other=0.0)


@triton.jit
def _rows(ptr, b, k, p, K, rows, pixels):
    """Rows k < K of one image of the workspace (B, rows, pixels), 0 outside."""
    offsets = ((b * rows + k) * pixels)[:, None] + p[None, :]
    return tl.load(ptr + offsets, mask=(k < K)[:, None] & (p < pixels)[None, :], other=0.0)


@triton.jit
def _scale(pooled_ptr, b, p, K, pixels, EPS: tl.constexpr):
    """1 / (P m + eps), (BLOCK_P,)."""
    return 1.0 / (tl.load(pooled_ptr + (b * (K + 1) + K) * pixels + p, mask=p < pixels, other=0.0) + EPS)


@triton.jit
def _relu(ratio):
    return tl.where(ratio <= 0.0, 0.0, ratio)  # NaN passes, as in PyTorch


@triton.jit
def _gates(
    pooled_ptr, w2_ptr, b, c, p, scale, C, K, pixels, w2_sc, w2_sk,
    PRECISION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """2 sigmoid(w2 · relu(r)), (BLOCK_C, BLOCK_P), float32."""
    logit = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        hidden = _relu(_rows(pooled_ptr, b, k, p, K, K + 1, pixels) * scale[None, :])
        w2 = _matrix(w2_ptr, c, k, C, K, w2_sc, w2_sk).to(tl.float32)
        logit = tl.dot(w2, hidden, logit, input_precision=PRECISION)
    return 2.0 * tl.sigmoid(logit)


@triton.jit(do_not_specialize=["p_blocks", "k_blocks", "h"])
def local_attention_mix_kernel(
    x_ptr,  # (B, C, h, w)
    w1_ptr,  # (K, C)
    mixed_ptr,  # (B, K + 1, h*w) float32: q, then m
    C, K, h, w, pixels, p_blocks, k_blocks, inverse,
    x_sb, x_sc, x_sy, x_sx,
    w1_sk, w1_sc,
    PRECISION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p0 = (pid % p_blocks).to(tl.int64) * BLOCK_P
    k_block = pid // p_blocks % k_blocks
    b = (pid // p_blocks // k_blocks).to(tl.int64)
    y, x = low_res_pixels(p0, w, BLOCK_P)
    k = k_block * BLOCK_K + tl.arange(0, BLOCK_K)
    mixed = tl.zeros([BLOCK_K, BLOCK_P], tl.float32)
    total = tl.zeros([BLOCK_P], tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        magnitude = tl.abs(_image_tile(x_ptr, b, c, y, x, C, h, x_sb, x_sc, x_sy, x_sx))
        w1 = _matrix(w1_ptr, k, c, K, C, w1_sk, w1_sc)
        mixed = tl.dot(w1, magnitude, mixed, input_precision=PRECISION)
        total += tl.sum(magnitude.to(tl.float32), 0)
    p = p0 + tl.arange(0, BLOCK_P)
    row = (b * (K + 1) + k) * pixels
    tl.store(mixed_ptr + row[:, None] + p[None, :], mixed, mask=(k < K)[:, None] & (p < pixels)[None, :])
    if k_block == 0:
        tl.store(mixed_ptr + (b * (K + 1) + K) * pixels + p, total * inverse, mask=p < pixels)


@triton.jit(do_not_specialize=["p_blocks", "c_blocks", "h"])
def local_attention_apply_kernel(
    x_ptr,  # (B, C, h, w)
    w2_ptr,  # (C, K)
    pooled_ptr,  # (B, K + 1, h*w) float32: P q, then P m
    residual_ptr,  # (B, C, h, w) or None
    out_ptr,  # (B, C, h, w)
    C, K, h, w, pixels, p_blocks, c_blocks,
    x_sb, x_sc, x_sy, x_sx,
    residual_sb, residual_sc, residual_sy, residual_sx,
    out_sb, out_sc, out_sy, out_sx,
    w2_sc, w2_sk,
    EPS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p0 = (pid % p_blocks).to(tl.int64) * BLOCK_P
    c = pid // p_blocks % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (pid // p_blocks // c_blocks).to(tl.int64)
    y, x = low_res_pixels(p0, w, BLOCK_P)
    p = p0 + tl.arange(0, BLOCK_P)
    scale = _scale(pooled_ptr, b, p, K, pixels, EPS)
    tile = _gates(
        pooled_ptr, w2_ptr, b, c, p, scale, C, K, pixels, w2_sc, w2_sk, PRECISION, BLOCK_C, BLOCK_P, BLOCK_K
    )  # fmt: skip
    tile *= _image_tile(x_ptr, b, c, y, x, C, h, x_sb, x_sc, x_sy, x_sx).to(tl.float32)
    if residual_ptr is not None:
        residual = _image_tile(
            residual_ptr, b, c, y, x, C, h, residual_sb, residual_sc, residual_sy, residual_sx
        )  # fmt: skip
        tile += residual.to(tl.float32)
    _store_image(out_ptr, tile, b, c, y, x, C, h, out_sb, out_sc, out_sy, out_sx)


@triton.jit(do_not_specialize=["p_blocks", "k_blocks", "h"])
def local_attention_bwd_hidden_kernel(
    grad_ptr,  # (B, C, h, w)
    x_ptr,  # (B, C, h, w)
    w2_ptr,  # (C, K)
    pooled_ptr,  # (B, K + 1, h*w) float32: P q, then P m
    dpooled_ptr,  # (B, K + k_blocks, h*w) float32: their gradients, that of P m in k_blocks parts; or None
    dw2_ptr,  # (p_blocks, B, C, K) float32 partial sums, or None
    B, C, K, h, w, pixels, p_blocks, k_blocks,
    grad_sb, grad_sc, grad_sy, grad_sx,
    x_sb, x_sc, x_sy, x_sx,
    w2_sc, w2_sk,
    EPS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p_block = (pid % p_blocks).to(tl.int64)
    p0 = p_block * BLOCK_P
    k_block = pid // p_blocks % k_blocks
    b = (pid // p_blocks // k_blocks).to(tl.int64)
    y, x = low_res_pixels(p0, w, BLOCK_P)
    p = p0 + tl.arange(0, BLOCK_P)
    k = k_block * BLOCK_K + tl.arange(0, BLOCK_K)
    scale = _scale(pooled_ptr, b, p, K, pixels, EPS)
    ratio = _rows(pooled_ptr, b, k, p, K, K + 1, pixels) * scale[None, :]
    d_hidden = tl.zeros([BLOCK_K, BLOCK_P], tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        gate = _gates(
            pooled_ptr, w2_ptr, b, c, p, scale, C, K, pixels, w2_sc, w2_sk, PRECISION, BLOCK_C, BLOCK_P, BLOCK_K
        )  # fmt: skip
        d_logit = gate * (1.0 - 0.5 * gate)
        d_logit *= _image_tile(x_ptr, b, c, y, x, C, h, x_sb, x_sc, x_sy, x_sx).to(tl.float32)
        d_logit *= _image_tile(grad_ptr, b, c, y, x, C, h, grad_sb, grad_sc, grad_sy, grad_sx).to(tl.float32)
        if dw2_ptr is not None:
            part = tl.dot(d_logit, tl.trans(_relu(ratio)), input_precision=PRECISION)
            row = ((p_block * B + b) * C + c) * K
            tl.store(dw2_ptr + row[:, None] + k[None, :], part, mask=(c < C)[:, None] & (k < K)[None, :])
        if dpooled_ptr is not None:
            w2 = _matrix(w2_ptr, c, k, C, K, w2_sc, w2_sk).to(tl.float32)
            d_hidden = tl.dot(tl.trans(w2), d_logit, d_hidden, input_precision=PRECISION)
    if dpooled_ptr is not None:
        d_pooled = tl.where(ratio <= 0.0, 0.0, d_hidden) * scale[None, :]
        start = b * (K + k_blocks)
        offsets = ((start + k) * pixels)[:, None] + p[None, :]
        tl.store(dpooled_ptr + offsets, d_pooled, mask=(k < K)[:, None] & (p < pixels)[None, :])
        d_mean = -tl.sum(d_pooled * ratio, 0)
        tl.store(dpooled_ptr + (start + K + k_block) * pixels + p, d_mean, mask=p < pixels)


@triton.jit(do_not_specialize=["p_blocks", "c_blocks", "k_blocks", "h"])
def local_attention_bwd_input_kernel(
    grad_ptr,  # (B, C, h, w)
    x_ptr,  # (B, C, h, w)
    w1_ptr,  # (K, C)
    w2_ptr,  # (C, K)
    pooled_ptr,  # (B, K + 1, h*w) float32: P q, then P m
    dmixed_ptr,  # (B, K + k_blocks, h*w) float32: gradient of q, then that of m in k_blocks parts
    dx_ptr,  # (B, C, h, w) or None
    dw1_ptr,  # (p_blocks, B, K, C) float32 partial sums, or None
    B, C, K, h, w, pixels, p_blocks, c_blocks, k_blocks, inverse,
    grad_sb, grad_sc, grad_sy, grad_sx,
    x_sb, x_sc, x_sy, x_sx,
    dx_sb, dx_sc, dx_sy, dx_sx,
    w1_sk, w1_sc, w2_sc, w2_sk,
    EPS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p_block = (pid % p_blocks).to(tl.int64)
    p0 = p_block * BLOCK_P
    c = pid // p_blocks % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (pid // p_blocks // c_blocks).to(tl.int64)
    y, x = low_res_pixels(p0, w, BLOCK_P)
    p = p0 + tl.arange(0, BLOCK_P)
    value = _image_tile(x_ptr, b, c, y, x, C, h, x_sb, x_sc, x_sy, x_sx).to(tl.float32)
    d_magnitude = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        d_mixed = _rows(dmixed_ptr, b, k, p, K, K + k_blocks, pixels)
        if dw1_ptr is not None:
            part = tl.dot(d_mixed, tl.trans(tl.abs(value)), input_precision=PRECISION)
            row = ((p_block * B + b) * K + k) * C
            tl.store(dw1_ptr + row[:, None] + c[None, :], part, mask=(k < K)[:, None] & (c < C)[None, :])
        if dx_ptr is not None:
            w1 = _matrix(w1_ptr, k, c, K, C, w1_sk, w1_sc).to(tl.float32)
            d_magnitude = tl.dot(tl.trans(w1), d_mixed, d_magnitude, input_precision=PRECISION)
    if dx_ptr is not None:
        d_mean = tl.zeros([BLOCK_P], tl.float32)
        for k_block in range(k_blocks):
            start = (b * (K + k_blocks) + K + k_block) * pixels
            d_mean += tl.load(dmixed_ptr + start + p, mask=p < pixels, other=0.0)
        d_magnitude += (d_mean * inverse)[None, :]
        scale = _scale(pooled_ptr, b, p, K, pixels, EPS)
        tile = _gates(
            pooled_ptr, w2_ptr, b, c, p, scale, C, K, pixels, w2_sc, w2_sk, PRECISION, BLOCK_C, BLOCK_P, BLOCK_K
        )  # fmt: skip
        tile *= _image_tile(grad_ptr, b, c, y, x, C, h, grad_sb, grad_sc, grad_sy, grad_sx).to(tl.float32)
        tile += tl.where(value > 0.0, d_magnitude, tl.where(value < 0.0, -d_magnitude, 0.0))
        _store_image(dx_ptr, tile, b, c, y, x, C, h, dx_sb, dx_sc, dx_sy, dx_sx)


def _choose(operator: str, x: Tensor, w1: Tensor, run: Callable[[LocalTile], object], *key: object) -> LocalTile:
    hidden, channels = w1.shape
    layout = "channels_last" if memory_format_of(x) == torch.channels_last else "contiguous"
    tiles = local_tiles(channels, hidden)
    return choose(operator, (channels, hidden, layout, x.dtype, precision(x.dtype), *key), tiles, run, x.device)


def _constants(tile: LocalTile, dtype: torch.dtype) -> dict[str, object]:
    return {
        "PRECISION": precision(dtype), "BLOCK_C": tile.block_c, "BLOCK_P": tile.block_p, "BLOCK_K": tile.block_k,
    }  # fmt: skip


def _pooled(x: Tensor, w1: Tensor, window: int, tile: LocalTile) -> Tensor:
    """P q and P m, (B, K + 1, H*W) float32."""
    batch, channels, height, width = x.shape
    hidden, pixels = w1.shape[0], height * width
    mixed = torch.empty((batch, hidden + 1, pixels), dtype=torch.float32, device=x.device)
    (x,), h, w = flat_planes(x)
    p_blocks, k_blocks = triton.cdiv(pixels, tile.block_p), triton.cdiv(hidden, tile.block_k)
    arguments = {
        "x_ptr": x, "w1_ptr": w1, "mixed_ptr": mixed,
        "C": channels, "K": hidden, "h": h, "w": w, "pixels": pixels, "p_blocks": p_blocks, "k_blocks": k_blocks,
        "inverse": 1.0 / channels, **strides("x", x, "bcyx"), **strides("w1", w1, "kc"), **_constants(tile, x.dtype),
    }  # fmt: skip
    programs = batch * p_blocks * k_blocks
    launch(local_attention_mix_kernel, programs, arguments, device=x.device, num_warps=tile.num_warps)
    return box_mean(mixed, height, width, window)


def local_channel_attention_fwd(
    x: Tensor, w1: Tensor, w2: Tensor, residual: Tensor | None, *, window: int, out: Tensor | None = None
) -> Tensor:
    """x * gate + residual, in the layout of x."""
    hidden, channels = w1.shape[0], x.shape[1]
    layers = ("w1", w1, (hidden, channels)), ("w2", w2, (channels, hidden))
    check(x, *layers, ("residual", residual, x.shape), ("out", out, x.shape))
    if out is None:
        out = torch.empty_like(x, memory_format=memory_format_of(x))
    run = partial(_run_fwd, x, w1, w2, residual, window, out)
    run(_choose("local_channel_attention_fwd", x, w1, run, residual is not None))
    return out


def _run_fwd(
    x: Tensor, w1: Tensor, w2: Tensor, residual: Tensor | None, window: int, out: Tensor, tile: LocalTile
) -> None:
    batch, channels, height, width = x.shape
    hidden, pixels = w1.shape[0], height * width
    pooled = _pooled(x, w1, window, tile)
    (x, residual, out), h, w = flat_planes(x, residual, out)
    p_blocks, c_blocks = triton.cdiv(pixels, tile.block_p), triton.cdiv(channels, tile.block_c)
    arguments = {
        "x_ptr": x, "w2_ptr": w2, "pooled_ptr": pooled, "residual_ptr": residual, "out_ptr": out,
        "C": channels, "K": hidden, "h": h, "w": w, "pixels": pixels, "p_blocks": p_blocks, "c_blocks": c_blocks,
        **strides("x", x, "bcyx"), **strides("residual", residual, "bcyx"), **strides("out", out, "bcyx"),
        **strides("w2", w2, "ck"), "EPS": _EPS, **_constants(tile, x.dtype),
    }  # fmt: skip
    programs = batch * p_blocks * c_blocks
    launch(local_attention_apply_kernel, programs, arguments, device=x.device, num_warps=tile.num_warps)


def local_channel_attention_bwd(
    grad_out: Tensor, x: Tensor, w1: Tensor, w2: Tensor, *, window: int, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, w1, w2; grad_out and x are read twice, x once more for the gates."""
    hidden, channels = w1.shape[0], x.shape[1]
    check(x, ("w1", w1, (hidden, channels)), ("w2", w2, (channels, hidden)), ("grad", grad_out, x.shape))
    if not any(needs):
        return None, None, None
    run = partial(_run_bwd, grad_out, x, w1, w2, window, needs)
    return run(_choose("local_channel_attention_bwd", x, w1, run, *needs))


def _run_bwd(
    grad_out: Tensor, x: Tensor, w1: Tensor, w2: Tensor, window: int, needs: tuple[bool, ...], tile: LocalTile
) -> tuple[Tensor | None, ...]:
    need_x, need_w1, need_w2 = needs
    batch, channels, height, width = x.shape
    hidden, pixels = w1.shape[0], height * width
    pooled = _pooled(x, w1, window, tile)
    p_blocks, k_blocks = triton.cdiv(pixels, tile.block_p), triton.cdiv(hidden, tile.block_k)

    def workspace(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    d_pooled = workspace(batch, hidden + k_blocks, pixels) if need_x or need_w1 else None
    parts = workspace(p_blocks, batch, channels, hidden) if need_w2 else None
    d_x = torch.empty_like(x, memory_format=memory_format_of(x)) if need_x else None
    (grad, x_view, d_x_view), h, w = flat_planes(grad_out, x, d_x)
    shared = {
        "grad_ptr": grad, "x_ptr": x_view, "w2_ptr": w2, "pooled_ptr": pooled,
        "B": batch, "C": channels, "K": hidden, "h": h, "w": w, "pixels": pixels, "p_blocks": p_blocks,
        "k_blocks": k_blocks, **strides("grad", grad, "bcyx"), **strides("x", x_view, "bcyx"),
        **strides("w2", w2, "ck"), "EPS": _EPS, **_constants(tile, x.dtype),
    }  # fmt: skip
    arguments = {**shared, "dpooled_ptr": d_pooled, "dw2_ptr": parts}
    programs = batch * p_blocks * k_blocks
    launch(local_attention_bwd_hidden_kernel, programs, arguments, device=x.device, num_warps=tile.num_warps)
    d_w2 = None if parts is None else parts.sum((0, 1)).to(w2.dtype)
    if d_pooled is None:
        return None, None, d_w2

    d_mixed = box_mean(d_pooled, height, width, window, adjoint=True)
    parts = workspace(p_blocks, batch, hidden, channels) if need_w1 else None
    c_blocks = triton.cdiv(channels, tile.block_c)
    arguments = {
        **shared, "w1_ptr": w1, "dmixed_ptr": d_mixed, "dx_ptr": d_x_view, "dw1_ptr": parts, "c_blocks": c_blocks,
        "inverse": 1.0 / channels, **strides("dx", d_x_view, "bcyx"), **strides("w1", w1, "kc"),
    }  # fmt: skip
    programs = batch * p_blocks * c_blocks
    launch(local_attention_bwd_input_kernel, programs, arguments, device=x.device, num_warps=tile.num_warps)
    return d_x, None if parts is None else parts.sum((0, 1)).to(w1.dtype), d_w2
