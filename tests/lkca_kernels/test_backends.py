"""The choice of backend, and that importing the package asks nothing of the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lkca_kernels
from lkca_kernels import backends, native, reference
from lkca_kernels.backends import BackendError

Z, WEIGHT = torch.ones(1, 2, 3, 4), torch.ones(8, 2)
CPU_BUILT = backends.unavailable("cpu") is None


def _chosen(**how: str) -> str | None:
    return lkca_kernels.explain("lowrank_pixel_shuffle", Z, WEIGHT, upscale_factor=2, **how).chosen


def test_import_asks_nothing() -> None:
    """No library, no Triton, no CUDA context, and no environment: only torch."""
    code = (
        "import sys, torch; torch.cuda.is_available = torch._C._cuda_init = None\n"
        "import lkca_kernels\n"
        "late = [m for m in ('triton', 'lkca_kernels.cpu', 'lkca_kernels.cuda', 'lkca_kernels.triton', 'lkca')"
        " if m in sys.modules]\n"
        "assert not late, late"
    )
    root = Path(lkca_kernels.__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(root)}, timeout=120)


def test_automatic_choice() -> None:
    assert _chosen() == ("cpu" if CPU_BUILT else "reference")
    double = lkca_kernels.explain("lowrank_pixel_shuffle", Z.double(), WEIGHT.double(), upscale_factor=2)
    assert double.chosen == "reference"
    assert {"cpu", "triton", "cuda"} <= set(double.refusals)
    assert lkca_kernels.explain("pixel_shuffle_epilogue", Z.to("meta"), upscale_factor=2).chosen == "reference"
    assert lkca_kernels.explain("lowrank_pixel_shuffle", Z, WEIGHT, upscale_factor=1024).chosen == _chosen()
    large = lkca_kernels.explain("lowrank_pixel_shuffle", Z, WEIGHT, upscale_factor=1025)
    assert large.chosen == "reference" and (not CPU_BUILT or "not 1025" in large.refusals["cpu"])
    huge = lkca_kernels.lowrank_pixel_shuffle(torch.ones(1, 1, 1, 1), torch.ones(1025**2, 1), upscale_factor=1025)
    assert huge.shape == (1, 1, 1025, 1025)  # the call does as told
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = lkca_kernels.explain("lowrank_pixel_shuffle", Z, WEIGHT, upscale_factor=2)
    assert "serves torch.bfloat16 on cpu" in cast.reason

    def mapped(z: torch.Tensor) -> torch.Tensor:
        told = lkca_kernels.explain("lowrank_pixel_shuffle", z, WEIGHT, upscale_factor=2)
        assert told.chosen == "reference" and "torch.func" in told.reason
        assert not CPU_BUILT or "torch.func" in told.refusals["cpu"]
        return z

    torch.func.vmap(mapped)(Z[None])
    on_cards = backends.explain_call("channel_gate", torch.device("cuda"), torch.float32, 1, None)
    assert on_cards.reason.endswith("in the order triton, cuda, reference")


def test_argument_before_context_before_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LKCA_BACKEND", "cuda")
    assert _chosen() is None
    with lkca_kernels.use_backend("reference"):
        assert _chosen() == "reference"
        assert _chosen(backend="cuda") is None
        assert _chosen(backend="auto") == ("cpu" if CPU_BUILT else "reference")
        with lkca_kernels.use_backend("auto"):
            assert _chosen() == ("cpu" if CPU_BUILT else "reference")
        assert _chosen() == "reference"
    with pytest.raises(BackendError, match="asked for by LKCA_BACKEND"):
        lkca_kernels.lowrank_pixel_shuffle(Z, WEIGHT, upscale_factor=2)
    for context, argument, who in (("cuda", None, "use_backend"), ("auto", "cuda", "the backend argument")):
        with (
            lkca_kernels.use_backend(context),
            pytest.raises(BackendError, match=f"'cuda', asked for by {who}, cannot"),
        ):
            lkca_kernels.lowrank_pixel_shuffle(Z, WEIGHT, upscale_factor=2, backend=argument)
    monkeypatch.setenv("LKCA_BACKEND", "")
    assert _chosen() == ("cpu" if CPU_BUILT else "reference")


def test_contexts_end_with_an_error_too() -> None:
    with pytest.raises(KeyError), lkca_kernels.use_backend("reference"), lkca_kernels.keep_operators():
        raise KeyError
    assert _chosen() == ("cpu" if CPU_BUILT else "reference") and not backends._kept.get()
    with lkca_kernels.keep_operators():
        with lkca_kernels.keep_operators():
            pass
        assert backends._kept.get()


def test_a_named_backend_never_falls_back() -> None:
    with pytest.raises(BackendError, match=r"cuda.*cannot serve"):
        lkca_kernels.lowrank_pixel_shuffle(Z, WEIGHT, upscale_factor=2, backend="cuda")
    with pytest.raises(BackendError, match=r"serves CPU tensors, not meta|not built"):
        lkca_kernels.lowrank_pixel_shuffle(Z.to("meta"), WEIGHT.to("meta"), upscale_factor=2, backend="cpu")
    with pytest.raises(BackendError, match=r"float64|not built"):
        lkca_kernels.lowrank_pixel_shuffle(Z.double(), WEIGHT.double(), upscale_factor=2, backend="cpu")


@pytest.mark.parametrize("source", ["argument", "context", "environment"])
def test_unknown_name(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LKCA_BACKEND", "opencl" if source == "environment" else "")
    with pytest.raises(BackendError, match=r"unknown backend 'opencl', expected auto, reference, cpu, triton, cuda"):
        if source == "context":
            with lkca_kernels.use_backend("opencl"):
                pass
        argument = "opencl" if source == "argument" else None
        lkca_kernels.lowrank_pixel_shuffle(Z, WEIGHT, upscale_factor=2, backend=argument)


def test_context_is_of_its_thread() -> None:
    seen = []
    with lkca_kernels.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(_chosen()))
        thread.start()
        thread.join()
    assert seen == ["cpu" if CPU_BUILT else "reference"]


def test_explanation_is_a_text() -> None:
    text = str(lkca_kernels.explain(lkca_kernels.lowrank_upsample, Z, torch.ones(2, 2, 3, 3), WEIGHT, upscale_factor=2))
    first, *others = text.splitlines()
    assert first.startswith("lowrank_pixel_shuffle: ")
    assert any(line.startswith("  cuda: ") for line in others) or torch.cuda.is_available()
    with pytest.raises(ValueError, match="op: expected one of"):
        lkca_kernels.explain("conv2d", Z)


def test_an_explanation_of_empty_tensors_is_what_the_call_does(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    monkeypatch.setattr(backends, "function", lambda *_: lambda *_, **__: served.append("native"))
    told = lkca_kernels.explain("lowrank_pixel_shuffle", Z[:0], WEIGHT, upscale_factor=2)
    lkca_kernels.lowrank_pixel_shuffle(Z[:0], WEIGHT, upscale_factor=2)
    assert told.chosen == "reference" and not served
    assert ("cpu" in told.refusals) and (not CPU_BUILT or "empty" in told.refusals["cpu"])
    if CPU_BUILT:
        told = lkca_kernels.explain("lowrank_pixel_shuffle", Z, WEIGHT[:0], upscale_factor=2, backend="cpu")
        assert told.chosen == "reference" and "empty" in told.reason


def test_an_explanation_asks_for_a_scale_factor_that_can_be() -> None:
    for factor, error in ((-3, ValueError), (1, ValueError), ([2], TypeError), (2.0, TypeError)):
        with pytest.raises(error, match="upscale_factor: expected"):
            lkca_kernels.explain("lowrank_pixel_shuffle", Z, WEIGHT, upscale_factor=factor)


def test_available_backends_hold_the_reference() -> None:
    found = lkca_kernels.available_backends()
    assert "reference" in found and set(found) <= set(backends.BACKENDS)


def test_a_missing_library_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    absent = f"is not in {tmp_path} (see docs/install.md)"  # of a checkout that is imported before what is installed
    assert native._load("cpu") == absent
    (tmp_path / "_build.json").write_text(json.dumps({"cpu": "no C++ compiler found"}))
    assert native._load("cpu") == "was not built: no C++ compiler found"
    (tmp_path / "_build.json").write_text(json.dumps({"cpu": "built"}))
    assert native._load("cpu") == absent
    (tmp_path / "_build.json").write_text("{")
    assert native.build_record() == {}


def test_a_broken_library_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    (tmp_path / "_C_cpu.abi3.so").write_bytes(b"not a library")
    reason = native._load("cpu")
    assert reason is not None and reason.startswith("_C_cpu.abi3.so does not load: ") and "\n" not in reason
    (tmp_path / "_C_cuda.so").write_bytes(b"")
    reason = native._load("cuda")
    assert reason is not None and ("needs a CUDA build" in reason or "does not load" in reason)


@pytest.mark.skipif(not CPU_BUILT, reason=f"the C++ CPU backend {backends.unavailable('cpu')}")
@pytest.mark.skipif(sys.platform != "linux", reason="loaders of other systems look at the length themselves")
@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_library_cut_short_is_not_loaded(share: float, tmp_path: Path) -> None:
    """An interrupted build or copy: the system loads such a file, and the process dies of what is missing."""
    source = Path(lkca_kernels.__file__).parent
    package = tmp_path / "lkca_kernels"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    for library in package.glob("*.so"):
        os.truncate(library, int(share * library.stat().st_size))
    code = (
        "import torch, lkca_kernels as k\nfrom lkca_kernels import native\n"
        "print(k.explain('pixel_shuffle_epilogue', torch.ones(1, 4, 2, 2), upscale_factor=2))\n"
        "print(native.build_info())"
    )
    command = [sys.executable, "-c", code]  # the working directory goes before everything else
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    whole = next(source.glob("_C_cpu*.so")).stat().st_size
    assert done.stdout.startswith("pixel_shuffle_epilogue: reference ") and done.stdout.endswith("{}\n")
    assert f"cpu: _C_cpu.abi3.so does not load: it ends after {int(share * whole)} of {whole} bytes" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="loaders of other systems look at the length themselves")
def test_a_cuda_library_cut_short_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.ops, "load_library", lambda path: pytest.fail("would kill this process"))
    whole = Path(torch.__file__).with_name("lib") / "libc10.so"  # any library; sys.executable may be a script
    (tmp_path / "_C_cuda.abi3.so").write_bytes(whole.read_bytes()[:2000])
    assert "_C_cuda.abi3.so does not load: it ends after 2000 of " in str(native._load("cuda"))


class _Doubling:
    """Serves one operator, with twice the reference's result, so that its answers are told apart."""

    def unavailable(self) -> str | None:
        return None

    def can_run(self, op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int) -> str | None:
        return None if op == "lowrank_pixel_shuffle" else f"has no {op}"

    def lowrank_pixel_shuffle_fwd(self, *tensors: torch.Tensor, out: torch.Tensor | None = None, **how: Any) -> Any:
        return 2 * reference.lowrank_pixel_shuffle(*tensors, **how)


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Doubling]:
    monkeypatch.setattr(backends, "_registered", {})
    monkeypatch.setattr(backends, "_AUTO", dict(backends._AUTO))
    yield _Doubling()
    monkeypatch.undo()
    for answers in (backends._module, backends.unavailable, backends._refusal, backends._automatic):
        answers.cache_clear()


def test_a_registered_backend_serves_by_name_and_unasked(doubling: _Doubling) -> None:
    expected = lkca_kernels.lowrank_pixel_shuffle(Z, WEIGHT, upscale_factor=2, backend="reference")
    lkca_kernels.register_backend("doubling", doubling)
    assert "doubling" in lkca_kernels.available_backends()
    unasked = lkca_kernels.lowrank_pixel_shuffle(Z, WEIGHT, upscale_factor=2)
    torch.testing.assert_close(unasked, expected)
    asked = lkca_kernels.lowrank_pixel_shuffle(Z, WEIGHT, upscale_factor=2, backend="doubling")
    torch.testing.assert_close(asked, 2 * expected)

    lkca_kernels.register_backend("first", doubling, devices=["cpu"])
    unasked = lkca_kernels.lowrank_pixel_shuffle(Z, WEIGHT, upscale_factor=2)
    torch.testing.assert_close(unasked, 2 * expected)
    told = lkca_kernels.explain("pixel_shuffle_epilogue", torch.ones(1, 4, 2, 2), upscale_factor=2)
    assert told.refusals["first"] == "has no pixel_shuffle_epilogue" and told.chosen != "first"
    with pytest.raises(ValueError, match=r"name: expected an identifier other than auto, .*doubling"):
        lkca_kernels.register_backend("doubling", doubling)


def test_what_is_no_backend_is_not_registered(doubling: _Doubling) -> None:
    for name in ("cpu", "reference", "auto", "my backend"):
        with pytest.raises(ValueError, match="name: expected an identifier"):
            lkca_kernels.register_backend(name, doubling)
    with pytest.raises(TypeError, match="name: expected a string, got int"):
        lkca_kernels.register_backend(3, doubling)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"devices: expected a sequence of device types, got 'cpu'; give \['cpu'\]"):
        lkca_kernels.register_backend("mine", doubling, devices="cpu")
    with pytest.raises(TypeError, match="has no unavailable and no can_run"):
        lkca_kernels.register_backend("mine", object())
    assert set(lkca_kernels.available_backends()) <= set(backends.BACKENDS)
