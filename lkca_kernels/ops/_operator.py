"""What every operator shares: schema, fake, autograd, autocast, and the road from a checked call to its backend.

A call goes one of three ways. The reference is plain PyTorch: it is traced, differentiated and mapped like any other
code. A native backend is called directly where nothing watches (no gradient, no tracing). Otherwise the call goes
through an opaque operator ``lkca_kernels::<op>`` whose ``backend`` argument is the name already chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as _forward_ad
from torch import Tensor

from lkca_kernels import backends, reference
from lkca_kernels.autocasting import unautocast
from lkca_kernels.memory_format import memory_format_of
from lkca_kernels.ops._checks import is_empty
from lkca_kernels.tracing import asked_by_the_tracer

Tensors = Sequence[Tensor | None]

library = torch.library.Library("lkca_kernels", "DEF")
OPAQUE: dict[str, Operator] = {}  # by name
# Looked up once: per call that would cost as much as the questions.
is_tracing = torch.compiler.is_compiling
# A backend writes behind autograd's back; told, it refuses gradients that would need what was there.
tell_autograd_of = torch.autograd.graph.increment_version
_dispatch_modes = torch._C._len_torch_dispatch_stack


@asked_by_the_tracer
def choose_while_tracing(*call: Any) -> str:
    """:func:`lkca_kernels.backends.choose`, run once by the tracer instead of being traced."""
    return backends.choose(*call)


def _unwatched(tensors: Tensors) -> bool:
    """Whether neither autograd, nor a tracer, mode or tensor subclass has to see the call.

    No tensor is empty (:func:`is_empty`), nor a negated view (``torch.imag`` of a conjugate), whose memory holds the
    values with the other sign: only the dispatcher resolves those.
    """
    if _dispatch_modes():
        return False
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None:
            if grad and tensor.requires_grad:
                return False
            kind = type(tensor)
            if kind is not Tensor and kind is not torch.nn.Parameter:
                return False
            if tensor.numel() == 0 or tensor.is_neg():
                return False
    return True


class Operator:
    """One operator, as its file describes it.

    ``tensors`` and ``options`` (type, name) are its schema; ``reference(*tensors, **options)`` defines it, and
    ``result`` of the same arguments is an empty tensor in the shape and layout of what it returns. ``passes`` is the
    position of the tensor that is added to the result: where shapes agree its gradient is grad_out itself, so that it
    is not kept for backward. A tensor named ``residual`` comes last and has the result's shape: a backend's backward
    never sees it.
    ``with_mean`` marks the operators whose forward also returns the mean of the first tensor, for backward.
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: str,
        reference: Callable[..., Tensor],
        result: Callable[..., Tensor],
        options: tuple[tuple[str, str], ...] = (),
        passes: int | None = None,
        with_mean: bool = False,
        takes_out: bool = True,
    ) -> None:
        OPAQUE[name] = self
        self.name = name
        self.names = tuple(argument.split()[1] for argument in tensors.split(", "))
        self.count = len(self.names)
        self.option_names = tuple(option for _, option in options)
        self.reference = reference
        self.result = result
        self.passes = passes
        self._seen = self.count - (self.names[-1] == "residual")
        self.with_mean = with_mean
        self._served_by: dict[str, Callable[..., Any]] = {}
        tail = "".join(f", {kind} {option}" for kind, option in options)
        returns = "(Tensor, Tensor)" if with_mean else "Tensor"
        library.define(f"{name}({tensors}{tail}, str backend) -> {returns}")
        mean = ", Tensor mean" if with_mean else ""
        library.define(f"{name}_backward(Tensor grad, {tensors}{mean}{tail}, bool[] needs, str backend) -> Tensor[]")
        self._register(name, self._forward, self.fake)
        self._register(f"{name}_backward", self._backward, self._fake_backward)
        torch.library.register_autograd(
            f"lkca_kernels::{name}", self._autograd, setup_context=self._setup_context, lib=library
        )
        if takes_out:
            library.define(f"{name}_out({tensors}{tail}, str backend, *, Tensor(a!) out) -> ()")
            self._register(f"{name}_out", self._forward_out, lambda *_, **__: None)
        self._op = getattr(torch.ops.lkca_kernels, name).default
        self._op_backward = getattr(torch.ops.lkca_kernels, f"{name}_backward").default
        self._op_out = getattr(torch.ops.lkca_kernels, f"{name}_out").default if takes_out else None

    @staticmethod
    def _register(name: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
        library.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"lkca_kernels::{name}", fake, lib=library)

    # ---- the call --------------------------------------------------------------------------------------------------

    def __call__(self, tensors: Tensors, options: dict[str, Any], out: Tensor | None, backend: str | None) -> Tensor:
        """Serve a checked call."""
        first = tensors[0]
        assert first is not None
        tracing = is_tracing()
        choose = choose_while_tracing if tracing else backends.choose
        name = choose(self.name, first.device, first.dtype, options.get("upscale_factor", 1), backend)
        if name == "reference":
            result = self._plain(tensors, options)
            return result if out is None else out.copy_(result)
        if not tracing and _unwatched(tensors):
            serve = self._served_by.get(name) or self._serve(name)
            if out is not None:
                serve(*tensors, **options, out=out)
                tell_autograd_of(out)
                return out
            served = serve(*tensors, **options)
        elif out is None:
            served = self._op(*tensors, *options.values(), name)
        else:
            assert self._op_out is not None
            self._op_out(*tensors, *options.values(), name, out=out)
            return out
        outcome: Tensor = served[0] if self.with_mean else served
        return outcome

    def _serve(self, backend: str) -> Callable[..., Any]:
        self._served_by[backend] = function = backends.function(backend, f"{self.name}_fwd")
        return function

    def _plain(self, tensors: Tensors, options: dict[str, Any]) -> Tensor:
        first = tensors[0]
        assert first is not None
        with unautocast(first.device.type):  # the tensors are cast; float32 inside stays so
            return self.reference(*tensors, **options)

    # ---- implementation: tensors, options, backend -> the backend's function ---------------------------------------

    def _resolve(self, backend: str, first: Tensor, options: dict[str, Any]) -> str:
        return backends.resolve(self.name, first.device, first.dtype, options.get("upscale_factor", 1), backend)

    def _split(self, arguments: tuple[Any, ...]) -> tuple[Tensors, dict[str, Any], tuple[Any, ...]]:
        end = self.count + len(self.option_names)
        options = dict(zip(self.option_names, arguments[self.count : end], strict=True))
        return arguments[: self.count], options, arguments[end:]

    def _forward(self, *arguments: Any) -> Any:
        tensors, options, (backend,) = self._split(arguments)
        self._refuse_tangents(tensors)
        backend = self._resolve(backend, arguments[0], options)
        if is_empty(tensors) or backend == "reference":
            with torch.no_grad():
                result = self._plain(tensors, options)
                return (result, reference.channel_mean(tensors[0])) if self.with_mean else result  # type: ignore[arg-type]
        return backends.function(backend, f"{self.name}_fwd")(*tensors, **options)

    def _refuse_tangents(self, tensors: Tensors) -> None:
        """They would be lost without a word where no gradient is recorded (where one is, PyTorch raises)."""
        if _forward_ad._current_level < 0:
            return
        if any(t is not None and _forward_ad.unpack_dual(t, level=0).tangent is not None for t in tensors):
            raise NotImplementedError(
                f"{self.name}: a tensor has a tangent, and the function was compiled for a backend that has no "
                "forward-mode derivative; call it uncompiled, or with backend='reference'"
            )

    def _forward_out(self, *arguments: Any, out: Tensor) -> None:
        tensors, options, (backend,) = self._split(arguments)
        self._refuse_tangents(tensors)
        backend = self._resolve(backend, arguments[0], options)
        if is_empty(tensors) or backend == "reference":
            with torch.no_grad():
                out.copy_(self._plain(tensors, options))
        else:
            backends.function(backend, f"{self.name}_fwd")(*tensors, **options, out=out)
            tell_autograd_of(out)

    def _backward(self, grad: Tensor, *arguments: Any) -> list[Tensor]:
        tensors = arguments[: self.count]
        mean = arguments[self.count : self.count + self.with_mean]
        _, options, (needs, backend) = self._split(tensors + arguments[self.count + self.with_mean :])
        backend = self._resolve(backend, tensors[0], options)
        if is_empty(tensors) or backend == "reference":
            grads = self._reference_gradients(grad, tensors, options, needs)
        else:
            inputs = (tensors[0], *mean, *tensors[1 : self._seen])
            asked = tuple(needs[: self._seen])
            found = backends.function(backend, f"{self.name}_bwd")(grad, *inputs, **options, needs=asked)
            grads = tuple(found)  # type: ignore[arg-type]
        return [
            gradient.contiguous(memory_format=self._gradient_format(tensors, i))
            for i, gradient in enumerate(grads)
            if gradient is not None
        ]

    def _reference_gradients(
        self, grad: Tensor, tensors: Tensors, options: dict[str, Any], needs: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        with _recorded():
            leaves = [t if t is None else t.detach().requires_grad_(n) for t, n in zip(tensors, needs, strict=True)]
            result = self._plain(leaves, options)
        return _gradients(result, leaves, needs, grad, create_graph=False)

    def _gradient_format(self, tensors: Tensors, position: int) -> torch.memory_format:
        tensor = tensors[position]
        assert tensor is not None
        return memory_format_of(tensor) if tensor.ndim == 4 else torch.contiguous_format

    # ---- fake --------------------------------------------------------------------------------------------------------

    def fake(self, *arguments: Any) -> Any:
        """Results like those of these tensors and options, unwritten."""
        tensors, options, _ = self._split(arguments)
        result = self.result(*tensors, **options)
        if not self.with_mean:
            return result
        first = tensors[0]
        assert first is not None
        wide = torch.float64 if first.dtype == torch.float64 else torch.float32
        return result, first.new_empty(first.shape[:2], dtype=wide)

    def _fake_backward(self, grad: Tensor, *arguments: Any) -> list[Tensor]:
        tensors, needs = arguments[: self.count], arguments[-2]
        return [
            torch.empty_like(tensor, memory_format=self._gradient_format(tensors, i))
            for i, tensor in enumerate(tensors)
            if needs[i]
        ]

    # ---- autograd ----------------------------------------------------------------------------------------------------

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors, options, (backend,) = self._split(inputs)
        result, *mean = output if self.with_mean else (output,)
        if mean:
            ctx.mark_non_differentiable(*mean)
        added = None if self.passes is None else tensors[self.passes]
        ctx.passed = self.passes if added is not None and added.shape == result.shape else None
        ctx.save_for_backward(*(None if i == ctx.passed else t for i, t in enumerate(tensors)), *mean)
        ctx.options, ctx.backend = options, backend

    def _autograd(self, ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        tensors, mean = saved[: self.count], saved[self.count :]
        needs = ctx.needs_input_grad[: self.count]
        asked = [n and i != ctx.passed for i, n in enumerate(needs)]
        again = torch.is_grad_enabled()  # create_graph=True: the reference can be differentiated again
        grads: list[Tensor | None] = [None] * self.count
        if not any(asked):
            pass
        elif again or _mapped(grad) or _forward_ad._current_level >= 0:  # backends know no tangents
            grads = list(self._reference_graph(grad, tensors, ctx.options, asked, create_graph=again))
        else:
            found = self._op_backward(grad, *tensors, *mean, *ctx.options.values(), asked, ctx.backend)
            for i, gradient in zip((i for i, n in enumerate(asked) if n), found, strict=True):
                grads[i] = gradient
        if ctx.passed is not None and needs[ctx.passed]:
            grads[ctx.passed] = grad
        return (*grads, *(None for _ in self.option_names), None)  # None for the backend's name

    def _reference_graph(
        self, grad: Tensor, tensors: Tensors, options: dict[str, Any], needs: Sequence[bool], *, create_graph: bool
    ) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            # A view of each input, so that one tensor given twice gets two gradients.
            views = [t if t is None else t.view_as(t) for t in tensors]
            result = self._plain(views, options)
        return _gradients(result, views, needs, grad, create_graph=create_graph)


@contextmanager
def _recorded() -> Iterator[None]:
    """Autograd sees what happens inside. A dispatch mode calls operators with its keys excluded: here they are not."""
    keys = torch._C.DispatchKey
    with (
        torch.enable_grad(),
        torch._C._SetExcludeDispatchKeyGuard(keys.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(keys.ADInplaceOrView, False),
    ):
        yield


def _mapped(grad: Tensor) -> bool:
    """Whether it is many gradients at once (``is_grads_batched``, vmap over a gradient): backends take one."""
    return torch._C._functorch.is_legacy_batchedtensor(grad) or torch._C._functorch.maybe_current_level() is not None


def _gradients(
    result: Tensor, tensors: Tensors, needs: Sequence[bool], grad: Tensor, *, create_graph: bool
) -> tuple[Tensor | None, ...]:
    wanted = [t for t, n in zip(tensors, needs, strict=True) if n and t is not None]
    found = iter(
        torch.autograd.grad(result, wanted, grad, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )
    return tuple(next(found) if n and t is not None else None for t, n in zip(tensors, needs, strict=True))
