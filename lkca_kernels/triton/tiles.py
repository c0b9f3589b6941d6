"""Device functions that the upsampling kernels share: where a tile lies, how it is read and stored."""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "high_res_columns",
    "load_shuffled",
    "low_res_pixels",
    "shuffled_rows",
    "store_shuffled",
]

# A tile is BLOCK_Q rows by BLOCK_P low-resolution pixels. Row q = c*S + i is HR row i of channel c under each
# LR pixel; p = y*pitch + x runs over the whole LR plane, so a narrow image wastes no lanes: the pitch is w, or a few
# pixels more. SP is S rounded up to a power of two, as Triton needs; phases j >= S are masked.


@triton.jit
def low_res_pixels(p0, w, BLOCK_P: tl.constexpr):
    """Row (int64) and column of the pixels p0 ... p0 + BLOCK_P - 1; 32-bit division, and only one in 64 bits."""
    y0 = p0 // w
    x0 = (p0 - y0 * w).to(tl.int32)
    local = x0 + tl.arange(0, BLOCK_P)
    return y0 + local // w, local % w


@triton.jit
def shuffled_rows(q, S: tl.constexpr):
    """Channel (int64) and vertical phase of row q."""
    return (q // S).to(tl.int64), q % S


@triton.jit
def high_res_columns(y0, x0, h, w, pitch, sy, sx, S: tl.constexpr, SP: tl.constexpr, BLOCK_P: tl.constexpr):
    """Offsets (BLOCK_P*SP,) of the pixels from row y0 and column x0 on in an HR plane, first phase row, and their mask.

    Consecutive columns are consecutive addresses. ``pitch`` LR pixels make a row of the tile's numbering, at least w;
    those beyond w are left out.
    """
    u = tl.arange(0, BLOCK_P * SP)
    if SP == S:
        # One run of HR columns, which the compiler can see is contiguous.
        column = x0 * S + u
        y = y0 + column // (pitch * S)
        along = column % (pitch * S)
        inside = (y < h) & (along < w * S)
    else:
        local = x0 + u // SP
        y = y0 + local // pitch
        along = (local % pitch) * S + u % SP
        inside = (y < h) & (along < w * S) & (u % SP < S)
    return y * S * sy + along.to(tl.int64) * sx, inside


@triton.jit
def high_res_offsets(
    p0, q, h, w, sc, sy, sx, rows, S: tl.constexpr, SP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr
):
    """Offsets (BLOCK_Q, BLOCK_P*SP) into one HR image and their mask."""
    y0 = p0 // w
    columns, inside = high_res_columns(y0, (p0 - y0 * w).to(tl.int32), h, w, w, sy, sx, S, SP, BLOCK_P)
    c, i = shuffled_rows(q, S)
    offsets = (c * sc + i.to(tl.int64) * sy)[:, None] + columns[None, :]
    return offsets, (q < rows)[:, None] & inside[None, :]


@triton.jit
def load_shuffled(
    ptr, p0, q, h, w, sc, sy, sx, rows, S: tl.constexpr, SP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr
):
    """The tile (BLOCK_Q, BLOCK_P, SP) of one HR image, in its own dtype, 0 outside."""
    offsets, mask = high_res_offsets(p0, q, h, w, sc, sy, sx, rows, S, SP, BLOCK_Q, BLOCK_P)
    return tl.reshape(tl.load(ptr + offsets, mask=mask, other=0.0), [BLOCK_Q, BLOCK_P, SP])


@triton.jit
def store_shuffled(
    ptr, tile, p0, q, h, w, sc, sy, sx, rows,
    S: tl.constexpr, SP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Write the tile (BLOCK_Q, BLOCK_P, SP) into one HR image."""
    offsets, mask = high_res_offsets(p0, q, h, w, sc, sy, sx, rows, S, SP, BLOCK_Q, BLOCK_P)
    tl.store(ptr + offsets, tl.reshape(tile, [BLOCK_Q, BLOCK_P * SP]).to(ptr.dtype.element_ty), mask=mask)
