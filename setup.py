"""Builds what can be built here and says plainly what cannot: see docs/install.md.

Everything static stands in pyproject.toml; the decisions are in build_tools/lkca_build_plan.py. Three extensions:
``_C_cpu`` and ``_C_cuda`` hold operators (libtorch stable ABI, no Python symbols; loaded by lkca_kernels/native.py),
``_build_info`` is a small pybind11 module that tells how they were compiled.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_tools"))

import lkca_build_plan as plan  # noqa: E402

COMMANDS_WITHOUT_BUILD = {"sdist", "egg_info", "dist_info", "clean", "--help", "--version"}


def say(message: str) -> None:
    """Print where a person sees it: pip swallows a successful build's output, so the terminal is told as well."""
    line = f"lkca: {message}\n"
    sys.stderr.write(line)
    with suppress(OSError), open("/dev/tty", "w") as terminal:
        terminal.write(line)


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def plan_extensions() -> tuple[list[Any], dict[str, Any], dict[str, str]]:
    """Extension objects, command classes, and the record {"cpu": "built" or why not, "cuda": …, "torch": …}."""
    wanted = {plan.switch("LKCA_BUILD_CPU"), plan.switch("LKCA_BUILD_CUDA")} != {"0"}
    torch_found = wanted and plan.expose_torch()
    no_compiler = plan.compiler_obstacle() if torch_found else None
    cpu = plan.decide_cpu(torch_found=torch_found, no_compiler=no_compiler)
    if not torch_found:
        cuda = plan.decide_cuda(torch_cuda=None, no_compiler=no_compiler, nvcc=None, release=None)
        return [], {}, {"cpu": cpu.reason, "cuda": cpu.reason if cuda.reason.startswith("the torch") else cuda.reason}

    import torch
    from torch.utils import cpp_extension

    cxx_flags: list[str] = []
    if compiler := plan.find_compiler():
        # torch compiles with CXX or c++, and takes no flags there; setuptools links with CXX or with Python's compiler.
        os.environ["CXX"], *cxx_flags = compiler
    nvcc = plan.find_nvcc()
    cuda = plan.decide_cuda(
        torch_cuda=torch.version.cuda,
        no_compiler=no_compiler,
        nvcc=nvcc,
        release=plan.nvcc_release(nvcc) if nvcc else None,
    )
    record = {"cpu": cpu.reason, "cuda": cuda.reason, "torch": torch.__version__}
    common = {"include_dirs": [str(ROOT / "csrc")], "py_limited_api": True, "extra_link_args": [*cxx_flags]}
    # -g0: Python's own flags hold -g, which would make the library four times larger.
    flags = [
        *cxx_flags,
        "-O3",
        "-g0",
        "-std=c++20",
        "-fvisibility=hidden",
        f"-DTORCH_TARGET_VERSION={plan.TORCH_TARGET}",
    ]
    extensions = []
    if cpu.build:
        from pybind11.setup_helpers import Pybind11Extension

        extensions.append(
            cpp_extension.CppExtension(
                "lkca_kernels._C_cpu",
                sources("csrc/registration_cpu.cpp", "csrc/cpu/*.cpp"),
                extra_compile_args={"cxx": flags},
                **common,
            )
        )
        extensions.append(
            Pybind11Extension(
                "lkca_kernels._build_info",
                ["csrc/build_info.cpp"],
                define_macros=[("LKCA_BUILD_TORCH", f'"{torch.__version__}"')],
                cxx_std=17,
                extra_compile_args=[*cxx_flags],
                extra_link_args=[*cxx_flags],
            )
        )
    if cuda.build:
        assert nvcc is not None
        # On a machine whose CUDA_HOME torch could not guess (wheels without a toolkit), set it by hand.
        cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"] = plan.cuda_home(nvcc)
        os.environ["TORCH_CUDA_ARCH_LIST"] = plan.cuda_arch_list(
            os.environ.get("TORCH_CUDA_ARCH_LIST"), visible_devices=torch.cuda.device_count()
        )
        extensions.append(
            cpp_extension.CUDAExtension(
                "lkca_kernels._C_cuda",
                sources("csrc/registration_cuda.cpp", "csrc/cuda/*.cu"),
                extra_compile_args={"cxx": [*flags, "-DUSE_CUDA"], "nvcc": ["-O3", "-std=c++20", "--threads=2"]},
                **common,
            )
        )
    build_ext = cpp_extension.BuildExtension.with_options(no_python_abi_suffix=False)
    return extensions, {"build_ext": build_ext}, record


class BuildPyWithRecord(build_py):
    """Writes lkca_kernels/_build.json beside the package, so that `lkca doctor` can repeat the reasons."""

    record: dict[str, str]

    def run(self) -> None:
        root = ROOT if getattr(self, "editable_mode", False) else Path(self.build_lib).resolve()
        if root.is_relative_to(ROOT / "build"):
            # What an earlier version left there would go into the wheel too. build_ext comes later and links anew. A
            # folder that the caller names (--build-lib ..) may hold packages of these names that are no build's.
            for package in ("lkca", "lkca_kernels"):
                shutil.rmtree(root / package, ignore_errors=True)
        super().run()
        target = root / "lkca_kernels" / "_build.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(self.record, indent=1) + "\n")


extensions: list[Any] = []
commands: dict[str, Any] = {}
if not COMMANDS_WITHOUT_BUILD.intersection(sys.argv[1:]):
    extensions, commands, record = plan_extensions()
    BuildPyWithRecord.record = record
    commands["build_py"] = BuildPyWithRecord
    for name, room in (("cpu", "C++ CPU"), ("cuda", "CUDA")):
        if record[name] != "built":
            say(f"the {room} extension is not built: {record[name]}. The plain-PyTorch operators serve instead.")

setup(ext_modules=extensions, cmdclass=commands)
