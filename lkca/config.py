"""Configuration files: YAML read safely, checked by pydantic, refused with a sentence that names the key.

The keys that set a dataclass (a recipe, a network's sizes) are its own: :func:`knob` and :func:`record_of`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import operator
import types
import typing
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from lkca.errors import InputError

__all__ = ["StrictModel", "check_knobs", "knob", "read_yaml", "record_of", "validated"]

_MAX_BYTES = 1 << 20  # no honest configuration is larger; refuse before parsing

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """A record whose unknown keys are errors and whose numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def knob(default: Any, description: str, **bounds: float) -> Any:
    """A dataclass's field: what it means, and between what it may be set (``ge``, ``gt``, ``le``, ``lt``).

    Files are held to it; what Python sets only where the dataclass calls :func:`check_knobs`. default:
    ``dataclasses.MISSING`` where a value must be given.
    """
    return dataclasses.field(default=default, metadata={"description": description, **bounds})


_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("of at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}


def check_knobs(record: Any) -> None:
    """ValueError unless the numbers, choices and switches of a dataclass made of :func:`knob` are such, within bounds.

    Fields of other types are left to the dataclass.
    """
    hints = typing.get_type_hints(type(record))
    for item in dataclasses.fields(record):
        value, hint = getattr(record, item.name), hints[item.name]
        if typing.get_origin(hint) is typing.Literal:
            fits, expected = value in typing.get_args(hint), f"one of {', '.join(typing.get_args(hint))}"
        elif hint is bool:
            fits, expected = isinstance(value, bool), "True or False"
        elif hint in (int, float):
            kind = numbers.Integral if hint is int else numbers.Real
            bounds = [(*_BOUNDS[name], item.metadata[name]) for name in _BOUNDS if name in item.metadata]
            fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
            fits = fits and all(holds(value, bound) for _, holds, bound in bounds)
            limits = ", ".join(f"{words} {bound}" for words, _, bound in bounds)
            expected = f"{'an integer' if hint is int else 'a number'} {limits}".rstrip()
        else:
            continue
        if not fits:
            raise ValueError(f"{item.name}: expected {expected}, got {value!r}")


def record_of(kind: type, name: str, *, without: Container[str] = (), unset: bool = False) -> Any:
    """The record of that name with the keys of the dataclass ``kind``, made of :func:`knob`; ``without`` leaves out.

    unset: every key may be null, and is by default.
    """
    hints = typing.get_type_hints(kind)
    keys: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        if item.name not in without:
            hint, default = (hints[item.name] | None, None) if unset else (hints[item.name], item.default)
            keys[item.name] = (hint, Field(default=... if default is dataclasses.MISSING else default, **item.metadata))
    return create_model(name, __base__=StrictModel, **keys)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which PyYAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, kind: type[Model]) -> Model:
    """Reads a YAML file into ``kind``; InputError names the file, the key and what was expected."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: the configuration cannot be read ({error.strerror}); check the path") from error
    if len(text) > _MAX_BYTES:
        raise InputError(f"{path}: is larger than 1 MiB, which no configuration is; check the path")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise InputError(f"{path}: is not plain YAML{where} ({problem}); see 'lkca schema' for the keys") from error
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}; expected 'key: value' lines, see 'lkca schema'")
    return validated(kind, value, str(path))


def validated(kind: type[Model], value: Any, source: str) -> Model:
    """``value`` (a mapping, or JSON as bytes) as ``kind``; InputError with one sentence where it does not fit."""
    try:
        if isinstance(value, bytes):
            return kind.model_validate_json(value)
        return kind.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{source}: {_sentence(error, kind)}") from error


def _sentence(error: ValidationError, kind: type[BaseModel]) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = sorted(_fields_at(kind, first["loc"][:-1]))
        key = str(first["loc"][-1])
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        text = f"unknown key '{where}'; {hint}"
    elif first["type"] == "missing":
        text = f"the key '{where}' is missing; add it"
    elif first["type"] == "json_invalid":
        text = f"is not valid JSON ({first['msg'].removeprefix('Invalid JSON: ')}); the file is damaged"
    elif first["type"] == "value_error" and isinstance(first["input"], dict):  # of a record: its sentence says which
        text = first["msg"].removeprefix("Value error, ")
    elif not where:
        text = f"holds a {type(first['input']).__name__}; expected a record of keys and values"
    else:
        found = repr(first["input"])
        found = found if len(found) <= 60 else found[:57] + "..."
        message = first["msg"][0].lower() + first["msg"][1:]
        text = f"'{where}' is {found}; {message.replace('input should', 'it should').replace('value error, ', '')}"
    more = len(problems) - 1
    return text + (f" (and {more} more problem{'s'[: more != 1]})" if more else "")


def _fields_at(kind: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the record that stands at ``loc`` inside ``kind``."""
    current: Any = kind
    for part in loc:
        current = _record_in(current.model_fields[part].annotation) if isinstance(part, str) else current
    return list(current.model_fields)


def _record_in(annotation: Any) -> Any:
    """The pydantic class inside ``X``, ``X | None``, ``list[X]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation
    for inner in typing.get_args(annotation):
        found = _record_in(inner)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return annotation
