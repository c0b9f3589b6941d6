"""What only the C++ CPU backend has: instruction sets, huge pages, streaming stores, threads, peak memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lkca_kernels import cpu, reference

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"the C++ CPU backend {cpu.unavailable()}")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Half an ulp of the storage type, and a few of the sums; RMS ratios of random errors stay below.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def _isas() -> tuple[str, ...]:
    return cpu.available_isas() if cpu.unavailable() is None else ("absent",)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """All pieces of an operator's work share their scratch memory."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = cpu.use_isa(request.param)
    yield request.param
    cpu.use_isa(before)


def _lowrank(
    dtype: torch.dtype, c: int, s: int, r: int, h: int, w: int, skip: str, batch: int = 1
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    f = s if skip == "high" else 1
    tensors = (
        normal(batch, r, h, w),
        normal(c * s * s, r),
        normal(c * s * s),
        normal(batch, c),
        normal(batch, c, h * f, w * f),
    )
    return tensors, {"upscale_factor": s, "skip_bicubic": "matlab"}


# These two variants differ from plain AVX-512 in bf16 only.
VARIANTS = [
    (isa, dtype)
    for isa in _isas()
    for dtype in DTYPES
    if isa not in ("avx512_amx", "avx512_bf16") or dtype == torch.bfloat16
]


# Outputs of 4 MiB and more take the streaming stores where rows begin on cache lines (widths 64, 48, 96), and the
# ordinary ones where they do not (33, 35): every scale with a kernel of its own, and one without (6).
@pytest.mark.parametrize(("isa", "dtype"), VARIANTS, indirect=["isa"], ids=str)
@pytest.mark.parametrize(
    ("c", "s", "r", "h", "w"),
    [
        (132, 2, 5, 64, 64),
        (60, 3, 3, 62, 64),
        (57, 4, 33, 48, 48),
        (19, 5, 4, 48, 96),
        (11, 8, 3, 64, 48),
        (20, 4, 3, 67, 33),
        (9, 6, 3, 64, 35),
    ],
)
def test_large_outputs_on_every_variant(
    isa: str, dtype: torch.dtype, c: int, s: int, r: int, h: int, w: int, tools: Any
) -> None:
    if w % 2 == 0:
        assert c * s * s * h * w * 2 >= 4 << 20 and w * s * 2 % 64 == 0, "does not reach the streaming stores"
    for skip in ("high", "low"):
        tensors, how = _lowrank(dtype, c, s, r, h, w, skip)
        out = torch.full((1, c, h * s, w * s), float("nan"), dtype=dtype)
        cpu.lowrank_pixel_shuffle_fwd(*tensors, **how, out=out)
        # fp32 arithmetic is exact enough beside half an ulp of 16 bits.
        exact = torch.float64 if dtype == torch.float32 else torch.float32
        truth = reference.lowrank_pixel_shuffle(*(t.to(exact) for t in tensors), **how)
        assert tools.rms_ratio(out, truth) < ROUNDING[dtype]
        assert (out.to(exact) - truth).abs().max() < 8 * ROUNDING[dtype] * truth.abs().max()


def test_variants_agree_on_gradients(tools: Any) -> None:
    tensors, how = _lowrank(torch.float32, 7, 4, 33, 20, 37, "low", batch=2)
    grad = torch.randn(2, 7, 80, 148)
    needs = (True,) * 5
    found = {}
    for name in cpu.available_isas():
        before = cpu.use_isa(name)
        try:
            found[name] = cpu.lowrank_pixel_shuffle_bwd(grad, *tensors, **how, needs=needs)
        finally:
            cpu.use_isa(before)
    for name, gradients in found.items():
        for mine, plain in zip(gradients, found["generic"], strict=True):
            assert mine is not None and plain is not None
            assert tools.rms_ratio(mine, plain.double()) < 2e-6, name


# More rows, columns, pixels, channels and phases than one piece of work has; of the second, more pieces than partial
# sums.
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    ("op", "sizes", "given", "options"),
    [
        ("lowrank_pixel_shuffle", {"B": 1, "C": 2, "R": 3, "h": 3, "w": 5, "s": 17}, "bias gate", {}),
        ("lowrank_pixel_shuffle", {"B": 1, "C": 1, "R": 64, "h": 20, "w": 520, "s": 2}, "bias gate skip:lr", {}),
        ("pixel_shuffle_epilogue", {"B": 2, "C": 2, "h": 70, "w": 70, "s": 2}, "gate skip:lr", {}),
        ("channel_gate", {"B": 2, "C": 19, "K": 2, "h": 150, "w": 130}, "", {}),
        ("channel_attention", {"B": 2, "C": 19, "K": 2, "h": 150, "w": 130}, "residual", {}),
        ("local_channel_attention", {"B": 1, "C": 19, "K": 3, "h": 150, "w": 140}, "residual", {"window": 7}),
        ("large_kernel_branch", {"B": 1, "C": 19, "M": 21, "v": 7, "k": 5, "h": 150, "w": 142}, "residual", {}),
    ],
)
def test_gradients_of_many_pieces(
    isa: str,
    op: str,
    sizes: dict[str, int],
    given: str,
    options: dict[str, Any],
    order: torch.memory_format,
    case_type: Any,
    tools: Any,
) -> None:
    case = case_type(op, sizes, tuple(given.split()), options)
    made = case.make(torch.float32)
    made[0] = made[0].contiguous(memory_format=order)
    for name, (gradient, truth) in _gradients(case, made, tools)[2].items():
        assert tools.rms_ratio(gradient, truth) < 1e-5, name


@pytest.mark.parametrize("channels", [2, 5, 16, 24, 31, 63, 65, 102, 131, 513])
def test_channels_beside_whole_vectors(isa: str, channels: int, case_type: Any, tools: Any) -> None:
    """In channels_last vectors go over the ends of pixels, but not of an image, nor of the runs that are summed."""
    for height, width in ((1, 1), (3, 1), (5, 7)):
        sizes = {"B": 2, "C": channels, "K": 2, "h": height, "w": width}
        case = case_type("channel_attention", sizes, ("residual",), {})
        made = case.make(torch.float32)
        made[0] = made[0].contiguous(memory_format=torch.channels_last)
        result, exact, gradients = _gradients(case, made, tools)
        assert tools.rms_ratio(result, exact) < 1e-6
        for name, (gradient, truth) in gradients.items():
            # Sums of 513 numbers that nearly cancel; one left out is 20 times that.
            assert tools.rms_ratio(gradient, truth) < 1e-4, (name, height, width)


def _gradients(
    case: Any, made: list[Tensor | None], tools: Any
) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The result and its definition in float64; of each input that has one, the gradient and its truth."""
    tensors = tools.leaves(made)
    exact = tools.leaves([None if t is None else t.detach().double() for t in tensors])
    result, truth = case.call(tensors, backend="cpu"), case.define(exact)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(7))
    found, true = tools.gradients(result, tensors, grad), tools.gradients(truth, exact, grad.double())
    return result, truth, {case.names[position]: (found[position], true[position]) for position in found}


def test_sigmoid_of_the_window_attention(isa: str) -> None:
    """Of ones, 4096 of them so that their mean is exact, the hidden channel is 1 and the result 2 sigmoid(w2)."""
    logits = torch.cat([torch.linspace(-86, 86, 4090), torch.tensor([0.0, -0.0, -200.0, 200.0, -torch.inf, torch.inf])])
    x, first = torch.ones(1, 4096, 1, 1), torch.zeros(1, 4096)
    first[0, 0] = 1.0
    found = cpu.local_channel_attention_fwd(x, first, logits[:, None], None, window=1).flatten().double()
    truth = 2 * torch.sigmoid(logits.double())
    assert ((found - truth).abs() <= 1e-37 + 4e-7 * truth).all()


def _everything(dtype: torch.dtype) -> list[Tensor]:
    """Outputs and gradients of every operator, on sizes that several threads share."""
    results: list[Tensor | None] = []
    for skip in ("high", "low"):
        tensors, how = _lowrank(dtype, 24, 3, 17, 61, 37, skip, batch=2)
        out = cpu.lowrank_pixel_shuffle_fwd(*tensors, **how)
        grad = out.flip(3)
        results += [out, *cpu.lowrank_pixel_shuffle_bwd(grad, *tensors, **how, needs=(True,) * 4 + (skip == "low",))]
        y = torch.randn(2, 24 * 9, 61, 37, generator=torch.Generator().manual_seed(2)).to(dtype)
        results.append(cpu.pixel_shuffle_epilogue_fwd(y, *tensors[3:], **how))
        results += cpu.pixel_shuffle_epilogue_bwd(grad, y, *tensors[3:], **how, needs=(True, True, skip == "low"))
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 24, 200, 150, generator=torch.Generator().manual_seed(3)).to(dtype)
        x = x.contiguous(memory_format=layout)
        weights = [torch.randn(*n, generator=torch.Generator().manual_seed(4)).to(dtype) for n in ((6, 24), (6,))]
        weights += [torch.randn(*n, generator=torch.Generator().manual_seed(5)).to(dtype) for n in ((24, 6), (24,))]
        out, mean = cpu.channel_attention_fwd(x, *weights, x)
        results += [out, mean, *cpu.channel_attention_bwd(out, x, mean, *weights, needs=(True,) * 5)]
        gate, mean = cpu.channel_gate_fwd(x, *weights)
        results += [gate, mean, *cpu.channel_gate_bwd(gate, x, mean, *weights, needs=(True,) * 5)]
        layers = weights[0], weights[2]
        out = cpu.local_channel_attention_fwd(x, *layers, x, window=7)
        results += [out, *cpu.local_channel_attention_bwd(out, x, *layers, window=7, needs=(True,) * 3)]
        kernel = torch.randn(24, 1, 7, 7, generator=torch.Generator().manual_seed(6)).to(dtype)
        results.append(cpu.large_kernel_branch_fwd(x, kernel, *layers, x))
        results += cpu.large_kernel_branch_bwd(x.flip(3), x, kernel, *layers, needs=(True,) * 4)
    return [t for t in results if t is not None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _everything(dtype)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, alone, _everything(dtype))), threads
    finally:
        torch.set_num_threads(before)


def _in_fresh_process(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_environment_chooses_the_variant() -> None:
    asked = _in_fresh_process("from lkca_kernels import cpu; print(cpu.isa())", LKCA_CPU_ISA="generic")
    assert asked.stdout.strip() == "generic"


@pytest.mark.parametrize(
    ("variable", "words"),
    [("LKCA_CPU_ISA", "no variant 'sse9', expected auto or one of"), ("LKCA_HUGE_PAGES", "expected auto, 0 or 1")],
)
def test_a_wrong_variable_is_told_before_a_kernel_runs_and_by_doctor(variable: str, words: str) -> None:
    """In the words of C++, which alone knows what it takes."""
    call = "import torch, lkca_kernels as k; k.pixel_shuffle_epilogue(torch.ones(1, 4, 3, 3), upscale_factor=2)"
    told = _in_fresh_process(call, **{variable: "sse9"}).stderr.splitlines()[-1]
    assert f"BackendError: {variable}: " in told and words in told
    doctor = _in_fresh_process("from lkca.cli import main; main(['doctor', '--json'])", **{variable: "sse9"})
    served = json.loads(doctor.stdout)["operators"]["pixel_shuffle_epilogue on cpu"]
    assert served["chosen"] is None and served["reason"].startswith(f"{variable}: ")


def test_a_library_of_older_sources_is_told() -> None:
    with pytest.raises(AttributeError, match=r"_C_cpu.* has no of_tomorrow: it was built from older sources"):
        cpu._ops.of_tomorrow()


def test_unknown_settings() -> None:
    with pytest.raises(RuntimeError, match=r"no variant 'sse9', expected auto or one of .*generic"):
        cpu.use_isa("sse9")
    with pytest.raises(RuntimeError, match="LKCA_HUGE_PAGES: expected auto, 0 or 1, got 'maybe'"):
        cpu.use_huge_pages("maybe")
    assert cpu.use_isa("auto") in cpu.available_isas()


# Prints the bytes on huge pages in the memory maps that hold a fresh output, and the output's own.
_HUGE_PAGES = """
import re, torch
from pathlib import Path
from lkca_kernels import cpu

z, weight = torch.zeros(1, 2, 64, 128), torch.zeros({channels} * 16, 2)
out = cpu.lowrank_pixel_shuffle_fwd(z, weight, None, None, None, upscale_factor=4, skip_bicubic="matlab")
first, size = out.data_ptr(), out.numel() * 4
total, inside = 0, False
for line in Path("/proc/self/smaps").read_text().splitlines():
    if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
        inside = int(span[1], 16) < first + size and int(span[2], 16) > first
    elif inside and line.startswith("AnonHugePages:"):
        total += int(line.split()[1]) * 1024
print(total, size)
"""


@pytest.mark.parametrize(("setting", "megabytes", "huge"), [("auto", 40, True), ("auto", 10, False), ("0", 40, False)])
def test_huge_pages(setting: str, megabytes: int, huge: bool) -> None:
    """In a process of its own: in this one, malloc may have a free block of the size, its pages there already."""
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not switch.exists() or "[madvise]" not in switch.read_text():
        pytest.skip("needs Linux with transparent_hugepage=madvise")
    run = _in_fresh_process(_HUGE_PAGES.format(channels=megabytes * 2), LKCA_HUGE_PAGES=setting)
    assert run.returncode == 0, run.stderr
    on_huge_pages, size = map(int, run.stdout.split())
    assert size == megabytes << 20
    # At most the two ends, less than a huge page each, are on small pages.
    assert on_huge_pages >= size - (4 << 20) if huge else on_huge_pages == 0


def _status(field: str) -> int:
    line = next(n for n in Path("/proc/self/status").read_text().splitlines() if n.startswith(field))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize(("c", "r", "h"), [(128, 32, 32), (64, 64, 96), (128, 32, 96)])
@pytest.mark.parametrize("skip", ("high", "low"))
def test_peak_memory_is_that_of_the_output(dtype: torch.dtype, c: int, r: int, h: int, skip: str) -> None:
    peak = Path("/proc/self/clear_refs")
    if not os.access(peak, os.W_OK):
        pytest.skip("needs /proc/self/clear_refs to read the peak of one call")
    tensors, how = _lowrank(dtype, c, 4, r, h, h, skip)
    out = cpu.lowrank_pixel_shuffle_fwd(*tensors, **how)  # its pages are there from now on
    output = out.numel() * out.element_size()
    peak.write_text("5")
    before = _status("VmRSS")
    cpu.lowrank_pixel_shuffle_fwd(*tensors, **how, out=out)
    # Two pages of measuring error and what the allocator rounds up, beside the packed copies of z and W.
    assert _status("VmHWM") - before < 0.05 * output + (1 << 17)


_TOO_LITTLE_MEMORY = """
import resource, torch
from pathlib import Path
from lkca_kernels import cpu

torch.set_num_threads({threads})
x, w1, w2 = torch.ones(1, 3, 1500, 1500), torch.ones(15, 3), torch.ones(3, 15)
cpu.local_channel_attention_fwd(x, w1, w2, None, window=1)  # starts the threads
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (200 << 20),) * 2)
try:
    cpu.local_channel_attention_fwd(x, w1, w2, None, window=2999)  # 290 MB for each thread
except MemoryError:
    print("told")
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_too_little_memory_is_told_from_every_thread(threads: int) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux")
    run = _in_fresh_process(_TOO_LITTLE_MEMORY.format(threads=threads))
    assert run.stdout.strip() == "told", run.stderr


def test_a_result_or_a_copy_without_memory_is_told() -> None:
    """In the words of torch's allocator, which commands know."""
    one, how = torch.ones(1), {"upscale_factor": 2, "skip_bicubic": "matlab"}
    with pytest.raises(RuntimeError, match=f"can't allocate memory for {2**48} numbers"):
        cpu.pixel_shuffle_epilogue_fwd(one.expand(2**24, 2**24, 1, 1), None, None, **how)
    y, grad = one.expand(2**24, 2**26, 2, 2), one.expand(2**24, 2**24, 4, 4)
    with pytest.raises(RuntimeError, match=f"can't allocate memory for {2**52} numbers"):
        cpu.pixel_shuffle_epilogue_bwd(grad, y, None, None, **how, needs=(True, False, False))


def _spoiled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, Tensor):
        changes: list[Callable[[], Any]] = [
            lambda: value.double(),
            lambda: value.to("meta"),
            lambda: value[..., :-1],
            lambda: value[:0],
            lambda: value.flatten(),
            lambda: value[None],
            lambda: value.int(),
            lambda: value.to_sparse(),
            lambda: value.transpose(0, -1),
        ]
        return rng.choice(changes)()
    return rng.choice([-1, 0, 1, 3, 7, 2**31, -(2**40), 2**62])


@pytest.mark.parametrize("seed", range(4))
def test_operators_survive_wrong_calls_past_python(seed: int) -> None:
    """Every call straight to the library returns, or raises; none ends the process."""
    rng = random.Random(seed)
    (z, weight, bias, gate, skip), _ = _lowrank(torch.float32, 3, 2, 5, 4, 6, "low")
    grad, y = torch.randn(1, 3, 8, 12), torch.randn(1, 12, 4, 6)
    x = torch.randn(2, 5, 4, 6)
    net = [torch.randn(3, 5), torch.randn(3), torch.randn(5, 3), torch.randn(5)]
    mean = torch.randn(2, 5)
    calls: dict[str, tuple[Any, ...]] = {
        "lowrank_pixel_shuffle_fwd": (z, weight, bias, gate, skip, 2, 0, grad.clone()),
        "lowrank_pixel_shuffle_bwd": (grad, z, weight, bias, gate, skip, 2, 0, 31),
        "lowrank_pixel_shuffle_stored": (z, weight, bias, skip, gate[0], gate[0], 2, 0, 0, 4, grad.to(torch.int16)),
        "pixel_shuffle_epilogue_fwd": (y, gate, skip, 2, 0, grad.clone()),
        "pixel_shuffle_epilogue_bwd": (grad, y, gate, skip, 2, 0, 7),
        "channel_gate_fwd": (x, *net),
        "channel_gate_bwd": (mean, x, mean, *net, 31),
        "channel_attention_fwd": (x, *net, x.clone(), x.clone()),
        "channel_attention_bwd": (x.clone(), x, mean, *net, 31),
        "local_channel_attention_fwd": (x, net[0], net[2], x.clone(), 3, x.clone()),
        "local_channel_attention_bwd": (x.clone(), x, net[0], net[2], 3, 7),
        "large_kernel_branch_bwd": (x.clone(), x, torch.randn(5, 1, 3, 7), net[0], net[2], 15),
        "large_kernel_branch_fwd": (x, torch.randn(5, 1, 3, 7), net[0], net[2], x.clone(), x.clone()),
    }
    refused = 0
    for op, arguments in calls.items():
        function = getattr(torch.ops.lkca_cpu, op)
        function(*arguments)
        for _ in range(60):
            spoiled = list(arguments)
            for k in rng.sample(range(len(spoiled)), rng.choice((1, 1, 2))):
                spoiled[k] = _spoiled(spoiled[k], rng)
            try:
                function(*spoiled)
            except (RuntimeError, NotImplementedError, TypeError, IndexError):
                refused += 1
    assert refused > 200
