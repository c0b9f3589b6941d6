"""Triton kernels of the channel gate and channel attention against the float64 reference (see test_triton_upsample)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lkca_kernels import reference
from lkca_kernels import triton as backend

pytestmark = pytest.mark.skipif(backend.unavailable() is not None, reason=f"Triton backend {backend.unavailable()}")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE.type == "cuda" else [])

# Everything is computed in float32 and rounded once. float32: sums over hundreds of pixels and channels pass through
# the sigmoid's slope, whose 1 - gate cancels.
BOUND = {torch.float32: 4e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}

SHAPES = [  # B, C, Cr, H, W
    pytest.param(2, 5, 3, 9, 13, id="primes"),
    pytest.param(1, 3, 1, 1, 1, id="one-pixel"),
    pytest.param(1, 33, 7, 16, 40, id="several-parts"),
]


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def make(batch: int, channels: int, reduced: int, h: int, w: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x, w1, b1, w2, b2, residual; b1 keeps some of the hidden units alive and some not."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(batch, channels, h, w), (reduced, channels), (reduced,), (channels, reduced), (channels,)]
    tensors = [torch.randn(s, generator=generator) for s in (*shapes, shapes[0])]
    tensors[2] = tensors[2].abs() * torch.where(torch.arange(reduced) % 3 == 1, -9.0, 3.0)
    return tuple(t.to(DEVICE, dtype) for t in tensors)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "channels", "reduced", "h", "w"), SHAPES)
def test_gate_and_attention(batch, channels, reduced, h, w, dtype, memory) -> None:
    x, *layers, residual = make(batch, channels, reduced, h, w, dtype)
    if memory == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif memory == "sliced":
        x = torch.stack([x, x], -1).flatten(3)[..., ::2][:, :, :, :w]
    generator = torch.Generator().manual_seed(2)
    grad = torch.randn(x.shape, generator=generator).to(DEVICE, dtype)
    grad_gate = torch.randn((batch, channels), generator=generator).to(DEVICE, dtype)
    inputs = [t.double().requires_grad_() for t in (x, *layers)]
    wanted = reference.channel_attention(*inputs, residual.double())
    wanted_gate = reference.channel_gate(*inputs)
    mean = x.double().mean((2, 3))
    gradients = torch.autograd.grad(wanted, inputs, grad.double())
    gate_gradients = torch.autograd.grad(wanted_gate, inputs, grad_gate.double())

    out = torch.full_like(x, float("nan"), memory_format=torch.preserve_format if memory != "sliced" else None)
    result, found_mean = backend.channel_attention_fwd(x, *layers, residual, out=out)
    assert result is out
    assert error(out, wanted.detach()) < BOUND[dtype]
    gate, gate_mean = backend.channel_gate_fwd(x, *layers)
    assert gate.dtype == dtype and error(gate, wanted_gate.detach()) < BOUND[dtype]
    for m in (found_mean, gate_mean):
        assert m.dtype == torch.float32 and error(m, mean) < 1e-6

    found = backend.channel_attention_bwd(grad, x, found_mean, *layers, needs=(True,) * 5)
    found_gate = backend.channel_gate_bwd(grad_gate, x, gate_mean, *layers, needs=(True,) * 5)
    for name, *pairs in zip(("x", "w1", "b1", "w2", "b2"), found, gradients, found_gate, gate_gradients, strict=True):
        for got, want in (pairs[:2], pairs[2:]):
            assert got.dtype == dtype, name
            assert error(got, want) < BOUND[dtype], name
    if memory == "channels_last":
        assert found[0].stride() == found_gate[0].stride() == x.stride()


def test_nan_leaves_inactive_hidden_channels_alone() -> None:
    x, *layers, _ = make(1, 5, 3, 2, 2, torch.float32)
    layers[3][0] = float("nan")
    gate, mean = backend.channel_gate_fwd(x, *layers)
    _, d_w1, d_b1, _, _ = backend.channel_gate_bwd(gate, x, mean, *layers, needs=(True,) * 5)
    assert (d_w1[1] == 0).all() and d_b1[1] == 0 and d_w1[0].isnan().all() and d_b1[0].isnan()


def test_programs_that_go_along_the_image(monkeypatch) -> None:
    """Two programs for the three blocks of pixels: the second has a step with nothing to add."""
    from lkca_kernels.triton import channel

    monkeypatch.setattr(channel, "splits", lambda blocks, *_: {3: (2, 2)}[blocks])
    x, *layers, _ = make(1, 3, 2, 33, 33, torch.float32)
    _, mean = backend.channel_gate_fwd(x, *layers)
    assert error(mean, x.double().mean((2, 3))) < 1e-6


def test_large_layers_take_their_own_launch(monkeypatch) -> None:
    """Made in every program or in one launch of their own, the gate and the result are the same."""
    from lkca_kernels.triton import channel
    from lkca_kernels.triton.launch import record_launches

    x, *layers, _ = make(2, 5, 3, 4, 7, torch.float16)
    fused = backend.channel_attention_fwd(x, *layers, None)
    monkeypatch.setattr(channel, "_FUSED_WEIGHTS", 14)
    apart = backend.channel_attention_fwd(x, *layers, None)
    for a, b in zip(fused, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    with record_launches() as launches:
        backend.channel_attention_fwd(x, *layers, None)
    assert [launch.kernel.__name__.removesuffix("_kernel") for launch in launches] == [
        "channel_sum", "channel_gate_fwd", "channel_scale",
    ]  # fmt: skip
