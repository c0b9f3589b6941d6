"""Wrong arguments: one sentence that names the argument, and never more than an exception."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import lkca_kernels as k

Z, W, B, G = torch.ones(2, 3, 4, 5), torch.ones(8, 3), torch.ones(8), torch.ones(2, 2)
X, W1, B1, W2, B2 = torch.ones(2, 3, 4, 5), torch.ones(2, 3), torch.ones(2), torch.ones(3, 2), torch.ones(3)
D = torch.ones(3, 1, 3, 3)
NESTED = torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(3, 5)])


def _lowrank(*args: Any, **how: Any) -> Any:
    return k.lowrank_pixel_shuffle(*args, **{"upscale_factor": 2, **how})


WRONG: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (TypeError, "z: expected a tensor (B, R, h, w), got list", lambda: _lowrank([1.0], W)),
    (TypeError, "z: expected float16, bfloat16, float32 or float64, got torch.int64", lambda: _lowrank(Z.long(), W)),
    (ValueError, "z: expected 4 dimensions (B, R, h, w), got (3, 4, 5)", lambda: _lowrank(Z[0], W)),
    (TypeError, "weight: expected a tensor (C*s*s, R), got None", lambda: _lowrank(Z, None)),
    (TypeError, "weight: expected torch.float32, the dtype of z, got torch.float64", lambda: _lowrank(Z, W.double())),
    (ValueError, "weight: expected device cpu, the one of z, got meta", lambda: _lowrank(Z, W.to("meta"))),
    (TypeError, "weight: expected a dense tensor", lambda: _lowrank(Z, W.to_sparse())),
    (TypeError, "weight: expected a dense tensor, got a nested one", lambda: _lowrank(Z, NESTED)),
    (TypeError, "gate: expected a dense tensor, got a nested one", lambda: _lowrank(Z, W, B, NESTED)),
    (TypeError, "out: expected a dense tensor, got a nested one", lambda: _lowrank(Z, W, out=NESTED)),
    (ValueError, "weight: expected (C*s*s, R) with s*s = 4 and R = 3", lambda: _lowrank(Z, W[:6])),
    (ValueError, "weight: expected (C*s*s, R)", lambda: _lowrank(Z, W[:, :2])),
    (ValueError, "bias: expected (C*s*s,) = (8,), got (7,)", lambda: _lowrank(Z, W, B[:7])),
    (ValueError, "gate: expected (B, C) = (2, 2), got (1, 2)", lambda: _lowrank(Z, W, B, G[:1])),
    (ValueError, "skip: expected (B, C, h*s, w*s) = (2, 2, 8, 10) or",
     lambda: _lowrank(Z, W, skip=torch.ones(2, 2, 8, 9))),
    (TypeError, "upscale_factor: expected an integer, got float", lambda: _lowrank(Z, W, upscale_factor=2.0)),
    (TypeError, "upscale_factor: expected an integer, got bool", lambda: _lowrank(Z, W, upscale_factor=True)),
    (ValueError, "upscale_factor: expected at least 2, got 1", lambda: _lowrank(Z, W, upscale_factor=1)),
    (ValueError, "upscale_factor: expected at least 2, got -2", lambda: _lowrank(Z, W, upscale_factor=-2)),
    (ValueError, "skip_bicubic: expected 'matlab' or 'torch', got 'cubic'",
     lambda: _lowrank(Z, W, skip_bicubic="cubic")),
    (ValueError, "skip_bicubic: expected 'matlab' or 'torch', got ['torch']",
     lambda: _lowrank(Z, W, skip_bicubic=["torch"])),
    (ValueError, "y: expected (B, C*s*s, h, w) with s*s = 4", lambda: k.pixel_shuffle_epilogue(Z, upscale_factor=2)),
    (ValueError, "w1: expected (Cr, C) with C = 3", lambda: k.channel_gate(X, W1.T, B1, W2, B2)),
    (ValueError, "b1: expected (Cr,) = (2,), got (3,)", lambda: k.channel_gate(X, W1, B2, W2, B2)),
    (ValueError, "w2: expected (C, Cr) = (3, 2), got (2, 3)", lambda: k.channel_gate(X, W1, B1, W1, B2)),
    (TypeError, "w1, b1, w2, b2: expected tensors, got None", lambda: k.channel_gate(X, W1, None, W2, B2)),
    (ValueError, "residual: expected the shape of x", lambda: k.channel_attention(X, W1, B1, W2, B2, X[:1])),
    (ValueError, "w2: expected (C, Cr) = (3, 2), got (2, 3)", lambda: k.local_channel_attention(X, W1, W1, window=3)),
    (TypeError, "w1, w2: expected tensors, got None", lambda: k.local_channel_attention(X, W1, None, window=3)),
    (ValueError, "residual: expected the shape", lambda: k.local_channel_attention(X, W1, W2, X[:1], window=3)),
    (ValueError, "window: expected an odd number from 1 to 1048575, got 4",
     lambda: k.local_channel_attention(X, W1, W2, window=4)),
    (ValueError, "window: expected an odd number from 1 to 1048575, got -1",
     lambda: k.local_channel_attention(X, W1, W2, window=-1)),
    (ValueError, "window: expected an odd number from 1 to 1048575, got 1048577",
     lambda: k.local_channel_attention(X, W1, W2, window=2**20 + 1)),
    (TypeError, "window: expected an integer, got bool", lambda: k.local_channel_attention(X, W1, W2, window=True)),
    (TypeError, "window: expected an integer, got float", lambda: k.local_channel_attention(X, W1, W2, window=3.0)),
    (ValueError, "depthwise: expected (C, 1, kh, kw) with C = 3, the channels of x, and odd sides, got (3, 1, 3, 2)",
     lambda: k.large_kernel_branch(X, D[..., :2], W1, W2)),
    (ValueError, "depthwise: expected (C, 1, kh, kw)", lambda: k.large_kernel_branch(X, D[:2], W1, W2)),
    (ValueError, "expand: expected (M, C) with M ≥ 1", lambda: k.large_kernel_branch(X, D, W1[:0], W2[:, :0])),
    (ValueError, "contract: expected (C, M) = (3, 2), got (2, 3)", lambda: k.large_kernel_branch(X, D, W1, W1)),
    (TypeError, "depthwise, expand, contract: expected", lambda: k.large_kernel_branch(X, None, W1, W2)),
    (ValueError, "residual: expected the shape", lambda: k.large_kernel_branch(X, D, W1, W2, X[:1])),
    (ValueError, "upscale_factor: expected at most 1048575, got 1180591620717411303424",
     lambda: k.pixel_shuffle_epilogue(X[:, :0], upscale_factor=2**70)),
    (ValueError, "weight_down: expected (R, Cin, kh, kw) with Cin = 3",
     lambda: k.lowrank_upsample(X, torch.ones(3, 4, 3, 3), W, upscale_factor=2)),
    (ValueError, "weight_down: expected at least 1 in each place of (R, Cin, kh, kw), got (0, 3, 3, 3)",
     lambda: k.lowrank_upsample(X, torch.ones(0, 3, 3, 3), W[:, :0], upscale_factor=2)),
    (ValueError, "weight_down: expected at least 1 in each place of (R, Cin, kh, kw), got (3, 0, 3, 3)",
     lambda: k.lowrank_upsample(X[:, :0], torch.ones(3, 0, 3, 3), W, upscale_factor=2)),
    (ValueError, "x: expected at least one row and column, got (2, 3, 4, 0)",
     lambda: k.lowrank_upsample(X[..., :0], torch.ones(3, 3, 1, 1), W, upscale_factor=2, padding=1)),
    (ValueError, "bias_down: expected (R,) = (3,), got (2,)",
     lambda: k.lowrank_upsample(X, torch.ones(3, 3, 3, 3), W, upscale_factor=2, bias_down=B1)),
    (ValueError, "weight_down: its kernel (9, 3) with dilation (1, 1) is larger than the image (4, 5) with pad",
     lambda: k.lowrank_upsample(X, torch.ones(3, 3, 9, 3), W, upscale_factor=2, padding=(2, 0))),
    (TypeError, "x: expected a dense tensor, got a nested one",
     lambda: k.channel_gate(torch.nested.nested_tensor([torch.ones(2, 3, 4)]), W1, B1, W2, B1)),
    (TypeError, "padding: expected an integer, got str",
     lambda: k.lowrank_upsample(X, torch.ones(3, 3, 3, 3), W, upscale_factor=2, padding="same")),
    (k.BackendError, "backend: unknown backend 'opencl'",
     lambda: k.lowrank_upsample(X, torch.ones(3, 3, 3, 3), W, upscale_factor=2, backend="opencl")),
    (ValueError, "stride: expected at least 1, got 0",
     lambda: k.lowrank_upsample(X, torch.ones(3, 3, 3, 3), W, upscale_factor=2, stride=0)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "call"), WRONG, ids=[message[:40] for _, message, _ in WRONG])
def test_message(kind: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind and str(caught.value).startswith(message)


def test_what_is_no_tensor_is_named_under_autocast_too() -> None:
    with torch.autocast("cpu"), pytest.raises(TypeError, match="x: expected a tensor"):
        k.channel_gate([1.0], W1, B1, W2, B2)  # type: ignore[arg-type]


def test_out() -> None:
    good = torch.empty(2, 2, 8, 10)
    assert _lowrank(Z, W, out=good) is good
    room = torch.empty(1000)
    shared = room[:320].view(2, 2, 8, 10)
    inside = room[300:420].view(2, 3, 4, 5)
    wrong: list[tuple[type[Exception], str, Any, torch.Tensor]] = [
        (TypeError, "out: expected a tensor, got tuple", (2, 2), Z),
        (TypeError, "out: expected torch.float32", good.double(), Z),
        (ValueError, "out: expected the result's shape = (2, 2, 8, 10)", good[:1], Z),
        (ValueError, "out: expected a tensor that is dense", torch.empty(2, 2, 10, 8).mT, Z),
        (ValueError, "out: overlaps z in memory", shared, inside),
        (ValueError, "out: overlaps z in memory", shared, room[318:].as_strided((2, 3, 4, 5), (0, 0, 0, 1))),
        (ValueError, "out: overlaps z in memory", room[238:558].view(2, 2, 8, 10), room[:240:2].view(2, 3, 4, 5)),
        (ValueError, "out: given while z requires a gradient", good, Z.clone().requires_grad_()),
        (ValueError, "out: requires a gradient", good.clone().requires_grad_(), Z),
    ]
    for kind, message, out, z in wrong:
        with pytest.raises(kind) as caught:
            _lowrank(z, W, out=out)
        assert str(caught.value).startswith(message), caught.value
    with pytest.raises(ValueError, match="out: overlaps skip in memory"):
        _lowrank(Z, W, skip=good, out=good)
    with pytest.raises(ValueError, match="out: given while weight requires a gradient"):
        _lowrank(Z, W.clone().requires_grad_(), out=good)
    with torch.no_grad():
        _lowrank(Z.clone().requires_grad_(), W, out=good)
        parameter = torch.nn.Parameter(torch.ones(1, 2, 3, 3))
        for own in (parameter, parameter.as_subclass(type("Sub", (torch.Tensor,), {}))):
            with pytest.raises(ValueError, match="out: overlaps x in memory"):
                k.channel_attention(own, torch.ones(1, 2), torch.ones(1), torch.ones(2, 1), torch.ones(2), out=own)
    with torch.inference_mode():
        made = torch.empty(2, 2, 8, 10)
        _lowrank(Z, W, out=made)
    with pytest.raises(ValueError, match="out: was made in inference mode"):
        _lowrank(Z, W, out=made)
    _lowrank(room[320:440].view(2, 3, 4, 5), W, out=shared)  # neighbours are no overlap
    _lowrank(room[:239:2].view(2, 3, 4, 5), W, out=room[239:559].view(2, 2, 8, 10))
    with pytest.raises(ValueError, match=r"out: expected a tensor that is dense in torch\.channels_last"):
        k.channel_attention(X.to(memory_format=torch.channels_last), W1, B1, W2, B2, out=torch.empty_like(X))


def test_out_spares_the_tensors_of_the_convolution_too() -> None:
    """It is written when they have been read, but they are the caller's."""
    down, bias_down, room = torch.ones(3, 3, 1, 1), torch.ones(3), torch.ones(400)
    out = room[:320].view(2, 2, 8, 10)
    shared = {"x": room[280:].view(2, 3, 4, 5), "weight_down": room[316:325].view(3, 3, 1, 1), "bias_down": room[:3]}
    for name, tensor in shared.items():
        given = {"x": X, "weight_down": down, "bias_down": bias_down, name: tensor}
        with pytest.raises(ValueError, match=f"out: overlaps {name} in memory"):
            k.lowrank_upsample(**given, weight=W, upscale_factor=2, out=out)
        assert torch.equal(room, torch.ones(400))
    with pytest.raises(ValueError, match="out: given while weight_down requires a gradient"):
        k.lowrank_upsample(X, down.requires_grad_(), W, upscale_factor=2, out=out)
    with pytest.raises(ValueError, match="out: expected a tensor that is dense"):  # one number, which is not in x
        k.lowrank_upsample(
            room[9:129].view(2, 3, 4, 5),
            bias_down.view(3, 1, 1, 1).expand(3, 3, 1, 1),
            W,
            upscale_factor=2,
            out=room[:1].expand(2, 2, 8, 10),
        )
    with pytest.raises(TypeError, match="out: expected a tensor, got list"):
        k.lowrank_upsample(X, down, W, upscale_factor=2, out=[])  # type: ignore[arg-type]


def test_negated_views(typical: Any, backend: Any) -> None:
    """``torch.imag`` of a conjugate is a view whose memory has the other sign."""
    tensors = typical.make(torch.float32, backend.device)
    views = [t if t is None else torch._neg_view(-t) for t in tensors]
    assert torch.equal(typical.call(views, backend=backend.backend), typical.call(tensors, backend=backend.backend))
    if typical.op != "channel_gate":
        out = torch._neg_view(torch.zeros_like(typical.call(tensors)))
        with pytest.raises(ValueError, match="out: is a negated view"):
            typical.call(tensors, backend=backend.backend, out=out)


def _spoil(value: Any, rng: random.Random) -> Any:
    """A near miss of an argument."""
    if not isinstance(value, torch.Tensor):
        return rng.choice([value, 0, -1, 1, 3, 2.5, 10**9, 2**40, None, "2", True])
    return rng.choice(
        [
            lambda t: t,
            lambda t: None,
            lambda t: 3,
            lambda t: t[:0],
            lambda t: t[..., :1],
            lambda t: t.unsqueeze(0),
            lambda t: t.flatten(),
            lambda t: t.double(),
            lambda t: t.bfloat16(),
            lambda t: t.long(),
            lambda t: t.to("meta"),
            lambda t: t.to_sparse(),
            lambda t: t.mT if t.ndim > 1 else t[::2],
            lambda t: torch.cat([t, t]),
            lambda t: t.to(torch.complex64),
            lambda t: t.flatten()[:1].expand(t.shape),
        ]
    )(value)


ALLOWED = (TypeError, ValueError, RuntimeError, NotImplementedError, IndexError, OverflowError, MemoryError)


def test_public_operators_survive_wrong_arguments(typical: Any, backend: Any) -> None:
    """A call with spoiled arguments returns or raises TypeError or ValueError."""
    rng = random.Random(0)
    tensors = typical.make(torch.float32, backend.device)
    operator = getattr(k, typical.op)
    for _ in range(150):
        spoiled = [_spoil(t, rng) if rng.random() < 0.4 else t for t in tensors]
        how: dict[str, Any] = {"backend": backend.backend}
        if typical.raw_arguments:
            name = "upscale_factor" if typical.upsamples else "window"
            good = typical.raw_arguments[0]
            how[name] = _spoil(good, rng) if rng.random() < 0.3 else good
        with contextlib.suppress(TypeError, ValueError):
            operator(*spoiled, **how)


def test_raw_operators_survive_wrong_arguments(typical: Any, backend: Any) -> None:
    """``torch.ops.lkca_kernels`` is unchecked: native code must check what it dereferences."""
    rng = random.Random(1)
    tensors = typical.make(torch.float32, backend.device)
    operator = getattr(torch.ops.lkca_kernels, typical.op)
    for _ in range(150):
        spoiled = [_spoil(t, rng) if rng.random() < 0.3 else t for t in tensors]
        options = [_spoil(option, rng) if rng.random() < 0.2 else option for option in typical.raw_arguments]
        try:
            operator(*spoiled, *options, backend.backend)
        except ALLOWED as error:
            assert "INTERNAL ASSERT" not in str(error), error
        except (AssertionError, KeyError, AttributeError):
            pass  # refused in Python, before any native code


def test_numbers_of_numpy_are_integers() -> None:
    x, w1, w2, weight = torch.rand(1, 4, 5, 5), torch.rand(2, 4), torch.rand(4, 2), torch.rand(8, 4)

    def calls(two: Any, three: Any) -> list[torch.Tensor]:
        return [
            k.pixel_shuffle_epilogue(x, upscale_factor=two),
            k.lowrank_pixel_shuffle(x, weight, skip=x[:, :2], upscale_factor=two),
            k.local_channel_attention(x, w1, w2, window=three),
        ]

    torch.testing.assert_close(calls(np.int64(2), np.int32(3)), calls(2, 3))
    wide = torch.rand(1, 256, 2, 2)
    assert k.pixel_shuffle_epilogue(wide, upscale_factor=np.uint8(16)).shape == (1, 1, 32, 32)  # 16**2 overflows there


def test_a_factor_without_end_is_refused() -> None:
    with pytest.raises((ValueError, TypeError)):
        _lowrank(Z, W, upscale_factor=2**70)
