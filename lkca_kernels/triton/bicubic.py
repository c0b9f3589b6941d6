"""Adjoint of the bicubic upsampling: the gradient of an LR skip. Separable, gathering, hence deterministic."""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lkca_kernels.memory_format import memory_format_of
from lkca_kernels.reference.bicubic import KEYS_A

from .config import AdjointTile, adjoint_tiles, power_of_two
from .launch import launch, strides
from .skip import keys
from .tune import choose

__all__ = ["bicubic_adjoint"]

_REACH = 2


@triton.jit
def _store_row(out, values, row, first, last, w, mask):
    """Row ``row`` of the extended result, where it is one of this program's."""
    if (row >= first) & (row < last):
        tl.store(out + tl.cast(row, tl.int64) * (w + 4), values, mask=mask)


@triton.jit(do_not_specialize=["h", "column_blocks", "length"])
def bicubic_adjoint_kernel(
    x_ptr,  # (B, C, h*S, w*S), any strides
    out_ptr,  # (B, C, h + 4, w + 4) float32, contiguous
    columns, C, h, w, column_blocks, length,
    x_sb, x_sc, x_sy, x_sx,
    A: tl.constexpr, S: tl.constexpr, SP: tl.constexpr, UNROLL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program goes down ``length`` rows of its columns: x along each row first, then into five rows of sums.

    Row or column k of the extended result is LR sample k - 2, which the samples (cells of S) k - 4 ... k reach.
    """
    pid = tl.program_id(0)
    # A column is one place of one plane: small planes share a program.
    column = (pid % column_blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first = pid // column_blocks * length
    plane, k = column // (w + 4), (column % (w + 4)).to(tl.int32)
    j = tl.arange(0, SP)
    offset = plane // C * x_sb + plane % C * x_sc + (k - 4).to(tl.int64) * S * x_sx
    cells = x_ptr + offset[:, None] + (j.to(tl.int64) * x_sx)[None, :]
    out = out_ptr + plane * (h + 4) * (w + 4) + k
    tj = (j.to(tl.float32) + 0.5) / S - 0.5
    inside = (column < columns)[:, None] & (j < S)[None, :]
    # sums of the rows cell ... cell + 4
    sum0 = tl.zeros([BLOCK], tl.float32)
    sum1 = tl.zeros([BLOCK], tl.float32)
    sum2 = tl.zeros([BLOCK], tl.float32)
    sum3 = tl.zeros([BLOCK], tl.float32)
    sum4 = tl.zeros([BLOCK], tl.float32)
    last = tl.minimum(first + length, h + 4)
    for cell in range(tl.maximum(first - 4, 0), tl.minimum(last, h)):
        for i0 in range(0, S, UNROLL):
            for i1 in tl.static_range(UNROLL):
                row = (tl.cast(cell, tl.int64) * S + (i0 + i1)) * x_sy
                terms = tl.zeros([BLOCK, SP], tl.float32)
                for dx in tl.static_range(5):
                    mask = inside & ((k >= 4 - dx) & (k < w + 4 - dx))[:, None]
                    value = tl.load(cells + row + tl.cast(dx * S, tl.int64) * x_sx, mask=mask, other=0.0)
                    terms += value.to(tl.float32) * keys(tj + (dx - 2), A)[None, :]
                along = tl.sum(terms, 1)
                ti = (tl.cast(i0 + i1, tl.float32) + 0.5) / S - 0.5
                sum0 += along * keys(ti + 2, A)
                sum1 += along * keys(ti + 1, A)
                sum2 += along * keys(ti, A)
                sum3 += along * keys(ti - 1, A)
                sum4 += along * keys(ti - 2, A)
        _store_row(out, sum0, cell, first, last, w, column < columns)
        sum0, sum1, sum2, sum3 = sum1, sum2, sum3, sum4
        sum4 = tl.zeros([BLOCK], tl.float32)
    if last > h:  # the rows that have no cells of their own
        _store_row(out, sum0, h, first, last, w, column < columns)
        _store_row(out, sum1, h + 1, first, last, w, column < columns)
        _store_row(out, sum2, h + 2, first, last, w, column < columns)
        _store_row(out, sum3, h + 3, first, last, w, column < columns)


def _extended(x: Tensor, s: int, a: float, tile: AdjointTile) -> Tensor:
    """(B, C, h*s, w*s) → (B, C, h + 4, w + 4), float32: before the border rule folds the outer samples back."""
    batch, channels, high, wide = x.shape
    h, w = high // s, wide // s
    out = torch.empty((batch, channels, h + 2 * _REACH, w + 2 * _REACH), dtype=torch.float32, device=x.device)
    columns = batch * channels * (w + 2 * _REACH)
    column_blocks, row_blocks = triton.cdiv(columns, tile.columns), triton.cdiv(h + 2 * _REACH, tile.rows)
    arguments = {
        "x_ptr": x, "out_ptr": out, "columns": columns, "C": channels, "h": h, "w": w,
        "column_blocks": column_blocks, "length": tile.rows, **strides("x", x, "bcyx"),
        "A": a, "S": s, "SP": power_of_two(s), "UNROLL": s if s <= 8 else 1, "BLOCK": tile.columns,
    }  # fmt: skip
    launch(bicubic_adjoint_kernel, column_blocks * row_blocks, arguments, device=x.device, num_warps=tile.num_warps)
    return out


def _fold(extended: Tensor, dim: int, convention: str) -> Tensor:
    """Add the two samples beyond each border to those that the border rule took them from; a view of ``extended``."""
    n = extended.shape[dim] - 2 * _REACH
    out = extended.narrow(dim, _REACH, n)
    for k in (-2, -1, n, n + 1):
        source = min(max(k, 0), n - 1) if convention == "torch" else min(k % (2 * n), 2 * n - 1 - k % (2 * n))
        out.select(dim, source).add_(extended.select(dim, k + _REACH))
    return out


def bicubic_adjoint(grad: Tensor, skip: Tensor, s: int, convention: str) -> Tensor:
    """Gradient of the LR ``skip`` (B, C, h, w) from that of its bicubic upsampling, (B, C, h*s, w*s).

    ``grad`` is read once from memory, but for four cells above each block of rows.
    """

    def run(tile: AdjointTile) -> Tensor:
        sums = _fold(_fold(_extended(grad, s, KEYS_A[convention], tile), 2, convention), 3, convention)
        return torch.empty_like(skip, memory_format=memory_format_of(skip)).copy_(sums)

    key = (skip.shape[1], s, skip.dtype)
    return run(choose("bicubic_adjoint", key, adjoint_tiles(s), run, skip.device))
