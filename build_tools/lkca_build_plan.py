"""Decides which extensions are built, and says why one is not.

Kept apart from setup.py so that tests can ask it about machines that are not at hand.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = [
    "DEFAULT_CUDA_ARCHS",
    "TORCH_TARGET",
    "BuildError",
    "Decision",
    "compiler_obstacle",
    "cuda_arch_list",
    "cuda_home",
    "decide_cpu",
    "decide_cuda",
    "demand_setuptools",
    "expose_torch",
    "find_compiler",
    "find_nvcc",
    "nvcc_release",
    "switch",
    "torch_requirement",
]

DEFAULT_CUDA_ARCHS = "8.0;9.0;10.0+PTX"
TORCH_TARGET = "0x020b000000000000"  # the stable ABI of torch 2.11: one binary serves every later release

_NO_COMPILER = "no C++ compiler was found (set CXX, or install g++ 11 or newer)"

# What every extension needs; compiled before any is, since a failed build would fail the whole installation.
_PROBE = """
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 11
#error g++ 11 or newer is needed
#endif
#include <Python.h>
#include <span>
int first(std::span<const int> values) { return values[0]; }
"""


class BuildError(RuntimeError):
    """An extension was demanded (LKCA_BUILD_*=1) and cannot be built here."""


@dataclass(frozen=True)
class Decision:
    """Whether one extension is built; ``reason`` is a sentence for the user when it is not."""

    build: bool
    reason: str


def switch(name: str) -> str:
    """Value of ``LKCA_BUILD_CPU`` or ``LKCA_BUILD_CUDA``: "auto", "0" or "1"; empty means "auto"."""
    value = os.environ.get(name, "").strip() or "auto"
    if value not in ("auto", "0", "1"):
        raise BuildError(f"{name}={value!r}: expected auto, 0 or 1")
    return value


def _required(table: str, key: str, package: str) -> str:
    """What pyproject.toml asks for of a package: ``torch>=…,<…``."""
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    requirements: list[str] = project[table][key]
    return next(text for text in requirements if re.match(rf"{package}\b", text))


def torch_requirement() -> str:
    """The torch that pyproject.toml asks for: ``torch>=…,<…``."""
    return _required("project", "dependencies", "torch")


def demand_setuptools() -> None:
    """Ends the build with a sentence where setuptools is absent or too old to read pyproject.toml.

    Only a build without isolation gets here so: Python 3.11 puts setuptools 65 into each venv, Python 3.12 none.
    """
    wanted = _required("build-system", "requires", "setuptools")
    try:
        found = version("setuptools")
    except PackageNotFoundError:
        found = "none"
    if found == "none" or int(found.split(".")[0]) < int(wanted.split(">=")[1]):
        raise SystemExit(
            f"lkca: the build needs {wanted}, here is {found}: pip install --upgrade '{wanted}' wheel ninja "
            "pybind11, or leave out --no-build-isolation"
        )


def expose_torch() -> bool:
    """True when ``import torch`` will work; extends sys.path by the install target's site-packages where need be.

    An isolated build by pip runs the target's interpreter with its site-packages hidden; ``sysconfig`` still names
    them. They go to the end of sys.path, so that the isolated setuptools stays the one in use.
    """
    if importlib.util.find_spec("torch") is not None:
        return True
    for key in ("purelib", "platlib"):
        site = sysconfig.get_path(key)
        if site and site not in sys.path and (Path(site) / "torch" / "include").is_dir():
            sys.path.append(site)
            importlib.invalidate_caches()
            return importlib.util.find_spec("torch") is not None
    return False


def find_compiler() -> list[str] | None:
    """The C++ compiler, with its flags (``CXX``, else c++/g++/clang++), or None.

    Without ccache and sccache, which torch's build puts before it by itself.
    """
    words = shlex.split(os.environ.get("CXX", ""))
    named = [word for word in words if Path(word).name not in ("ccache", "sccache")]
    candidates = [named] if named else [["c++"], ["g++"], ["clang++"]]
    return next((command for command in candidates if shutil.which(command[0])), None)


def compiler_obstacle() -> str | None:
    """Why nothing can be compiled here: no compiler, or one that fails at C++20 or finds no Python.h; else None."""
    compiler = find_compiler()
    if compiler is None:
        return _NO_COMPILER
    include = sysconfig.get_path("include")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(_PROBE, encoding="utf-8")
        command = [*compiler, "-std=c++20", f"-I{include}", "-c", str(source), "-o", str(source.with_suffix(".o"))]
        english = {**os.environ, "LC_ALL": "C"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, env=english)
        except (OSError, subprocess.SubprocessError) as error:
            return f"{shlex.join(compiler)} could not be run ({error})"
    if done.returncode == 0:
        return None
    said = next((line.split("error: ", 1)[1] for line in done.stderr.splitlines() if "error: " in line), "")
    if "Python.h" in said:
        return f"Python.h is not in {include} (install your Python's headers, such as python3-dev)"
    said = said or f"exit code {done.returncode}"
    return f"{shlex.join(compiler)} cannot compile C++20 ({said}); install g++ 11 or newer"


def find_nvcc() -> str | None:
    """nvcc of ``CUDA_HOME``/``CUDA_PATH``, else on PATH, else under /usr/local/cuda; None where there is none."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        if home and (nvcc := Path(home) / "bin" / "nvcc").is_file():
            return str(nvcc)
    default = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(default) if default.is_file() else None)


def nvcc_release(nvcc: str) -> str | None:
    """Release that ``nvcc --version`` names, e.g. 13.0; None where it cannot be run."""
    try:
        out = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"release (\d+\.\d+)", out)
    return found.group(1) if found else None


def cuda_home(nvcc: str) -> str:
    """The toolkit's folder. nvcc may be a link or a script far away from it; its dry run tells where it works."""
    home = Path(nvcc).resolve().parent.parent
    if (home / "include" / "cuda_runtime.h").is_file():
        return str(home)
    dry_run = [nvcc, "--dryrun", "-x", "cu", os.devnull, "-o", os.devnull]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(dry_run, capture_output=True, text=True, timeout=60)
        if found := re.search(r"^#\$ TOP=(.+)$", told.stderr + told.stdout, re.MULTILINE):
            return str(Path(found.group(1).strip()).resolve())
    return str(home)


def _decide(name: str, obstacle: str | None) -> Decision:
    wanted = switch(name)
    if wanted == "0":
        return Decision(False, f"{name}=0")
    if obstacle is None:
        return Decision(True, "built")
    if wanted == "1":
        raise BuildError(f"{name}=1, but {obstacle}")
    return Decision(False, obstacle)


def decide_cpu(*, torch_found: bool, no_compiler: str | None) -> Decision:
    """Whether the C++ CPU extension is built; ``no_compiler`` is what ``compiler_obstacle`` says."""
    obstacle = no_compiler
    if not torch_found:
        obstacle = "torch is not importable in the build environment (install torch first, then lkca)"
    return _decide("LKCA_BUILD_CPU", obstacle)


def decide_cuda(*, torch_cuda: str | None, no_compiler: str | None, nvcc: str | None, release: str | None) -> Decision:
    """Whether the CUDA extension is built; ``torch_cuda`` is ``torch.version.cuda``, ``release`` that of nvcc,
    ``no_compiler`` what ``compiler_obstacle`` says."""
    obstacle = None
    if torch_cuda is None:
        obstacle = "the torch found at build time is a CPU build (torch.version.cuda is None)"
    elif no_compiler is not None:
        obstacle = no_compiler
    elif nvcc is None:
        obstacle = "nvcc was not found (set CUDA_HOME to a CUDA toolkit)"
    elif release is None:
        obstacle = f"{nvcc} --version could not be run"
    elif release.split(".")[0] != torch_cuda.split(".")[0]:
        obstacle = f"nvcc is CUDA {release} but torch was built with CUDA {torch_cuda}; their major versions must agree"
    return _decide("LKCA_BUILD_CUDA", obstacle)


def cuda_arch_list(value: str | None, *, visible_devices: int) -> str:
    """The ``TORCH_CUDA_ARCH_LIST`` to build with.

    torch turns an empty list, one of separators only, and "native" on a machine without a card into an IndexError;
    all three mean the default here. Anything else is torch's own matter.
    """
    words = [word for word in re.split(r"[;,\s]+", value or "") if word]
    if not words or (words == ["native"] and visible_devices == 0):
        return DEFAULT_CUDA_ARCHS
    return ";".join(words)
