"""How a call travels: opaque operators, tracing, autocast, torch.func, double backward."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import lkca_kernels
from lkca_kernels.backends import BackendError


def _opaque(case: Any) -> Any:
    return getattr(torch.ops.lkca_kernels, case.op).default


def test_opcheck(typical: Any, backend: Any, layout: str, tools: Any) -> None:
    tensors = tools.leaves(typical.make(torch.float32, backend.device, layout=layout))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(_opaque(typical), (*tensors, *typical.raw_arguments, backend.backend))


@pytest.mark.parametrize("empty", ["B", "C", "h"])
def test_opcheck_of_nothing(typical: Any, backend: Any, tools: Any, case_type: Any, empty: str) -> None:
    if empty == "h" and typical.with_mean:
        pytest.skip("the mean of nothing")
    case = case_type(typical.op, {**typical.sizes, empty: 0}, typical.given, typical.options)
    tensors = tools.leaves(case.make(torch.float32, backend.device))
    torch.library.opcheck(_opaque(case), (*tensors, *case.raw_arguments, backend.backend))


def test_opcheck_of_out(typical: Any, backend: Any) -> None:
    if typical.op == "channel_gate":
        pytest.skip("channel_gate takes no out")
    tensors = typical.make(torch.float32, backend.device)
    out = torch.empty_like(typical.call(tensors))
    operator = getattr(torch.ops.lkca_kernels, f"{typical.op}_out").default
    torch.library.opcheck(operator, (*tensors, *typical.raw_arguments, backend.backend), {"out": out})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_fakes_are_like_the_results(typical: Any, backend: Any, layout: str, dtype: torch.dtype) -> None:
    """Forward and backward, in shape, dtype and strides."""
    backend.needs(dtype)
    tensors = typical.make(dtype, backend.device, layout=layout)
    result = typical.call(tensors, backend="reference")
    mean = [tensors[0].to(torch.promote_types(dtype, torch.float32)).mean((2, 3))] if typical.with_mean else []
    added = [name in ("skip", "residual") for name in typical.names]  # whose gradient is that of the result
    needs = [t is not None and not (a and t.shape == result.shape) for t, a in zip(tensors, added, strict=True)]
    backward = getattr(torch.ops.lkca_kernels, f"{typical.op}_backward").default

    def looks(t: Tensor) -> tuple[Any, ...]:
        return t.dtype, t.shape, [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]

    for operator, arguments in (
        (_opaque(typical), (*tensors, *typical.raw_arguments, backend.backend)),
        (backward, (result, *tensors, *mean, *typical.raw_arguments, needs, backend.backend)),
    ):
        fakes = [
            torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") if isinstance(t, Tensor) else t
            for t in arguments
        ]
        found, faked = (r if isinstance(r, (tuple, list)) else [r] for r in (operator(*arguments), operator(*fakes)))
        assert list(map(looks, found)) == list(map(looks, faked))


def test_modes_and_subclasses_meet_the_operator(typical: Any, backend: Any) -> None:
    """Not the backend's own, which they would know nothing of."""
    if backend.backend == "reference":
        pytest.skip("plain operations")
    tensors, seen = typical.make(torch.float32, backend.device), []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **kwargs or {})

    with Watching():
        typical.call(tensors, backend=backend.backend)
    assert seen == [_opaque(typical)]
    mode = torch._subclasses.FakeTensorMode()
    fakes = [None if t is None else mode.from_tensor(t) for t in tensors]
    assert isinstance(typical.call(fakes, backend=backend.backend), torch._subclasses.FakeTensor)


@pytest.mark.parametrize("nothing", [False, True], ids=["full", "empty"])
def test_gradients_of_the_reference_under_a_mode(typical: Any, tools: Any, case_type: Any, nothing: bool) -> None:
    """Of an operator that is asked for as such, of one without samples too: a mode calls it below autograd."""
    case = case_type(typical.op, {**typical.sizes, **({"B": 0} if nothing else {})}, typical.given, typical.options)

    def gradients() -> list[Tensor]:
        tensors = tools.leaves(case.make(torch.float64))
        result = _opaque(case)(*tensors, *case.raw_arguments, "reference")
        result = result[0] if case.with_mean else result
        return list(torch.autograd.grad(result.square().sum(), [t for t in tensors if t is not None]))

    expected = gradients()
    with FlopCounterMode(display=False):
        found = gradients()
    torch.testing.assert_close(found, expected)


def test_gradcheck_and_double_backward(typical: Any, tools: Any) -> None:
    tensors = tools.leaves(typical.make(torch.float64))
    positions = [i for i, t in enumerate(tensors) if t is not None]

    def plain(*given: Tensor) -> Tensor:
        every: list[Tensor | None] = [None] * len(tensors)
        for i, tensor in zip(positions, given, strict=True):
            every[i] = tensor
        return typical.call(every, backend="reference")

    def opaque(*given: Tensor) -> Tensor:
        every: list[Tensor | None] = [None] * len(tensors)
        for i, tensor in zip(positions, given, strict=True):
            every[i] = tensor
        result = _opaque(typical)(*every, *typical.raw_arguments, "reference")
        assert not (typical.with_mean and result[1].requires_grad)  # the mean has no gradient
        return result[0] if typical.with_mean else result

    inputs = [tensors[i] for i in positions]
    for road in (plain, opaque):
        # Every element of the definition; along random directions where only the road to it is new.
        assert torch.autograd.gradcheck(road, inputs, fast_mode=road is opaque)
        assert torch.autograd.gradgradcheck(road, inputs, fast_mode=True)


def test_double_backward_of_a_native_backend(typical: Any, backend: Any, tools: Any) -> None:
    def penalty(name: str) -> list[Tensor]:
        tensors = tools.leaves(typical.make(torch.float32, backend.device))
        given = [t for t in tensors if t is not None]
        result = typical.call(tensors, backend=name)
        first = torch.autograd.grad(result.square().sum(), given, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), given))  # type: ignore[arg-type]

    for found, expected in zip(penalty(backend.backend), penalty("reference"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_double_backward_of_a_tensor_given_twice(backend: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 4, 3), (3, 5), (3,), (5, 3), (5,))
    x, *squeeze = (torch.randn(shape, generator=generator).to(backend.device) for shape in shapes)
    x.requires_grad_()

    def penalty(name: str) -> Tensor:
        result = lkca_kernels.channel_attention(x, *squeeze, residual=x, backend=name)
        (first,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(penalty(backend.backend), penalty("reference"), rtol=1e-3, atol=1e-3)


def test_compiled_whole_with_symbolic_sizes(typical: Any, backend: Any, tools: Any, case_type: Any) -> None:
    torch._dynamo.reset()
    frames = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(*tensors: Tensor | None) -> Tensor:
        return typical.call(tensors, backend=backend.backend).sin()

    compiled = torch.compile(function, backend=frames, fullgraph=True, dynamic=True)
    counts = []
    for h, w in ((11, 7), (17, 19)):  # no size equal to another one, which dynamo would take for the same
        case = case_type(typical.op, {**typical.sizes, "h": h, "w": w}, typical.given, typical.options)
        tensors, same = (tools.leaves(case.make(torch.float32, backend.device)) for _ in range(2))
        result, expected = compiled(*tensors), function(*same)
        torch.testing.assert_close(result, expected)
        grad = torch.ones_like(result)
        eager = tools.gradients(expected, same, grad)
        for i, gradient in tools.gradients(result, tensors, grad).items():
            torch.testing.assert_close(gradient, eager[i], rtol=1e-4, atol=1e-4)
        counts.append(frames.frame_count)
    assert counts[1] == counts[0]  # torch 2.11 begins the first trace twice


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_out(typical: Any, backend: Any, dynamic: bool) -> None:
    if typical.op == "channel_gate":
        pytest.skip("channel_gate takes no out")
    torch._dynamo.reset()
    tensors = typical.make(torch.float32, backend.device)
    expected = typical.call(tensors, backend=backend.backend)
    out = torch.full_like(expected, torch.nan)

    def function(given: list[Tensor | None], out: Tensor) -> Tensor:
        return typical.call(given, backend=backend.backend, out=out) + 1

    result = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)(tensors, out)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(result, expected + 1)


def test_inductor(backend: Any, tools: Any) -> None:
    """The default compiler, once: gradients and two sizes of a small network."""
    torch._dynamo.reset()
    weight = torch.randn(12, 5, device=backend.device, requires_grad=True)

    def function(z: Tensor, low: Tensor) -> Tensor:
        up = lkca_kernels.lowrank_pixel_shuffle(z.tanh(), weight, skip=low, upscale_factor=2, backend=backend.backend)
        return up.relu()

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for h, w in ((6, 5), (9, 11)):
        z, low = torch.randn(2, 5, h, w, device=backend.device), torch.randn(2, 3, h, w, device=backend.device)
        result, expected = compiled(z, low), function(z, low)
        torch.testing.assert_close(result, expected)
        (found,) = torch.autograd.grad(result.sum(), [weight])
        (true,) = torch.autograd.grad(expected.sum(), [weight])
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-4)


def test_autocast(typical: Any, backend: Any, tools: Any) -> None:
    backend.needs(torch.bfloat16)
    first, *others = typical.make(torch.float32, backend.device)
    tensors = tools.leaves([first.half(), *others])
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        result = typical.call(tensors, backend=backend.backend)
    cast = [None if t is None else t.detach().bfloat16() for t in tensors]
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, typical.call(cast, backend=backend.backend))
    for i, gradient in tools.gradients(result, tensors, torch.ones_like(result)).items():
        assert gradient.dtype == tensors[i].dtype and gradient.shape == tensors[i].shape
    torch._dynamo.reset()

    def function(*given: Tensor | None) -> Tensor:
        with torch.autocast(backend.device, dtype=torch.bfloat16):
            return typical.call(given, backend=backend.backend)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)(*tensors)
    torch.testing.assert_close(compiled, result)


def test_autocast_takes_the_dtype_that_is_set_and_leaves_float64_alone(typical: Any) -> None:
    with torch.autocast("cpu", dtype=torch.float16):
        assert typical.call(typical.make(torch.float32)).dtype == torch.float16
        assert typical.call(typical.make(torch.float64)).dtype == torch.float64
    torch.set_autocast_enabled("cuda", True)
    try:
        assert typical.call(typical.make(torch.float32)).dtype == torch.float32  # these are on the CPU
    finally:
        torch.set_autocast_enabled("cuda", False)


def test_many_gradients_at_once(typical: Any, backend: Any, tools: Any) -> None:
    """``is_grads_batched``, which vectorised Jacobians use, and vmap over a gradient."""
    tensors = tools.leaves(typical.make(torch.float32, backend.device))
    result = typical.call(tensors, backend=backend.backend)
    wanted = [t for t in tensors if t is not None]
    grads = torch.randn(3, *result.shape, device=result.device)

    def gradients(grad: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(result, wanted, grad, retain_graph=True)

    expected = [torch.stack(each) for each in zip(*map(gradients, grads), strict=True)]
    batched = torch.autograd.grad(result, wanted, grads, is_grads_batched=True, retain_graph=True)
    for found in (batched, torch.vmap(gradients)(grads)):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            assert not a.requires_grad


@pytest.mark.parametrize("opaque", [False, True], ids=["call", "operator"])
def test_autograd_hears_of_a_result_that_was_overwritten(typical: Any, backend: Any, opaque: bool) -> None:
    if typical.op == "channel_gate":
        pytest.skip("channel_gate takes no out")
    tensors = typical.make(torch.float32, backend.device)
    out = torch.zeros_like(typical.call(tensors))
    loss = (out * torch.ones_like(out).requires_grad_()).sum()  # its gradient is what out holds now
    if opaque:
        operator = getattr(torch.ops.lkca_kernels, f"{typical.op}_out").default
        operator(*tensors, *typical.raw_arguments, backend.backend, out=out)
    else:
        typical.call(tensors, backend=backend.backend, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_added_is_not_kept_for_backward(typical: Any, backend: Any, tools: Any, case_type: Any) -> None:
    """It may be overwritten, and its memory be gone: a skip is as large as the result, and no gradient needs it."""
    if typical.op == "channel_gate":
        pytest.skip("nothing is added")
    given = tuple("skip:hr" if name.startswith("skip") else name for name in typical.given)
    case = case_type(typical.op, typical.sizes, given, typical.options)
    tensors = tools.leaves(case.make(torch.float32, backend.device))
    result = case.call(tensors, backend=backend.backend)
    grad = torch.randn_like(result)
    expected = torch.autograd.grad(result, tensors, grad, retain_graph=True)
    torch.testing.assert_close(expected[-1], grad, rtol=0, atol=0)
    with torch.no_grad():
        tensors[-1].add_(1)
    torch.testing.assert_close(torch.autograd.grad(result, tensors, grad), expected, rtol=0, atol=0)


@pytest.mark.parametrize("order", ["vbchw", "vbhwc", "bchwv"])
def test_vmap_takes_the_reference(typical: Any, backend: Any, order: str) -> None:
    """order: of an image's axes in memory, v being the one that is mapped."""
    places = ["vbchw".index(axis) for axis in order]
    stacks = [typical.make(torch.float32, backend.device, seed=seed) for seed in range(3)]
    given = [i for i, t in enumerate(stacks[0]) if t is not None]
    batched = [torch.stack([tensors[i] for tensors in stacks]) for i in given]
    batched = [t.permute(places).contiguous().movedim([0, 1, 2, 3, 4], places) if t.ndim == 5 else t for t in batched]

    def call(*tensors: Tensor, name: str | None = None) -> Tensor:
        every: list[Tensor | None] = [None] * len(stacks[0])
        for i, tensor in zip(given, tensors, strict=True):
            every[i] = tensor
        return typical.call(every, backend=name)

    mapped = torch.func.vmap(call)(*batched)
    torch.testing.assert_close(mapped, torch.stack([typical.call(t, backend="reference") for t in stacks]))
    if backend.backend != "reference":
        with pytest.raises(BackendError, match=r"torch\.func"):
            torch.func.vmap(lambda *t: call(*t, name=backend.backend))(*batched)


def test_permutations_are_for_vmap_alone() -> None:
    """vmap knows no memory formats; elsewhere permutations would cost time, and stay in an exported graph."""
    squeeze = torch.randn(2, 8), torch.randn(2), torch.randn(8, 2), torch.randn(8)

    class Attention(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return lkca_kernels.channel_attention(x, *squeeze, backend="reference")

    images = torch.randn(3, 2, 5, 6, 8).movedim(-1, 2)
    for strict in (False, True):
        program = torch.export.export(Attention(), (images[0],), strict=strict)
        assert not any("permute" in str(node.target) for node in program.graph.nodes)
        assert program.module()(images[0]).is_contiguous(memory_format=torch.channels_last)
    torch._dynamo.reset()
    mapped = torch.compile(torch.func.vmap(Attention()), backend="eager", fullgraph=True)
    torch.testing.assert_close(mapped(images), torch.stack([Attention()(image) for image in images]))


def test_forward_mode(typical: Any) -> None:
    """jvp agrees with a difference quotient; dual tensors too take the reference."""
    tensors = typical.make(torch.float64)
    direction = torch.ones_like(tensors[0])

    def call(first: Tensor) -> Tensor:
        return typical.call([first, *tensors[1:]])

    value, slope = torch.func.jvp(call, (tensors[0],), (direction,))
    step = 1e-6
    quotient = (call(tensors[0] + step * direction) - call(tensors[0] - step * direction)) / (2 * step)
    torch.testing.assert_close(slope, quotient, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(value, call(tensors[0]))


def test_dual_tensors_in_float32(typical: Any) -> None:
    tensors = typical.make(torch.float32)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(tensors[0], torch.ones_like(tensors[0]))
        result = typical.call([dual, *tensors[1:]])
        assert torch.autograd.forward_ad.unpack_dual(result).tangent is not None


@pytest.mark.parametrize("with_out", [False, True])
def test_dual_tensors_in_a_function_compiled_before_are_refused(backend: Any, with_out: bool) -> None:
    """It keeps the backend, which has no tangent; without a gradient that raises PyTorch loses it silently."""
    if backend.backend == "reference":
        pytest.skip("the reference is plain PyTorch, which takes them along")
    torch._dynamo.reset()
    given = [torch.rand(shape, device=backend.device) for shape in ((1, 3, 4, 5), (8, 3))]
    out = torch.empty(1, 2, 8, 10, device=backend.device) if with_out else None

    def function(z: Tensor, weight: Tensor) -> Tensor:
        return lkca_kernels.lowrank_pixel_shuffle(z, weight, upscale_factor=2, out=out, backend=backend.backend)

    compiled = torch.compile(function, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*given), function(*given))
        with torch.autograd.forward_ad.dual_level():
            compiled(*given)  # without a tangent it goes on
            z, weight = (torch.autograd.forward_ad.make_dual(t, torch.ones_like(t)) for t in given)
            for dual in ((z, given[1]), (given[0], weight)):
                with pytest.raises(NotImplementedError, match=r"lowrank_pixel_shuffle: .*tangent.*'reference'"):
                    compiled(*dual)


def test_dual_gradients(typical: Any, backend: Any) -> None:
    """Forward mode over a backward whose forward ran before: the tangent is the gradient of the tangent."""
    first, *others = typical.make(torch.float32, backend.device)
    first.requires_grad_()
    result = typical.call([first, *others], backend=backend.backend)
    grad, tangent = torch.randn_like(result), torch.randn_like(result)
    (expected,) = torch.autograd.grad(result, first, tangent, retain_graph=True)
    with torch.autograd.forward_ad.dual_level():
        (found,) = torch.autograd.grad(result, first, torch.autograd.forward_ad.make_dual(grad, tangent))
        found = torch.autograd.forward_ad.unpack_dual(found).tangent
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_export_holds_plain_operations_only() -> None:
    """Whatever backend would serve, an exported program runs without this package, with sizes as symbols."""

    class Network(torch.nn.Module):
        def forward(self, z: Tensor, weight: Tensor, low: Tensor) -> Tensor:
            return lkca_kernels.lowrank_pixel_shuffle(z, weight, skip=low, upscale_factor=3)

    z, weight, low = torch.randn(1, 4, 5, 6), torch.randn(18, 4), torch.randn(1, 2, 5, 6)
    size = {2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    for strict in (False, True):
        program = torch.export.export(Network(), (z, weight, low), dynamic_shapes=(size, None, size), strict=strict)
        targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert targets and not any("lkca" in target for target in targets)
        for h, w in ((5, 6), (17, 40)):
            other = torch.randn(1, 4, h, w), weight, torch.randn(1, 2, h, w)
            torch.testing.assert_close(program.module()(*other), Network()(*other))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Network(), (z, weight, low), check_trace=False)
    assert {node.kind().partition("::")[0] for node in traced.inlined_graph.nodes()} <= {"aten", "prim"}


def test_meta_tensors(typical: Any) -> None:
    """Sizes past 2**31 elements, without memory."""
    tensors = [None if t is None else t.to("meta") for t in typical.make(torch.float32)]
    assert typical.call(tensors).device.type == "meta"
    z, weight = torch.empty(1, 8, 40000, 40000, device="meta"), torch.empty(2048, 8, device="meta")
    assert lkca_kernels.lowrank_pixel_shuffle(z, weight, upscale_factor=4).shape == (1, 128, 160000, 160000)


def test_fake_sizes_past_2_to_the_31(backend: Any) -> None:
    with torch._subclasses.FakeTensorMode():
        z = torch.empty(1, 8, 40000, 40000, device=backend.device)
        weight = torch.empty(2048, 8, device=backend.device)
        result = lkca_kernels.lowrank_pixel_shuffle(z, weight, upscale_factor=4, backend=backend.backend)
    assert result.shape == (1, 128, 160000, 160000) and result.stride(0) == 128 * 160000**2
