"""Builds the C++ CPU backend with AddressSanitizer and UBSan, aside, and runs the operator tests on that build.

    python build_tools/sanitize.py [--build build/sanitize] [--self-test] [pytest arguments]

``--self-test`` builds one more library that reads past a tensor, and fails unless that is reported. Leak detection is
off: it would report the interpreter's own. ThreadSanitizer is not offered: torch and libgomp are not instrumented, so
that every parallel loop is reported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lkca_build_plan import TORCH_TARGET

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
# Those of UBSan that say something here and do not double the time of the build.
CHECKS = (
    "address,bounds,shift,signed-integer-overflow,integer-divide-by-zero,alignment,float-cast-overflow,unreachable,"
    "enum,bool"
)
FLAGS = ["-O1", "-g1", "-std=c++20", "-fPIC", "-fno-omit-frame-pointer", f"-fsanitize={CHECKS}"]
# Two processes at once, of about the same time; cpu_bounds has every other case of test_arithmetic.py, on every
# instruction set.
FILES = (("cpu_bounds.py",), ("stored.py", "cpu_backend.py", "checks.py", "arithmetic.py::test_any_sizes"))
# Memory is another under a sanitizer; the others run in a process that has no sanitizer or on another backend.
DESELECT = (
    "not triton and not cuda_ and not huge_pages and not peak_memory and not too_little_memory and not environment "
    "and not pages_around"
)
FAULT = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
double past_the_end(torch::stable::Tensor t) { return static_cast<const float*>(t.const_data_ptr())[t.numel()]; }
int64_t overflow(int64_t value) { return value * value; }
STABLE_TORCH_LIBRARY(lkca_faults, m) {
  m.def("past_the_end(Tensor t) -> float");
  m.def("overflow(int value) -> int");
}
STABLE_TORCH_LIBRARY_IMPL(lkca_faults, CompositeExplicitAutograd, m) {
  m.impl("past_the_end", TORCH_BOX(&past_the_end));
  m.impl("overflow", TORCH_BOX(&overflow));
}
"""


def compiler() -> str:
    """g++ (its runtimes can be preloaded into an uninstrumented python)."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        sys.exit("sanitize: no g++ was found; install it or name one in CXX")
    return found


def build(sources: list[Path], target: Path) -> Path:
    """Compile and link ``sources`` into ``target``; objects newer than every source are kept."""
    import torch
    from torch.utils import cpp_extension

    target.parent.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in [*CSRC.rglob("*.h"), *sources])
    common = [*FLAGS, f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f"-I{CSRC}"]
    common += [f"-isystem{path}" for path in cpp_extension.include_paths()]

    def compile_one(source: Path) -> str:
        made = target.parent / f"{source.stem}.o"
        if not made.exists() or made.stat().st_mtime < newest:
            subprocess.run([compiler(), *common, "-c", str(source), "-o", str(made)], check=True)
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sorted(sources, key=lambda path: -path.name.count("kernels"))))
    libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10"]
    subprocess.run([compiler(), "-shared", f"-fsanitize={CHECKS}", *objects, "-o", str(target), *libraries], check=True)
    return target


def environment() -> dict[str, str]:
    """Of a python that can load the libraries: the runtimes go before everything else."""
    runtimes = [
        subprocess.run([compiler(), f"-print-file-name={name}.so"], capture_output=True, text=True, check=True)
        for name in ("libasan", "libubsan")
    ]
    return {
        **os.environ,
        "OMP_WAIT_POLICY": "passive",  # two processes share the cores
        "LD_PRELOAD": " ".join(found.stdout.strip() for found in runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` under the sanitizers; its output is kept."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment(), cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def self_test(folder: Path) -> None:
    """Exit unless both sanitizers report a fault made on purpose."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "faults.cpp"
    source.write_text(FAULT)
    library = build([source], folder / "faults.so")
    for fault, words in (
        ("past_the_end(torch.ones(5))", "heap-buffer-overflow"),
        ("overflow(2**62)", "signed integer overflow"),
    ):
        code = f"import torch; torch.ops.load_library({str(library)!r}); torch.ops.lkca_faults.{fault}"
        told = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
        if told.returncode == 0 or words not in told.stderr:
            sys.exit(f"sanitize: a fault made on purpose ({fault}) was not reported:\n{told.stderr[-2000:]}")
        print(f"sanitize: {fault} is reported: {words}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "sanitize")
    parser.add_argument("--self-test", action="store_true")
    options, pytest_arguments = parser.parse_known_args()
    if options.self_test:
        self_test(options.build / "faults")
    library = build([CSRC / "registration_cpu.cpp", *(CSRC / "cpu").glob("*.cpp")], options.build / "_C_cpu.so")
    code = (
        "import sys, pathlib, pytest; from lkca_kernels import native; native._FOLDER = pathlib.Path(sys.argv[1])\n"
        "reason = native.load('cpu'); assert reason is None, reason\n"
        "sys.exit(pytest.main(sys.argv[2:]))"
    )
    always = ["-q", "-x", "-p", "no:cacheprovider", "-k", DESELECT]
    groups = [[f"tests/lkca_kernels/test_{name}" for name in names] + always for names in FILES]
    if pytest_arguments:
        groups = [pytest_arguments]
    failed = 0
    with ThreadPoolExecutor() as pool:
        for run in pool.map(lambda chosen: python(code, str(library.parent), *chosen), groups):
            print(run.stdout, flush=True)
            failed = failed or run.returncode
    sys.exit(failed)


if __name__ == "__main__":
    main()
