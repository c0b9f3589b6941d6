"""Device functions that the upsampling kernels share: where a tile lies, how it is stored, the bicubic skip."""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "_add_bicubic",
    "add_skip",
    "high_res_offsets",
    "keys",
    "load_shuffled",
    "low_res_pixels",
    "shuffled_rows",
    "store_shuffled",
]

# A tile is BLOCK_Q rows by BLOCK_P low-resolution pixels. Row q = c*S + i is HR row i of channel c under each
# LR pixel; p = y*w + x runs over the whole LR plane, so a narrow image wastes no lanes. SP is S rounded up to a
# power of two, as Triton needs; phases j >= S are masked.


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
def high_res_offsets(
    p0, q, h, w, sc, sy, sx, rows, S: tl.constexpr, SP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr
):
    """Offsets (BLOCK_Q, BLOCK_P*SP) into one HR image and their mask; consecutive columns are consecutive addresses."""
    u = tl.arange(0, BLOCK_P * SP)
    y0 = p0 // w
    x0 = (p0 - y0 * w).to(tl.int32)
    if SP == S:
        # One run of HR columns, which the compiler can see is contiguous.
        column = x0 * S + u
        y = y0 + column // (w * S)
        X = column % (w * S)
        inside = y < h
    else:
        local = x0 + u // SP
        y = y0 + local // w
        X = (local % w) * S + u % SP
        inside = (y < h) & (u % SP < S)
    c, i = shuffled_rows(q, S)
    offsets = (c * sc + i.to(tl.int64) * sy)[:, None] + (y * S * sy + X.to(tl.int64) * sx)[None, :]
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


@triton.jit
def add_skip(
    tile, ptr, start, p0, y, x, q0, h, w, sc, sy, sx, rows, KIND: tl.constexpr,
    S: tl.constexpr, SP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``tile`` plus the skip connection: KIND is "none", "hr", or the bicubic convention of an LR skip.

    The image lies at ``ptr + start``; ``ptr`` is None where there is none.
    """
    if KIND == "hr":
        q = q0 + tl.arange(0, BLOCK_Q)
        tile += load_shuffled(ptr + start, p0, q, h, w, sc, sy, sx, rows, S, SP, BLOCK_Q, BLOCK_P).to(tl.float32)
    elif KIND != "none":
        MATLAB: tl.constexpr = KIND == "matlab"
        tile = _add_bicubic(tile, ptr + start, y, x, q0, h, w, sc, sy, sx, rows, MATLAB, S, SP, BLOCK_Q, BLOCK_P)
    return tile


@triton.jit
def keys(distance, A: tl.constexpr):
    """Keys' cubic kernel; zero from distance 2 on (R. G. Keys, IEEE TASSP 29, 1981)."""
    d = tl.abs(distance)
    near = ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0
    far = (((d - 5.0) * d + 8.0) * d - 4.0) * A
    return tl.where(d <= 1.0, near, tl.where(d < 2.0, far, 0.0))


@triton.jit
def _inside(k, n, MATLAB: tl.constexpr):
    """Border rule of tap k in -2 ... n+1: repeating reflection (matlab) or clamping (torch)."""
    if MATLAB:
        k = (k + 2 * n) % (2 * n)
        return tl.minimum(k, 2 * n - 1 - k)
    return tl.minimum(tl.maximum(k, 0), n - 1)


@triton.jit
def _add_bicubic(
    tile, x_ptr, y, x, q0, h, w, sc, sy, sx, rows, MATLAB: tl.constexpr,
    S: tl.constexpr, SP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``tile`` (BLOCK_Q, BLOCK_P, SP), float32, plus the bicubic x S of one LR image there.

    A phase uses 4 of the 5 taps around its pixel in each direction, so 25 loads serve S*S outputs.
    """
    A: tl.constexpr = -0.5 if MATLAB else -0.75
    # Where rows come in whole channels, the S rows of a channel share their taps.
    SHARE: tl.constexpr = S if BLOCK_Q % S == 0 else 1
    CHANNELS: tl.constexpr = BLOCK_Q // SHARE
    _, i = shuffled_rows(q0 + tl.arange(0, BLOCK_Q), S)
    c_of_tap, _ = shuffled_rows(q0 + tl.arange(0, CHANNELS) * SHARE, S)
    mask = (q0 + tl.arange(0, CHANNELS) * SHARE < rows)[:, None] & (y < h)[None, :]
    ti = (i.to(tl.float32) + 0.5) / S - 0.5
    tj = (tl.arange(0, SP).to(tl.float32) + 0.5) / S - 0.5
    base = x_ptr + (c_of_tap * sc)[:, None]
    for dx in range(-2, 3):
        column = _inside(x + dx, w, MATLAB).to(tl.int64) * sx
        vertical = tl.zeros([CHANNELS, SHARE, BLOCK_P], tl.float32)
        for dy in tl.static_range(-2, 3):
            row = _inside(y.to(tl.int32) + dy, h, MATLAB).to(tl.int64) * sy
            tap = tl.load(base + (row + column)[None, :], mask=mask, other=0.0).to(tl.float32)
            vertical += tl.reshape(keys(dy - ti, A), [CHANNELS, SHARE, 1]) * tap[:, None, :]
        tile += tl.reshape(vertical, [BLOCK_Q, BLOCK_P, 1]) * keys(dx - tj, A)[None, None, :]
    return tile
