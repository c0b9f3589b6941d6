"""The ``lkca`` command. Only this package prints; what it calls returns values or raises ``LkcaError``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 2 wrong use or bad input, 1 failure."""
    from lkca.cli.app import app

    app(args=None if args is None else list(args), prog_name="lkca")
