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

from .config import AdjointTile, adjoint_tiles
from .launch import launch
from .skip import keys
from .tune import choose

__all__ = ["bicubic_adjoint"]

_REACH = 2


@triton.jit(do_not_specialize=["columns", "i_blocks"])
def bicubic_adjoint_kernel(
    x_ptr,  # (outer0, outer1, n*S, inner), any strides
    out_ptr,  # (outer0, outer1, n + 4, inner) float32, contiguous
    columns, outer1, n, inner, i_blocks,
    x_s0, x_s1, x_sn, x_si,
    A: tl.constexpr, S: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    # A column is one place of inner in one of the outer planes: small planes share a program.
    column = (pid % i_blocks).to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)
    outer, place = column // inner, column % inner
    k = pid // i_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    base = x_ptr + (outer // outer1 * x_s0 + outer % outer1 * x_s1 + place * x_si)[None, :]
    acc = tl.zeros([BLOCK_N, BLOCK_I], tl.float32)
    # Row k of the extended result is LR sample k - 2, which the samples k - 4 ... k reach.
    for phase in range(5 * S):
        i = phase + tl.zeros([1], tl.int32)
        source = k - 4 + i // S
        distance = 2 - i // S - ((i % S).to(tl.float32) + 0.5) / S + 0.5
        mask = (source >= 0) & (source < n)
        row = (source * S + i % S).to(tl.int64) * x_sn
        value = tl.load(base + row[:, None], mask=mask[:, None] & (column < columns)[None, :], other=0.0)
        acc += value.to(tl.float32) * keys(distance, A)[:, None]
    offsets = (outer * (n + 4) * inner + place)[None, :] + (k.to(tl.int64) * inner)[:, None]
    tl.store(out_ptr + offsets, acc, mask=(k < n + 4)[:, None] & (column < columns)[None, :])


def _adjoint_along_rows(x: Tensor, s: int, a: float, block: tuple[int, int], num_warps: int) -> Tensor:
    """(B, C, n*s, inner) → (B, C, n + 4, inner), float32: before the border rule folds the four outer rows back."""
    outer0, outer1, high, inner = x.shape
    block_n, block_i = block
    n = high // s
    columns = outer0 * outer1 * inner
    out = torch.empty((outer0, outer1, n + 2 * _REACH, inner), dtype=torch.float32, device=x.device)
    n_blocks, i_blocks = triton.cdiv(n + 2 * _REACH, block_n), triton.cdiv(columns, block_i)
    x_s0, x_s1, x_sn, x_si = x.stride()
    arguments = {
        "x_ptr": x, "out_ptr": out, "columns": columns, "outer1": outer1, "n": n, "inner": inner,
        "i_blocks": i_blocks, "x_s0": x_s0, "x_s1": x_s1, "x_sn": x_sn, "x_si": x_si,
        "A": a, "S": s, "BLOCK_N": block_n, "BLOCK_I": block_i,
    }  # fmt: skip
    launch(bicubic_adjoint_kernel, n_blocks * i_blocks, arguments, device=x.device, num_warps=num_warps)
    return out


def _fold(extended: Tensor, dim: int, convention: str) -> Tensor:
    """Add the two samples beyond each border to those that the border rule took them from."""
    n = extended.shape[dim] - 2 * _REACH
    out = extended.narrow(dim, _REACH, n).clone()
    for k in (-2, -1, n, n + 1):
        source = min(max(k, 0), n - 1) if convention == "torch" else min(k % (2 * n), 2 * n - 1 - k % (2 * n))
        out.select(dim, source).add_(extended.select(dim, k + _REACH))
    return out


def bicubic_adjoint(grad: Tensor, skip: Tensor, s: int, convention: str) -> Tensor:
    """Gradient of the LR ``skip`` (B, C, h, w) from that of its bicubic upsampling, (B, C, h*s, w*s).

    ``grad`` is read once from memory; the intermediate has 1/s of its elements.
    """

    def run(tile: AdjointTile) -> Tensor:
        a = KEYS_A[convention]
        rows = _fold(_adjoint_along_rows(grad, s, a, tile.rows, tile.num_warps), 2, convention)  # (B, C, h, w*s)
        columns = _adjoint_along_rows(rows.transpose(2, 3), s, a, tile.columns, tile.num_warps)  # (B, C, w + 4, h)
        out = torch.empty_like(skip, memory_format=memory_format_of(skip))
        return out.copy_(_fold(columns, 2, convention).transpose(2, 3))

    return run(choose("bicubic_adjoint", (skip.shape[1], s, skip.dtype), adjoint_tiles(), run, skip.device))
