"""pixel_shuffle_epilogue: shuffle, gate and skip after a full-rank convolution, in one pass each way."""

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
from .config import ShuffleTile, epilogue_tiles, power_of_two, tap_group
from .guard import check_shuffle
from .launch import launch, skip_kind, strides
from .skip import add_skip
from .tiles import load_shuffled, low_res_pixels, store_shuffled
from .tune import choose

__all__ = ["pixel_shuffle_epilogue_bwd", "pixel_shuffle_epilogue_fwd"]


@triton.jit
def _stack_offsets(
    p0, y, x, q0, rows, sm, sy, sx,
    S: tl.constexpr, SP: tl.constexpr, FLAT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Offsets (BLOCK_Q*SP, BLOCK_P) into one image of the C*S*S channels, and the mask of its rows."""
    n = tl.arange(0, BLOCK_Q * SP)
    q = q0 + n // SP
    # A plane without gaps is one run of pixels, which the compiler can see is contiguous.
    pixel = (p0 + tl.arange(0, BLOCK_P)) * sx if FLAT else y * sy + x.to(tl.int64) * sx
    m = (q * S + n % SP).to(tl.int64)
    return (m * sm)[:, None] + pixel[None, :], (q < rows) & (n % SP < S)


@triton.jit(do_not_specialize=["p_blocks", "q_blocks", "h"])
def pixel_shuffle_epilogue_fwd_kernel(
    y_ptr,  # (B, C*S*S, h, w), channel (c*S + i)*S + j
    gate_ptr,  # (B, C) or None
    skip_ptr,  # (B, C, h*S, w*S), (B, C, h, w) or None, as SKIP says
    out_ptr,  # (B, C, h*S, w*S)
    rows, h, w, p_blocks, q_blocks,
    y_sb, y_sm, y_sy, y_sx,
    gate_sb, gate_sc,
    skip_sb, skip_sc, skip_sy, skip_sx,
    out_sb, out_sc, out_sy, out_sx,
    S: tl.constexpr, SP: tl.constexpr, SKIP: tl.constexpr, FLAT: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    GROUP: tl.constexpr,  # neighbouring pixels that share the taps of an LR skip; w is a multiple
):  # fmt: skip
    pid = tl.program_id(0)
    p0 = (pid % p_blocks).to(tl.int64) * BLOCK_P
    q_block = pid // p_blocks % q_blocks
    q0 = q_block * BLOCK_Q
    b = (pid // p_blocks // q_blocks).to(tl.int64)
    y, x = low_res_pixels(p0, w, BLOCK_P)
    q = q0 + tl.arange(0, BLOCK_Q)
    offsets, row_ok = _stack_offsets(p0, y, x, q0, rows, y_sm, y_sy, y_sx, S, SP, FLAT, BLOCK_Q, BLOCK_P)
    tile = tl.load(y_ptr + b * y_sb + offsets, mask=row_ok[:, None] & (y < h)[None, :], other=0.0)
    tile = tl.permute(tl.reshape(tile, [BLOCK_Q, SP, BLOCK_P]), [0, 2, 1]).to(tl.float32)
    if gate_ptr is not None:
        gate = tl.load(gate_ptr + b * gate_sb + (q // S).to(tl.int64) * gate_sc, mask=q < rows, other=0.0)
        tile *= tl.reshape(gate.to(tl.float32), [BLOCK_Q, 1, 1])
    tile = add_skip(
        tile, skip_ptr, b * skip_sb, p0, y, x, q_block, h, w, w, skip_sc, skip_sy, skip_sx, rows, SKIP,
        S, SP, BLOCK_Q, BLOCK_P, GROUP, GROUP % 2 == 0,
    )  # fmt: skip
    store_shuffled(
        out_ptr + b * out_sb, tile, p0, q, h, w, out_sc, out_sy, out_sx, rows, S, SP, BLOCK_Q, BLOCK_P
    )  # fmt: skip


@triton.jit(do_not_specialize=["p_blocks", "q_blocks", "h"])
def pixel_shuffle_epilogue_bwd_kernel(
    grad_ptr,  # (B, C, h*S, w*S)
    y_ptr,  # (B, C*S*S, h, w)
    gate_ptr,  # (B, C) or None
    dy_ptr,  # (B, C*S*S, h, w) or None
    dgate_ptr,  # (p_blocks, B, C*S) float32 partial sums, or None
    B, rows, h, w, p_blocks, q_blocks,
    grad_sb, grad_sc, grad_sy, grad_sx,
    y_sb, y_sm, y_sy, y_sx,
    gate_sb, gate_sc,
    dy_sb, dy_sm, dy_sy, dy_sx,
    S: tl.constexpr, SP: tl.constexpr, FLAT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    p_block = (pid % p_blocks).to(tl.int64)
    p0 = p_block * BLOCK_P
    q0 = pid // p_blocks % q_blocks * BLOCK_Q
    b = (pid // p_blocks // q_blocks).to(tl.int64)
    y, x = low_res_pixels(p0, w, BLOCK_P)
    q = q0 + tl.arange(0, BLOCK_Q)
    grad = load_shuffled(
        grad_ptr + b * grad_sb, p0, q, h, w, grad_sc, grad_sy, grad_sx, rows, S, SP, BLOCK_Q, BLOCK_P
    )  # fmt: skip
    grad = tl.permute(grad, [0, 2, 1]).to(tl.float32)  # (BLOCK_Q, SP, BLOCK_P)
    if dgate_ptr is not None:
        offsets, row_ok = _stack_offsets(p0, y, x, q0, rows, y_sm, y_sy, y_sx, S, SP, FLAT, BLOCK_Q, BLOCK_P)
        value = tl.load(y_ptr + b * y_sb + offsets, mask=row_ok[:, None] & (y < h)[None, :], other=0.0)
        part = tl.sum(tl.sum(grad * tl.reshape(value, [BLOCK_Q, SP, BLOCK_P]).to(tl.float32), 2), 1)
        tl.store(dgate_ptr + (p_block * B + b) * rows + q, part, mask=q < rows)
    if dy_ptr is not None:
        if gate_ptr is not None:
            gate = tl.load(gate_ptr + b * gate_sb + (q // S).to(tl.int64) * gate_sc, mask=q < rows, other=0.0)
            grad *= tl.reshape(gate.to(tl.float32), [BLOCK_Q, 1, 1])
        offsets, row_ok = _stack_offsets(p0, y, x, q0, rows, dy_sm, dy_sy, dy_sx, S, SP, FLAT, BLOCK_Q, BLOCK_P)
        grad = tl.reshape(grad, [BLOCK_Q * SP, BLOCK_P]).to(dy_ptr.dtype.element_ty)
        tl.store(dy_ptr + b * dy_sb + offsets, grad, mask=row_ok[:, None] & (y < h)[None, :])


def _gapless(*tensors: Tensor | None) -> bool:
    """Whether pixel p of every plane lies at p times the column stride."""
    return all(t is None or t.stride(2) == t.shape[3] * t.stride(3) for t in tensors)


def pixel_shuffle_epilogue_fwd(
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    out: Tensor | None = None,
) -> Tensor:
    """(B, C, h*s, w*s), written once and contiguous unless ``out`` has strides of its own."""
    batch, phases, h, w = y.shape
    s = upscale_factor
    check_shuffle(y, phases, s, skip_bicubic, gate, skip, out)
    rows = phases // s
    if out is None:
        out = torch.empty((batch, rows // s, h * s, w * s), dtype=y.dtype, device=y.device)
    kind = skip_kind(skip, (h, w), skip_bicubic)
    run = partial(_run_fwd, y, gate, skip, out, s, kind)
    key = (rows // s, s, y.dtype, kind)
    run(choose("pixel_shuffle_epilogue_fwd", key, epilogue_tiles(rows // s, s), run, y.device))
    return out


def _run_fwd(
    y: Tensor, gate: Tensor | None, skip: Tensor | None, out: Tensor, s: int, kind: str, tile: ShuffleTile
) -> None:
    batch, phases, h, w = y.shape
    rows = phases // s
    p_blocks, q_blocks = triton.cdiv(h * w, tile.block_p), triton.cdiv(rows, tile.block_q)
    group = tap_group(kind, s, tile)
    arguments = {
        "y_ptr": y, "gate_ptr": gate, "skip_ptr": skip, "out_ptr": out,
        "rows": rows, "h": h, "w": w, "p_blocks": p_blocks, "q_blocks": q_blocks,
        **strides("y", y, "bmyx"), **strides("gate", gate, "bc"), **strides("skip", skip, "bcyx"),
        **strides("out", out, "bcyx"),
        "S": s, "SP": power_of_two(s), "SKIP": kind, "FLAT": _gapless(y),
        "BLOCK_Q": tile.block_q, "BLOCK_P": tile.block_p, "GROUP": group if group and w % group == 0 else 0,
    }  # fmt: skip
    programs = batch * p_blocks * q_blocks
    launch(pixel_shuffle_epilogue_fwd_kernel, programs, arguments, device=y.device, num_warps=tile.num_warps)


def pixel_shuffle_epilogue_bwd(
    grad_out: Tensor,
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: str,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of y, gate and an LR skip; one read of the HR gradient serves the first two."""
    need_y, need_gate, need_skip = needs
    phases, s = y.shape[1], upscale_factor
    check_shuffle(y, phases, s, skip_bicubic, gate, skip, grad_out)
    rows = phases // s
    d_y = d_gate = d_skip = None
    if need_y or need_gate:
        run = partial(_run_bwd, grad_out, y, gate, s, need_y, need_gate)
        key = (rows // s, s, y.dtype, need_y, need_gate)
        d_y, d_gate = run(choose("pixel_shuffle_epilogue_bwd", key, epilogue_tiles(rows // s, s), run, y.device))
    if need_skip:
        assert skip is not None
        d_skip = bicubic_adjoint(grad_out, skip, s, skip_bicubic)
    return d_y, d_gate, d_skip


def _run_bwd(
    grad_out: Tensor, y: Tensor, gate: Tensor | None, s: int, need_y: bool, need_gate: bool, tile: ShuffleTile
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of y and gate."""
    batch, phases, h, w = y.shape
    rows = phases // s
    p_blocks, q_blocks = triton.cdiv(h * w, tile.block_p), triton.cdiv(rows, tile.block_q)
    d_y = torch.empty_like(y, memory_format=memory_format_of(y)) if need_y else None
    parts = torch.empty((p_blocks, batch, rows), dtype=torch.float32, device=y.device) if need_gate else None
    arguments = {
        "grad_ptr": grad_out, "y_ptr": y, "gate_ptr": gate, "dy_ptr": d_y, "dgate_ptr": parts,
        "B": batch, "rows": rows, "h": h, "w": w, "p_blocks": p_blocks, "q_blocks": q_blocks,
        **strides("grad", grad_out, "bcyx"), **strides("y", y, "bmyx"), **strides("gate", gate, "bc"),
        **strides("dy", d_y, "bmyx"),
        "S": s, "SP": power_of_two(s), "FLAT": _gapless(y, d_y),
        "BLOCK_Q": tile.block_q, "BLOCK_P": tile.block_p,
    }  # fmt: skip
    programs = batch * p_blocks * q_blocks
    launch(pixel_shuffle_epilogue_bwd_kernel, programs, arguments, device=y.device, num_warps=tile.num_warps)
    if parts is None:
        return d_y, None
    assert gate is not None
    return d_y, parts.sum(0).reshape(batch, rows // s, s).sum(2).to(gate.dtype)
