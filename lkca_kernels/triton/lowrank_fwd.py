"""lowrank_pixel_shuffle, forward: one matrix product per tile, stored straight into the shuffled rows."""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import ShuffleTile, forward_tiles, power_of_two
from .guard import check, check_shuffle
from .launch import launch, precision, skip_kind, strides
from .tiles import add_skip, low_res_pixels, store_shuffled
from .tune import choose

__all__ = ["lowrank_pixel_shuffle_fwd"]


@triton.jit(do_not_specialize=["p_blocks", "q_blocks", "h"])
def lowrank_pixel_shuffle_fwd_kernel(
    z_ptr,  # (B, R, h, w)
    weight_ptr,  # (C*S*S, R), row (c*S + i)*S + j
    bias_ptr,  # (C*S*S,) or None
    gate_ptr,  # (B, C) or None
    skip_ptr,  # (B, C, h*S, w*S), (B, C, h, w) or None, as SKIP says
    out_ptr,  # (B, C, h*S, w*S)
    rows, R, h, w, p_blocks, q_blocks,
    z_sb, z_sr, z_sy, z_sx,
    weight_sm, weight_sr, bias_sm,
    gate_sb, gate_sc,
    skip_sb, skip_sc, skip_sy, skip_sx,
    out_sb, out_sc, out_sy, out_sx,
    S: tl.constexpr, SP: tl.constexpr, SKIP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p_block = pid % p_blocks  # fastest, so that neighbouring programs write neighbouring addresses
    q_block = pid // p_blocks % q_blocks
    b = (pid // p_blocks // q_blocks).to(tl.int64)
    p0 = p_block.to(tl.int64) * BLOCK_P
    q0 = q_block * BLOCK_Q
    y, x = low_res_pixels(p0, w, BLOCK_P)
    n = tl.arange(0, BLOCK_Q * SP)
    q_of_n = q0 + n // SP
    n_ok = (q_of_n < rows) & (n % SP < S)
    m = (q_of_n * S + n % SP).to(tl.int64)

    # (BLOCK_P, BLOCK_Q*SP): phases j along the fast dimension, where a thread's accumulators are neighbours.
    acc = tl.zeros([BLOCK_P, BLOCK_Q * SP], tl.float32)
    pixel = z_ptr + b * z_sb + y * z_sy + x.to(tl.int64) * z_sx
    row = weight_ptr + m * weight_sm
    for k0 in range(0, R, BLOCK_R):
        r = k0 + tl.arange(0, BLOCK_R)
        r64 = r.to(tl.int64)
        z = tl.load(pixel[:, None] + (r64 * z_sr)[None, :], mask=(y < h)[:, None] & (r < R)[None, :], other=0.0)
        weight = tl.load(row[None, :] + (r64 * weight_sr)[:, None], mask=n_ok[None, :] & (r < R)[:, None], other=0.0)
        acc = tl.dot(z, weight, acc, input_precision=PRECISION)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + m * bias_sm, mask=n_ok, other=0.0).to(tl.float32)[None, :]
    if gate_ptr is not None:
        c_of_n = (q_of_n // S).to(tl.int64)
        acc *= tl.load(gate_ptr + b * gate_sb + c_of_n * gate_sc, mask=n_ok, other=0.0).to(tl.float32)[None, :]

    q = q0 + tl.arange(0, BLOCK_Q)
    tile = tl.permute(tl.reshape(acc, [BLOCK_P, BLOCK_Q, SP]), [1, 0, 2])
    tile = add_skip(
        tile, skip_ptr, b * skip_sb, p0, y, x, q0, h, w, skip_sc, skip_sy, skip_sx, rows, SKIP,
        S, SP, BLOCK_Q, BLOCK_P,
    )  # fmt: skip
    store_shuffled(
        out_ptr + b * out_sb, tile, p0, q, h, w, out_sc, out_sy, out_sx, rows, S, SP, BLOCK_Q, BLOCK_P
    )  # fmt: skip


def lowrank_pixel_shuffle_fwd(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    out: Tensor | None = None,
) -> Tensor:
    """(B, C, h*s, w*s), written once and contiguous unless ``out`` has strides of its own."""
    batch, rank, h, w = z.shape
    s = upscale_factor
    phases = weight.shape[0]
    check(z, ("weight", weight, (phases, rank)), ("bias", bias, (phases,)))
    check_shuffle(z, phases, s, skip_bicubic, gate, skip, out)
    channels = phases // (s * s)
    if out is None:
        out = torch.empty((batch, channels, h * s, w * s), dtype=z.dtype, device=z.device)
    kind = skip_kind(skip, (h, w), skip_bicubic)
    run = partial(_run, z, weight, bias, gate, skip, out, s, kind)
    key = (channels, rank, s, z.dtype, precision(z.dtype), kind)
    run(choose("lowrank_pixel_shuffle_fwd", key, forward_tiles(channels, rank, s, z.dtype), run, z.device))
    return out


def _run(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    skip: Tensor | None,
    out: Tensor,
    s: int,
    kind: str,
    tile: ShuffleTile,
) -> None:
    batch, rank, h, w = z.shape
    rows = weight.shape[0] // s
    p_blocks, q_blocks = triton.cdiv(h * w, tile.block_p), triton.cdiv(rows, tile.block_q)
    arguments = {
        "z_ptr": z, "weight_ptr": weight, "bias_ptr": bias, "gate_ptr": gate, "skip_ptr": skip, "out_ptr": out,
        "rows": rows, "R": rank, "h": h, "w": w, "p_blocks": p_blocks, "q_blocks": q_blocks,
        **strides("z", z, "bryx"), **strides("weight", weight, "mr"), **strides("bias", bias, "m"),
        **strides("gate", gate, "bc"), **strides("skip", skip, "bcyx"), **strides("out", out, "bcyx"),
        "S": s, "SP": power_of_two(s), "SKIP": kind, "PRECISION": precision(z.dtype),
        "BLOCK_Q": tile.block_q, "BLOCK_P": tile.block_p, "BLOCK_R": tile.block_r,
    }  # fmt: skip
    launch(
        lowrank_pixel_shuffle_fwd_kernel,
        batch * p_blocks * q_blocks,
        arguments,
        device=z.device,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
