"""The other operators, and the whole upsampling layer: full rank in eager against low rank."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lkca_kernels
from lkca.bench.baselines import CONTENDERS, compiled, eager_epilogue, onnx_call
from lkca_kernels.reference.bicubic import bicubic_upsample


def _run(
    measure: Callable[..., None],
    threads: int,
    group: str,
    contender: str,
    ours: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    tensors: list[Tensor],
) -> None:
    with torch.inference_mode():
        if contender == "onnxruntime":
            f = onnx_call(plain, tensors, threads, None)
        else:
            function = ours if contender == "lkca" else plain if contender == "eager" else compiled(plain, None)
            f = lambda: function(*tensors)  # noqa: E731
        measure(f, group, contender, rounds=15 if contender == "lkca" else 7)


@pytest.mark.parametrize("contender", CONTENDERS)
def test_lowrank_pixel_shuffle_stored(measure: Callable[..., None], threads: int, contender: str) -> None:
    """Bicubic skip, no sample below 0, to the int16 of a file."""
    c, s, r, n = 128, 4, 32, 128
    tensors = [torch.randn(1, r, n, n), torch.randn(c * s * s, r), torch.randn(c * s * s), torch.randn(1, c, n, n)]
    tensors += [torch.zeros(c), torch.full((c,), 100.0)]
    out = torch.empty(1, c, n * s, n * s, dtype=torch.int16)

    def plain(z: Tensor, weight: Tensor, bias: Tensor, skip: Tensor, least: Tensor, gain: Tensor) -> Tensor:
        values = F.pixel_shuffle(F.conv2d(z, weight[:, :, None, None], bias), s) + bicubic_upsample(skip, s)
        values = torch.round(torch.maximum(values, least[:, None, None]) * gain[:, None, None])
        return values.clamp(-32768, 32767).to(torch.int16)

    _run(
        measure,
        threads,
        f"lowrank_pixel_shuffle_stored {c}, {s}, {r}, {n}×{n} int16 out=",
        contender,
        lambda *t: lkca_kernels.lowrank_pixel_shuffle_stored(*t, upscale_factor=s, out=out),
        plain,
        tensors,
    )


@pytest.mark.parametrize("contender", CONTENDERS)
def test_pixel_shuffle_epilogue(measure: Callable[..., None], threads: int, contender: str) -> None:
    c, s, n = 128, 4, 64
    tensors = [torch.randn(1, c * s * s, n, n), torch.randn(1, c), torch.randn(1, c, n * s, n * s)]
    _run(
        measure,
        threads,
        f"pixel_shuffle_epilogue {c}, {s}, {n}×{n}",
        contender,
        lambda *t: lkca_kernels.pixel_shuffle_epilogue(*t, upscale_factor=s),
        partial(eager_epilogue, scale=s),
        tensors,
    )


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(
    ("layout", "c", "n"),
    [("contiguous", 64, 256), ("channels_last", 64, 256), *(("channels_last", c, 128) for c in (8, 16, 24, 31, 32))],
)
def test_channel_attention(
    measure: Callable[..., None], threads: int, contender: str, layout: str, c: int, n: int
) -> None:
    """Of as many channels as vectors have, and of others."""
    hidden = max(1, c // 4)
    x, residual = torch.randn(1, c, n, n), torch.randn(1, c, n, n)
    if layout == "channels_last":
        if contender == "onnxruntime":
            pytest.skip("ONNX has no channels_last")
        x, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual))
    weights = [torch.randn(hidden, c), torch.randn(hidden), torch.randn(c, hidden), torch.randn(c)]

    def plain(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor) -> Tensor:
        gate = torch.sigmoid(F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2))
        return x * gate[:, :, None, None] + residual

    _run(
        measure,
        threads,
        f"channel_attention {c}, {n}×{n} {layout}",
        contender,
        lkca_kernels.channel_attention,
        plain,
        [x, *weights, residual],
    )


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_local_channel_attention(measure: Callable[..., None], threads: int, contender: str, layout: str) -> None:
    """The attention of a block of the network: 8 images (components of a tile) of 32 channels, window 9."""
    b, c, hidden, n, window = 8, 32, 8, 32, 9
    x, residual = torch.randn(b, c, n, n), torch.randn(b, c, n, n)
    if layout == "channels_last":
        if contender == "onnxruntime":
            pytest.skip("ONNX has no channels_last")
        x, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual))
    reach = window // 2

    def plain(x: Tensor, w1: Tensor, w2: Tensor, residual: Tensor) -> Tensor:
        a = x.abs()
        a = torch.cat([F.conv2d(a, w1[:, :, None, None]), a.mean(1, keepdim=True)], 1)
        a = F.avg_pool2d(a, (1, window), stride=1, padding=(0, reach), count_include_pad=False)
        a = F.avg_pool2d(a, (window, 1), stride=1, padding=(reach, 0), count_include_pad=False)
        a = F.relu(a[:, :-1] / (a[:, -1:] + torch.finfo(a.dtype).tiny ** 0.5))
        return residual + x * (2 * torch.sigmoid(F.conv2d(a, w2[:, :, None, None])))

    _run(
        measure,
        threads,
        f"local_channel_attention {b}, {c}, {n}×{n} {layout}",
        contender,
        lambda *t: lkca_kernels.local_channel_attention(*t, window=window),
        plain,
        [x, torch.randn(hidden, c), torch.randn(c, hidden), residual],
    )


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [("contiguous", torch.float32), ("channels_last", torch.float32), ("channels_last", torch.bfloat16)],
)
def test_large_kernel_branch(
    measure: Callable[..., None], threads: int, contender: str, layout: str, dtype: torch.dtype
) -> None:
    """A block of ``base`` without attention, on a tile: 32 channels, 7×7, twice as many hidden channels, residual."""
    c, k, n = 32, 7, 192
    x = torch.randn(1, c, n, n)
    if layout == "channels_last":
        if contender == "onnxruntime":
            pytest.skip("ONNX has no channels_last")
        x = x.contiguous(memory_format=torch.channels_last)

    def plain(x: Tensor, depthwise: Tensor, expand: Tensor, contract: Tensor) -> Tensor:
        y = F.conv2d(x, depthwise, padding=k // 2, groups=c)
        return x + F.conv2d(F.relu(F.conv2d(y, expand[:, :, None, None])), contract[:, :, None, None])

    tensors = [x, torch.randn(c, 1, k, k), torch.randn(2 * c, c), torch.randn(c, 2 * c)]
    _run(
        measure,
        threads,
        f"large_kernel_branch {c}, {k}×{k}, {n}×{n} {layout}" + (" bfloat16" if dtype == torch.bfloat16 else ""),
        contender,
        lambda x, depthwise, expand, contract: lkca_kernels.large_kernel_branch(
            x, depthwise, expand, contract, residual=x
        ),
        plain,
        [t.to(dtype) for t in tensors],
    )


@pytest.mark.parametrize("contender", CONTENDERS)
def test_whole_layer(measure: Callable[..., None], threads: int, contender: str) -> None:
    """3×3 convolution 64 → 128 channels ×4 with its shuffle, full rank in the baselines, rank 32 in ours."""
    cin, c, s, r, n = 64, 128, 4, 32, 128
    x = torch.randn(1, cin, n, n)
    if contender == "lkca":
        tensors = [x, torch.randn(r, cin, 3, 3), torch.randn(c * s * s, r), torch.randn(c * s * s)]
    else:
        tensors = [x, torch.randn(c * s * s, cin, 3, 3), torch.randn(c * s * s)]
    _run(
        measure,
        threads,
        "whole layer 64 → 128, 4, 128×128",
        contender,
        lambda x, down, up, bias: lkca_kernels.lowrank_upsample(x, down, up, bias, upscale_factor=s),
        lambda x, weight, bias: F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), s),
        tensors,
    )
