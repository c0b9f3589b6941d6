"""Exported programs that keep lkca's operators, and those that call the C++ library's."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

import lkca_kernels
from lkca_kernels import exporting
from lkca_kernels.exporting import call_cpp_operators


class Every(nn.Module):
    """Every operator and option: z (B, 5, h, w), low (B, 3, h, w) -> (B, 3, 4h, 4w)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = torch.randn(12, 5), torch.randn(12)
        self.w1, self.b1, self.w2, self.b2 = torch.randn(2, 3), torch.randn(2), torch.randn(3, 2), torch.randn(3)
        self.kernel = torch.randn(3, 1, 3, 5)

    def forward(self, z: Tensor, low: Tensor) -> Tensor:
        squeeze = self.w1, self.b1, self.w2, self.b2
        gate = lkca_kernels.channel_gate(low, *squeeze)
        low = lkca_kernels.channel_attention(lkca_kernels.channel_attention(low, *squeeze), *squeeze, residual=low)
        local = lkca_kernels.local_channel_attention(low, self.w1, self.w2, window=3)
        low = lkca_kernels.local_channel_attention(local, self.w1, self.w2, residual=low, window=5)
        low = lkca_kernels.large_kernel_branch(low, self.kernel, self.w1, self.w2, residual=low)
        first = lkca_kernels.lowrank_pixel_shuffle(z, self.weight, self.bias, gate, low, upscale_factor=2)
        second = lkca_kernels.pixel_shuffle_epilogue(
            torch.cat([low] * 4, 1), gate, first, upscale_factor=2, skip_bicubic="torch"
        )
        return lkca_kernels.pixel_shuffle_epilogue(
            torch.cat([z[:, :4]] * 3, 1), None, second, upscale_factor=2
        ) + lkca_kernels.lowrank_pixel_shuffle(z, self.weight, skip=low, upscale_factor=2, skip_bicubic="torch")


def inputs(batch: int = 2, h: int = 7, w: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 5, h, w), torch.randn(batch, 3, h, w)


def exported(strict: bool = False) -> torch.export.ExportedProgram:
    size = {0: torch.export.Dim("b"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    with lkca_kernels.keep_operators():
        return torch.export.export(Every(), inputs(), dynamic_shapes=(size, size), strict=strict)


def targets(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target).partition(".")[0] for node in program.graph.nodes if "lkca" in str(node.target)}


@pytest.mark.parametrize("strict", [False, True])
def test_the_backend_is_chosen_where_the_program_runs(strict: bool) -> None:
    program = exported(strict)
    assert targets(program) == {"lkca_kernels"}
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in ((1, 1, 1), (2, 5, 9)):
        tensors = inputs(*size)
        expected = program.module()(*tensors)
        for backend in lkca_kernels.available_backends():
            if backend == "triton":
                continue  # the interpreter's own tests cover it, slowly
            with lkca_kernels.use_backend(backend):
                torch.testing.assert_close(loaded(*tensors), expected, rtol=1e-4, atol=1e-4)
    with lkca_kernels.use_backend("cuda"), pytest.raises(lkca_kernels.BackendError, match="cuda"):
        loaded(*inputs())


def test_a_loaded_program_is_differentiable() -> None:
    torch.manual_seed(0)  # where sums cancel, or a relu turns, rounding alone is more than the tolerance: 1 of 60 draws
    program = exported()
    z, low = (t.requires_grad_() for t in inputs())
    found = torch.autograd.grad(program.module()(z, low).square().sum(), (z, low))
    with lkca_kernels.use_backend("reference"):
        expected = torch.autograd.grad(program.module()(z, low).square().sum(), (z, low))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_a_backend_named_while_exporting_stays() -> None:
    with lkca_kernels.use_backend("reference"):
        assert targets(exported()) == set()


@pytest.mark.parametrize(
    ("named", "dtype", "words"),
    [
        ("nowhere", torch.float32, "the operator's backend argument: unknown backend 'nowhere'"),
        ("cpu", torch.float64, "pixel_shuffle_epilogue: backend 'cpu', asked for by the operator's backend argument, "),
    ],
)
def test_a_program_names_a_backend_that_cannot_serve_it_here(named: str, dtype: torch.dtype, words: str) -> None:
    """It may come from a machine where the backend was registered, or from an editor of programs."""
    y, low, eye = torch.ones(1, 4, 2, 2, dtype=dtype), torch.ones(1, 1, 2, 2), torch.eye(4)
    op, out = torch.ops.lkca_kernels, torch.empty(1, 1, 4, 4, dtype=dtype)
    calls = [
        lambda: op.pixel_shuffle_epilogue(y, None, None, 2, "matlab", named),
        lambda: op.pixel_shuffle_epilogue_out(y, None, None, 2, "matlab", named, out=out),
        lambda: op.pixel_shuffle_epilogue_backward(out, y, None, None, 2, "matlab", [True, False, False], named),
    ]
    if named == "nowhere":
        calls.append(
            lambda: op.lowrank_pixel_shuffle_stored(
                low.expand(1, 4, 2, 2), eye, None, None, None, torch.ones(1), 2, "matlab", 0, 2, named, out=out
            )
        )
    for call in calls:
        with pytest.raises(lkca_kernels.BackendError) as caught:
            call()
        assert str(caught.value).startswith(words)


class Into(torch.nn.Module):
    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return lkca_kernels.pixel_shuffle_epilogue(y, upscale_factor=2, out=y.new_empty(2, 3, 6, 8))


class Plain(torch.nn.Module):
    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return lkca_kernels.pixel_shuffle_epilogue(y, upscale_factor=self.scale)


class Stored(torch.nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        out = z.new_empty(2, 3, 6, 8)
        lkca_kernels.lowrank_pixel_shuffle_stored(z, torch.eye(12), upscale_factor=2, out=out)
        return out


@pytest.mark.parametrize("module", [Into(), Stored()], ids=["out", "stored"])
def test_out_in_a_program_that_keeps_its_operators(module: torch.nn.Module) -> None:
    y = torch.randn(2, 12, 3, 4)
    with lkca_kernels.keep_operators():
        program = torch.export.export(module, (y,), strict=False)
    assert targets(program) == {"lkca_kernels"}
    torch.testing.assert_close(program.module()(y), Plain()(y))


class Nested(torch.nn.Module):
    def forward(self, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # a graph of its own
            y = lkca_kernels.pixel_shuffle_epilogue(y, upscale_factor=2)
        return y + 1


def test_calls_within_graphs_of_their_own_are_replaced() -> None:
    if lkca_kernels.backends.unavailable("cpu"):
        pytest.skip("the C++ library was not built")
    y = torch.randn(2, 12, 3, 4)
    with lkca_kernels.keep_operators():
        program = torch.export.export(Nested(), (y.clone().requires_grad_(),), strict=False)
    assert call_cpp_operators(program) == 1
    torch.testing.assert_close(program.module()(y), Plain()(y) + 1)


@pytest.mark.parametrize(
    ("module", "y", "words"),
    [
        (Into(), torch.ones(2, 12, 3, 4), "has no .*_out"),
        (Plain(), torch.ones(2, 12, 3, 4).double(), "serves float32, bfloat16 and float16"),
        (Plain(1025), torch.ones(1, 1025**2, 1, 1), "serves upscale_factor up to 1024"),
    ],
    ids=["out", "float64", "scale"],
)
def test_what_the_cpp_library_has_not(module: torch.nn.Module, y: Tensor, words: str) -> None:
    if lkca_kernels.backends.unavailable("cpu"):
        pytest.skip("the C++ library was not built")
    with lkca_kernels.keep_operators():
        program = torch.export.export(module, (y,), strict=False)
    with pytest.raises(lkca_kernels.BackendError, match=words):
        call_cpp_operators(program)
    assert targets(program) == {"lkca_kernels"}
    torch.testing.assert_close(program.module()(y), module(y))


def test_without_the_cpp_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "unavailable", lambda: "was not built")
    with pytest.raises(lkca_kernels.BackendError, match=r"the C\+\+ CPU library, .*, was not built"):
        exporting._cpp_operators.__wrapped__()


def test_calls_of_the_cpp_library() -> None:
    if lkca_kernels.backends.unavailable("cpu"):
        pytest.skip("the C++ library was not built")
    program = exported()
    tensors = inputs(3, 4, 9)
    expected = program.module()(*tensors)
    assert call_cpp_operators(program) == 10 and targets(program) == {"lkca_cpu"}
    assert "lkca_kernels" not in program.graph_module.code
    torch.testing.assert_close(program.module()(*tensors), expected)
    # what a compiler asks: shapes by the fake, in step with the real kernel
    again = torch.export.export(program.module(), tensors, strict=False)
    torch.testing.assert_close(again.module()(*tensors), expected)

    def half(*shape: int) -> Tensor:  # whose means are float32, in a layout that results follow
        values = torch.randn(shape, dtype=torch.bfloat16)
        return values.to(memory_format=torch.channels_last) if values.ndim == 4 else values

    x, squeeze = half(3, 3, 4, 9), (half(2, 3), half(2), half(3, 2), half(3))
    for name, arguments in {
        "lowrank_pixel_shuffle": (half(3, 5, 4, 9), half(12, 5), None, None, x, 2, 0),
        "pixel_shuffle_epilogue": (half(2, 12, 3, 4), None, None, 2, 0),
        "channel_gate_fwd": (x, *squeeze),
        "channel_attention": (x, *squeeze, None),
        "large_kernel_branch": (x, half(3, 1, 5, 3), squeeze[0], squeeze[2], None),
        "local_channel_attention": (x, squeeze[0], squeeze[2], x, 3),
    }.items():
        operator = getattr(torch.ops.lkca_cpu, name).default
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
