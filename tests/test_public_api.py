"""The public API is what tests/public_api.txt says: no name or parameter comes, goes or changes unannounced.

After a change that is meant: ``python -P tests/test_public_api.py``, a line in CHANGELOG.md, and the rules of
docs/stability.md.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = (
    "lkca", "lkca.data", "lkca.errors", "lkca.export", "lkca.inference", "lkca.losses", "lkca.lowrank", "lkca.metrics",
    "lkca.models", "lkca.nn", "lkca.training", "lkca_kernels",
)  # fmt: skip
SNAPSHOT = Path(__file__).with_name("public_api.txt")


def _signature(function: Any) -> str:
    try:
        text = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(function)))
    except (TypeError, ValueError):
        return "(...)"
    return re.sub(r"(?<=[:>] )'([^']*)'", r"\1", text)  # annotations are strings: without their quotes


def _class(name: str, kind: type) -> Iterator[str]:
    fields = getattr(kind, "model_fields", None)
    if fields is not None:  # pydantic makes signatures of its own, which change with its release
        yield f"class {name}({', '.join(fields)})"
    else:
        yield f"class {name}" + ("" if issubclass(kind, BaseException) else _signature(kind))
    for member, value in sorted(vars(kind).items()):
        if member.startswith("_") or (fields is not None and member in ("model_config", "model_fields")):
            continue
        value = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if isinstance(value, types.FunctionType):
            yield f"  {member}{_signature(value)}"
        elif isinstance(value, property):
            yield f"  {member} (property)"


def described() -> list[str]:
    """One line for each public function, class, method and constant."""
    lines: list[str] = []
    seen: dict[Any, str] = {}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        lines.append(f"# {module_name}")
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if callable(value) and value in seen:
                lines.append(f"{name}: {seen[value]}")
                continue
            if callable(value):
                seen[value] = f"{module_name}.{name}"
            if isinstance(value, type):
                lines += _class(name, value)
            elif isinstance(value, types.FunctionType):
                lines.append(f"{name}{_signature(value)}")
            else:
                lines.append(f"{name}: {value if typing.get_origin(value) else type(value).__name__}")
    return lines


def test_nothing_changes_unannounced() -> None:
    written, now = SNAPSHOT.read_text().splitlines(), described()
    gone = [line for line in written if line not in now]
    come = [line for line in now if line not in written]
    assert now == written, f"no longer there: {gone}; new: {come}. If meant: python -P tests/test_public_api.py"


def test_every_public_module_lists_its_names() -> None:
    """Each module without a leading underscore in its name, and each package that holds code, has ``__all__``."""
    root = SNAPSHOT.parents[1]
    for package in ("lkca", "lkca_kernels"):
        for path in (root / package).rglob("*.py"):
            text = path.read_text()
            code = [
                n for n in ast.parse(text).body if not isinstance(n, ast.Expr) and "__future__" not in ast.unparse(n)
            ]
            if code and (not path.name.startswith("_") or path.name == "__init__.py"):
                assert "__all__" in text, f"{path.relative_to(root)} has no __all__"


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(described()) + "\n")
