"""nvcc builds every kernel for the cards we name; ptxas reports no spills. Nothing runs here: there may be no card."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = ("80", "90", "100")
# The flags of setup.py; 10.0 is also kept as PTX, for cards to come.
FLAGS = ["-O3", "-std=c++20", "--threads=2", "-Xcompiler=-fPIC"]
FLAGS += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHITECTURES]
FLAGS += ["-gencode=arch=compute_100,code=compute_100"]

PROBE = """
#include <cstdio>
#include "cuda/api.h"
int main() {
  using namespace lkca::cuda;
  const ShuffleProblem shape{Dtype::float32, 1, 1, 1, 1, 2};
  const char* error = lowrank_forward(shape, LowrankInputs{nullptr, nullptr, nullptr, nullptr, nullptr, 1, false,
                                                           Bicubic::matlab}, nullptr, nullptr);
  std::printf("%s\\n", error == nullptr ? "no error" : error);
}
"""


@dataclass(frozen=True)
class Kernel:
    name: str
    architecture: str
    registers: int
    stack: int
    spills: int
    shared: int


def kernels_in(report: str) -> list[Kernel]:
    """Kernels of a ``ptxas -v`` report."""
    found = []
    for entry in report.split("Compiling entry function ")[1:]:
        symbol, architecture = re.match(r"'(\S+)' for 'sm_(\d+)", entry).groups()  # type: ignore[union-attr]
        name = re.search(r"(?:_cu_[0-9a-f]{8}|grid_kernelINS0_)\d+([A-Z]\w+?)EEvNT_4ArgsE", symbol)
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", entry
        ).groups()  # type: ignore[union-attr]
        registers = re.search(r"Used (\d+) registers", entry).group(1)  # type: ignore[union-attr]
        shared = re.search(r"(\d+) bytes smem", entry)
        found.append(
            Kernel(
                name.group(1) if name else symbol,
                architecture,
                int(registers),
                int(stack),
                int(stores) + int(loads),
                int(shared.group(1)) if shared else 0,
            )
        )
    return found


@pytest.fixture(scope="session")
def nvcc() -> str:
    found = shutil.which("nvcc") or next((p for p in ["/usr/local/cuda/bin/nvcc"] if os.path.isfile(p)), None)
    if found is None:
        pytest.skip("no nvcc: the CUDA kernels are not compiled here")
    return found


@pytest.fixture(scope="session")
def objects(nvcc: str, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[Kernel]]:
    """Object file of each source, and ptxas's report on its kernels."""
    folder = tmp_path_factory.mktemp("cuda")
    built = {}
    for source in SOURCES:
        target = folder / f"{source.stem}.o"
        command = [nvcc, *FLAGS, "-Xptxas=-v", f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
        assert "warning" not in done.stderr, done.stderr[:4000]
        built[target] = kernels_in(done.stderr)
    return built


def test_no_kernel_spills(objects: dict[Path, list[Kernel]]) -> None:
    kernels = [kernel for found in objects.values() for kernel in found]
    per_card = len(kernels) // len(ARCHITECTURES)
    assert per_card >= 75 and len(kernels) == per_card * len(ARCHITECTURES)
    for kernel in kernels:
        print(kernel)
        assert kernel.spills == 0 and kernel.stack == 0, kernel
        assert kernel.registers <= 128, kernel  # two blocks of 256 threads on a multiprocessor
        assert kernel.shared == 0, kernel  # all of it is dynamic, see cuda_host/test_all_kernels.py


def test_objects_link_and_a_launch_without_a_card_is_an_error(
    objects: dict[Path, list[Kernel]], nvcc: str, tmp_path: Path
) -> None:
    """The API is complete without torch, and a failed launch comes back as text."""
    source, program = tmp_path / "probe.cpp", tmp_path / "probe"
    source.write_text(PROBE)
    link = [
        nvcc,
        "-std=c++20",
        "-cudart=static",
        f"-I{ROOT / 'csrc'}",
        str(source),
        *map(str, objects),
        "-o",
        str(program),
    ]
    done = subprocess.run(link, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    ran = subprocess.run(
        [str(program)], capture_output=True, text=True, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert "CUDA" in ran.stdout and "no error" not in ran.stdout, ran.stdout
