"""Which backend serves a call, and why.

**The contract of a backend module** (``lkca_kernels.cpu``, ``lkca_kernels.triton``, ``lkca_kernels.cuda``). It holds
arithmetic and nothing else; schema, checks, fake, autograd, autocast and choice are done before it is called. ::

    unavailable() -> str | None
        None where this machine can run the backend, else the reason, worded to follow "it" ("was not built: …",
        "needs a CUDA device"). Called lazily, its answer kept.
    can_run(op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int) -> str | None
        None where it serves such a call, else the reason. The answer is kept per argument tuple; shapes play no part:
        a backend serves every shape. ``upscale_factor`` is 1 for the channel operators.

    lowrank_pixel_shuffle_fwd(z, weight, bias, gate, skip, *, upscale_factor, skip_bicubic, out=None) -> Tensor
    lowrank_pixel_shuffle_bwd(grad_out, z, weight, bias, gate, skip, *, upscale_factor, skip_bicubic, needs)
        -> tuple of 5: gradients of z, weight, bias, gate, skip
    lowrank_pixel_shuffle_stored_fwd(z, weight, bias, skip, least, gain, *, upscale_factor, skip_bicubic, rows, out)
        -> float32 (2,); out is int16, uint16 or float32, z float32, skip LR or None
    pixel_shuffle_epilogue_fwd(y, gate, skip, *, upscale_factor, skip_bicubic, out=None) -> Tensor
    pixel_shuffle_epilogue_bwd(grad_out, y, gate, skip, *, upscale_factor, skip_bicubic, needs)
        -> tuple of 3: gradients of y, gate, skip
    channel_gate_fwd(x, w1, b1, w2, b2) -> (gate (B, C), mean (B, C))
    channel_gate_bwd(grad_gate, x, mean, w1, b1, w2, b2, *, needs) -> tuple of 5: gradients of x, w1, b1, w2, b2
    channel_attention_fwd(x, w1, b1, w2, b2, residual, *, out=None) -> (output, mean (B, C))
    channel_attention_bwd(grad_out, x, mean, w1, b1, w2, b2, *, needs)
        -> tuple of 5: gradients of x, w1, b1, w2, b2 (that of residual is grad_out, given by the Python layer)
    local_channel_attention_fwd(x, w1, w2, residual, *, window, out=None) -> Tensor
    local_channel_attention_bwd(grad_out, x, w1, w2, *, window, needs)
        -> tuple of 3: gradients of x, w1, w2 (that of residual is grad_out, given by the Python layer)
    large_kernel_branch_fwd(x, depthwise, expand, contract, residual, *, out=None) -> Tensor
    large_kernel_branch_bwd(grad_out, x, depthwise, expand, contract, *, needs)
        -> tuple of 4: gradients of x, depthwise, expand, contract (that of residual is grad_out, as above)

What a backend may rely on: tensors are checked, share one device and one dtype of float16, bfloat16, float32 (or
what ``can_run`` accepts), and none of them is empty. What it must expect: any strides, stride 0 and grad_out included;
any alignment of data_ptr to its dtype; optional tensors None. ``skip`` is HR (B, C, h*s, w*s) or LR (B, C, h, w),
told apart by shape. The gradient of an HR skip is grad_out itself and is never asked for, nor is the skip kept for
backward: there ``skip`` is LR, its gradient the adjoint of the bicubic upsampling, or None. ``mean`` is the average of
x over H and W, in float32 (float64 for float64), so that no backward pass has to read x for it.

What it must return: a fresh tensor per result, or ``out`` itself, fully written. Layouts: the outputs of the
upsampling operators contiguous; those of both channel attentions and of ``large_kernel_branch``, and the gradients of
x, y, z and an LR skip, in the layout of that input by ``lkca_kernels.memory_format.memory_format_of``; everything else
contiguous. Gradients have the dtype and shape of their input; None where ``needs`` is False. ``out``, where given, has
that layout too and overlaps no input.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.autograd.forward_ad as _forward_ad

__all__ = [
    "BACKENDS",
    "ONLY_ON_CPUS",
    "BackendError",
    "Explanation",
    "available_backends",
    "choose",
    "explain_call",
    "function",
    "keep_operators",
    "register_backend",
    "resolve",
    "unavailable",
    "use_backend",
]

BACKENDS = ("reference", "cpu", "triton", "cuda")
ENVIRONMENT_VARIABLE = "LKCA_BACKEND"

# Operators without a GPU kernel of ours, and what a GPU backend answers.
ONLY_ON_CPUS = {
    "large_kernel_branch": "has no kernel of it: PyTorch's own convolutions serve it there",
    "lowrank_pixel_shuffle_stored": "has no kernel of it: a GPU's results are encoded on the CPU",
}

_AUTO: dict[str, tuple[str, ...]] = {"cpu": ("cpu",), "cuda": ("triton", "cuda")}  # then the reference
# Looked up once: per call that would cost as much as the questions.
_functorch_level = torch._C._functorch.maybe_current_level
_tracing_state = torch._C._get_tracing_state

_registered: dict[str, Any] = {}
_override: ContextVar[str | None] = ContextVar("lkca_backend", default=None)
_kept: ContextVar[bool] = ContextVar("lkca_keep_operators", default=False)


class BackendError(ValueError):
    """A backend asked for by name does not exist, or cannot serve the call."""


@dataclass(frozen=True)
class Explanation:
    """Answer of :func:`lkca_kernels.explain`.

    ``chosen`` is the backend that would serve the call, None where the one asked for by name cannot and the call would
    raise; ``reason`` says why; ``refusals`` has a sentence for every backend that cannot or would not serve it.
    """

    op: str
    chosen: str | None
    reason: str
    refusals: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.chosen or 'raises'} ({self.reason})"]
        return "\n".join(lines + [f"  {name}: {why}" for name, why in self.refusals.items()])


@cache
def _module(name: str) -> Any:
    """The backend's module; none imports what may be missing before it is asked."""
    return _registered[name] if name in _registered else importlib.import_module(f"lkca_kernels.{name}")


@cache
def unavailable(name: str) -> str | None:
    """Why the backend cannot run on this machine at all; None where it can."""
    if name == "reference":
        return None
    reason: str | None = _module(name).unavailable()
    return reason


@cache
def _refusal(name: str, op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int) -> str | None:
    if name == "reference":
        return None
    reason = unavailable(name)
    if reason is not None:
        return reason
    refusal: str | None = _module(name).can_run(op, device, dtype, upscale_factor)
    return refusal


@cache
def _automatic(op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int) -> str:
    for name in _AUTO.get(device.type, ()):
        if _refusal(name, op, device, dtype, upscale_factor) is None:
            return name
    return "reference"


@cache
def function(name: str, op: str) -> Callable[..., object]:
    """``<op>`` (with its _fwd or _bwd) of a native backend."""
    found: Callable[..., object] = getattr(_module(name), op)
    return found


def register_backend(name: str, module: Any, *, devices: Sequence[str] = ()) -> None:
    """Add a backend of your own: a module, or an object, with the functions of this module's contract.

    devices: device types ("cpu", "cuda", "xpu", ...) whose calls it serves unasked, before the other backends;
    elsewhere it serves when asked for by name. An operator that it does not have is one that its ``can_run`` refuses.
    Raises ValueError for a name that is taken or no identifier, and TypeError for a name or devices of another type and
    for an object without the functions that every backend has.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {type(name).__name__}")
    if isinstance(devices, str):  # a sequence too, of its letters
        raise TypeError(f"devices: expected a sequence of device types, got {devices!r}; give [{devices!r}]")
    if name in ("auto", *_names()) or not name.isidentifier():
        raise ValueError(f"name: expected an identifier other than auto, {', '.join(_names())}, got {name!r}")
    if missing := [f for f in ("unavailable", "can_run") if not callable(getattr(module, f, None))]:
        raise TypeError(f"module: expected the functions of a backend, {module!r} has no {' and no '.join(missing)}")
    _registered[name] = module
    for device in devices:
        _AUTO[device] = (name, *_AUTO.get(device, ()))
    _automatic.cache_clear()


def _names() -> tuple[str, ...]:
    return (*BACKENDS, *_registered)


def available_backends() -> tuple[str, ...]:
    """Names of the backends that can run on this machine; "reference" is always among them."""
    return tuple(name for name in _names() if unavailable(name) is None)


def _checked(name: str, source: str) -> str | None:
    """A backend's name as given by ``source``; None for "auto"."""
    if name == "auto":
        return None
    if name not in _names():
        raise BackendError(f"{source}: unknown backend {name!r}, expected auto, {', '.join(_names())}")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve the calls inside by backend ``name`` ("auto" undoes an outer choice); per thread and per async task.

    A call's own ``backend=`` goes before it, ``LKCA_BACKEND`` after it. A function compiled by ``torch.compile`` keeps
    the backend that was chosen when it was traced; enter this around its calls, not within it, where it breaks the
    graph. Raises BackendError for an unknown name.
    """
    _checked(name, "use_backend")
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


@contextmanager
def keep_operators() -> Iterator[None]:
    """``torch.export`` inside keeps lkca's operators whole; outside, a program holds the reference's operations.

    Such a program needs ``import lkca_kernels`` before it is loaded, and the backend is chosen where it runs, at each
    call, unless one was asked for by name while exporting.
    """
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)


def _requested(backend: str | None) -> tuple[str | None, str]:
    """The backend asked for by name (None = automatic), and who asked: argument, then context, then environment."""
    if backend is not None:
        return _checked(backend, "backend"), "the backend argument"
    name = _override.get()
    if name is not None:
        return _checked(name, "use_backend"), "use_backend"
    name = os.environ.get(ENVIRONMENT_VARIABLE)
    if name:
        return _checked(name, ENVIRONMENT_VARIABLE), ENVIRONMENT_VARIABLE
    return None, "automatic"


def _only_reference() -> str | None:
    """Why only plain PyTorch can serve here, whatever the tensors: inside torch.func, or while exporting."""
    if _functorch_level() is not None:
        return "cannot run inside torch.func transforms (vmap, grad, jvp)"
    if _forward_ad._current_level >= 0:
        return "has no forward-mode derivative"
    if _tracing_state() is not None or (torch.compiler.is_exporting() and not _kept.get()):
        return "is not used while exporting: an exported program holds plain PyTorch operations"
    return None


def choose(op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int, backend: str | None) -> str:
    """Name of the backend that serves the call; "auto" in a program that keeps its operators (:func:`keep_operators`).

    Raises BackendError where the one asked for by name cannot: it never falls back silently.
    """
    name, source = _requested(backend)
    if name == "reference":
        return name
    if name is None:
        if _kept.get() and torch.compiler.is_exporting():
            return "auto"
        return "reference" if _only_reference() else _automatic(op, device, dtype, upscale_factor)
    _raise_if(_refusal(name, op, device, dtype, upscale_factor) or _only_reference(), op, name, source)
    return name


def resolve(op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int, named: str) -> str:
    """The backend that an operator of ``torch.ops`` names: as :func:`choose` chose it, perhaps on another machine.

    Raises BackendError where there is none of this name here, or it cannot serve the call.
    """
    if named == "auto":
        return choose(op, device, dtype, upscale_factor, None)
    source = "the operator's backend argument"
    _checked(named, source)
    _raise_if(_refusal(named, op, device, dtype, upscale_factor), op, named, source)
    return named


def _raise_if(reason: str | None, op: str, name: str, source: str) -> None:
    if reason is not None:
        raise BackendError(f"{op}: backend {name!r}, asked for by {source}, cannot serve this call: it {reason}")


def explain_call(
    op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int, backend: str | None, *, empty: bool = False
) -> Explanation:
    """The decision of :func:`choose`, told in words. empty: whether a tensor of the call is."""
    name, source = _requested(backend)
    everywhere = _only_reference()
    refusals = {}
    for native in _names()[1:]:
        reason = _refusal(native, op, device, dtype, upscale_factor) or everywhere
        if reason is not None:
            refusals[native] = reason
    try:
        chosen = choose(op, device, dtype, upscale_factor, backend)
    except BackendError:
        return Explanation(op, None, f"asked for by {source}, and cannot serve this call", refusals)
    if empty:
        refusals = {native: refusals.get(native, "serves no empty tensors") for native in _names()[1:]}
        return Explanation(op, "reference", "it serves empty tensors, whoever was asked", refusals)
    if name is not None:
        return Explanation(op, chosen, f"asked for by {source}", refusals)
    order = ", ".join((*_AUTO.get(device.type, ()), "reference"))
    reason = everywhere or f"the first that serves {dtype} on {device.type}, in the order {order}"
    return Explanation(op, chosen, reason, refusals)
