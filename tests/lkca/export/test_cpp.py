"""An AOTInductor package with lkca's C++ operators in it, run by a C++ program that knows no Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lkca.export import export_model
from lkca.inference.array import upscale_array
from lkca.models.directory import LoadedModel
from lkca_kernels.native import library_path, load

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "cpp_inference"


@pytest.fixture(scope="module")
def compiler() -> str:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        found: str = get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"no C++ compiler: {error}")
    reason = load("cpu")
    if reason is not None:
        pytest.skip(f"the C++ operators: {reason}")
    return found


def test_a_cpp_program_runs_the_package(models: dict[str, LoadedModel], compiler: str, tmp_path: Path) -> None:
    model = models["shared"]
    done = export_model(model, tmp_path / "model.pt2", "aoti")  # compares it with the model, in this process
    assert done.error <= 1e-5
    metadata = torch._inductor.aoti_load_package(str(done.path)).get_metadata()
    assert json.loads(metadata["lkca.bands"]) == [0, 1, 2, 3, 5]

    program = tmp_path / "upscale"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # build.sh asks `python` for torch
    command = ["sh", str(EXAMPLE / "build.sh"), str(program)]
    built = subprocess.run(command, env={**os.environ, "PATH": path, "CXX": compiler}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr

    cube = np.random.default_rng(0).uniform(20, 4115, (6, 7, 22)).astype(np.float32)
    seen = np.ascontiguousarray(cube[model.config.bands.used])
    arguments = [str(program), str(done.path), str(library_path("cpu")), "1", *map(str, seen.shape)]
    run = subprocess.run(arguments, input=seen.tobytes(), capture_output=True)
    assert run.returncode == 0 and b"scale 4, bands [0, 1, 2, 3, 5]" in run.stderr, run.stderr
    found = np.frombuffer(run.stdout, np.float32).reshape(5, 28, 88)
    np.testing.assert_allclose(found, upscale_array(cube, model)[model.config.bands.used], atol=4095e-5)

    other = [*arguments[:4], "4", *arguments[5:]]  # bands: it read beyond the end of the cube, and gave five
    fewer = subprocess.run(other, input=seen.tobytes(), capture_output=True)
    assert fewer.returncode == 1 and b"expected: 5" in fewer.stderr and not fewer.stdout, fewer.stderr
    one = subprocess.run([*arguments[:5], "1", "1"], input=seen.tobytes(), capture_output=True)
    if hasattr(torch._inductor.config.aot_inductor, "check_lowerbound"):
        assert one.returncode == 0 and len(one.stdout) == 4 * 5 * 16, one.stderr

    arguments[2] = "-"  # without lkca's library the package has no operator: it is the library's that it calls
    alone = subprocess.run(arguments, input=seen.tobytes(), capture_output=True)
    assert alone.returncode == 1 and b"schema for lkca_cpu::" in alone.stderr and not alone.stdout
