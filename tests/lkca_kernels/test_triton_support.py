"""Where the Triton backend says that it can run; and that asking costs no import of Triton."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from lkca_kernels import triton as backend
from lkca_kernels.backends import ONLY_ON_CPUS
from lkca_kernels.triton import support
from lkca_kernels.triton.launch import full_precision, launch


def in_a_new_process(code: str, **environment: str) -> str:
    """Output of ``code``; TRITON_INTERPRET is unset unless given."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**inherited, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_no_triton() -> None:
    code = "import sys, lkca_kernels, lkca_kernels.triton; print('triton' in sys.modules)"
    assert in_a_new_process(code) == "False"


def test_absent_triton_is_a_reason() -> None:
    code = """
import sys
sys.modules["triton"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else find(name, *a)
import lkca_kernels.triton as t
print(t.unavailable())
"""
    assert in_a_new_process(code) == "needs Triton, which is not installed"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_fwd"):
        _ = backend.no_such_fwd


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu_is_a_reason_except_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    code = "import lkca_kernels.triton as t; print(t.unavailable())"
    assert "GPU" in in_a_new_process(code)
    assert in_a_new_process(code, TRITON_INTERPRET="1") == "None"


def test_an_older_triton_is_a_reason(monkeypatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", "3.5.1")
    assert support.unavailable() == "needs Triton 3.6 or newer, found 3.5.1"
    monkeypatch.setattr(triton, "__version__", "3.10.0")
    assert "or newer" not in str(support.unavailable())


def test_refusals_name_what_they_need(monkeypatch) -> None:
    monkeypatch.setattr(support, "interpreted", lambda: False)
    cpu, op = torch.device("cpu"), "lowrank_pixel_shuffle"
    assert "CUDA tensors, not cpu" in str(support.can_run(op, cpu, torch.float32, 4))
    assert "float64" in str(support.can_run(op, cpu, torch.float64, 4))
    monkeypatch.setattr(support, "interpreted", lambda: True)
    assert support.can_run(op, cpu, torch.float32, 4) is None
    assert "bfloat16" in str(support.can_run(op, cpu, torch.bfloat16, 4))
    assert "256" in str(support.can_run(op, cpu, torch.float32, 257))

    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(support, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old Card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.version, "hip", None)
    assert support.can_run(op, cuda, torch.float16, 4) == "needs compute capability 8.0 or higher, Old Card has 7.5"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert support.can_run(op, cuda, torch.bfloat16, 4) is None
    for other, reason in ONLY_ON_CPUS.items():
        assert support.can_run(other, cuda, torch.float32, 4) == reason
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.version, "hip", "6.2")  # whose numbers are others
    assert support.can_run(op, cuda, torch.float16, 4) is None
    assert full_precision(torch.float32) == "ieee"


def test_launches_on_the_device_of_the_tensors(monkeypatch) -> None:
    """Which need not be the current one; none without programs, nor past the limit of a grid."""
    where: list[torch.device | None] = [None]
    launched = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        where.append(device)
        yield
        where.pop()

    class Kernel:
        __name__ = "some_kernel"

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda **how: launched.append((where[-1], grid, how))

    monkeypatch.setattr(torch.cuda, "device", current)
    second, how = torch.device("cuda", 1), {"num_warps": 4}
    launch(Kernel(), 0, {"x": 1}, device=second, **how)
    with pytest.raises(ValueError, match=r"some_kernel: 2147483648 programs exceed the grid limit"):
        launch(Kernel(), 2**31, {"x": 1}, device=second, **how)
    launch(Kernel(), 3, {"x": 1}, device=second, **how)
    assert launched == [(second, (3,), {"x": 1, "num_warps": 4, "num_stages": 1})]


def test_the_last_guard_refuses_what_a_kernel_would_read_past() -> None:
    pytest.importorskip("triton")
    z, weight = torch.zeros(1, 3, 2, 5), torch.zeros(12, 3)
    options = {"upscale_factor": 2, "skip_bicubic": "matlab"}
    wrong = {
        "weight: expected shape (12, 3)": (z, weight[:, :2], None, None, None),
        "bias: expected shape (12,)": (z, weight, torch.zeros(11), None, None),
        "gate: expected shape (1, 3)": (z, weight, None, torch.zeros(2, 3), None),
        "skip: expected shape (1, 3, 2, 5)": (z, weight, None, None, torch.zeros(1, 3, 4, 9)),
        "weight: expected a dense torch.float32": (z, weight.half(), None, None, None),
        "weight: expected a dense torch.float32 tensor on cpu": (z, weight.to("meta"), None, None, None),
        "square divides 11": (z, weight[:11], None, None, None),
    }
    for message, tensors in wrong.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            backend.lowrank_pixel_shuffle_fwd(*tensors, **options)
    with pytest.raises(ValueError, match="gradient: expected shape"):
        backend.lowrank_pixel_shuffle_bwd(z, z, weight, None, None, None, **options, needs=(True,) * 5)
    with pytest.raises(ValueError, match="w2: expected shape"):
        backend.channel_gate_fwd(z, torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 3), torch.zeros(3))
    w1, w2, small = torch.zeros(2, 3), torch.zeros(3, 2), z[..., :4]
    layers = w1, torch.zeros(2), w2, torch.zeros(3)
    for name, call in (
        ("residual", lambda: backend.channel_attention_fwd(z, *layers, small)),
        ("out", lambda: backend.channel_attention_fwd(z, *layers, None, out=small)),
        ("grad", lambda: backend.channel_attention_bwd(small, z, torch.zeros(1, 3), *layers, needs=(True,) * 5)),
        ("residual", lambda: backend.local_channel_attention_fwd(z, w1, w2, small, window=3)),
        ("out", lambda: backend.local_channel_attention_fwd(z, w1, w2, None, window=3, out=small)),
        ("grad", lambda: backend.local_channel_attention_bwd(small, z, w1, w2, window=3, needs=(True,) * 3)),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected shape"):
            call()


def test_importing_the_kernels_asks_no_device() -> None:
    pytest.importorskip("triton")
    code = """
import torch

def refuse(*args, **kwargs):
    raise AssertionError("a device was asked at import")

for name in ("get_device_name", "get_device_properties", "get_device_capability", "current_device", "_lazy_init"):
    setattr(torch.cuda, name, refuse)
import lkca_kernels.triton.aot, lkca_kernels.triton.tune
print("fine")
"""
    assert in_a_new_process(code) == "fine"
