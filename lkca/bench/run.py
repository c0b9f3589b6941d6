"""Runs the cases: every contender is compared with eager PyTorch first, then they are timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lkca.bench.baselines import compiled, onnx_call
from lkca.bench.cases import Case
from lkca.bench.limits import least_seconds, probes
from lkca.errors import InputError, LkcaError
from lkca_kernels import use_backend

__all__ = ["CaseResult", "Clock", "Measurement", "measure_limits", "run_case"]

_ROUNDS = (3, 15)  # at least, at most
_SECONDS = 5.0  # after which no further round of a case begins
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}  # of the result's largest value
_BASELINES = ("eager", "torch.compile", "ONNX Runtime")


class Clock:
    """The time that a whole benchmark may take: when it is over, nothing that takes long is begun."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._begin = time.perf_counter()

    @property
    def spent(self) -> float:
        return time.perf_counter() - self._begin

    @property
    def over(self) -> bool:
        return self.spent > self.seconds


@dataclass(frozen=True)
class Measurement:
    """median, least: seconds of one call. error: largest difference from eager / eager's largest absolute value."""

    contender: str
    median: float
    least: float
    rounds: int
    error: float


@dataclass(frozen=True)
class CaseResult:
    """limit: the least seconds that this machine could need, None where unknown. left_out: contender -> why."""

    name: str
    limit: float | None
    measurements: tuple[Measurement, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> Measurement:
        """The fastest of lkca's backends."""
        own = [m for m in self.measurements if m.contender.startswith("lkca")]
        return min(own or self.measurements, key=lambda m: m.median)


def measure_limits(dtype: torch.dtype, nbytes: int) -> dict[str, dict[str, Any]]:
    """The probes of :func:`lkca.bench.probes` for outputs of ``nbytes``: median seconds of 5 calls, after 2."""
    found = {}
    dtypes = dict.fromkeys([dtype, torch.float32])  # in which 16-bit floats may be computed
    for name, call, facts in probes(dtypes, [max(0.1, round(nbytes / 1e6, 1))]):
        times = [_timed(call) for _ in range(7)]
        found[name] = {**facts, "median": statistics.median(times[2:])}
    return found


@torch.inference_mode()
def run_case(case: Case, limits: dict[str, dict[str, Any]], clock: Clock) -> CaseResult:
    """Time every contender of a case that can run here and agrees with eager.

    The contenders take turns, so that what else the machine does meets all of them alike. Raises LkcaError where one of
    lkca's own backends disagrees.
    """
    left_out = dict(case.left_out)
    calls: dict[str, Callable[[], Any]] = {}
    errors: dict[str, float] = {}
    expected = _under("reference", case.eager, case.tensors)()
    tolerance = _TOLERANCE[expected.dtype]
    for name in (*(f"lkca {backend}" for backend in case.backends), *_BASELINES):
        if clock.over and name in _BASELINES[1:]:
            left_out[name] = f"the {clock.seconds:g} s were over; --seconds gives more"
            continue
        try:
            call = _prepare(name, case)
            error = _difference(call(), expected)
        except InputError as missing:
            left_out[name] = str(missing)
            continue
        except Exception as failed:
            if name.startswith("lkca"):
                raise
            left_out[name] = f"{type(failed).__name__}: {(str(failed).splitlines() or [''])[0]}"
            continue
        if not error <= tolerance:
            if name.startswith("lkca"):
                raise LkcaError(f"{name} differs from eager by {error:.1e} of the largest value; 'lkca doctor' helps")
            left_out[name] = f"its result differs by {error:.1e} of the largest value"
            continue
        calls[name], errors[name] = call, error
    del expected
    times = _in_turns(calls)
    measurements = tuple(
        Measurement(name, statistics.median(spent), min(spent), len(spent), errors[name])
        for name, spent in times.items()
    )
    return CaseResult(case.name, least_seconds(case.facts, limits), measurements, left_out)


def _prepare(name: str, case: Case) -> Callable[[], Any]:
    if name.startswith("lkca "):
        return _under(name.removeprefix("lkca "), case.ours, case.tensors)
    if name == "torch.compile":
        return _under("reference", compiled(case.eager), case.tensors)
    if name == "ONNX Runtime":
        if case.tensors[0].dtype != torch.float32:
            raise InputError("its CPU provider convolves in float32 only")
        with use_backend("reference"):
            return onnx_call(case.eager, case.tensors, torch.get_num_threads())
    return _under("reference", case.eager, case.tensors)


def _under(backend: str, function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with use_backend(backend):
            return function(*tensors)

    return call


def _difference(found: Any, expected: Tensor) -> float:
    if not isinstance(found, Tensor):
        found = torch.from_numpy(found[0].numpy())
    if found.shape != expected.shape:
        return float("inf")
    largest = float(expected.abs().max())
    return float((found.float() - expected.float()).abs().max()) / largest


def _in_turns(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds per call; one untimed round first."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    begin = time.perf_counter()
    least, most = _ROUNDS
    for number in range(most):
        if number >= least and time.perf_counter() - begin > _SECONDS:
            break
        for name, call in calls.items():
            times[name].append(_timed(call))
    return times


def _timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    result = call()
    spent = time.perf_counter() - begin
    del result  # freed outside the measurement
    return spent
