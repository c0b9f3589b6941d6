"""Operators in many threads at once, and in processes forked or spawned after the parent has used them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import lkca_kernels as k

BACKENDS = [name for name in ("reference", "cpu") if name in k.available_backends()]


def _inputs(seed: int) -> tuple[Tensor, ...]:
    """z, weight, bias, gate, LR skip; each seed has sizes of its own."""
    b, c, r, h, w, s = 1 + seed % 2, 2 + seed % 5, 3 + seed % 4, 20 + seed, 17 + seed % 3, 2
    generator = torch.Generator().manual_seed(seed)
    shapes = ((b, r, h, w), (c * s * s, r), (c * s * s,), (b, c), (b, c, h, w))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def _forward_and_gradients(seed: int) -> list[Tensor]:
    tensors = [t.requires_grad_() for t in _inputs(seed)]
    out = k.lowrank_pixel_shuffle(*tensors, upscale_factor=2)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), tensors)]


def _raised_in(threads: int, work: Callable[[int], None]) -> list[BaseException]:
    """What ``work(number)`` raised in any of that many threads, all begun together."""
    gate, raised = threading.Barrier(threads), []

    def run(number: int) -> None:
        try:
            gate.wait()
            work(number)
        except BaseException as error:
            raised.append(error)

    started = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    return raised


def test_many_threads_with_backends_of_their_own() -> None:
    """Results are those of the backend that each thread asked for, whatever the others do meanwhile."""
    expected = {}
    for name in BACKENDS:
        with k.use_backend(name):
            expected[name] = [_forward_and_gradients(seed) for seed in range(8)]

    def work(number: int) -> None:
        for turn in range(12):
            name, seed = BACKENDS[(number + turn) % len(BACKENDS)], (number * 5 + turn) % 8
            with k.use_backend(name):
                found = _forward_and_gradients(seed)
                z, weight = _inputs(seed)[:2]
                assert k.explain("lowrank_pixel_shuffle", z, weight, upscale_factor=2).chosen == name
            for mine, alone in zip(found, expected[name][seed], strict=True):
                torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-4)
            with pytest.raises(ValueError, match="bias: expected"):
                k.lowrank_pixel_shuffle(z, weight, torch.ones(3), upscale_factor=2)

    assert _raised_in(8, work) == []


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the C++ CPU backend is not built")
def test_first_use_by_many_threads() -> None:
    """The library is found, loaded and asked for its instruction set once, in a process that has not used it yet."""
    code = (
        "import threading, torch, lkca_kernels as k\n"
        "gate, bad = threading.Barrier(16), []\n"
        "def run():\n"
        "    gate.wait()\n"
        "    out = k.lowrank_pixel_shuffle(torch.ones(1, 2, 9, 9), torch.ones(8, 2), upscale_factor=2, backend='cpu')\n"
        "    bad.append(not bool((out == 2).all()))\n"
        "threads = [threading.Thread(target=run) for _ in range(16)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert bad == [False] * 16, bad"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_fork_after_use() -> None:
    """A forked child computes the same. One thread: libgomp's other threads do not exist in it (docs/security.md)."""
    expected = _forward_and_gradients(3)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        torch.set_num_threads(1)
        same = [torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(_forward(3), expected, strict=False)]
        os._exit(0 if all(same) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _forward(seed: int) -> list[Tensor]:
    return [k.lowrank_pixel_shuffle(*_inputs(seed), upscale_factor=2)]


class Upsampled(Dataset[Tensor]):
    """Samples that are computed by the operators, in the workers."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return _forward(index)[0].mean((0, 2, 3))[:2]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_data_loader_workers(method: str, tmp_path: object) -> None:
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    expected = torch.stack([Upsampled()[index] for index in range(8)])
    if method == "spawn":  # the workers must be able to import the dataset: pytest's modules cannot be
        sys.path.insert(0, os.path.dirname(__file__))
        import importlib

        dataset: Dataset[Tensor] = importlib.import_module("test_threads_and_processes").Upsampled()
    else:
        dataset = Upsampled()
    try:
        loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=method, timeout=100)
        assert torch.allclose(torch.cat(list(loader)), expected, rtol=1e-4, atol=1e-5)
    finally:
        if method == "spawn":
            sys.path.remove(os.path.dirname(__file__))
