"""The ``lkca`` command. Only this package prints; what it calls returns values or raises ``LkcaError``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 2 wrong use or bad input, 1 failure."""
    # Torch's OpenMP threads spin at every barrier; on a machine with other work to do, a spinning thread keeps the one
    # that it waits for from running, and a fit makes a tenth of its steps. It must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that its encoding lacks must not fail a finished command
        sys.stdout.reconfigure(errors="backslashreplace")
    from lkca.cli.app import app

    app(args=None if args is None else list(args), prog_name="lkca")
