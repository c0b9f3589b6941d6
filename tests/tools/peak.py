"""How much memory a test's process has taken, for scripts that tests start (this folder on their PYTHONPATH)."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Highest resident size of this process.

    Not getrusage: its maximum is inherited from the process that started this one, here a pytest of any size.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10
