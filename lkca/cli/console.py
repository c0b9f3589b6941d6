"""Where the commands print: results on stdout, the rest on stderr; and the command as it was given."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

__all__ = [
    "command_line",
    "complain",
    "note",
    "print_json",
    "print_line",
    "print_table",
    "progress_console",
    "row_progress",
    "training_bar",
]


def command_line() -> str:
    """The command as it was given, for the records of what it makes."""
    return shlex.join(["lkca", *sys.argv[1:]])


def _console(*, stderr: bool) -> Console:
    # Made at each use: a console keeps the stream of its birth, and test runners swap the streams.
    return Console(file=sys.stderr if stderr else sys.stdout, highlight=False, soft_wrap=True)


def progress_console() -> Console:
    """Console on stderr for progress bars."""
    return _console(stderr=True)


@contextmanager
def row_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; yields the function that takes (rows done, rows in all)."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = progress_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def training_bar(console: Console, *fields: str, quiet: bool = False) -> Progress:
    """The bar of what trains: description, share done, time spent, and these fields of its task; none in a log."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in fields),
    )
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


def complain(message: str) -> None:
    """Prints an error as one line on stderr."""
    one_line = " ".join(message.split())
    _console(stderr=True).print(Text.assemble(("error: ", "bold red"), one_line))


def note(message: str) -> None:
    """Prints a remark as one line on stderr."""
    one_line = " ".join(message.split())
    _console(stderr=True).print(Text.assemble(("note: ", "yellow"), one_line))


def print_line(message: str = "") -> None:
    """Prints a line of the result on stdout, never wrapped, never read as markup."""
    _console(stderr=False).print(Text(message))


def print_json(value: Any) -> None:
    """Prints strict JSON on stdout (non-finite numbers become null)."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], *, text_columns: int = 1) -> None:
    """Prints a table on stdout; all but the first ``text_columns`` columns are right-aligned numbers."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(
            column, justify="left" if index < text_columns else "right", no_wrap=index >= text_columns, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = _console(stderr=False)
    console.soft_wrap = False
    console.print(table)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
