"""Waiting threads must not starve the one that they wait for: the command says so before torch is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

SHOW = (
    "import os, sys; from lkca.cli import main\n"
    "try: main(['--version'])\n"
    "except SystemExit: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
)


@pytest.mark.parametrize(("given", "used"), [(None, "passive"), ("active", "active")])
def test_wait_policy(monkeypatch: pytest.MonkeyPatch, given: str | None, used: str) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    shown = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == f"{used} False"
