"""The build's decisions on machines that are not at hand: no compiler, no torch, no nvcc, odd architecture lists."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

TOOLS = Path(__file__).resolve().parents[2] / "build_tools"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plan() -> ModuleType:
    return _load("lkca_build_plan")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LKCA_BUILD_CPU", "LKCA_BUILD_CUDA", "CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)


CARD = {"torch_cuda": "13.0", "no_compiler": None, "nvcc": "/cuda/bin/nvcc", "release": "13.1"}


def test_an_isolated_build_asks_for_the_torch_of_the_project(plan: ModuleType) -> None:
    wanted = Requirement(plan.torch_requirement())
    assert wanted.name == "torch" and wanted.specifier.contains(version("torch"))
    assert wanted.specifier.contains(f"2.{int(plan.TORCH_TARGET[4:6], 16)}.0")  # whose stable ABI the binary has


@pytest.mark.parametrize(
    ("cpu", "cuda", "asks"),
    [
        ("auto", "auto", True),
        ("0", "auto", False),
        ("0", "", False),  # empty means auto
        (" 0", "0", False),
        ("0", "1", True),
        ("1", "0", True),
    ],
)
def test_torch_is_downloaded_for_what_is_built_alone(
    plan: ModuleType, monkeypatch: pytest.MonkeyPatch, cpu: str, cuda: str, asks: bool
) -> None:
    """Of a pure installation without torch at hand none is asked for: a CUDA build of it has gigabytes."""
    monkeypatch.setattr(plan, "expose_torch", lambda: False)
    backend = _load("lkca_build_backend")
    monkeypatch.setenv("LKCA_BUILD_CPU", cpu)
    monkeypatch.setenv("LKCA_BUILD_CUDA", cuda)
    for hook in ("get_requires_for_build_wheel", "get_requires_for_build_editable"):
        monkeypatch.setattr(backend.build_meta, hook, lambda _: ["wheel"])  # which writes into the repository
        assert getattr(backend, hook)() == ["wheel", *([plan.torch_requirement()] if asks else [])]


def test_auto_builds_where_everything_is_there(plan: ModuleType) -> None:
    assert plan.decide_cpu(torch_found=True, no_compiler=None).build
    assert plan.decide_cuda(**CARD).build


@pytest.mark.parametrize(
    ("lacking", "word"),
    [
        ({"torch_cuda": None}, "CPU build"),
        ({"no_compiler": "no C++ compiler"}, "C++ compiler"),
        ({"nvcc": None}, "nvcc was not found"),
        ({"release": None}, "could not be run"),
        ({"release": "12.8"}, "major versions must agree"),
    ],
)
def test_cuda_obstacles_are_named_and_fatal_only_on_demand(
    plan: ModuleType, monkeypatch: pytest.MonkeyPatch, lacking: dict[str, str | None], word: str
) -> None:
    decision = plan.decide_cuda(**{**CARD, **lacking})
    assert not decision.build
    assert word in decision.reason
    monkeypatch.setenv("LKCA_BUILD_CUDA", "1")
    with pytest.raises(plan.BuildError, match="LKCA_BUILD_CUDA=1, but"):
        plan.decide_cuda(**{**CARD, **lacking})


@pytest.mark.parametrize(
    ("torch_found", "no_compiler", "word"), [(False, None, "torch"), (True, "no C++ compiler", "C++ compiler")]
)
def test_cpu_obstacles(
    plan: ModuleType, monkeypatch: pytest.MonkeyPatch, torch_found: bool, no_compiler: str | None, word: str
) -> None:
    assert word in plan.decide_cpu(torch_found=torch_found, no_compiler=no_compiler).reason
    monkeypatch.setenv("LKCA_BUILD_CPU", "1")
    with pytest.raises(plan.BuildError, match=r"LKCA_BUILD_CPU=1, but"):
        plan.decide_cpu(torch_found=torch_found, no_compiler=no_compiler)


def test_zero_switches_off_and_anything_else_is_refused(plan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LKCA_BUILD_CPU", "0")
    assert plan.decide_cpu(torch_found=True, no_compiler=None) == plan.Decision(False, "LKCA_BUILD_CPU=0")
    monkeypatch.setenv("LKCA_BUILD_CPU", "yes")
    with pytest.raises(plan.BuildError, match="expected auto, 0 or 1"):
        plan.decide_cpu(torch_found=True, no_compiler=None)
    monkeypatch.setenv("LKCA_BUILD_CPU", "")
    assert plan.decide_cpu(torch_found=True, no_compiler=None).build


@pytest.mark.parametrize("value", [None, "", " ", ";", ";;, "])
def test_an_empty_architecture_list_means_the_default(plan: ModuleType, value: str | None) -> None:
    assert plan.cuda_arch_list(value, visible_devices=0) == plan.DEFAULT_CUDA_ARCHS


def test_native_needs_a_card(plan: ModuleType) -> None:
    assert plan.cuda_arch_list("native", visible_devices=0) == plan.DEFAULT_CUDA_ARCHS
    assert plan.cuda_arch_list("native", visible_devices=1) == "native"
    assert plan.cuda_arch_list("8.0 9.0+PTX", visible_devices=0) == "8.0;9.0+PTX"


def test_the_compiler_named_by_cxx_must_exist(plan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert plan.find_compiler() is None
    monkeypatch.setenv("CXX", f"'{sys.executable}' -m64")  # flags, as conda and Spack add them
    assert plan.find_compiler() == [sys.executable, "-m64"]


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("exit 1", "cannot compile C++20 (exit code 1); install g++ 11"),
        ("echo 'probe.cpp:3:2: error: #error g++ 11 or newer is needed' >&2; exit 1", "(#error g++ 11 or newer"),
        ("echo 'x.cpp:2:10: fatal error: Python.h: No such file or directory' >&2; exit 1", "such as python3-dev"),
        (
            "[ $LC_ALL = C ] && echo 'x.cpp:2: fatal error: Python.h: none' >&2; exit 1",
            "such as python3-dev",
        ),  # no German
    ],
)
def test_a_compiler_that_fails_is_an_obstacle_and_no_failed_installation(
    plan: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, word: str
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    obstacle = plan.compiler_obstacle()
    assert obstacle is not None and word in obstacle
    compiler.write_text("no program")
    assert "could not be run" in plan.compiler_obstacle()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler was found" in plan.compiler_obstacle()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")
def test_a_compiler_that_works_is_none(plan: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert plan.compiler_obstacle() is None
    monkeypatch.setattr(plan.sysconfig, "get_path", lambda key: str(tmp_path))
    assert "Python.h is not in" in plan.compiler_obstacle()


def test_nvcc_of_cuda_home_goes_first(plan: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert plan.find_nvcc() == str(nvcc)
    assert plan.nvcc_release(str(nvcc)) == "13.0"
    assert plan.nvcc_release(str(tmp_path / "absent")) is None


def test_the_toolkit_is_found_behind_a_wrapper_script(plan: ModuleType, tmp_path: Path) -> None:
    """nvcc on PATH may be a script whose own folder holds no toolkit: linking there would not find cudart."""
    toolkit = tmp_path / "cuda-13.0"
    (toolkit / "include").mkdir(parents=True)
    (toolkit / "include" / "cuda_runtime.h").touch()
    (toolkit / "bin").mkdir()
    (toolkit / "bin" / "nvcc").touch()
    assert plan.cuda_home(str(toolkit / "bin" / "nvcc")) == str(toolkit)
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f"#!/bin/sh\necho '#$ TOP={toolkit}/bin/..' >&2\n")
    wrapper.chmod(0o755)
    assert plan.cuda_home(str(wrapper)) == str(toolkit)
