"""A fixed share of the byte-mutation fuzzing (mutate.py); ``make fuzz`` goes on with seeds of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MUTATE = Path(__file__).with_name("mutate.py")


def _fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(MUTATE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, env=environment)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory by RLIMIT_AS")
def test_readers_refuse_spoiled_files_with_a_sentence() -> None:
    done = _fuzz("--cases", "50")
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    assert done.stdout.count("50 cases from seed 0, nothing found") >= 18


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise KeyError('leak')", "KeyError: 'leak'"),
        ("bytearray(2 << 30)", "MemoryError"),
        ("__import__('ctypes').string_at(0)", "Segmentation fault"),
    ],
)
def test_the_harness_finds_faults(fault: str, words: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(MUTATE.parent)!r}); sys.argv = ['mutate.py', '--target', 'npy']\n"
        "import dataclasses, mutate\n"
        "def read(folder, played=[]):\n"
        "    played.append(1)\n"
        f"    if len(played) > 3: {fault}\n"
        "mutate.EVERY['npy'] = dataclasses.replace(mutate.EVERY['npy'], read=read)\n"
        "mutate.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode != 0 and words in done.stdout + done.stderr and "npy 2" in done.stdout
