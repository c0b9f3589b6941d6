"""The skip connection of a tile of the HR cube: an HR cube, or the bicubic upsampling of the LR one made on the fly."""

# Kernel parameters are pointers, integers or constants by Triton's own rules, which annotations cannot say; tuples grow
# while their loops are unrolled.
# mypy: allow-untyped-defs, allow-incomplete-defs, disable-error-code="assignment, misc, var-annotated"

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import load_shuffled, shuffled_rows

__all__ = ["add_skip", "keys"]


@triton.jit
def add_skip(
    tile, ptr, start, p0, y, x, q_block, h, w, pitch, sc, sy, sx, rows, KIND: tl.constexpr,
    S: tl.constexpr, SP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    GROUP: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """``tile`` plus the skip connection: KIND is "none", "hr", or the bicubic convention of an LR skip.

    The image lies at ``ptr + start``; ``ptr`` is None where there is none. GROUP, PAIRS: as in `_bicubic_tile`, which
    takes an LR skip where GROUP is not 0.
    """
    q0 = q_block * BLOCK_Q
    if KIND == "hr":
        q = q0 + tl.arange(0, BLOCK_Q)
        tile += load_shuffled(ptr + start, p0, q, h, w, sc, sy, sx, rows, S, SP, BLOCK_Q, BLOCK_P).to(tl.float32)
    elif KIND != "none":
        MATLAB: tl.constexpr = KIND == "matlab"
        if GROUP > 0:
            tile += _bicubic_tile(
                ptr + start, p0, q_block * (BLOCK_Q // S), rows // S, h, w, pitch, sc, sy, sx, MATLAB,
                S, BLOCK_Q // S, BLOCK_P, GROUP, PAIRS,
            )  # fmt: skip
        else:
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


@triton.constexpr_function
def _first(phase, s):
    """Of the taps -2 ... 2 around a pixel, the first of the four that a phase takes; the fifth would weigh 0."""
    return 0 if 2 * phase < s else 1


@triton.constexpr_function
def _weight(k, phase, s, a):
    """`keys` of tap k - 2 from a phase, at compile time; Triton 3.6 lets it call no other function of Python."""
    d = abs(k - 2 - (phase + 0.5) / s + 0.5)
    return ((a + 2) * d - (a + 3)) * d * d + 1 if d <= 1 else (((d - 5) * d + 8) * d - 4) * a


@triton.constexpr_function
def _bits(n):
    return n.bit_length() - 1


@triton.jit
def _taps_of_pairs(row, x, w, sx, mask, MATLAB: tl.constexpr, GROUP: tl.constexpr):
    """Columns x - 2 ... x + GROUP + 1 of one LR row: where a pair lies outside, it mirrors the one beside it."""
    two = (tl.arange(0, 2).to(tl.int64) * sx)[None, None, :]
    pairs = ()
    for k in tl.static_range(GROUP // 2 + 2):
        column = x + (2 * k - 2)
        at = (row + (column.to(tl.int64) * sx)[None, :])[:, :, None] + two
        inside = (mask & ((column >= 0) & (column < w))[None, :])[:, :, None]
        a, b = tl.split(tl.load(at, mask=inside, other=0.0).to(tl.float32))
        if k >= 2:
            c, d = pairs[k - 1]
            inner = (column < w)[None, :]
            a, b = tl.where(inner, a, d), tl.where(inner, b, c if MATLAB else d)
        pairs = pairs + ((a, b),)
    a, b = pairs[0]
    c, d = pairs[1]
    inner = (x >= 2)[None, :]
    taps = (tl.where(inner, a, d if MATLAB else c), tl.where(inner, b, c))
    for k in tl.static_range(1, GROUP // 2 + 2):
        taps = taps + pairs[k]
    return taps


@triton.jit
def _bicubic_tile(
    x_ptr, p0, c0, channels, h, w, pitch, sc, sy, sx, MATLAB: tl.constexpr,
    S: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_P: tl.constexpr, GROUP: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Bicubic x S of one LR image, (CHANNELS*S, BLOCK_P, S) float32, S = 2, 4 or 8: channels c0 ..., pixels p0 ...

    A thread takes GROUP neighbours of an LR row, whose taps overlap; ``pitch`` is a multiple of GROUP. PAIRS: w and
    GROUP are even, and two columns are read at a time.
    """
    A: tl.constexpr = -0.5 if MATLAB else -0.75
    y0 = p0 // pitch
    x0 = (p0 - y0 * pitch).to(tl.int32)
    local = x0 + GROUP * tl.arange(0, BLOCK_P // GROUP)
    y = (y0 + local // pitch).to(tl.int32)
    x = local % pitch
    c = c0 + tl.arange(0, CHANNELS)
    base = x_ptr + (c.to(tl.int64) * sc)[:, None]
    mask = (c < channels)[:, None] & (y < h)[None, :]
    taps = ()
    for dy in tl.static_range(-2, 3):
        row = base + (_inside(y + dy, h, MATLAB).to(tl.int64) * sy)[None, :]
        if PAIRS:
            taps = taps + _taps_of_pairs(row, x, w, sx, mask, MATLAB, GROUP)
        else:
            for dx in tl.static_range(-2, GROUP + 2):
                at = row + (_inside(x + dx, w, MATLAB).to(tl.int64) * sx)[None, :]
                taps = taps + (tl.load(at, mask=mask, other=0.0).to(tl.float32),)
    WIDTH: tl.constexpr = GROUP + 4
    found = ()
    for i in tl.static_range(S):
        line = ()
        for column in tl.static_range(WIDTH):
            value = taps[_first(i, S) * WIDTH + column] * _weight(_first(i, S), i, S, A)
            for k in tl.static_range(1, 4):
                value += taps[(_first(i, S) + k) * WIDTH + column] * _weight(_first(i, S) + k, i, S, A)
            line = line + (value,)
        for g in tl.static_range(GROUP):
            for j in tl.static_range(S):
                value = line[g + _first(j, S)] * _weight(_first(j, S), j, S, A)
                for k in tl.static_range(1, 4):
                    value += line[g + _first(j, S) + k] * _weight(_first(j, S) + k, j, S, A)
                found = found + (value,)
    # The parts (i, g, j), one bit of their number after another, become dimensions that lie within a thread.
    for bit in tl.static_range(_bits(S * GROUP * S)):
        half = ()
        for k in tl.static_range(S * GROUP * S >> bit + 1):
            half = half + (tl.join(found[k], found[k + (S * GROUP * S >> bit + 1)]),)
        found = half
    tile = tl.reshape(found[0], [CHANNELS, BLOCK_P // GROUP, S, GROUP * S])
    return tl.reshape(tl.permute(tile, [0, 2, 1, 3]), [CHANNELS * S, BLOCK_P, S])
