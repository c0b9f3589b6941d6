"""lowrank_pixel_shuffle, backward: two kernels that each read the gradient of the HR image once, and one that adds up.

With G the un-shuffled gradient (rows m = (c*S + i)*S + j), per image b:

    product[b, m, r] = sum_p G[b, m, p] z[b, r, p]        product[b, m, R] = sum_p G[b, m, p]
    dz[b, r, p] = sum_m gate[b, c] W[m, r] G[b, m, p]
    dW = sum_b gate product     dbias = sum_b gate product     dgate[b, c] = sum_ij sum_r [W | bias] product

so the gradient of the gate needs no second forward. Every sum over programs is a second stage in a fixed order: the
result is deterministic.
"""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lkca_kernels.memory_format import memory_format_of

from .bicubic import bicubic_adjoint
from .config import ShuffleTile, backward_input_tiles, backward_weight_tiles, power_of_two, splits
from .guard import check, check_shuffle
from .launch import full_precision, launch, product_precision, streaming_multiprocessors, strides
from .tiles import high_res_columns
from .tune import choose

__all__ = ["lowrank_pixel_shuffle_bwd"]

_RESIDENT = 4  # programs of the weight kernel that a multiprocessor holds


@triton.jit
def _unshuffled(grad, SP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr):
    """A tile of HR rows, (BLOCK_Q, BLOCK_P*SP), as LR pixels by (row, phase), (BLOCK_P, BLOCK_Q*SP)."""
    grad = tl.permute(tl.reshape(grad, [BLOCK_Q, BLOCK_P, SP]), [1, 0, 2])
    return tl.reshape(grad, [BLOCK_P, BLOCK_Q * SP])


@triton.jit(do_not_specialize=["p_blocks", "q_blocks", "r_blocks", "splits", "length", "h"])
def lowrank_pixel_shuffle_bwd_weight_kernel(
    grad_ptr,  # (B, C, h*S, w*S)
    z_ptr,  # (B, R, h, w)
    product_ptr,  # (splits, B, C*S*S, R + 1) float32; the last column is the sum of the gradient alone
    B, rows, R, h, w, p_blocks, q_blocks, r_blocks, splits, length,
    grad_sb, grad_sc, grad_sy, grad_sx,
    z_sb, z_sr, z_sy, z_sx,
    S: tl.constexpr, SP: tl.constexpr, PRECISION: tl.constexpr, SUM_PRECISION: tl.constexpr,
    EVEN_Q: tl.constexpr, EVEN_R: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """A program keeps its rows and ranks, and goes along the pixels of its part."""
    pid = tl.program_id(0)
    split = pid % splits
    q0 = pid // splits % q_blocks * BLOCK_Q
    r_block = pid // splits // q_blocks % r_blocks
    b = (pid // splits // q_blocks // r_blocks).to(tl.int64)
    q = q0 + tl.arange(0, BLOCK_Q)
    r = r_block * BLOCK_R + tl.arange(0, BLOCK_R)
    grad_row = grad_ptr + b * grad_sb + ((q // S).to(tl.int64) * grad_sc + (q % S).to(tl.int64) * grad_sy)[:, None]
    z_row = z_ptr + b * z_sb + (r.to(tl.int64) * z_sr)[None, :]
    product = tl.zeros([BLOCK_Q * SP, BLOCK_R], tl.float32)
    # The sum over pixels is a product with ones: sums across lanes at each step would cost more than all the rest.
    total = tl.zeros([BLOCK_Q * SP, 8], tl.float32)
    ones = tl.full([BLOCK_P, 8], 1.0, grad_ptr.dtype.element_ty)
    # Row and column of the first pixel: one division before the loop, additions in it.
    p0 = split.to(tl.int64) * length * BLOCK_P
    y0 = p0 // w
    x0 = (p0 - y0 * w).to(tl.int32)
    for _ in range(tl.minimum(length, p_blocks - split * length)):
        column, inside = high_res_columns(y0, x0, h, w, w, grad_sy, grad_sx, S, SP, BLOCK_P)
        mask = inside[None, :] if EVEN_Q else (q < rows)[:, None] & inside[None, :]
        grad = tl.load(grad_row + column[None, :], mask=mask, other=0.0)
        local = x0 + tl.arange(0, BLOCK_P)
        y = y0 + local // w
        mask = (y < h)[:, None] if EVEN_R else (y < h)[:, None] & (r < R)[None, :]
        z = tl.load(z_row + (y * z_sy + (local % w).to(tl.int64) * z_sx)[:, None], mask=mask, other=0.0)
        grad = tl.trans(_unshuffled(grad, SP, BLOCK_Q, BLOCK_P))
        product = tl.dot(grad, z, product, input_precision=PRECISION)
        total = tl.dot(grad, ones, total, input_precision=SUM_PRECISION)
        x0 += BLOCK_P - BLOCK_P // w * w  # not %, after which Triton 3.6 no longer sees that w divides by 16
        carry = (x0 >= w).to(tl.int32)
        y0 += BLOCK_P // w + carry
        x0 -= carry * w

    n = tl.arange(0, BLOCK_Q * SP)
    m = (q0 + n // SP) * S + n % SP
    m_ok = (q0 + n // SP < rows) & (n % SP < S)
    out = product_ptr + ((split.to(tl.int64) * B + b) * rows * S + m) * (R + 1)
    tl.store(out[:, None] + r[None, :], product, mask=m_ok[:, None] & (r < R)[None, :])
    if r_block == 0:
        tl.store(out + R, tl.sum(total, 1) / 8, mask=m_ok)


@triton.jit(do_not_specialize=["B", "C", "parts", "chunks"])
def lowrank_pixel_shuffle_bwd_sums_kernel(
    product_ptr,  # (parts, B, C*S*S, R + 1) float32, of the kernel above
    weight_ptr,  # (C*S*S, R)
    bias_ptr,  # (C*S*S,) or None
    gate_ptr,  # (B, C) or None
    dweight_ptr,  # (C*S*S, R) contiguous, or None where not wanted
    dbias_ptr,  # (C*S*S,), or None where not wanted
    dgate_ptr,  # (chunks, B, C), or None where not wanted
    B, C, R, parts, chunks,
    weight_sm, weight_sr, bias_sm,
    gate_sb, gate_sc,
    S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program adds up a chunk of the S*S*(R + 1) sums of one channel, over the parts and over the images."""
    c = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    e = chunk * BLOCK + tl.arange(0, BLOCK)
    inside = e < S * S * (R + 1)
    r = e % (R + 1)
    m = c * S * S + e // (R + 1)
    of_weight, of_bias = inside & (r < R), inside & (r == R)
    if dgate_ptr is not None:
        factor = tl.load(weight_ptr + m * weight_sm + r.to(tl.int64) * weight_sr, mask=of_weight, other=0.0)
        factor = factor.to(tl.float32)
        if bias_ptr is not None:
            factor += tl.load(bias_ptr + m * bias_sm, mask=of_bias, other=0.0).to(tl.float32)
    gated = tl.zeros([BLOCK], tl.float32)
    for b32 in range(B):
        b = tl.cast(b32, tl.int64)
        product = tl.zeros([BLOCK], tl.float32)
        for part in tl.range(0, parts, loop_unroll_factor=8):  # loads side by side; the order of the sum stays
            image = tl.cast(part, tl.int64) * B + b
            product += tl.load(product_ptr + (image * C + c) * S * S * (R + 1) + e, mask=inside, other=0.0)
        if gate_ptr is not None:
            gated += product * tl.load(gate_ptr + b * gate_sb + c * gate_sc).to(tl.float32)
        else:
            gated += product
        if dgate_ptr is not None:
            # A sum that nothing multiplies takes no part, not even as nan.
            terms = tl.where(of_weight if bias_ptr is None else inside, product * factor, 0.0)
            tl.store(dgate_ptr + (chunk * B + b) * C + c, tl.sum(terms, 0))
    if dweight_ptr is not None:
        tl.store(dweight_ptr + m * R + r, gated, mask=of_weight)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + m, gated, mask=of_bias)


@triton.jit(do_not_specialize=["p_blocks", "q_blocks", "r_blocks", "h"])
def lowrank_pixel_shuffle_bwd_input_kernel(
    grad_ptr,  # (B, C, h*S, w*S)
    weight_ptr,  # (B, C*S*S, R), or (1, C*S*S, R) with stride 0 along B
    dz_ptr,  # (B, R, h, w)
    rows, R, h, w, p_blocks, q_blocks, r_blocks,
    grad_sb, grad_sc, grad_sy, grad_sx,
    weight_sb, weight_sm, weight_sr,
    dz_sb, dz_sr, dz_sy, dz_sx,
    S: tl.constexpr, SP: tl.constexpr, PRECISION: tl.constexpr, EVEN_Q: tl.constexpr, EVEN_R: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """A program keeps its pixels, and goes along the rows."""
    pid = tl.program_id(0)
    p0 = (pid % p_blocks).to(tl.int64) * BLOCK_P
    r = pid // p_blocks % r_blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    b = (pid // p_blocks // r_blocks).to(tl.int64)
    y0 = p0 // w
    x0 = (p0 - y0 * w).to(tl.int32)
    column, inside = high_res_columns(y0, x0, h, w, w, grad_sy, grad_sx, S, SP, BLOCK_P)
    grad_column = (grad_ptr + b * grad_sb + column)[None, :]
    weight_column = weight_ptr + b * weight_sb + (r.to(tl.int64) * weight_sr)[None, :]
    n = tl.arange(0, BLOCK_Q * SP)
    dz = tl.zeros([BLOCK_P, BLOCK_R], tl.float32)
    for q0 in range(0, q_blocks * BLOCK_Q, BLOCK_Q):
        q = q0 + tl.arange(0, BLOCK_Q)
        m = (q0 + n // SP) * S + n % SP
        grad_at = grad_column + ((q // S).to(tl.int64) * grad_sc + (q % S).to(tl.int64) * grad_sy)[:, None]
        weight_at = weight_column + (m.to(tl.int64) * weight_sm)[:, None]
        q_ok = q < rows
        m_ok = (q0 + n // SP < rows) & (n % SP < S)
        grad = tl.load(grad_at, mask=inside[None, :] if EVEN_Q else q_ok[:, None] & inside[None, :], other=0.0)
        if EVEN_Q and EVEN_R:
            weight = tl.load(weight_at)
        else:
            weight = tl.load(weight_at, mask=m_ok[:, None] & (r < R)[None, :], other=0.0)
        dz = tl.dot(_unshuffled(grad, SP, BLOCK_Q, BLOCK_P), weight, dz, input_precision=PRECISION)
    local = x0 + tl.arange(0, BLOCK_P)
    y = y0 + local // w
    pixel = dz_ptr + b * dz_sb + y * dz_sy + (local % w).to(tl.int64) * dz_sx
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
    s, (phases, rank) = upscale_factor, weight.shape
    check(z, ("weight", weight, (phases, z.shape[1])), ("bias", bias, (phases,)))
    check_shuffle(z, phases, s, skip_bicubic, gate, skip, grad_out)
    d_z = d_weight = d_bias = d_gate = d_skip = None
    sizes = (phases // (s * s), rank, s, z.dtype)
    key = (*sizes, product_precision(z.dtype))
    if need_weight or need_bias or need_gate:
        sums = partial(_products, grad_out, z, phases, s)
        tile = choose("lowrank_pixel_shuffle_bwd_weight", key, backward_weight_tiles(*sizes), sums, z.device)
        d_weight, d_bias, d_gate = _parameter_gradients(sums(tile), weight, bias, gate, s, needs[1:4])
    if need_z:
        gated = _gated(weight, gate, s)
        run = partial(_input_gradient, grad_out, z, gated, s)
        d_z = run(choose("lowrank_pixel_shuffle_bwd_input", key, backward_input_tiles(*sizes), run, z.device))
    if need_skip:
        assert skip is not None
        d_skip = bicubic_adjoint(grad_out, skip, s, skip_bicubic)
    return d_z, d_weight, d_bias, d_gate, d_skip


def _common(z: Tensor, phases: int, s: int, tile: ShuffleTile) -> dict[str, Any]:
    """Arguments that both kernels which read the HR gradient take."""
    rank, h, w = z.shape[1:]
    rows = phases // s
    return {
        "rows": rows, "R": rank, "h": h, "w": w,
        "p_blocks": triton.cdiv(h * w, tile.block_p), "q_blocks": triton.cdiv(rows, tile.block_q),
        "r_blocks": triton.cdiv(rank, tile.block_r),
        "S": s, "SP": power_of_two(s), "PRECISION": product_precision(z.dtype),
        "EVEN_Q": s == power_of_two(s) and rows % tile.block_q == 0, "EVEN_R": rank % tile.block_r == 0,
        "BLOCK_Q": tile.block_q, "BLOCK_P": tile.block_p, "BLOCK_R": tile.block_r,
    }  # fmt: skip


def _products(grad_out: Tensor, z: Tensor, phases: int, s: int, tile: ShuffleTile) -> Tensor:
    """(parts, B, C*s*s, R + 1), float32: sums over parts of the pixels."""
    batch, rank = z.shape[:2]
    common = _common(z, phases, s, tile)
    programs = batch * common["q_blocks"] * common["r_blocks"]
    parts, length = splits(common["p_blocks"], programs, _RESIDENT * streaming_multiprocessors(z.device))
    product = torch.empty((parts, batch, phases, rank + 1), dtype=torch.float32, device=z.device)
    arguments = {
        "grad_ptr": grad_out, "z_ptr": z, "product_ptr": product, "B": batch, "splits": parts, "length": length,
        # Where PyTorch allows tf32, it does so for products alone.
        "SUM_PRECISION": full_precision(z.dtype),
        **common, **strides("grad", grad_out, "bcyx"), **strides("z", z, "bryx"),
    }  # fmt: skip
    launch(
        lowrank_pixel_shuffle_bwd_weight_kernel,
        programs * parts,
        arguments,
        device=z.device,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return product


def _parameter_gradients(
    product: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, s: int, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of weight, bias and gate."""
    need_weight, need_bias, need_gate = needs
    parts, batch, phases, columns = product.shape
    channels = phases // (s * s)
    block = min(1024, power_of_two(s * s * columns))
    chunks = triton.cdiv(s * s * columns, block)

    def empty(*shape: int, dtype: torch.dtype = weight.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=weight.device)

    d_weight = empty(phases, columns - 1) if need_weight else None
    d_bias = empty(phases) if need_bias else None
    d_gate = empty(chunks, batch, channels, dtype=weight.dtype if chunks == 1 else torch.float32) if need_gate else None
    arguments = {
        "product_ptr": product, "weight_ptr": weight, "bias_ptr": bias, "gate_ptr": gate,
        "dweight_ptr": d_weight, "dbias_ptr": d_bias, "dgate_ptr": d_gate,
        "B": batch, "C": channels, "R": columns - 1, "parts": parts, "chunks": chunks,
        **strides("weight", weight, "mr"), **strides("bias", bias, "m"), **strides("gate", gate, "bc"),
        "S": s, "BLOCK": block,
    }  # fmt: skip
    launch(lowrank_pixel_shuffle_bwd_sums_kernel, channels * chunks, arguments, device=weight.device, num_warps=4)
    if d_gate is not None:
        d_gate = d_gate[0] if chunks == 1 else d_gate.sum(0).to(weight.dtype)
    return d_weight, d_bias, d_gate


def _gated(weight: Tensor, gate: Tensor | None, s: int) -> Tensor:
    """gate * W of each image, (B, C*s*s, R), in the dtype of W; (1, C*s*s, R) where there is no gate."""
    if gate is None:
        return weight[None]
    gated: Tensor = weight.unflatten(0, (-1, s * s)) * gate[:, :, None, None]
    return gated.flatten(1, 2)


def _input_gradient(grad_out: Tensor, z: Tensor, gated: Tensor, s: int, tile: ShuffleTile) -> Tensor:
    common = _common(z, gated.shape[1], s, tile)
    d_z = torch.empty_like(z, memory_format=memory_format_of(z))
    arguments = {
        "grad_ptr": grad_out, "weight_ptr": gated, "dz_ptr": d_z, **common, **strides("grad", grad_out, "bcyx"),
        **strides("weight", gated.expand(z.shape[0], -1, -1), "bmr"), **strides("dz", d_z, "bryx"),
    }  # fmt: skip
    launch(
        lowrank_pixel_shuffle_bwd_input_kernel,
        z.shape[0] * common["p_blocks"] * common["r_blocks"],
        arguments,
        device=z.device,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return d_z
