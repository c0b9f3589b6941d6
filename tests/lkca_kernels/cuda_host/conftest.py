"""The CUDA kernels without a card: the very bodies, launch plans and registration, compiled by the C++ compiler for the
emulated grid (csrc/cuda/emulation.h) and compared with the float64 reference.

What this cannot show: that nvcc and the card do what the emulation does (the tensor-core instruction follows NVIDIA's
published tables here), and anything about speed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from lkca_kernels import cuda

CSRC = Path(__file__).resolve().parents[3] / "csrc"


def _compile(compiler: str, source: Path, target: Path, flags: list[str]) -> None:
    command = [compiler, "-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-DLKCA_EMULATED_GRID"]
    command.append("-U_FORTIFY_SOURCE")  # its longjmp refuses to change stacks
    language = ["-x", "c++"] if source.suffix == ".cu" else []
    done = subprocess.run(
        [*command, *flags, *language, "-c", str(source), "-o", str(target)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{source.name}: {done.stderr[:4000]}"


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library of the emulated kernels, its operators in torch.ops.lkca_cuda_emulated."""
    compiler = next(
        (found for name in (os.environ.get("CXX"), "g++", "c++") if name and (found := shutil.which(name))), None
    )
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulated")
    flags = [f"-I{CSRC}", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    flags += [f"-isystem{path}" for path in cpp_extension.include_paths()]
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), CSRC / "cuda" / "emulation.cpp", CSRC / "registration_cuda.cpp"]
    sources.append(Path(__file__).with_name("emulation_faults.cpp"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pair: _compile(compiler, *pair, flags), zip(sources, objects, strict=True)))
    library = folder / "libemulated.so"
    torch_lib = Path(torch.__file__).parent / "lib"
    link = [
        compiler,
        "-shared",
        "-o",
        str(library),
        *map(str, objects),
        f"-L{torch_lib}",
        "-ltorch_cpu",
        "-ltorch",
        "-lc10",
    ]
    subprocess.run(link, check=True)
    torch.ops.load_library(str(library))
    loaded = ctypes.CDLL(str(library))
    for name in ("bytes_written", "bytes_read", "vector_bytes", "shared_bytes", "even_splits"):
        getattr(loaded, f"lkca_emulation_{name}").restype = ctypes.c_int64
    for name in ("max_blocks", "only_last", "forward_blocks"):
        getattr(loaded, f"lkca_emulation_{name}").argtypes = [ctypes.c_int64]
    loaded.lkca_emulation_even_splits.argtypes = [ctypes.c_int64] * 4
    loaded.lkca_emulation_round.restype = ctypes.c_float
    loaded.lkca_emulation_round.argtypes = [ctypes.c_int, ctypes.c_float]
    loaded.lkca_emulation_fault.restype = ctypes.c_char_p
    loaded.lkca_emulation_fault.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64]
    return loaded


@pytest.fixture
def grid(emulation: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The adapters of lkca_kernels.cuda on the emulated grid; every fresh tensor is filled with NaN first."""
    monkeypatch.setattr(cuda, "_ops", lambda: torch.ops.lkca_cuda_emulated)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch.empty then fills with NaN
    assert torch.empty(3).isnan().all()
    yield emulation
    torch.use_deterministic_algorithms(before)
    emulation.lkca_emulation_thread_order(0)
    emulation.lkca_emulation_max_blocks(0)
    emulation.lkca_emulation_only_last(0)
    emulation.lkca_emulation_forward_blocks(0)
