"""The CUDA backend on a card, through the public operators; skipped, visibly, where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import lkca_kernels
from lkca_kernels import cuda, reference

from .cuda_host.cases import BOUND, DTYPES, FIRST, rms

WHY_NOT = cuda.unavailable()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(WHY_NOT is not None, reason=f"CUDA backend {WHY_NOT}")]

# (B, C, R, h, w, s)
SHAPES = [
    (1, 1, 1, 1, 1, 2),
    (2, 5, 32, 9, 16, 4),
    (1, 7, 70, 5, 7, 3),
    (1, 2, 1, 13, 11, 5),
    (2, 3, 16, 3, 2, 8),
    (1, 1, 3, 2, 3, 17),
    (2, 19, 12, 23, 6, 4),
    (1, 128, 32, 64, 64, 4),
    (2, 102, 16, 33, 31, 4),
    (1, 48, 16, 64, 64, 8),
    (2, 67, 24, 128, 258, 2),  # several tiles of u rows to a block, whose vectors are not whole
    (2, 67, 24, 128, 256, 2),  # from here on a block takes several chunks of u rows, on any card
    (1, 33, 32, 256, 256, 4),
    (1, 9, 16, 256, 256, 8),
]


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to("cuda", dtype)


def check(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: list[Tensor | None], dtype: torch.dtype
) -> None:
    """Value and every gradient of ``ours`` against float64, and the same bits in a second run."""
    exact = [None if t is None else t.double().requires_grad_() for t in inputs]
    expected = theirs(*exact)
    grad_out = random(*expected.shape, dtype=dtype, seed=99)
    expected.backward(grad_out.double())
    runs = []
    for _ in range(2):
        leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
        out = ours(*leaves)
        out.backward(grad_out)
        runs.append([out.detach(), *[t.grad for t in leaves if t is not None]])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
    rights = [expected.detach(), *[t.grad for t in exact if t is not None]]
    for i, (value, right) in enumerate(zip(runs[0], rights, strict=True)):
        error = rms(value, right)
        assert error < (FIRST if i == 1 else BOUND)[dtype], f"result {i}: {error:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip", ["none", "hr", "matlab", "torch"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_upsampling(shape: tuple[int, ...], skip: str, dtype: torch.dtype) -> None:
    b, c, r, h, w, s = shape
    size = (b, c, h * s, w * s) if skip == "hr" else (b, c, h, w)
    added = None if skip == "none" else random(*size, dtype=dtype, seed=5)
    gate = random(b, c, dtype=dtype, seed=4)
    z, weight, bias = (
        random(*sizes, dtype=dtype, seed=i) for i, sizes in enumerate([(b, r, h, w), (c * s * s, r), (c * s * s,)])
    )
    options = {"upscale_factor": s, "skip_bicubic": "torch" if skip == "torch" else "matlab"}
    check(
        lambda *t: lkca_kernels.lowrank_pixel_shuffle(*t, **options, backend="cuda"),
        lambda *t: reference.lowrank_pixel_shuffle(*t, **options),
        [z, weight, bias, gate, added],
        dtype,
    )
    check(
        lambda *t: lkca_kernels.pixel_shuffle_epilogue(*t, **options, backend="cuda"),
        lambda *t: reference.pixel_shuffle_epilogue(*t, **options),
        [random(b, c * s * s, h, w, dtype=dtype, seed=7), gate, added],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 7, 3, 5, 8), (1, 64, 16, 257, 255), (4, 64, 16, 128, 128)], ids=str)
def test_channel_operators(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    b, c, k, h, w = shape
    sizes = [(b, c, h, w), (k, c), (k,), (c, k), (c,)]
    inputs = [random(*size, dtype=dtype, seed=i) for i, size in enumerate(sizes)]
    check(lambda *t: lkca_kernels.channel_attention(*t, backend="cuda"), reference.channel_attention, inputs, dtype)
    scale = (h * w) ** 0.5  # keeps the gradient of x off float16's subnormals
    check(
        lambda *t: lkca_kernels.channel_gate(*t, backend="cuda") * scale,
        lambda *t: reference.channel_gate(*t) * scale,
        inputs,
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 7, 2, 5, 11, 3), (2, 5, 3, 13, 1, 31), (1, 64, 16, 255, 257, 9), (2, 130, 33, 64, 64, 5)], ids=str
)
def test_local_channel_attention(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    b, c, k, h, w, window = shape
    sizes, scale = [(b, c, h, w), (k, c), (c, k), (b, c, h, w)], c**-0.5
    x, w1, w2, residual = (random(*size, dtype=dtype, seed=i) for i, size in enumerate(sizes))
    check(
        lambda *t: lkca_kernels.local_channel_attention(*t, window=window, backend="cuda"),
        lambda *t: reference.local_channel_attention(*t, window=window),
        [x, w1 * scale, w2 * scale, residual],
        dtype,
    )


def test_graph_capture_and_streams() -> None:
    """Replays in a CUDA graph, with new inputs in the same place, and on a stream of its own."""
    b, c, r, h, w, s = 1, 16, 32, 24, 32, 4
    z, weight = random(b, r, h, w, dtype=torch.bfloat16, seed=1), random(c * s * s, r, dtype=torch.bfloat16, seed=2)
    skip = random(b, c, h, w, dtype=torch.bfloat16, seed=3)

    def run() -> Tensor:
        return lkca_kernels.lowrank_pixel_shuffle(z, weight, None, None, skip, upscale_factor=s, backend="cuda")

    with torch.cuda.stream(torch.cuda.Stream()):
        on_stream = run()
        torch.cuda.current_stream().synchronize()
    assert torch.equal(on_stream, run())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    z.copy_(random(b, r, h, w, dtype=torch.bfloat16, seed=4))
    captured.fill_(float("nan"))
    graph.replay()
    assert torch.equal(captured, run())


def test_offsets_past_two_to_the_31() -> None:
    b, c, r, h, w, s = 1, 520, 1, 256, 256, 8
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("less than 12 GiB free on the card")
    z, weight = random(b, r, h, w, dtype=torch.bfloat16, seed=1), random(c * s * s, r, dtype=torch.bfloat16, seed=2)
    out = torch.full((b, c, h * s, w * s), float("nan"), device="cuda", dtype=torch.bfloat16)
    lkca_kernels.lowrank_pixel_shuffle(z, weight, upscale_factor=s, out=out, backend="cuda")
    for channel in (0, c // 2, c - 1):
        rows = weight[channel * s * s : (channel + 1) * s * s].double()
        expected = reference.lowrank_pixel_shuffle(z.double(), rows, None, None, None, upscale_factor=s)
        assert rms(out[:, channel : channel + 1], expected) < BOUND[torch.bfloat16]
    assert not out.isnan().any()
