"""What holds for all kernels: barriers, bytes moved, shared memory, layouts, alignment."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from lkca_kernels import cuda, reference

from .cases import BOUND, DTYPES, attention_inputs, local_inputs, random, rms, upsampling_inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_result_depends_on_neither_thread_order_nor_grid(grid: ctypes.CDLL, dtype: torch.dtype) -> None:
    """A missing barrier shows in one of the orders; the loop over work shows with fewer blocks than work."""
    upsampling, _ = upsampling_inputs((2, 5, 70, 9, 16, 4), "matlab", dtype, True)
    low_rank, _ = upsampling_inputs((2, 37, 9, 9, 16, 4), "matlab", dtype, True)  # three chunks
    grad_out = random(2, 5, 36, 64, dtype=dtype, seed=6)
    y = random(2, 80, 9, 16, dtype=dtype, seed=7)
    y17 = random(1, 289, 2, 3, dtype=dtype, seed=7)  # few u rows in a tile: several warps to each
    layers, many = attention_inputs((1, 3, 2, 97, 101), dtype), attention_inputs((5, 3, 2, 4, 4), dtype)
    local, several_parts = (local_inputs(shape, dtype)[:3] for shape in ((1, 67, 17, 19, 23, 9), (1, 3, 70, 2, 8, 101)))
    options = {"upscale_factor": 4, "skip_bicubic": "matlab"}
    options17 = {"upscale_factor": 17, "skip_bicubic": "matlab"}

    def run() -> list[Tensor]:
        _, _, _, gate, skip = upsampling
        out = [cuda.lowrank_pixel_shuffle_fwd(*upsampling, **options)]
        out.append(cuda.lowrank_pixel_shuffle_fwd(*low_rank, **options))
        out.append(cuda.lowrank_pixel_shuffle_fwd(*low_rank[:4], None, **options))
        out.append(cuda.lowrank_pixel_shuffle_fwd(*low_rank[:4], out[-1], **options))
        out += cuda.lowrank_pixel_shuffle_bwd(grad_out, *upsampling, **options, needs=(True,) * 5)
        out.append(cuda.pixel_shuffle_epilogue_fwd(y, gate, skip, **options))
        out += cuda.pixel_shuffle_epilogue_bwd(grad_out, y, gate, skip, **options, needs=(True,) * 3)
        g17 = cuda.pixel_shuffle_epilogue_fwd(y17, None, None, **options17)
        out += [g17, cuda.pixel_shuffle_epilogue_bwd(g17, y17, None, None, **options17, needs=(True, False, False))[0]]
        out += cuda.channel_gate_fwd(*layers)
        several, mean = cuda.channel_gate_fwd(*many)
        out += [several, *cuda.channel_gate_bwd(several, many[0], mean, *many[1:], needs=(True,) * 5)]
        attended, mean = cuda.channel_attention_fwd(*layers, None)
        out += [attended, mean]
        out += cuda.channel_attention_bwd(attended, layers[0], mean, *layers[1:], needs=(True,) * 5)
        for x, w1, w2 in (local, several_parts):
            out.append(cuda.local_channel_attention_fwd(x, w1, w2, x, window=5))
            out += cuda.local_channel_attention_bwd(out[-1], x, w1, w2, window=5, needs=(True,) * 3)
        return out

    expected = run()
    for order, blocks, forward_blocks in ((1, 0, 0), (2, 0, 1), (1, 2, 1), (3, 2, 0)):
        grid.lkca_emulation_thread_order(order)
        grid.lkca_emulation_max_blocks(blocks)
        grid.lkca_emulation_forward_blocks(forward_blocks)  # 1: a block takes all weight rows of its pixels
        for i, (a, b) in enumerate(zip(run(), expected, strict=True)):
            assert torch.equal(a, b), f"result {i}, order {order}, at most {blocks} blocks"


@pytest.mark.parametrize("skip", ["none", "hr", "matlab"])
@pytest.mark.parametrize("shape", [(1, 67, 24, 9, 16, 2), (1, 37, 32, 9, 16, 4), (1, 9, 16, 17, 8, 8)], ids=str)
def test_chunk_after_chunk(grid: ctypes.CDLL, shape: tuple[int, ...], skip: str) -> None:
    """A block takes two to five chunks of u rows, of one pixel tile or of both; the weight of the next one comes while
    one is worked on.
    """
    inputs, convention = upsampling_inputs(shape, skip, torch.bfloat16, True)
    options = {"upscale_factor": shape[-1], "skip_bicubic": convention}
    expected = reference.lowrank_pixel_shuffle(*[None if t is None else t.double() for t in inputs], **options)
    grid.lkca_emulation_forward_blocks(1)
    for order, blocks in ((0, 0), (2, 1), (1, 1), (4, 0)):
        grid.lkca_emulation_thread_order(order)
        grid.lkca_emulation_max_blocks(blocks)
        error = rms(cuda.lowrank_pixel_shuffle_fwd(*inputs, **options), expected)
        assert error < BOUND[torch.bfloat16], f"order {order}, at most {blocks} blocks"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hr_cube_is_moved_once_in_whole_vectors(grid: ctypes.CDLL, dtype: torch.dtype) -> None:
    """Bytes of the accesses, not of the caches: HR written once and its skip read once, 16 bytes at a time."""
    inputs, convention = upsampling_inputs((2, 9, 32, 24, 16, 4), "hr", dtype, True)
    options = {"upscale_factor": 4, "skip_bicubic": convention}
    out = cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
    size = out.numel() * out.element_size()
    assert grid.lkca_emulation_bytes_written(0) == grid.lkca_emulation_vector_bytes(0) == size
    assert grid.lkca_emulation_bytes_read(4) == size  # z, weight, bias, gate, skip

    y = random(2, 144, 24, 16, dtype=dtype, seed=7)
    cuda.pixel_shuffle_epilogue_fwd(y, inputs[3], inputs[4], **options)
    assert grid.lkca_emulation_bytes_written(0) == grid.lkca_emulation_vector_bytes(0) == size
    assert [grid.lkca_emulation_bytes_read(i) for i in (0, 2)] == [size, size]

    cuda.pixel_shuffle_epilogue_bwd(out, y, inputs[3], None, **options, needs=(True, True, False))
    assert grid.lkca_emulation_bytes_read(0) == size and grid.lkca_emulation_bytes_written(0) == size
    # the low-rank backward reads the HR gradient once for z and once for weight, bias and gate together
    cuda.lowrank_pixel_shuffle_bwd(out, *inputs, **options, needs=(True, True, True, True, False))
    assert grid.lkca_emulation_bytes_read(4) == 2 * size
    cuda.lowrank_pixel_shuffle_bwd(out, *inputs, **options, needs=(True, False, False, False, False))
    assert grid.lkca_emulation_bytes_read(4) == size

    x = random(2, 6, 40, 32, dtype=dtype, seed=1)
    layers = attention_inputs((2, 6, 3, 40, 32), dtype)[1:]
    cuda.channel_attention_fwd(x, *layers, None)
    size = x.numel() * x.element_size()
    assert grid.lkca_emulation_bytes_read(4) == 2 * size  # w1, b1, w2, b2, x: once for the means, once for the product
    assert grid.lkca_emulation_vector_bytes(0) == size

    w1, w2 = layers[0], layers[2]
    cuda.local_channel_attention_fwd(x, w1, w2, x.clone(), window=5)
    assert [grid.lkca_emulation_bytes_read(i) for i in (0, 3)] == [2 * size, size]  # x: for the fields, for the product
    assert grid.lkca_emulation_bytes_written(0) == grid.lkca_emulation_vector_bytes(0) == size
    cuda.local_channel_attention_bwd(x.clone(), x, w1, w2, window=5, needs=(True, False, False))
    assert [grid.lkca_emulation_bytes_read(i) for i in (0, 3)] == [3 * size, 2 * size]
    assert grid.lkca_emulation_bytes_written(0) == grid.lkca_emulation_vector_bytes(0) == size


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8, 64])
def test_shared_memory_fits_every_card(grid: ctypes.CDLL, scale: int, dtype: torch.dtype) -> None:
    """99 KB a block is what sm_86 and sm_89 give. At rank 32 three blocks of 16-bit types fit an A100's 164 KB, four at
    a scale of 4.
    """
    options = {"upscale_factor": scale, "skip_bicubic": "matlab"}
    for rank in (70, 32):
        inputs, _ = upsampling_inputs((1, 1, rank, 1, 4, scale), "matlab", dtype, True)
        out = cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
        assert grid.lkca_emulation_shared_bytes() <= 99 * 1024
    cuda.lowrank_pixel_shuffle_bwd(out, *inputs, **options, needs=(True,) * 5)
    assert grid.lkca_emulation_shared_bytes() <= 99 * 1024
    if dtype != torch.float32:
        for skip in ("hr", "matlab") if scale == 4 else ("hr",):
            inputs, _ = upsampling_inputs((1, 1, 32, 1, 8, scale), skip, dtype, True)
            cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
            assert (4 if scale == 4 else 3) * (grid.lkca_emulation_shared_bytes() + 1024) <= 164 * 1024


def test_shared_memory_of_local_channel_attention(grid: ctypes.CDLL) -> None:
    for hidden in (16, 70):
        x, w1, w2, _ = local_inputs((1, 3, hidden, 2, 4, 3), torch.float32)
        cuda.local_channel_attention_fwd(x, w1, w2, None, window=3)
        assert grid.lkca_emulation_shared_bytes() <= 49 * 1024
        cuda.local_channel_attention_bwd(x, x, w1, w2, window=3, needs=(True,) * 3)
        assert grid.lkca_emulation_shared_bytes() <= 99 * 1024


def test_layouts(grid: ctypes.CDLL) -> None:
    """Other strides are copied, and results follow the layout rule of the contract."""
    x = random(2, 6, 5, 8, dtype=torch.float32, seed=1).contiguous(memory_format=torch.channels_last)
    layers = attention_inputs((2, 6, 3, 5, 8), torch.float32)[1:]
    out, mean = cuda.channel_attention_fwd(x, *layers, None)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert rms(out, reference.channel_attention(x.double(), *[t.double() for t in layers])) < 2e-6
    room = torch.empty_like(x)
    assert cuda.channel_attention_fwd(x, *layers, None, out=room)[0] is room
    assert torch.equal(room, out)
    grads = cuda.channel_attention_bwd(out, x, mean, *layers, needs=(True, False, True, False, False))
    assert grads[0] is not None and grads[0].is_contiguous(memory_format=torch.channels_last)
    assert [g is None for g in grads] == [False, True, False, True, True]
    w1, w2 = layers[0], layers[2]
    expected = reference.local_channel_attention(x.double(), w1.double(), w2.double(), x.double(), window=3)
    assert cuda.local_channel_attention_fwd(x, w1, w2, x, window=3, out=room) is room and rms(room, expected) < 2e-6
    out = cuda.local_channel_attention_fwd(x, w1, w2, x, window=3)
    assert torch.equal(out, room) and out.is_contiguous(memory_format=torch.channels_last)
    spread = torch.ones(1, 1, 1, 1).expand(2, 6, 5, 8)
    grads = cuda.local_channel_attention_bwd(spread, x, w1, w2, window=3, needs=(True, False, True))
    assert grads[0] is not None and grads[0].is_contiguous(memory_format=torch.channels_last)
    assert grads[1] is None and grads[2] is not None

    inputs, _ = upsampling_inputs((2, 3, 8, 5, 6, 2), "none", torch.float32, True)
    z = inputs[0].contiguous(memory_format=torch.channels_last)
    options = {"upscale_factor": 2, "skip_bicubic": "matlab"}
    expected = cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
    assert torch.equal(cuda.lowrank_pixel_shuffle_fwd(z, *inputs[1:], **options), expected)
    spread = torch.ones(1, 1, 1, 1).expand(2, 3, 10, 12)
    needs = (True, False, False, False, False)
    grad_z = cuda.lowrank_pixel_shuffle_bwd(spread, z, *inputs[1:], **options, needs=needs)[0]
    assert grad_z is not None and grad_z.is_contiguous(memory_format=torch.channels_last)

    y, skip = (random(2, c, 5, 6, dtype=torch.float32, seed=c).to(memory_format=torch.channels_last) for c in (12, 3))
    grads = cuda.pixel_shuffle_epilogue_bwd(spread, y, None, skip, **options, needs=(True, False, True))
    assert all(t is not None and t.is_contiguous(memory_format=torch.channels_last) for t in grads[::2])
    grad_gate = torch.ones(1, 1).expand(2, 6)
    grad_x, *_ = cuda.channel_gate_bwd(grad_gate, x, mean, *layers, needs=(True,) * 5)
    assert grad_x is not None and grad_x.is_contiguous(memory_format=torch.channels_last)


def test_misaligned_tensors(grid: ctypes.CDLL) -> None:
    """Data at an odd element: no 16-byte access may touch it (the emulated grid refuses misaligned ones)."""
    inputs, _ = upsampling_inputs((1, 3, 16, 4, 8, 2), "hr", torch.float16, True)
    options = {"upscale_factor": 2, "skip_bicubic": "matlab"}
    expected = cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
    shifted = []
    for tensor in inputs:
        room = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
        shifted.append(room[1:].view(tensor.shape).copy_(tensor))
    room = torch.zeros(expected.numel() + 1, dtype=torch.float16)
    out = cuda.lowrank_pixel_shuffle_fwd(*shifted, **options, out=room[1:].view(expected.shape))
    assert torch.equal(out, expected)

    def run(tensors: list[Tensor | None], out: Tensor) -> list[Tensor | None]:
        cuda.local_channel_attention_fwd(*tensors, window=3, out=out)
        x, w1, w2, residual = tensors
        return [out, *cuda.local_channel_attention_bwd(residual, x, w1, w2, window=3, needs=(True,) * 3)]

    tensors = local_inputs((1, 16, 8, 4, 8, 3), torch.float16)
    shifted = [torch.zeros(t.numel() + 1, dtype=t.dtype)[1:].view(t.shape).copy_(t) for t in tensors]
    room = torch.zeros(tensors[0].numel() + 1, dtype=torch.float16)[1:].view(tensors[0].shape)
    for a, b in zip(run(shifted, room), run(tensors, torch.empty_like(tensors[0])), strict=True):
        assert torch.equal(a, b)
