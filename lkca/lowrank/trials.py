"""A model is run with what replaces its layers, and the outputs of the runs are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lkca.lowrank.dataflow import copied
from lkca.lowrank.layers import LowRankError
from lkca.nn.mode import evaluating

__all__ = ["ROUGHLY", "STILL_CALLED", "StillCalled", "agree", "differing", "output", "same_draws"]

STILL_CALLED = "the model calls it by a reference of its own (in a list, a closure), where no other can take its place"

# Of the outputs' largest value: rounding of two orders of summation, far below what a wrong graph does.
_AGREEMENT = 1e-3
ROUGHLY = 0.05  # where 16 bits play a part
_FLIPPED = 0.01


class StillCalled(LowRankError):
    """A model calls a module that was replaced."""


def output(
    model: nn.Module,
    example: tuple[Any, ...] | None,
    call: Callable[..., Any] | None = None,
    *,
    replaced: Iterable[nn.Module] = (),
) -> Any:
    """``model(*example)`` (or ``call``, which runs it) in eval mode, or what it raises; None without an example.

    It raises :class:`StillCalled` where it calls a module of ``replaced``, which are its submodules no more.
    """
    if example is None:
        return None
    with evaluating(model), same_draws(model), _refusing(replaced):
        try:
            return (call or model)(*copied(example))
        except Exception as error:  # a foreign model that met a shape it did not expect
            return error


@contextmanager
def _refusing(replaced: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the modules refuse to be called. By their forward: hooks are common to them and what replaced them."""

    def forward(*_: object, **__: object) -> None:
        raise StillCalled(STILL_CALLED)

    kept = [(module, vars(module).get("forward")) for module in replaced]
    for module, _ in kept:
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, own in kept:
            del vars(module)["forward"]
            if own is not None:
                vars(module)["forward"] = own


@contextmanager
def same_draws(model: nn.Module) -> Iterator[None]:
    """What ``model`` draws at random inside (a generator's noise) is the same each time, and not missed outside."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cards):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[card.index] for card in cards)):
            generator.manual_seed(0)
        yield


def agree(expected: Any, found: Any) -> bool:
    """Whether nothing of two outputs differs (:func:`differing`)."""
    return not differing(expected, found)


def differing(expected: Any, found: Any, *, least: float = _AGREEMENT) -> set[str]:
    """Where two outputs (tensors, arrays, numbers; sequences, dictionaries or objects of them) differ beyond rounding.

    Places are written as Python would: ``[0].image``, ``""`` for the whole; "raised" where one is an error. least:
    share of the largest value by which float32 may differ; 16 bits may by 0.05 in any case. Of a tensor's integers and
    booleans, which rounding may turn where a value is near a half or a threshold, one in a hundred may.
    """
    if isinstance(expected, Exception) or isinstance(found, Exception):
        return {"raised"}
    result: set[str] = set()
    met: set[tuple[int, int]] = set()  # an object may lead back to itself
    pairs = [("", expected, found)]
    while pairs:
        place, one, other = pairs.pop()
        if one is other or (id(one), id(other)) in met:
            continue
        met.add((id(one), id(other)))
        parts = _parts(one)
        if parts is not None:
            theirs = _parts(other) if type(one) is type(other) or isinstance(one, (list, tuple, dict)) else None
            if theirs is None or parts.keys() != theirs.keys():
                result.add(place)
            else:
                pairs += [(place + name, part, theirs[name]) for name, part in parts.items()]
        elif not _same(one, other, least):
            result.add(place)
    return result


def _parts(value: Any) -> dict[str, Any] | None:
    """What a sequence, dictionary or object consists of, by place within it; None for what is compared as a whole."""
    if isinstance(value, (list, tuple)):
        return {f"[{i}]": part for i, part in enumerate(value)}
    if isinstance(value, dict):
        return {f"[{key!r}]": part for key, part in value.items()}
    if isinstance(value, (Tensor, np.ndarray, int, float, str, nn.Module)):  # a module would lead back to the model
        return None
    state: Any = object.__getstate__(value)  # of a dataclass, say; a pair of dictionaries where it has slots
    dictionaries = state if isinstance(state, tuple) else (state,)
    return {f".{name}": part for held in dictionaries if held for name, part in held.items()} or None


def _same(expected: Any, found: Any, least: float) -> bool:
    if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray) and expected.dtype.kind in "biufc":
        return found.dtype.kind in "biufc" and _close(_tensor(expected), _tensor(found), least)
    if isinstance(expected, Tensor):
        return isinstance(found, Tensor) and _close(expected, found, least)
    if type(expected) is not type(found):
        return False
    if isinstance(expected, float):
        return math.isclose(expected, found, rel_tol=least) or (math.isnan(expected) and math.isnan(found))
    return bool(expected == found) if isinstance(expected, (int, str)) else True


def _tensor(array: np.ndarray) -> Tensor:
    """A copy that PyTorch takes: not reversed or read-only, in this machine's order of bytes, of 64 bits at most."""
    kind, size = array.dtype.kind, min(array.dtype.itemsize, 16 if array.dtype.kind == "c" else 8)
    return torch.from_numpy(np.array(array, dtype=f"={kind}{size}", order="C"))


def _close(expected: Tensor, found: Tensor, least: float) -> bool:
    if expected.shape != found.shape:
        return False
    expected, found = (t if t.layout is torch.strided else t.to_dense() for t in (expected, found))
    if not (expected.is_floating_point() or expected.is_complex()):
        return int((expected != found).sum()) <= _FLIPPED * expected.numel()
    if not expected.numel():
        return True
    equal = (expected == found) | (expected.isnan() & found.isnan())  # infinities and NaN, too
    difference = (expected - found).abs().masked_fill(equal, 0)
    scale = float(expected.abs().masked_fill(~expected.isfinite(), 0).max()) + torch.finfo(torch.float32).tiny
    loose = least if expected.dtype in (torch.float32, torch.float64) else max(least, ROUGHLY)
    return float(difference.max()) <= loose * scale
