"""sdist → wheel → another environment: what a user's `pip install` leads to, with and without a compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The unpacked sdist, so that a file missing from it fails the build below."""
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT)
    (archive,) = out.glob("*.tar.gz")
    shutil.unpack_archive(archive, out)
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return folder


def test_the_sdist_holds_what_builds_and_what_credits_and_no_stray_test(sdist):
    """setuptools adds tests/test*.py by itself: one test without the files that it compares with."""
    assert {path.name for path in sdist.iterdir() if not path.name.endswith(".egg-info")} == {
        *("lkca", "lkca_kernels", "csrc", "build_tools", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in"),
        *("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "PKG-INFO"),
    }


def test_the_citation_is_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version


def wheel_of(source: Path, out: Path, env: dict[str, str]) -> tuple[Path, str]:
    log = run(
        *(sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", out, source), env=env
    )
    (wheel,) = out.glob("*.whl")
    return wheel, log


def environment_with(wheel: Path, folder: Path) -> Path:
    """Python of a new venv that holds the wheel; its dependencies are borrowed from the running environment."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_the_packages_and_nothing_else(sdist, tmp_path):
    left = sdist / "build" / "lib" / "lkca" / "gone.py"  # by an earlier version: setuptools packs all that lies there
    left.parent.mkdir(parents=True)
    left.touch()
    wheel, log = wheel_of(sdist, tmp_path, {"LKCA_BUILD_CPU": "0", "LKCA_BUILD_CUDA": "0"})
    assert wheel.name.endswith("py3-none-any.whl")
    assert "the C++ CPU extension is not built: LKCA_BUILD_CPU=0" in log
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "lkca",
        "lkca_kernels",
        wheel.name.split("-py3")[0] + ".dist-info",
    }
    assert not [name for name in names if name.endswith((".cpp", ".cu", ".so", ".npz", ".pyc"))]
    for package in ("lkca", "lkca_kernels"):
        shipped = {name for name in names if name.startswith(package + "/")}
        expected = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.is_file() and path.suffix not in {".pyc", ".so"} and path.name != "_build.json"
        }
        assert shipped - {"lkca_kernels/_build.json"} == expected  # data too: weights, py.typed
    (licence,) = (name for name in names if name.endswith("dist-info/licenses/LICENSE"))
    assert zipfile.ZipFile(wheel).read(licence) == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("options", [["--build-lib", ".."], ["--build-base", ".."]], ids=str)
def test_a_build_deletes_nothing_outside_its_build_folder(sdist, tmp_path, options):
    """What an earlier build left behind is deleted, but not a clone of lkca that lies where a build is sent."""
    source = tmp_path / "source"
    shutil.copytree(sdist, source)
    others = [tmp_path / folder / "lkca" / "mine.py" for folder in (".", "lib")]
    for path in others:
        path.parent.mkdir(parents=True)
        path.touch()
    nothing = {"LKCA_BUILD_CPU": "0", "LKCA_BUILD_CUDA": "0"}
    run(sys.executable, "setup.py", "build", *options, env=nothing, cwd=source)
    assert all(path.exists() for path in others)
    assert (tmp_path / ("lib" if "--build-base" in options else ".") / "lkca_kernels" / "_build.json").exists()


@pytest.mark.parametrize(
    ("cxx", "program", "flags"),
    [
        ("", "g++", []),
        ("", "clang++", []),
        ("ccache g++", "g++", []),
        ("/usr/bin/sccache g++", "g++", []),
        ("g++ -m64", "g++", ["-m64"]),
    ],
)
def test_the_compiler_that_was_probed_is_the_one_that_compiles_and_links(cxx, program, flags, tmp_path):
    """torch's build knows c++ only, where CXX is unset, and takes a CXX of several words for one program's name."""
    compiler = tmp_path / program
    compiler.write_text("#!/bin/sh\nexit 0\n")
    compiler.chmod(0o755)
    code = (
        "import json, os, runpy, setuptools;"
        "told = lambda **k: [[e.name, e.extra_compile_args, e.extra_link_args] for e in k['ext_modules']];"
        "setuptools.setup = lambda **k: print(json.dumps([os.environ['CXX'], told(**k)]));"
        "runpy.run_path('setup.py')"
    )
    asked = {"PATH": str(tmp_path), "CXX": cxx, "LKCA_BUILD_CUDA": "0"}
    name, extensions = json.loads(run(sys.executable, "-c", code, env=asked, cwd=ROOT).splitlines()[0])
    assert name == program and {extension[0] for extension in extensions} == {
        "lkca_kernels._C_cpu",
        "lkca_kernels._build_info",
    }
    for _, compiling, linking in extensions:
        words = compiling["cxx"] if isinstance(compiling, dict) else compiling
        assert [word for word in words if word == "-m64"] == flags
        assert [word for word in linking if word == "-m64"] == flags


CLANG = next((name for name in ("clang++", "clang++-14") if shutil.which(name)), None)


@pytest.mark.skipif(CLANG is None, reason="no clang++ on this machine")
@pytest.mark.parametrize("source", sorted((ROOT / "csrc" / "cpu").glob("*.cpp")), ids=lambda path: path.stem)
def test_clang_takes_the_sources_too(source):
    """The probe of setup.py lets it through: what it refuses would fail the whole installation."""
    include = Path(torch.__file__).parent / "include"
    run(
        *(CLANG, "-std=c++20", "-fsyntax-only"),
        *(f"-I{ROOT / 'csrc'}", f"-I{include}", f"-I{include}/torch/csrc/api/include", source),
    )


@pytest.mark.parametrize("found", ["none", "65.5.0"])
def test_a_build_by_an_old_setuptools_ends_with_a_sentence(found, tmp_path):
    """Python 3.11 puts setuptools 65 into each venv, which knows no licence expressions; Python 3.12 puts none."""
    if found != "none":
        metadata = tmp_path / f"setuptools-{found}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: setuptools\nVersion: {found}\n")
    code = f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [{str(tmp_path)!r}]"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import lkca_build_backend"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "build_tools")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"lkca: the build needs setuptools>=77, here is {found}: pip install")
    assert "Traceback" not in done.stderr


def audit_native(wheel: Path, folder: Path) -> None:
    """The tag is that of the contents; libraries ask for torch and the C++ runtime only, from nowhere in particular."""
    _, _, python_tag, abi_tag, platform_tag = wheel.stem.split("-")
    unpacked = folder / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    libraries = {path.name: path for path in unpacked.rglob("*.so")}
    assert {"_C_cpu.abi3.so"} < set(libraries) and len(libraries) == 2  # and _build_info, of this Python alone
    this = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert (python_tag, abi_tag) == (this, this)
    assert platform_tag == sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert all(path.stat().st_size < 8 << 20 for path in libraries.values()), "holds debug information?"
    if shutil.which("readelf") is None:
        return
    allowed = {"libc10", "libtorch", "libtorch_cpu", "libstdc++", "libm", "libgcc_s", "libc", "ld-linux-x86-64"}
    for path in libraries.values():
        dynamic = run("readelf", "--dynamic", "--wide", path)
        assert {name.split(".so")[0] for name in re.findall(r"NEEDED.*\[(.+)\]", dynamic)} <= allowed, path.name
        assert "RPATH" not in dynamic and "RUNPATH" not in dynamic, path.name
    symbols = run("readelf", "--dyn-syms", "--wide", libraries["_C_cpu.abi3.so"])
    asked = set(re.findall(r" UND (_?Py\w*)", symbols))
    assert not asked, f"more than abi3 needs: operators go through the dispatcher, without Python ({asked})"


@pytest.mark.parametrize("cxx", ["", "no-such-compiler", "false"], ids=["compiler", "no-compiler", "broken-compiler"])
def test_a_wheel_from_the_sdist_serves_in_a_clean_environment(sdist, tmp_path, cxx):
    """With a compiler the C++ backend serves; without one the import works and doctor tells why it does not."""
    compiler = not cxx
    if compiler and shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler on this machine")
    wheel, _ = wheel_of(sdist, tmp_path / "wheel", {"CXX": cxx} if cxx else {})
    if compiler and sys.platform == "linux":
        audit_native(wheel, tmp_path)
    python = environment_with(wheel, tmp_path / "venv")
    code = (
        "import json, torch, lkca, lkca_kernels as k;"
        "out = k.lowrank_pixel_shuffle(torch.ones(1, 2, 3, 3), torch.ones(8, 2), upscale_factor=2);"
        "assert out.shape == (1, 2, 6, 6) and bool((out == 2).all());"
        "print(json.dumps({'file': lkca.__file__, 'backends': list(k.available_backends())}))"
    )
    told = json.loads(run(python, "-c", code, cwd=tmp_path).splitlines()[-1])
    assert Path(told["file"]).is_relative_to(tmp_path / "venv")
    assert ("cpu" in told["backends"]) is compiler
    doctor = run(python, "-m", "lkca", "doctor", "--json", cwd=tmp_path)
    why = {"no-such-compiler": "no C++ compiler was found", "false": "cannot compile C++20"}
    assert [word in doctor for word in why.values()] == [cxx == name for name in why]
