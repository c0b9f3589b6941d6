"""lowrank_pixel_shuffle, forward: one matrix product per tile, stored straight into the shuffled rows."""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import ShuffleTile, forward_tiles, power_of_two, splits, tap_group
from .guard import check, check_shuffle
from .launch import launch, product_precision, skip_kind, streaming_multiprocessors, strides
from .skip import add_skip
from .tiles import high_res_columns, low_res_pixels, shuffled_rows
from .tune import choose

__all__ = ["lowrank_pixel_shuffle_fwd"]

# Programs a multiprocessor: few, since each works out the addresses of its columns once; enough to end together.
_PROGRAMS = 16


@triton.jit(do_not_specialize=["p_blocks", "q_blocks", "splits", "length", "h"])
def lowrank_pixel_shuffle_fwd_kernel(
    z_ptr,  # (B, R, h, w)
    weight_ptr,  # (C*S*S, R), row (c*S + i)*S + j
    bias_ptr,  # (C*S*S,) or None
    gate_ptr,  # (B, C) or None
    skip_ptr,  # (B, C, h*S, w*S), (B, C, h, w) or None, as SKIP says
    out_ptr,  # (B, C, h*S, w*S)
    rows, R, h, w, pitch, p_blocks, q_blocks, splits, length,
    z_sb, z_sr, z_sy, z_sx,
    weight_sm, weight_sr, bias_sm,
    gate_sb, gate_sc,
    skip_sb, skip_sc, skip_sy, skip_sx,
    out_sb, out_sc, out_sy, out_sx,
    S: tl.constexpr, SP: tl.constexpr, SKIP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, STAGES: tl.constexpr,
    WHOLE: tl.constexpr,  # tiles are whole channels: their addresses differ by a number alone
    EVEN: tl.constexpr,  # no tile sticks out below the last row
    SLICED: tl.constexpr,  # the rank takes more than one BLOCK_R
    GROUP: tl.constexpr,  # neighbouring pixels that share the taps of an LR skip; pitch is a multiple
    PAIRS: tl.constexpr,  # w and GROUP are even
):  # fmt: skip
    pid = tl.program_id(0)
    p_block = pid % p_blocks  # fastest, so that neighbouring programs write neighbouring addresses
    split = pid // p_blocks % splits
    b = (pid // p_blocks // splits).to(tl.int64)
    p0 = p_block.to(tl.int64) * BLOCK_P
    y, x = low_res_pixels(p0, pitch, BLOCK_P)
    pixel_ok = ((y < h) & (x < w))[:, None]
    r = tl.arange(0, BLOCK_R)
    r64 = r.to(tl.int64)
    pixel = z_ptr + b * z_sb + (y * z_sy + x.to(tl.int64) * z_sx)[:, None]
    if not SLICED:
        z = tl.load(pixel + (r64 * z_sr)[None, :], mask=pixel_ok & (r < R)[None, :], other=0.0)

    # What does not depend on the rows is worked out once, before the loop over them.
    y0 = p0 // pitch
    x0 = (p0 - y0 * pitch).to(tl.int32)
    columns, column_ok = high_res_columns(y0, x0, h, w, pitch, out_sy, out_sx, S, SP, BLOCK_P)
    out_image = out_ptr + b * out_sb
    if SKIP == "hr":
        skip_image = skip_ptr + b * skip_sb
        skip_columns, _ = high_res_columns(y0, x0, h, w, pitch, skip_sy, skip_sx, S, SP, BLOCK_P)
    n = tl.arange(0, BLOCK_Q * SP)
    a = tl.arange(0, BLOCK_Q)
    phase = n // SP * S + n % SP  # row of the weight, from the first of the tile
    weight_rows = weight_ptr + (phase.to(tl.int64) * weight_sm)[None, :]
    CHANNELS: tl.constexpr = BLOCK_Q // S
    if WHOLE:
        a_c, a_i = shuffled_rows(a, S)
        out_rows = (a_c * out_sc + a_i.to(tl.int64) * out_sy)[:, None] + columns[None, :]
        if SKIP == "hr":
            skip_rows = (a_c * skip_sc + a_i.to(tl.int64) * skip_sy)[:, None] + skip_columns[None, :]

    first = split * length
    for step in tl.range(tl.minimum(length, q_blocks - first), num_stages=STAGES):
        q_block = first + step
        q0 = q_block * BLOCK_Q
        q = q0 + a
        c0 = (q_block * CHANNELS).to(tl.int64)
        m0 = q0.to(tl.int64) * S
        c, i = shuffled_rows(q, S)
        ok = column_ok[None, :]
        n_ok = n % SP < S
        if not EVEN:
            ok = ok & (q < rows)[:, None]
            n_ok = n_ok & (q0 + n // SP < rows)
        if SKIP == "hr":
            if WHOLE:
                skip = tl.load(skip_image + c0 * skip_sc + skip_rows, mask=ok, other=0.0)
            else:
                skip_at = skip_image + (c * skip_sc + i.to(tl.int64) * skip_sy)[:, None] + skip_columns[None, :]
                skip = tl.load(skip_at, mask=ok, other=0.0)

        # (BLOCK_P, BLOCK_Q*SP): phases j along the fast dimension, where a thread's accumulators are neighbours.
        row = weight_rows + m0 * weight_sm
        if SLICED:
            acc = tl.zeros([BLOCK_P, BLOCK_Q * SP], tl.float32)
            for k0 in range(0, R, BLOCK_R):
                k = (k0 + r).to(tl.int64)
                r_ok = k0 + r < R
                z = tl.load(pixel + (k * z_sr)[None, :], mask=pixel_ok & r_ok[None, :], other=0.0)
                weight = tl.load(row + (k * weight_sr)[:, None], mask=n_ok[None, :] & r_ok[:, None], other=0.0)
                acc = tl.dot(z, weight, acc, input_precision=PRECISION)
        else:
            weight = tl.load(row + (r64 * weight_sr)[:, None], mask=n_ok[None, :] & (r < R)[:, None], other=0.0)
            acc = tl.dot(z, weight, input_precision=PRECISION)
        if bias_ptr is not None:
            acc += tl.load(bias_ptr + (m0 + phase) * bias_sm, mask=n_ok, other=0.0).to(tl.float32)[None, :]
        if gate_ptr is not None:
            if WHOLE:  # one load for a channel
                of_c = c0 + tl.arange(0, CHANNELS)
                gate = tl.load(gate_ptr + b * gate_sb + of_c * gate_sc, mask=of_c * S < rows, other=0.0)
                gate = tl.reshape(tl.broadcast_to(gate.to(tl.float32)[:, None], [CHANNELS, S * S]), [BLOCK_Q * SP])
            else:
                of_n = ((q0 + n // SP) // S).to(tl.int64)
                gate = tl.load(gate_ptr + b * gate_sb + of_n * gate_sc, mask=n_ok, other=0.0).to(tl.float32)
            acc *= gate[None, :]

        if SKIP == "none":  # narrowed before the exchange between threads: half the bytes
            acc = acc.to(out_ptr.dtype.element_ty)
        tile = tl.permute(tl.reshape(acc, [BLOCK_P, BLOCK_Q, SP]), [1, 0, 2])
        if SKIP == "hr":
            tile += tl.reshape(skip.to(tl.float32), [BLOCK_Q, BLOCK_P, SP])
        else:
            tile = add_skip(
                tile, skip_ptr, b * skip_sb, p0, y, x, q_block, h, w, pitch, skip_sc, skip_sy, skip_sx, rows, SKIP,
                S, SP, BLOCK_Q, BLOCK_P, GROUP, PAIRS,
            )  # fmt: skip
        tile = tl.reshape(tile, [BLOCK_Q, BLOCK_P * SP]).to(out_ptr.dtype.element_ty)
        if WHOLE:
            tl.store(out_image + c0 * out_sc + out_rows, tile, mask=ok)
        else:
            at = out_image + (c * out_sc + i.to(tl.int64) * out_sy)[:, None] + columns[None, :]
            tl.store(at, tile, mask=ok)


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
    key = (channels, rank, s, z.dtype, product_precision(z.dtype), kind)
    tiles = forward_tiles(channels, rank, s, z.dtype, kind in ("matlab", "torch"))
    run(choose("lowrank_pixel_shuffle_fwd", key, tiles, run, z.device))
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
    group = tap_group(kind, s, tile)
    pitch = triton.cdiv(w, group) * group if group else w
    p_blocks, q_blocks = triton.cdiv(h * pitch, tile.block_p), triton.cdiv(rows, tile.block_q)
    parts, length = splits(q_blocks, batch * p_blocks, _PROGRAMS * streaming_multiprocessors(z.device))
    arguments = {
        "z_ptr": z, "weight_ptr": weight, "bias_ptr": bias, "gate_ptr": gate, "skip_ptr": skip, "out_ptr": out,
        "rows": rows, "R": rank, "h": h, "w": w, "pitch": pitch,
        "p_blocks": p_blocks, "q_blocks": q_blocks, "splits": parts, "length": length,
        **strides("z", z, "bryx"), **strides("weight", weight, "mr"), **strides("bias", bias, "m"),
        **strides("gate", gate, "bc"), **strides("skip", skip, "bcyx"), **strides("out", out, "bcyx"),
        "S": s, "SP": power_of_two(s), "SKIP": kind, "PRECISION": product_precision(z.dtype),
        "BLOCK_Q": tile.block_q, "BLOCK_P": tile.block_p, "BLOCK_R": tile.block_r, "STAGES": tile.num_stages,
        "WHOLE": tile.block_q % s == 0, "EVEN": rows % tile.block_q == 0, "SLICED": rank > tile.block_r,
        "GROUP": group, "PAIRS": w % 2 == 0 and group > 0 and group % 2 == 0,
    }  # fmt: skip
    programs = batch * p_blocks * parts
    launch(lowrank_pixel_shuffle_fwd_kernel, programs, arguments, device=z.device, num_warps=tile.num_warps)
