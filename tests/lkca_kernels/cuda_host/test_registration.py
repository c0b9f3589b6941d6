"""The adapter and the registration: what they refuse, what they serve."""

from __future__ import annotations

import ctypes

import pytest
import torch

from lkca_kernels import cuda
from lkca_kernels.backends import ONLY_ON_CPUS
from lkca_kernels.ops.explain import OPERATORS


def test_registration_refuses_what_the_kernels_do_not_expect(grid: ctypes.CDLL) -> None:
    ops = torch.ops.lkca_cuda_emulated
    z, weight, out = torch.zeros(1, 4, 3, 3), torch.zeros(8, 4), torch.zeros(1, 2, 6, 6)

    def forward(**changes: object) -> None:
        arguments = {"z": z, "weight": weight, "bias": None, "gate": None, "skip": None, "s": 2, "b": 0, "out": out}
        ops.lowrank_pixel_shuffle_fwd(*(arguments | changes).values())

    forward()
    refused = {
        "expected shape": {"z": torch.zeros(1, 5, 3, 3)},
        "dimensions": {"z": torch.zeros(4, 3, 3)},
        "weight: expected 2": {"weight": torch.zeros(8, 4, 1)},
        "no multiple": {"s": 3},
        "upscale_factor": {"s": 0},
        "bias: expected shape": {"bias": torch.zeros(9)},
        "gate: the dtype": {"gate": torch.zeros(1, 2, dtype=torch.float16)},
        "skip: expected shape": {"skip": torch.zeros(1, 2, 5, 5)},
        "bicubic: expected 0": {"b": 2},
        "out: expected a contiguous": {"out": torch.zeros(1, 2, 6, 12)[..., ::2]},
        "float32, float16 or bfloat16": {"z": z.double()},
    }
    for words, change in refused.items():
        with pytest.raises(RuntimeError, match=words):
            forward(**change)

    x, w1, w2, out = (torch.zeros(sizes) for sizes in ((1, 4, 3, 3), (2, 4), (4, 2), (1, 4, 3, 3)))
    ops.local_channel_attention_fwd(x, w1, w2, None, 3, out)
    for arguments, words in (
        ((x[0], w1, w2, None, 3, out), "x: expected 4"),
        ((x, w2, w2, None, 3, out), "w1: expected shape"),
        ((x, w1, w1, None, 3, out), "w2: expected shape"),
        ((x, w1, w2, out[..., :2], 3, out), "residual: expected shape"),
        ((x, w1, w2, None, 4, out), "window: expected an odd number"),
        ((x, w1, w2, None, 2**20 + 1, out), "window: expected an odd number"),
        ((x, w1, w2, None, 3, out.half()), "out: the dtype"),
    ):
        with pytest.raises(RuntimeError, match=words):
            ops.local_channel_attention_fwd(*arguments)


def test_backend_says_why_it_cannot_run() -> None:
    if torch.version.cuda is None:
        assert "CUDA build of torch" in (cuda.unavailable() or "")
    cpu = torch.device("cpu")
    assert "cpu" in (cuda.can_run("channel_gate", cpu, torch.float32, 1) or "")
    assert "float64" in (cuda.can_run("channel_gate", torch.device("cuda"), torch.float64, 1) or "")
    assert "65" in (cuda.can_run("lowrank_pixel_shuffle", torch.device("cuda"), torch.float32, 65) or "")


def test_backend_serves_every_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    card = torch.device("cuda")
    for op in (op for op in OPERATORS if op not in ("lowrank_upsample", *ONLY_ON_CPUS)):
        assert cuda.can_run(op, card, torch.bfloat16, 2) is None
        assert callable(getattr(cuda, f"{op}_fwd")) and callable(getattr(cuda, f"{op}_bwd"))
    assert cuda.can_run("channel_gate", card, torch.float32, 1) is None
    for op, reason in ONLY_ON_CPUS.items():
        assert cuda.can_run(op, card, torch.float32, 1) == reason
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert cuda.can_run("channel_gate", card, torch.float32, 1) == "needs compute capability 8.0, cuda has 7.5"
