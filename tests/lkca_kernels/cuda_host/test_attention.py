"""``channel_gate`` and ``channel_attention``."""

from __future__ import annotations

import ctypes

import pytest
import torch

from lkca_kernels import cuda, reference

from .cases import BOUND, DTYPES, attention_inputs, check_gradients, doubles, random, rms, with_sentinels

# (B, C, hidden, H, W): planes of one part and of several, whole vectors and not.
PLANES = [(1, 1, 1, 1, 1), (2, 7, 3, 5, 8), (1, 3, 2, 97, 101), (2, 12, 20, 4, 4)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", PLANES, ids=str)
def test_channel_gate(grid: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = attention_inputs(shape, dtype)
    exact = doubles(inputs)
    expected = reference.channel_gate(*exact)
    gate, mean = cuda.channel_gate_fwd(*inputs)
    assert gate.dtype == dtype and rms(gate, expected.detach()) < BOUND[dtype]
    assert mean.dtype == torch.float32 and rms(mean, exact[0].detach().mean((2, 3))) < 1e-5

    grad = random(*shape[:2], dtype=dtype, seed=9) * (shape[3] * shape[4]) ** 0.5  # keeps dx off float16's subnormals
    expected.backward(grad.double())
    got = cuda.channel_gate_bwd(grad, inputs[0], mean, *inputs[1:], needs=(True,) * 5)
    check_gradients(got, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", PLANES, ids=str)
@pytest.mark.parametrize("with_residual", [False, True], ids=["", "residual"])
def test_channel_attention(grid: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype, with_residual: bool) -> None:
    inputs = attention_inputs(shape, dtype)
    residual = random(*inputs[0].shape, dtype=dtype, seed=8) if with_residual else None
    exact = doubles(inputs)
    expected = reference.channel_attention(*exact, residual=None if residual is None else residual.double())
    out, room = with_sentinels(tuple(inputs[0].shape), dtype)
    got, mean = cuda.channel_attention_fwd(*inputs, residual, out=out)
    assert got is out and rms(out, expected.detach()) < BOUND[dtype]
    assert (room[:32] == 77).all() and (room[-32:] == 77).all()

    grad_out = random(*inputs[0].shape, dtype=dtype, seed=9)
    expected.backward(grad_out.double())
    needs = (True,) * 5
    check_gradients(cuda.channel_attention_bwd(grad_out, inputs[0], mean, *inputs[1:], needs=needs), exact, dtype)


def test_nan_reaches_the_gradients_that_depend_on_it(grid: ctypes.CDLL) -> None:
    """The hidden channels are NaN, which a ReLU passes on, and so does its slope."""
    x, *layers = attention_inputs((2, 5, 3, 4, 4), torch.float32)
    x[0, 2, 1, 1] = float("nan")
    exact = doubles([x, *layers])
    grad = torch.ones(2, 5)
    reference.channel_gate(*exact).backward(grad.double())
    _, mean = cuda.channel_gate_fwd(x, *layers)
    got = cuda.channel_gate_bwd(grad, x, mean, *layers, needs=(True,) * 5)
    for i, (gradient, expected) in enumerate(zip(got, exact, strict=True)):
        assert torch.equal(gradient.isnan(), expected.grad.isnan()), i


def test_most_channels(grid: ctypes.CDLL) -> None:
    """As many as shared memory takes on every card: 99 KB a block is what sm_86, sm_89 and sm_120 give."""
    x, *layers = attention_inputs((1, 12670, 2, 1, 1), torch.float32)
    gate, mean = cuda.channel_gate_fwd(x, *layers)
    cuda.channel_gate_bwd(gate, x, mean, *layers, needs=(True,) * 5)
    assert 98 * 1024 < grid.lkca_emulation_shared_bytes() <= 99 * 1024
    with pytest.raises(RuntimeError, match="channels must not exceed"):
        cuda.channel_gate_fwd(*attention_inputs((1, 12670, 3, 1, 1), torch.float32))
