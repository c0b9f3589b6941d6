"""What the user did wrong, told in one sentence: what, where, expected, remedy."""

from __future__ import annotations

__all__ = ["InputError", "LkcaError", "OutputError"]

_LONGEST = 900  # characters of a sentence


class LkcaError(Exception):
    """Base of every error that lkca raises on purpose; the command line prints its message without a traceback."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        # A file names its own parts as it likes: with commands to the terminal, by the page.
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        super().__init__(shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 300]} … {shown[-300:]}")


class InputError(LkcaError):
    """Bad input or wrong use (exit code 2): a file, option, model or configuration that cannot be used as given."""

    exit_code = 2


class OutputError(LkcaError):
    """The result could not be written (exit code 1); nothing stands under the final name."""
