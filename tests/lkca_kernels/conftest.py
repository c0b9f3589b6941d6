"""The matrix of the operator tests: which cases, in which dtype and layout, on which backend and device.

A test that takes ``backend`` runs once per backend that this machine has (the others skip and say why): the C++ one
where it is built, Triton on a card or under TRITON_INTERPRET=1, CUDA on a card. One that takes ``case`` runs once per
case, one that takes ``typical`` once per operator, one that takes ``layout`` once per layout of the inputs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lkca_kernels
from lkca_kernels import backends, reference

Tensors = list[Tensor | None]

# PyTorch lets cuDNN multiply float32 in TF32 unless told otherwise: 3e-4 off, and more where a ReLU flips.
torch.backends.cudnn.allow_tf32 = False


@dataclass(frozen=True)
class Target:
    """A backend and the device that its tensors live on."""

    backend: str
    device: str

    def needs(self, dtype: torch.dtype) -> None:
        """Skip the test where the backend leaves ``dtype`` to the reference."""
        if reason := self.refusal("lowrank_pixel_shuffle", dtype):
            pytest.skip(f"{self.backend} {reason}")

    def refusal(self, op: str, dtype: torch.dtype = torch.float32) -> str | None:
        """Why the backend leaves such calls to another one."""
        explained = backends.explain_call(op, torch.device(self.device), dtype, 2, self.backend)
        return explained.refusals.get(self.backend)


@dataclass(frozen=True)
class Case:
    """One operator with its sizes; ``given`` lists the optional tensors that are passed."""

    op: str
    sizes: dict[str, int]
    given: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = "".join(f"{name}{size}" for name, size in self.sizes.items())
        return "-".join((self.op, sizes, *self.given, *(str(v) for v in self.options.values())))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(SHAPES[self.op])

    def make(self, dtype: torch.dtype, device: str = "cpu", *, seed: int = 0, layout: str = "contiguous") -> Tensors:
        """Standard normal tensors in the order of the operator's arguments, None where not given."""
        generator = torch.Generator().manual_seed(seed)
        made: Tensors = []
        for name, shape_of in SHAPES[self.op].items():
            optional = name in ("bias", "gate", "skip", "residual")
            variant = next((g for g in self.given if g.split(":")[0] == name), None)
            if optional and variant is None:
                made.append(None)
                continue
            sizes = {**self.sizes, "f": self.sizes["s"] if variant == "skip:hr" else 1}
            values = torch.randn(shape_of(sizes), generator=generator, dtype=torch.float64)
            made.append(LAYOUTS[layout](values.to(dtype).to(device)))
        return made

    def call(self, tensors: Sequence[Tensor | None], **how: Any) -> Tensor:
        """The public operator."""
        return getattr(lkca_kernels, self.op)(*tensors, **self._options, **how)

    def define(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """The reference."""
        return getattr(reference, self.op)(*tensors, **self._options)

    def naive(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """What one would write in PyTorch, in the tensors' own dtype: the yardstick of rounding errors."""
        return NAIVE[self.op](*tensors, **self._options)

    @property
    def raw_arguments(self) -> tuple[Any, ...]:
        """What follows the tensors in ``torch.ops.lkca_kernels.<op>``, the backend's name aside."""
        if not self.upsamples:
            return tuple(self.options.values())
        return self.sizes["s"], self.options.get("skip_bicubic", "matlab")

    @property
    def upsamples(self) -> bool:
        return "shuffle" in self.op

    @property
    def with_mean(self) -> bool:
        """Whether the raw operator also returns the mean of x over the image."""
        return self.op in ("channel_gate", "channel_attention")

    @property
    def _options(self) -> dict[str, Any]:
        return {"upscale_factor": self.sizes["s"], **self.options} if self.upsamples else self.options


_skip = {"skip": lambda d: (d["B"], d["C"], d["h"] * d["f"], d["w"] * d["f"])}
_gate_weights = {
    "w1": lambda d: (d["K"], d["C"]),
    "b1": lambda d: (d["K"],),
    "w2": lambda d: (d["C"], d["K"]),
    "b2": lambda d: (d["C"],),
}
SHAPES: dict[str, dict[str, Callable[[dict[str, int]], tuple[int, ...]]]] = {
    "lowrank_pixel_shuffle": {
        "z": lambda d: (d["B"], d["R"], d["h"], d["w"]),
        "weight": lambda d: (d["C"] * d["s"] ** 2, d["R"]),
        "bias": lambda d: (d["C"] * d["s"] ** 2,),
        "gate": lambda d: (d["B"], d["C"]),
        **_skip,
    },
    "pixel_shuffle_epilogue": {
        "y": lambda d: (d["B"], d["C"] * d["s"] ** 2, d["h"], d["w"]),
        "gate": lambda d: (d["B"], d["C"]),
        **_skip,
    },
    "channel_gate": {"x": lambda d: (d["B"], d["C"], d["h"], d["w"]), **_gate_weights},
    "channel_attention": {
        "x": lambda d: (d["B"], d["C"], d["h"], d["w"]),
        **_gate_weights,
        "residual": lambda d: (d["B"], d["C"], d["h"], d["w"]),
    },
    "local_channel_attention": {
        "x": lambda d: (d["B"], d["C"], d["h"], d["w"]),
        "w1": lambda d: (d["K"], d["C"]),
        "w2": lambda d: (d["C"], d["K"]),
        "residual": lambda d: (d["B"], d["C"], d["h"], d["w"]),
    },
    "large_kernel_branch": {
        "x": lambda d: (d["B"], d["C"], d["h"], d["w"]),
        "depthwise": lambda d: (d["C"], 1, d["v"], d["k"]),
        "expand": lambda d: (d["M"], d["C"]),
        "contract": lambda d: (d["C"], d["M"]),
        "residual": lambda d: (d["B"], d["C"], d["h"], d["w"]),
    },
}


def _sliced(x: Tensor) -> Tensor:
    """A view with a stride in every dimension and an odd offset."""
    room = x.new_full([2 * n + 1 for n in x.shape], math.nan)
    view = room[tuple(slice(1, None, 2) for _ in x.shape)]
    return view.copy_(x)


def _expanded(x: Tensor) -> Tensor:
    """Stride 0 in the last dimension and in the first."""
    return (x[:1] if x.ndim == 1 else x[:1, ..., :1]).expand_as(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x,
    "sliced": _sliced,
    "expanded": _expanded,
}


def _naive_epilogue(
    y: Tensor, gate: Tensor | None, skip: Tensor | None, *, upscale_factor: int, skip_bicubic: str = "matlab"
) -> Tensor:
    out = F.pixel_shuffle(y, upscale_factor)
    if gate is not None:
        out = out * gate[:, :, None, None]
    if skip is None:
        return out
    if skip.shape != out.shape:
        skip = reference.bicubic_upsample(skip, upscale_factor, skip_bicubic)  # type: ignore[arg-type]
    return out + skip


def _naive_lowrank(
    z: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, skip: Tensor | None, **options: Any
) -> Tensor:
    return _naive_epilogue(F.conv2d(z, weight[:, :, None, None], bias), gate, skip, **options)


def _naive_gate(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    hidden = F.relu(F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), w1, b1))
    return torch.sigmoid(F.linear(hidden, w2, b2))


def _naive_attention(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None = None
) -> Tensor:
    out = x * _naive_gate(x, w1, b1, w2, b2)[:, :, None, None]
    return out if residual is None else out + residual


def _naive_local(x: Tensor, w1: Tensor, w2: Tensor, residual: Tensor | None = None, *, window: int) -> Tensor:
    reach = window // 2
    a = F.avg_pool2d(x.abs(), window, stride=1, padding=reach, count_include_pad=False)
    ratio = a / (a.mean(1, keepdim=True) + torch.finfo(x.dtype).tiny ** 0.5)
    hidden = F.relu(F.conv2d(ratio, w1[:, :, None, None]))
    out = x * (2 * torch.sigmoid(F.conv2d(hidden, w2[:, :, None, None])))
    return out if residual is None else out + residual


def _naive_branch(
    x: Tensor, depthwise: Tensor, expand: Tensor, contract: Tensor, residual: Tensor | None = None
) -> Tensor:
    _, _, kh, kw = depthwise.shape
    y = F.conv2d(x, depthwise, padding=(kh // 2, kw // 2), groups=x.shape[1])
    y = F.conv2d(F.relu(F.conv2d(y, expand[:, :, None, None])), contract[:, :, None, None])
    return y if residual is None else y + residual


NAIVE: dict[str, Callable[..., Tensor]] = {
    "lowrank_pixel_shuffle": _naive_lowrank,
    "pixel_shuffle_epilogue": _naive_epilogue,
    "channel_gate": _naive_gate,
    "channel_attention": _naive_attention,
    "local_channel_attention": _naive_local,
    "large_kernel_branch": _naive_branch,
}


def _sizes(names: str, *values: int) -> dict[str, int]:
    return dict(zip(names, values, strict=True))


def _lowrank(*sizes: int, given: str = "", **options: Any) -> Case:
    return Case("lowrank_pixel_shuffle", _sizes("BCRhws", *sizes), tuple(given.split()), options)


def _epilogue(*sizes: int, given: str = "", **options: Any) -> Case:
    return Case("pixel_shuffle_epilogue", _sizes("BChws", *sizes), tuple(given.split()), options)


def _channel(op: str, *sizes: int, given: str = "", **options: Any) -> Case:
    return Case(op, _sizes("BCKhw", *sizes), tuple(given.split()), options)


def _local(*sizes: int, given: str = "", window: int) -> Case:
    return _channel("local_channel_attention", *sizes, given=given, window=window)


def _branch(*sizes: int, given: str = "") -> Case:
    return Case("large_kernel_branch", _sizes("BCMvkhw", *sizes), tuple(given.split()))


# Ones and primes, every s of the field, each subset of the optional tensors somewhere, one case per operator that is
# wider than a tile in every direction.
CASES = (
    _lowrank(1, 1, 1, 1, 1, 2),
    _lowrank(2, 3, 5, 7, 5, 2, given="bias gate skip:hr"),
    _lowrank(1, 7, 13, 5, 11, 3, given="bias gate skip:lr"),
    _lowrank(2, 5, 1, 3, 2, 4, given="gate skip:lr", skip_bicubic="torch"),
    _lowrank(1, 2, 31, 13, 17, 5, given="bias skip:hr"),
    _lowrank(1, 3, 4, 2, 3, 8, given="gate"),
    _lowrank(1, 1, 3, 1, 33, 2, given="skip:lr"),
    _lowrank(1, 4, 32, 8, 16, 4, given="bias"),
    _lowrank(2, 19, 37, 9, 37, 4, given="bias gate skip:lr"),
    _epilogue(1, 1, 1, 1, 2),
    _epilogue(2, 3, 7, 5, 2, given="gate skip:hr"),
    _epilogue(1, 5, 5, 11, 3, given="gate skip:lr"),
    _epilogue(2, 2, 3, 2, 5, given="skip:lr", skip_bicubic="torch"),
    _epilogue(1, 3, 2, 3, 8, given="gate"),
    _epilogue(2, 17, 9, 37, 4, given="gate skip:lr"),
    _channel("channel_gate", 1, 1, 1, 1, 1),
    _channel("channel_gate", 3, 7, 2, 5, 11),
    _channel("channel_gate", 2, 67, 17, 19, 23),
    _channel("channel_attention", 1, 1, 1, 1, 1),
    _channel("channel_attention", 3, 7, 2, 5, 11, given="residual"),
    _channel("channel_attention", 2, 67, 17, 19, 23, given="residual"),
    _channel("channel_attention", 2, 5, 3, 13, 1),
    _local(1, 1, 1, 1, 1, window=1),
    _local(3, 7, 2, 5, 11, given="residual", window=3),
    _local(2, 67, 17, 19, 23, given="residual", window=9),
    _local(1, 32, 8, 7, 33, window=5),
    _local(2, 5, 3, 13, 1, window=31),
    _branch(1, 1, 1, 1, 1, 1, 1),
    _branch(3, 7, 2, 3, 5, 5, 11, given="residual"),
    _branch(2, 37, 67, 7, 7, 19, 73, given="residual"),
    _branch(1, 32, 64, 7, 7, 9, 33),
    _branch(2, 5, 3, 31, 11, 13, 1, given="residual"),
)
# One small case per operator, every tensor given, for the tests whose subject is not the arithmetic.
TYPICAL = (
    _lowrank(2, 3, 5, 4, 3, 2, given="bias gate skip:lr"),
    _epilogue(2, 3, 4, 3, 2, given="gate skip:hr"),
    _channel("channel_gate", 2, 5, 3, 4, 3),
    _channel("channel_attention", 2, 5, 3, 4, 3, given="residual"),
    _local(2, 5, 3, 4, 3, given="residual", window=3),
    _branch(2, 5, 3, 3, 3, 4, 3, given="residual"),
)


def rms_ratio(value: Tensor, truth: Tensor) -> float:
    """Root mean square of the error over that of the truth."""
    value, truth = value.detach(), truth.detach()
    error = (value.double().cpu() - truth.double().cpu()).square().mean().sqrt()
    scale = truth.double().square().mean().sqrt()
    return float(error / scale) if scale > 0 else float(error)


def leaves(tensors: Sequence[Tensor | None]) -> Tensors:
    """Detached, with a gradient asked for, strides kept."""
    return [None if t is None else t.detach().requires_grad_() for t in tensors]


def gradients(result: Tensor, tensors: Sequence[Tensor | None], grad: Tensor) -> dict[int, Tensor]:
    """Gradient per position of the tensors that are given."""
    given = [i for i, t in enumerate(tensors) if t is not None]
    return dict(zip(given, torch.autograd.grad(result, [tensors[i] for i in given], grad), strict=True))  # type: ignore[misc]


def _targets() -> list[Any]:
    cuda = torch.cuda.is_available()
    places = {
        "reference": ["cpu", "cuda"] if cuda else ["cpu"],
        "cpu": ["cpu"],
        "triton": ["cuda"] if cuda else ["cpu"],
        "cuda": ["cuda"],
    }
    targets = []
    for name in backends.BACKENDS:
        reason = backends.unavailable(name)
        if reason is None and name == "triton" and not cuda and os.environ.get("TRITON_INTERPRET") != "1":
            reason = "needs a card, or TRITON_INTERPRET=1"
        for device in places[name]:
            marks = [pytest.mark.skip(reason=f"{name} {reason}")] if reason else []
            if device == "cuda":
                marks.append(pytest.mark.gpu)
            targets.append(pytest.param(Target(name, device), id=f"{name}_{device}", marks=marks))
    return targets


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", _targets())
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=str)
    if "typical" in metafunc.fixturenames:
        metafunc.parametrize("typical", TYPICAL, ids=lambda case: case.op)
    if "layout" in metafunc.fixturenames:
        metafunc.parametrize("layout", LAYOUTS)


@pytest.fixture(autouse=True)
def _served(request: pytest.FixtureRequest) -> None:
    """Skip a case whose operator the backend does not have."""
    case = next((request.getfixturevalue(n) for n in ("case", "typical") if n in request.fixturenames), None)
    if case is not None and "backend" in request.fixturenames:
        backend = request.getfixturevalue("backend")
        if reason := backend.refusal(case.op):
            pytest.skip(f"{backend.backend} {reason}")


@pytest.fixture(scope="session")
def tools() -> Any:
    """The helpers of this file: rms_ratio, leaves, gradients."""
    return SimpleNamespace(rms_ratio=rms_ratio, leaves=leaves, gradients=gradients)


@pytest.fixture(scope="session")
def case_type() -> type[Case]:
    """The class of the cases, for sizes of one's own."""
    return Case
