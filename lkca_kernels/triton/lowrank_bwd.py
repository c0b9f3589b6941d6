"""lowrank_pixel_shuffle, backward: the gradient of the HR image is read once wherever both factors want it.

With G the un-shuffled gradient (rows m = (c*S + i)*S + j), per image b:

    product[b, m, r] = sum_p G[b, m, p] z[b, r, p]        total[b, m] = sum_p G[b, m, p]
    dz[b, r, p] = sum_m gate[b, c] W[m, r] G[b, m, p]
    dW = sum_b gate product     dbias = sum_b gate total     dgate[b, c] = sum_ij (sum_r W product + bias total)

so the gradient of the gate needs no second forward. Every sum over programs is a second stage in a fixed order: the
result is deterministic.
"""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from lkca_kernels.memory_format import memory_format_of

from .bicubic import bicubic_adjoint
from .config import ShuffleTile, backward_tiles, power_of_two, splits
from .guard import check, check_shuffle
from .launch import launch, precision, streaming_multiprocessors, strides
from .tiles import load_shuffled, low_res_pixels
from .tune import choose

__all__ = ["lowrank_pixel_shuffle_bwd"]


@triton.jit
def _gated_weight(
    weight_ptr, gate_ptr, gate_start, q0, r, rows, R, weight_sm, weight_sr, gate_sc,
    S: tl.constexpr, SP: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """gate[c] * W[m, r] for the rows of a tile, (BLOCK_Q*SP, BLOCK_R), in the dtype of W."""
    n = tl.arange(0, BLOCK_Q * SP)
    q = q0 + n // SP
    ok = (q < rows) & (n % SP < S)
    m = (q * S + n % SP).to(tl.int64)
    weight = tl.load(
        weight_ptr + (m * weight_sm)[:, None] + (r.to(tl.int64) * weight_sr)[None, :],
        mask=ok[:, None] & (r < R)[None, :],
        other=0.0,
    )
    if gate_ptr is not None:
        gate = tl.load(gate_ptr + gate_start + (q // S).to(tl.int64) * gate_sc, mask=ok, other=0.0)
        weight = (weight.to(tl.float32) * gate.to(tl.float32)[:, None]).to(weight_ptr.dtype.element_ty)
    return weight


@triton.jit(do_not_specialize=["p_blocks", "q_blocks", "r_blocks", "splits", "length", "h"])
def lowrank_pixel_shuffle_bwd_weight_kernel(
    grad_ptr,  # (B, C, h*S, w*S)
    z_ptr,  # (B, R, h, w)
    weight_ptr,  # (C*S*S, R)
    gate_ptr,  # (B, C) or None
    product_ptr,  # (splits, B, C*S*S, R) float32, or None where neither weight nor gate wants it
    total_ptr,  # (splits, B, C*S*S) float32
    dz_ptr,  # (q_blocks, B, R, h*w) float32, or None where another kernel makes it
    B, rows, R, h, w, p_blocks, q_blocks, r_blocks, splits, length,
    grad_sb, grad_sc, grad_sy, grad_sx,
    z_sb, z_sr, z_sy, z_sx,
    weight_sm, weight_sr,
    gate_sb, gate_sc,
    S: tl.constexpr, SP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    split = pid % splits
    q_block = pid // splits % q_blocks
    r_block = pid // splits // q_blocks % r_blocks
    b = (pid // splits // q_blocks // r_blocks).to(tl.int64)
    q0 = q_block * BLOCK_Q
    q = q0 + tl.arange(0, BLOCK_Q)
    r = r_block * BLOCK_R + tl.arange(0, BLOCK_R)
    r64 = r.to(tl.int64)
    if dz_ptr is not None:
        weight = _gated_weight(
            weight_ptr, gate_ptr, b * gate_sb, q0, r, rows, R, weight_sm, weight_sr, gate_sc, S, SP, BLOCK_Q
        )  # fmt: skip
        plane = h.to(tl.int64) * w
        dz_base = dz_ptr + ((q_block.to(tl.int64) * B + b) * R + r64)[None, :] * plane
    product = tl.zeros([BLOCK_Q * SP, BLOCK_R], tl.float32)
    total = tl.zeros([BLOCK_Q * SP], tl.float32)
    first = split.to(tl.int64) * length
    for step in range(tl.minimum(length, p_blocks - split * length)):
        p0 = (first + step) * BLOCK_P
        y, x = low_res_pixels(p0, w, BLOCK_P)
        inside = (y < h)[:, None] & (r < R)[None, :]
        grad = load_shuffled(
            grad_ptr + b * grad_sb, p0, q, h, w, grad_sc, grad_sy, grad_sx, rows, S, SP, BLOCK_Q, BLOCK_P
        )  # fmt: skip
        grad = tl.reshape(tl.permute(grad, [1, 0, 2]), [BLOCK_P, BLOCK_Q * SP])
        total += tl.sum(grad.to(tl.float32), 0)
        if product_ptr is not None:
            pixel = z_ptr + b * z_sb + y * z_sy + x.to(tl.int64) * z_sx
            z = tl.load(pixel[:, None] + (r64 * z_sr)[None, :], mask=inside, other=0.0)
            product = tl.dot(tl.trans(grad), z, product, input_precision=PRECISION)
        if dz_ptr is not None:
            dz = tl.dot(grad, weight, input_precision=PRECISION)
            tl.store(dz_base + (p0 + tl.arange(0, BLOCK_P))[:, None], dz, mask=inside)

    n = tl.arange(0, BLOCK_Q * SP)
    m = ((q0 + n // SP) * S + n % SP).to(tl.int64)
    m_ok = (q0 + n // SP < rows) & (n % SP < S)
    out = (split.to(tl.int64) * B + b) * rows * S + m
    if r_block == 0:
        tl.store(total_ptr + out, total, mask=m_ok)
    if product_ptr is not None:
        tl.store(product_ptr + (out * R)[:, None] + r[None, :], product, mask=m_ok[:, None] & (r < R)[None, :])


@triton.jit(do_not_specialize=["p_blocks", "q_blocks", "r_blocks", "h"])
def lowrank_pixel_shuffle_bwd_input_kernel(
    grad_ptr,  # (B, C, h*S, w*S)
    weight_ptr,  # (C*S*S, R)
    gate_ptr,  # (B, C) or None
    dz_ptr,  # (B, R, h, w)
    rows, R, h, w, p_blocks, q_blocks, r_blocks,
    grad_sb, grad_sc, grad_sy, grad_sx,
    weight_sm, weight_sr,
    gate_sb, gate_sc,
    dz_sb, dz_sr, dz_sy, dz_sx,
    S: tl.constexpr, SP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p0 = (pid % p_blocks).to(tl.int64) * BLOCK_P
    r = pid // p_blocks % r_blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    b = (pid // p_blocks // r_blocks).to(tl.int64)
    y, x = low_res_pixels(p0, w, BLOCK_P)
    dz = tl.zeros([BLOCK_P, BLOCK_R], tl.float32)
    for q_block in range(q_blocks):
        q0 = q_block * BLOCK_Q
        q = q0 + tl.arange(0, BLOCK_Q)
        weight = _gated_weight(
            weight_ptr, gate_ptr, b * gate_sb, q0, r, rows, R, weight_sm, weight_sr, gate_sc, S, SP, BLOCK_Q
        )  # fmt: skip
        grad = load_shuffled(
            grad_ptr + b * grad_sb, p0, q, h, w, grad_sc, grad_sy, grad_sx, rows, S, SP, BLOCK_Q, BLOCK_P
        )  # fmt: skip
        grad = tl.reshape(tl.permute(grad, [1, 0, 2]), [BLOCK_P, BLOCK_Q * SP])
        dz = tl.dot(grad, weight, dz, input_precision=PRECISION)
    pixel = dz_ptr + b * dz_sb + y * dz_sy + x.to(tl.int64) * dz_sx
    tl.store(
        pixel[:, None] + (r.to(tl.int64) * dz_sr)[None, :],
        dz.to(dz_ptr.dtype.element_ty),
        mask=(y < h)[:, None] & (r < R)[None, :],
    )


def lowrank_pixel_shuffle_bwd(
    grad_out: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of z, weight, bias, gate and an LR skip, each where ``needs`` asks for it."""
    need_z, need_weight, need_bias, need_gate, need_skip = needs
    phases = weight.shape[0]
    check(z, ("weight", weight, (phases, z.shape[1])), ("bias", bias, (phases,)))
    check_shuffle(z, phases, upscale_factor, skip_bicubic, gate, skip, grad_out)
    d_z = d_weight = d_bias = d_gate = d_skip = None
    if any(needs[:4]):
        s, rank = upscale_factor, z.shape[1]
        run = partial(_run, grad_out, z, weight, bias, gate, s, needs[:4])
        key = (phases // (s * s), rank, s, z.dtype, precision(z.dtype), need_z, need_weight or need_gate, need_bias)
        tiles = backward_tiles(phases // (s * s), rank, s, z.dtype)
        d_z, d_weight, d_bias, d_gate = run(choose("lowrank_pixel_shuffle_bwd", key, tiles, run, z.device))
    if need_skip:
        assert skip is not None
        d_skip = bicubic_adjoint(grad_out, skip, upscale_factor, skip_bicubic)
    return d_z, d_weight, d_bias, d_gate, d_skip


def _run(
    grad_out: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    s: int,
    needs: tuple[bool, ...],
    tile: ShuffleTile,
) -> tuple[Tensor | None, ...]:
    """Gradients of z, weight, bias and gate."""
    need_z, need_weight, need_bias, need_gate = needs
    d_z = d_weight = d_bias = d_gate = None
    if need_weight or need_bias or need_gate:
        fuse = need_z and _one_pass_pays(z, weight, s, tile)
        product, total, d_z = _weight_sums(grad_out, z, weight, gate, s, need_weight or need_gate, fuse, tile)
        per_row = torch.ones_like(total) if gate is None else gate.float().repeat_interleave(s * s, 1)
        if need_weight:
            d_weight = (product * per_row[:, :, None]).sum(0).to(weight.dtype)
        if need_bias:
            assert bias is not None
            d_bias = (total * per_row).sum(0).to(bias.dtype)
        if need_gate:
            assert gate is not None
            rows = (product * weight.float()).sum(2)
            if bias is not None:
                rows += total * bias.float()
            d_gate = rows.reshape(*gate.shape, s * s).sum(2).to(gate.dtype)
    if need_z and d_z is None:
        d_z = _input_gradient(grad_out, z, weight, gate, s, tile)
    return d_z, d_weight, d_bias, d_gate


def _one_pass_pays(z: Tensor, weight: Tensor, s: int, tile: ShuffleTile) -> bool:
    """Whether partial sums of dz, written and read in float32, are at most half of a second read of the gradient."""
    phases, rank = weight.shape
    q_blocks = triton.cdiv(phases // s, tile.block_q)
    return tile.block_r >= rank and 2 * 4 * q_blocks * rank <= phases * z.element_size() // 2


def _weight_sums(
    grad_out: Tensor,
    z: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    s: int,
    need_product: bool,
    fuse: bool,
    tile: ShuffleTile,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """product (B, C*s*s, R), total (B, C*s*s), float32, and dz where ``fuse``."""
    batch, rank, h, w = z.shape
    phases = weight.shape[0]
    rows = phases // s
    p_blocks, q_blocks = triton.cdiv(h * w, tile.block_p), triton.cdiv(rows, tile.block_q)
    r_blocks = triton.cdiv(rank, tile.block_r) if need_product else 1
    programs = batch * q_blocks * r_blocks
    parts, length = splits(p_blocks, programs, streaming_multiprocessors(z.device))

    def workspace(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=z.device)

    product = workspace(parts, batch, phases, rank) if need_product else None
    total = workspace(parts, batch, phases)
    d_z = workspace(q_blocks, batch, rank, h * w) if fuse else None
    arguments = {
        "grad_ptr": grad_out, "z_ptr": z, "weight_ptr": weight, "gate_ptr": gate,
        "product_ptr": product, "total_ptr": total, "dz_ptr": d_z,
        "B": batch, "rows": rows, "R": rank, "h": h, "w": w,
        "p_blocks": p_blocks, "q_blocks": q_blocks, "r_blocks": r_blocks, "splits": parts, "length": length,
        **strides("grad", grad_out, "bcyx"), **strides("z", z, "bryx"), **strides("weight", weight, "mr"),
        **strides("gate", gate, "bc"),
        "S": s, "SP": power_of_two(s), "PRECISION": precision(z.dtype),
        "BLOCK_Q": tile.block_q, "BLOCK_P": tile.block_p, "BLOCK_R": tile.block_r,
    }  # fmt: skip
    launch(
        lowrank_pixel_shuffle_bwd_weight_kernel,
        programs * parts,
        arguments,
        device=z.device,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    if d_z is not None:
        out = torch.empty_like(z, memory_format=memory_format_of(z))
        d_z = out.copy_(d_z.sum(0).view_as(out))
    return product.sum(0) if product is not None else total, total.sum(0), d_z


def _input_gradient(
    grad_out: Tensor, z: Tensor, weight: Tensor, gate: Tensor | None, s: int, tile: ShuffleTile
) -> Tensor:
    batch, rank, h, w = z.shape
    rows = weight.shape[0] // s
    p_blocks, q_blocks = triton.cdiv(h * w, tile.block_p), triton.cdiv(rows, tile.block_q)
    r_blocks = triton.cdiv(rank, tile.block_r)
    d_z = torch.empty_like(z, memory_format=memory_format_of(z))
    arguments = {
        "grad_ptr": grad_out, "weight_ptr": weight, "gate_ptr": gate, "dz_ptr": d_z,
        "rows": rows, "R": rank, "h": h, "w": w, "p_blocks": p_blocks, "q_blocks": q_blocks, "r_blocks": r_blocks,
        **strides("grad", grad_out, "bcyx"), **strides("weight", weight, "mr"), **strides("gate", gate, "bc"),
        **strides("dz", d_z, "bryx"),
        "S": s, "SP": power_of_two(s), "PRECISION": precision(z.dtype),
        "BLOCK_Q": tile.block_q, "BLOCK_P": tile.block_p, "BLOCK_R": tile.block_r,
    }  # fmt: skip
    launch(
        lowrank_pixel_shuffle_bwd_input_kernel,
        batch * p_blocks * r_blocks,
        arguments,
        device=z.device,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return d_z
