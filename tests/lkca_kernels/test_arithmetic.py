"""Every operator on every backend: values and gradients against float64, and that each output is fully its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import lkca_kernels
from lkca_kernels import cpu, reference

# Everything below runs in one process per backend; small tensors, so that the interpreter takes part.


def _bound(dtype: torch.dtype, terms: int, roundings: int) -> float:
    """Allowed RMS ratio. With u = eps / 2, one rounding to the dtype is at most u. Sums are in float32 (float64): the
    error of ``terms`` terms of either sign grows like u * sqrt(terms), taken twice for the order of summation."""
    accumulate = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps / 2
    return roundings * torch.finfo(dtype).eps / 2 + accumulate * (4 + 2 * math.sqrt(terms))


def _rounds_once(case: Any, backend: Any, dtype: torch.dtype) -> bool:
    """Not where bf16 dot products take the maps between the layers of a branch in bf16, as PyTorch's own layers do."""
    dots = backend.backend == "cpu" and cpu.isa() == "avx512_bf16"
    return not (dots and case.op == "large_kernel_branch" and dtype == torch.bfloat16)


def _check(case: Any, backend: Any, dtype: torch.dtype, tools: Any, layout: str = "contiguous", slack: int = 1) -> None:
    tensors = tools.leaves(case.make(dtype, backend.device, layout=layout))
    exact = tools.leaves([None if t is None else t.detach().double() for t in tensors])
    plain = tools.leaves(tensors)
    result, truth, naive = case.call(tensors, backend=backend.backend), case.define(exact), case.naive(plain)
    grad = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(truth.device)
    grad = grad.to(dtype)
    if layout == "expanded":
        grad = grad[:, :, :1, :1].expand_as(grad) if grad.ndim == 4 else grad[:, :1].expand_as(grad)

    def agrees(name: str, value: Tensor, true: Tensor, yardstick: Tensor, roundings: int) -> None:
        assert value.dtype == dtype and value.shape == true.shape
        error, eager = tools.rms_ratio(value, true), tools.rms_ratio(yardstick, true)
        # No sum has more terms than the output has elements, or the rank.
        bound = slack * _bound(dtype, max(truth.numel(), case.sizes.get("R", 0)), roundings)
        assert error <= bound, f"{name}: RMS ratio {error:.3g} > {bound:.3g}"
        # In a gradient of a few elements the yardstick may be exact by luck: a rounding, or a few of float32, on top.
        luck = slack * max(torch.finfo(dtype).eps, 16 * torch.finfo(torch.float32).eps)
        assert error <= 2 * eager + luck, f"{name}: RMS ratio {error:.3g}, eager {eager:.3g}"

    agrees("forward", result, truth, naive, roundings=1)
    once = dtype.itemsize == 2 and _rounds_once(case, backend, dtype)
    if once and layout != "expanded":  # twice rounded, a third of the elements would be others
        assert (result != truth.to(dtype)).sum() <= 1 + result.numel() // 10, "forward is rounded more than once"
    found = tools.gradients(result, tensors, grad)
    true = tools.gradients(truth, exact, grad.double())
    eager = tools.gradients(naive, plain, grad)
    for i in found:
        # Two roundings: matrix units take gate * grad in the dtype.
        agrees(f"gradient of {case.names[i]}", found[i], true[i], eager[i], roundings=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_values_and_gradients_against_float64(case: Any, backend: Any, dtype: torch.dtype, tools: Any) -> None:
    backend.needs(dtype)
    _check(case, backend, dtype, tools)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(typical: Any, backend: Any, layout: str, dtype: torch.dtype, tools: Any) -> None:
    backend.needs(dtype)
    # Few different values: a sum that happens to cancel does so in every element.
    _check(typical, backend, dtype, tools, layout, slack=8 if layout == "expanded" else 1)


def test_layouts_of_results(typical: Any, backend: Any, layout: str, tools: Any) -> None:
    """Both attentions and the branch follow x; a backend's gradients of x, y, z and an LR skip follow that tensor."""
    tensors = tools.leaves(typical.make(torch.float32, backend.device, layout=layout))
    image = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    follows = typical.op.endswith(("channel_attention", "branch"))
    result = typical.call(tensors, backend=backend.backend)
    assert result.is_contiguous(memory_format=image if follows else torch.contiguous_format)
    if follows:
        out = torch.empty_like(result)
        given_ = [None if t is None else t.detach() for t in tensors]
        assert torch.equal(typical.call(given_, out=out, backend=backend.backend), result)
    if backend.backend == "reference":
        return
    for i, gradient in tools.gradients(result, tensors, torch.ones_like(result)).items():
        if i == 0 or (typical.names[i] == "skip" and tensors[i].shape != result.shape):
            assert gradient.is_contiguous(memory_format=image), typical.names[i]


@pytest.mark.parametrize("columns", [1, None])
def test_gradients_of_a_dark_image(typical: Any, backend: Any, tools: Any, columns: int | None) -> None:
    """At 0 the derivatives of relu and of the magnitude are 0."""
    if typical.names[0] != "x":
        pytest.skip("has neither")
    found = []
    for name in (backend.backend, "reference"):
        tensors = tools.leaves(typical.make(torch.float32, backend.device))
        for argument, tensor in zip(typical.names, tensors, strict=True):
            if argument in ("x", "b1"):
                tensor.detach()[..., :columns] = 0
        result = typical.call(tensors, backend=name)
        found.append(tools.gradients(result, tensors, torch.ones_like(result)))
    for i, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][i])


def test_each_gradient_alone(typical: Any, backend: Any, tools: Any) -> None:
    """The gradient of one tensor does not depend on which others are asked for."""
    every = tools.leaves(typical.make(torch.float32, backend.device))
    result = typical.call(every, backend=backend.backend)
    grad = torch.ones_like(result)
    together = tools.gradients(result, every, grad)
    for i, gradient in together.items():
        alone = [None if t is None else t.detach().requires_grad_(j == i) for j, t in enumerate(every)]
        (found,) = torch.autograd.grad(typical.call(alone, backend=backend.backend), [alone[i]], grad)
        torch.testing.assert_close(found, gradient, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_reaches_what_it_reaches_in_the_reference(
    typical: Any, backend: Any, value: float, dtype: torch.dtype
) -> None:
    """One sample at a time of each tensor: neither lost nor spread to results that do not depend on it.

    The bicubic skip of a GPU's kernels takes five samples where the four of the definition and a zero suffice.
    """
    backend.needs(dtype)
    further = 0 if backend.backend in ("reference", "cpu") else typical.sizes.get("s", 0)
    for i, given_ in enumerate(typical.make(dtype, backend.device)):
        if given_ is None:
            continue
        tensors = typical.make(dtype, backend.device)
        tensors[i].view(-1)[tensors[i].numel() // 2] = value
        found, expected = typical.call(tensors, backend=backend.backend), typical.call(tensors, backend="reference")
        assert math.isinf(value) or expected.isnan().any(), typical.names[i]
        if typical.names[i] != "skip" or not further:
            assert torch.equal(found.isnan(), expected.isnan()), typical.names[i]
            assert torch.equal(found.isinf(), expected.isinf()), typical.names[i]
            continue
        lost, reached = ~found.isfinite(), ~expected.isfinite()
        near = F.max_pool2d(reached.float(), 2 * further + 1, stride=1, padding=further) > 0
        assert (lost | ~reached).all() and (near | ~lost).all()


def test_gradients_lose_no_nan(typical: Any, backend: Any, tools: Any) -> None:
    """One NaN at a time, in a tensor or in the gradient that comes in: what would be NaN by the reference is NaN."""
    names = [*typical.names, "grad"]
    for i, name in enumerate(names):
        tensors = tools.leaves(typical.make(torch.float32, backend.device))
        grad = torch.ones_like(typical.call(tensors, backend="reference"))
        poisoned = (*tensors, grad)[i]
        poisoned.detach().view(-1)[poisoned.numel() // 2] = math.nan
        found, expected = (
            tools.gradients(typical.call(tensors, backend=server), tensors, grad)
            for server in (backend.backend, "reference")
        )
        for j, gradient in expected.items():
            if (name, names[j]) == ("grad", "skip") and typical.op == "lowrank_pixel_shuffle":
                continue  # an LR skip: zeros in the products of the reference's adjoint spread a NaN
            assert (found[j].isnan() | ~gradient.isnan()).all(), f"NaN in {name}, gradient of {names[j]}"


@pytest.mark.parametrize(
    ("how", "convolution"),
    [
        ({}, {"padding": (1, 3)}),
        ({"dilation": (2, 1)}, {"dilation": (2, 1), "padding": (2, 3)}),
        ({"stride": (1, 2), "padding": 1}, {"stride": (1, 2), "padding": 1}),
        ({"dilation": (4, 1), "padding": 0}, {"dilation": (4, 1), "padding": 0}),  # as large as the image
    ],
    ids=str,
)
def test_lowrank_upsample(backend: Any, how: dict[str, Any], convolution: dict[str, Any], tools: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, down, bias_down, weight, bias, gate = (
        torch.randn(shape, generator=generator).to(backend.device)
        for shape in ((2, 3, 9, 7), (5, 3, 3, 7), (5,), (8, 5), (8,), (2, 2))
    )
    z = F.conv2d(x.double(), down.double(), bias_down.double(), **convolution)
    skip = torch.randn(2, 2, *z.shape[2:], generator=generator).to(backend.device)
    options = {"upscale_factor": 2, "skip_bicubic": "torch"}
    truth = reference.lowrank_pixel_shuffle(z, *(t.double() for t in (weight, bias, gate, skip)), **options)
    out = torch.empty_like(truth, dtype=torch.float32)
    second = (weight, bias, gate, skip)
    found = lkca_kernels.lowrank_upsample(
        x, down, *second, bias_down=bias_down, out=out, backend=backend.backend, **options, **how
    )
    assert found is out and tools.rms_ratio(found, truth) < 2e-6


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_sizes(backend: Any, tools: Any, case_type: Any, data: Any) -> None:
    size = st.integers(1, 9)
    every = ("lowrank_pixel_shuffle", "pixel_shuffle_epilogue", "channel_attention", "local_channel_attention")
    every += ("large_kernel_branch",)
    op = data.draw(st.sampled_from([op for op in every if not backend.refusal(op)]))
    sizes = {name: data.draw(size) for name in "BCRKMhw"} | {"s": data.draw(st.sampled_from([2, 3, 4, 5, 7, 8]))}
    sizes |= {name: data.draw(st.sampled_from([1, 3, 5, 7, 9, 11])) for name in "vk"}
    sizes["B"] = min(sizes["B"], 3)
    given_ = [*data.draw(st.lists(st.sampled_from(["bias", "gate", "residual"]), unique=True))]
    given_ += data.draw(st.sampled_from([[], ["skip:lr"], ["skip:hr"]]))
    # A drawn case may cancel in a sum; what this looks for, a wrong index, shows in the first digit.
    options = {"window": data.draw(st.sampled_from([1, 3, 5, 11, 31]))} if op.startswith("local") else {}
    _check(case_type(op, sizes, tuple(given_), options), backend, torch.float32, tools, slack=100)


def _run(case: Any, backend: Any, tools: Any) -> list[Tensor]:
    tensors = tools.leaves(case.make(torch.float32, backend.device))
    result = case.call(tensors, backend=backend.backend)
    return [result.detach(), *tools.gradients(result, tensors, torch.ones_like(result)).values()]


def test_deterministic_and_every_element_written(typical: Any, backend: Any, tools: Any) -> None:
    """In deterministic mode torch fills fresh memory with NaN: one left in a result was never written."""
    before = _run(typical, backend, tools)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [_run(typical, backend, tools) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    for usual, *same in zip(before, *runs, strict=True):
        assert usual.isfinite().all()
        for again in same:
            assert torch.equal(again, same[0])
        torch.testing.assert_close(same[0], usual)


@pytest.mark.parametrize("offset", [1, 3, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_out_is_filled_and_its_surroundings_are_not(
    typical: Any, backend: Any, dtype: torch.dtype, offset: int
) -> None:
    if typical.op == "channel_gate":
        pytest.skip("channel_gate takes no out")
    backend.needs(dtype)
    tensors = typical.make(dtype, backend.device)
    expected = typical.call(tensors, backend=backend.backend)
    room = torch.full((expected.numel() + offset + 64,), math.nan, dtype=dtype, device=backend.device)
    room[:offset], room[offset + expected.numel() :] = 12345.0, 12345.0
    around = room.clone()
    out = room[offset : offset + expected.numel()].view(expected.shape)
    returned = typical.call(tensors, backend=backend.backend, out=out)
    assert returned is out
    assert torch.equal(out, expected)
    assert torch.equal(room[:offset], around[:offset])
    assert torch.equal(room[offset + expected.numel() :], around[offset + expected.numel() :])


def test_inputs_are_left_alone_and_results_are_new(case: Any, backend: Any) -> None:
    tensors = case.make(torch.float32, backend.device)
    copies = [None if t is None else t.clone() for t in tensors]
    result = case.call(tensors, backend=backend.backend)
    result.fill_(7)
    for tensor, copy in zip(tensors, copies, strict=True):
        assert tensor is None or (copy is not None and torch.equal(tensor, copy))


@pytest.mark.parametrize("empty", ["B", "C", "R", "K", "h", "w"])
def test_empty(typical: Any, backend: Any, tools: Any, case_type: Any, empty: str) -> None:
    if empty not in typical.sizes or (empty in "hw" and typical.with_mean):
        pytest.skip("no such size, or the mean of nothing")
    case = case_type(typical.op, {**typical.sizes, empty: 0}, typical.given, typical.options)
    tensors = tools.leaves(case.make(torch.float32, backend.device))
    result = case.call(tensors, backend=backend.backend)
    torch.testing.assert_close(result, case.define(tensors))
    for i, gradient in tools.gradients(result, tensors, torch.ones_like(result)).items():
        assert gradient.shape == tensors[i].shape and gradient.isfinite().all()


def test_a_result_of_nothing_is_no_view_of_an_input(typical: Any, backend: Any, tools: Any, case_type: Any) -> None:
    """A view of a leaf asks for a gradient, under ``no_grad`` too."""
    case = case_type(typical.op, {**typical.sizes, "B": 0}, (), typical.options)
    with torch.no_grad():
        result = case.call(tools.leaves(case.make(torch.float32, backend.device)), backend=backend.backend)
    assert not result.requires_grad


def test_strides_past_2_to_the_31(backend: Any) -> None:
    """Planes more than 2**31 elements apart, in memory of which only those few pages are ever touched."""
    far = 2**31 + 5
    if backend.device == "cuda" and torch.cuda.mem_get_info()[0] < 3 * far * 2:
        pytest.skip("needs 13 GB on the card")
    try:
        room = torch.empty(2 * far + 64, dtype=torch.float16, device=backend.device)
    except RuntimeError:
        pytest.skip("needs 9 GB of address space")
    z = room.as_strided((1, 3, 2, 5), (3 * far, far, 7, 1))
    z.copy_(torch.randn(1, 3, 2, 5))
    weight = torch.randn(8, 3, dtype=torch.float16, device=backend.device)
    found = lkca_kernels.lowrank_pixel_shuffle(z, weight, upscale_factor=2, backend=backend.backend)
    near = lkca_kernels.lowrank_pixel_shuffle(z.contiguous(), weight, upscale_factor=2, backend=backend.backend)
    assert torch.equal(found, near)


@pytest.mark.gpu
def test_outputs_past_2_to_the_31(backend: Any) -> None:
    if backend.device != "cuda" or torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("needs 12 GB on a card")
    batch, channels, side, s = 2, 130, 732, 4  # 2.2e9 outputs
    z = torch.randn(batch, 1, side, side, dtype=torch.bfloat16, device="cuda")
    weight = torch.randn(channels * s * s, 1, dtype=torch.bfloat16, device="cuda")
    found = lkca_kernels.lowrank_pixel_shuffle(z, weight, upscale_factor=s, backend=backend.backend)
    assert found.numel() > 2**31
    for image, channel in ((0, 0), (1, channels - 1)):
        rows = weight[channel * s * s : (channel + 1) * s * s]
        true = lkca_kernels.lowrank_pixel_shuffle(z[image, None], rows, upscale_factor=s, backend="reference")
        torch.testing.assert_close(found[image, channel], true[0, 0])
