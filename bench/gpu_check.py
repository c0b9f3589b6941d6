"""`make gpu-check`: build with CUDA, run every test on the card, time the operators, write bench/results/<gpu>-<date>.

Time: CUDA events around replays of a CUDA graph that holds one call for each of several input sets, together more than
three times the L2 cache, so that inputs come from memory. Limit: the bytes that must move (each input read once, each
result written once) at the rate of a large device-to-device copy measured in the same run. torch.compile is run with
max-autotune-no-cudagraphs, since the graph is ours for every candidate alike.

The Triton backend is timed with its default tiles, and as "triton, tuned" with the fastest of its few candidates, which
LKCA_TRITON_TUNE=1 finds before anything is timed (docs/triton_backend.md).

Exit code: 0 all well, 1 a test or a check failed, 2 no CUDA device or no CUDA torch.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BACKENDS = ("triton", "cuda")
CANDIDATES = (*BACKENDS, "triton, tuned")
TOLERANCE = {torch.float32: 2e-3, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # against eager, which may use TF32


@dataclass(frozen=True)
class Case:
    """One call to time. ``call(backend)`` gives the function, None for eager PyTorch; ``inputs`` makes its tensors."""

    name: str
    dtype: torch.dtype
    inputs: Callable[[], list[Tensor | None]]
    call: Callable[[str | None], Callable[..., Tensor]]
    backward: bool = False


@dataclass(frozen=True)
class Row:
    case: str
    dtype: str
    candidate: str
    microseconds: float
    spread_percent: float
    megabytes: float
    gigabytes_per_second: float
    share_of_copy: float
    error: float


def run(command: list[str], **environment: str) -> bool:
    print("+", " ".join(command), flush=True)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode == 0


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def upsampling_case(size: int, dtype: torch.dtype, skip: str, backward: bool = False) -> Case:
    """C = 128, s = 4, R = 32, gate and bias; skip "none", "hr" or "lr"."""
    from lkca_kernels import bicubic_upsample, lowrank_pixel_shuffle

    channels, scale, rank = 128, 4, 32

    def inputs() -> list[Tensor | None]:
        shapes = {"hr": (1, channels, size * scale, size * scale), "lr": (1, channels, size, size)}
        tensors = [random(1, rank, size, size, dtype=dtype), random(channels * scale**2, rank, dtype=dtype) / rank**0.5]
        tensors += [random(channels * scale**2, dtype=dtype), random(1, channels, dtype=dtype)]
        return [*tensors, random(*shapes[skip], dtype=dtype) if skip in shapes else None]

    def call(backend: str | None) -> Callable[..., Tensor]:
        def eager(z: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, added: Tensor | None) -> Tensor:
            out = F.pixel_shuffle(F.conv2d(z, weight[:, :, None, None], bias), scale) * gate[:, :, None, None]
            if added is None:
                return out
            return out + (bicubic_upsample(added, scale) if added.shape[2] == size else added)

        if backend is None:
            return eager
        return lambda *tensors: lowrank_pixel_shuffle(*tensors, upscale_factor=scale, backend=backend)

    name = f"lowrank_pixel_shuffle C=128 s=4 R=32 {size}x{size} skip={skip}"
    return Case(name + (" forward+backward" if backward else ""), dtype, inputs, call, backward)


def epilogue_case(size: int, dtype: torch.dtype) -> Case:
    from lkca_kernels import pixel_shuffle_epilogue

    channels, scale = 128, 4

    def inputs() -> list[Tensor | None]:
        skip = random(1, channels, size * scale, size * scale, dtype=dtype)
        return [random(1, channels * scale**2, size, size, dtype=dtype), random(1, channels, dtype=dtype), skip]

    def call(backend: str | None) -> Callable[..., Tensor]:
        if backend is None:
            return lambda y, gate, skip: F.pixel_shuffle(y, scale) * gate[:, :, None, None] + skip
        return lambda *tensors: pixel_shuffle_epilogue(*tensors, upscale_factor=scale, backend=backend)

    return Case(f"pixel_shuffle_epilogue C=128 s=4 {size}x{size} skip=hr", dtype, inputs, call)


def attention_case(size: int, dtype: torch.dtype) -> Case:
    from lkca_kernels import channel_attention

    channels, hidden = 64, 16

    def inputs() -> list[Tensor | None]:
        shapes = [(1, channels, size, size), (hidden, channels), (hidden,), (channels, hidden), (channels,)]
        return [random(*shape, dtype=dtype) for shape in shapes]

    def call(backend: str | None) -> Callable[..., Tensor]:
        def eager(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
            hidden_layer = F.relu(F.linear(x.mean((2, 3)), w1, b1))
            return x * torch.sigmoid(F.linear(hidden_layer, w2, b2))[:, :, None, None]

        if backend is None:
            return eager
        return lambda *tensors: channel_attention(*tensors, backend=backend)

    return Case(f"channel_attention C=64 {size}x{size}", dtype, inputs, call)


def local_attention_case(size: int, dtype: torch.dtype, backward: bool = False) -> Case:
    from lkca_kernels import local_channel_attention, reference

    channels, hidden, window = 64, 8, 9

    def inputs() -> list[Tensor | None]:
        shapes = [(1, channels, size, size), (hidden, channels), (channels, hidden), (1, channels, size, size)]
        return [random(*shape, dtype=dtype) for shape in shapes]

    def call(backend: str | None) -> Callable[..., Tensor]:
        if backend is None:
            return lambda *tensors: reference.local_channel_attention(*tensors, window=window)
        return lambda *tensors: local_channel_attention(*tensors, window=window, backend=backend)

    name = f"local_channel_attention C=64 window=9 {size}x{size}" + (" forward+backward" if backward else "")
    return Case(name, dtype, inputs, call, backward)


def cases(quick: bool) -> list[Case]:
    half, full = torch.bfloat16, torch.float32
    found = [upsampling_case(size, half, skip) for size in (256, 512) for skip in ("none", "hr", "lr")]
    found.append(upsampling_case(256, half, "hr", backward=True))
    if not quick:
        found += [upsampling_case(256, full, skip) for skip in ("none", "hr", "lr")]
        found += [upsampling_case(256, torch.float16, "hr"), upsampling_case(256, full, "hr", backward=True)]
        found += [epilogue_case(256, half), epilogue_case(256, full), attention_case(512, half)]
        found += [local_attention_case(512, half), local_attention_case(512, half, backward=True)]
    return found


def graph_time(call: Callable[[int], object], sets: int, replays: int = 15) -> float:
    """Seconds of one call, the median over replays of a graph of ``sets`` calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(0)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(sets):
            call(i)
    times = []
    for repeat in range(replays + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if repeat >= 2:
            times.append(start.elapsed_time(end) / 1e3 / sets)
    return float(statistics.median(times))


def copy_rate() -> float:
    """Bytes read plus written per second of a device-to-device copy of 1 GiB, by a kernel.

    Not ``Tensor.copy_``: a graph makes it a node for the copy engine, which reached 2.8 of an H200's 4.3 TB/s.
    """
    source = random(2**28, dtype=torch.float32)
    target = torch.empty_like(source)
    return 2 * source.nbytes / graph_time(lambda _: torch.mul(source, 1.0, out=target), 4)


def gradient_call(function: Callable[..., Tensor], tensors: list[Tensor | None], grad_out: Tensor) -> list[Tensor]:
    leaves = [t for t in tensors if t is not None]
    return [*torch.autograd.grad(function(*tensors), leaves, grad_out)]


def tuning(function: Callable[..., Tensor], on: bool) -> Callable[..., Tensor]:
    """``function`` with the switch of the Triton backend's tiles set for its calls, backward passes included."""

    def call(*tensors: Tensor | None) -> Tensor:
        os.environ["LKCA_TRITON_TUNE"] = "1" if on else "0"
        return function(*tensors)

    return call


def tune(case: Case) -> None:
    """One eager call, so that nothing is left to try when a graph is captured."""
    tensors = case.inputs()
    if case.backward:
        tensors = [None if t is None else t.requires_grad_() for t in tensors]
    with torch.set_grad_enabled(case.backward):
        out = tuning(case.call("triton"), True)(*tensors)
        if case.backward:
            out.backward(torch.ones_like(out))


def measure(case: Case, rate: float) -> list[Row]:
    """A row for each candidate that runs."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    first = case.inputs()
    read = sum(t.nbytes for t in first if t is not None)
    out = case.call(None)(*first)
    # Backward: the inputs and the HR gradient are read again, their gradients written.
    must_move = read + out.nbytes + (out.nbytes + 2 * read if case.backward else 0)
    sets = max(2, min(16, -(-3 * l2 // read)))
    tensors = [first, *[case.inputs() for _ in range(sets - 1)]]
    if case.backward:
        tensors = [[None if t is None else t.requires_grad_() for t in one] for one in tensors]
    grad_out = random(*out.shape, dtype=case.dtype)
    exact = case.call(None)(*[None if t is None else t.detach().double() for t in first])

    candidates: dict[str, Callable[..., Tensor]] = {"eager": case.call(None)}
    torch._dynamo.reset()
    candidates["torch.compile"] = torch.compile(case.call(None), mode="max-autotune-no-cudagraphs", dynamic=False)
    candidates |= {name: tuning(case.call(name.split(",")[0]), "tuned" in name) for name in CANDIDATES}
    rows = []
    for name, function in candidates.items():
        try:
            if case.backward:
                call = lambda i, f=function: gradient_call(f, tensors[i], grad_out)  # noqa: E731
            else:
                call = lambda i, f=function: f(*tensors[i])  # noqa: E731
            with torch.set_grad_enabled(case.backward):
                error = float((function(*first).detach().double() - exact).norm() / exact.norm())
                times = [graph_time(call, sets) for _ in range(2)]
        except Exception as problem:  # one candidate that cannot run must not hide the others
            print(f"  {name}: {type(problem).__name__}: {' '.join(str(problem).split())[:300]}", flush=True)
            continue
        seconds = min(times)
        spread = 100 * abs(times[0] - times[1]) / seconds
        moved = must_move / seconds
        dtype = str(case.dtype).removeprefix("torch.")
        row = Row(case.name, dtype, name, seconds * 1e6, spread, must_move / 1e6, moved / 1e9, moved / rate, error)
        print(f"  {name:14s} {row.microseconds:9.1f} us  {100 * row.share_of_copy:5.1f} % of copy", flush=True)
        rows.append(row)
    return rows


def table(rows: list[Row]) -> str:
    heads = ["case", "dtype", "candidate", "µs", "spread", "MB that must move", "GB/s", "share of copy"]
    heads += ["vs eager", "vs compile", "error"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        times = {r.candidate: r.microseconds for r in rows if (r.case, r.dtype) == (row.case, row.dtype)}

        def ratio(other: str, times: dict[str, float] = times, row: Row = row) -> str:
            return f"{times[other] / row.microseconds:.2f}×" if other in times else "—"

        lines.append(
            f"| {row.case} | {row.dtype} | {row.candidate} | {row.microseconds:.1f} | {row.spread_percent:.1f} % "
            f"| {row.megabytes:.1f} | {row.gigabytes_per_second:.0f} | {100 * row.share_of_copy:.1f} % "
            f"| {ratio('eager')} | {ratio('torch.compile')} | {row.error:.1e} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-build", action="store_true", help="use the extension that is there")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="what pytest gets; default: all tests")
    parser.add_argument("--quick", action="store_true", help="bfloat16 lowrank_pixel_shuffle only")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no further case after this long")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the report")
    options = parser.parse_args()
    began = time.monotonic()
    if torch.version.cuda is None or not torch.cuda.is_available():
        print(f"gpu-check needs a CUDA device and a CUDA build of torch; this is torch {torch.__version__}")
        return 2

    checks: dict[str, bool] = {}
    if not options.skip_build:
        build = [sys.executable, "setup.py", "build_ext", "--inplace"]
        checks["build with CUDA"] = run(build, LKCA_BUILD_CUDA="1")
    if not options.skip_tests:
        # Workers share the card; most of their time goes into compiling kernels.
        workers = ["-n", str(min(16, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers]
        checks["all tests"] = run([*pytest, *options.tests])
    loads = "from lkca_kernels import cuda; why = cuda.unavailable(); print(why); raise SystemExit(why is not None)"
    checks["CUDA backend loads"] = run([sys.executable, "-c", loads])  # else its tests were skipped

    from lkca_kernels.triton.tune import cache_file

    properties = torch.cuda.get_device_properties(0)
    rates = [copy_rate(), copy_rate()]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # what an earlier run found must not count
        for case in cases(options.quick):
            if time.monotonic() - began <= options.seconds:
                tune(case)
        tiles = json.loads(cache_file().read_text()) if cache_file().is_file() else {}
    left_out = []
    for case in cases(options.quick):
        if time.monotonic() - began > options.seconds:
            left_out.append(f"{case.name} {case.dtype}")
            continue
        print(f"{case.name} {case.dtype}", flush=True)
        rows += measure(case, max(rates))
    accurate = all(row.error < TOLERANCE[getattr(torch, row.dtype)] for row in rows)
    checks["timed results are right"] = accurate
    checks["CUDA backend timed"] = any(row.candidate == "cuda" for row in rows)

    facts = {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "L2 bytes": properties.L2_cache_size,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "TF32 in eager float32 convolutions": torch.backends.cudnn.allow_tf32,
        "copy GB/s, two measurements": [round(rate / 1e9, 1) for rate in rates],
        "tuned tiles": tiles,
        "cases left out for lack of time": left_out,
        "checks": checks,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", properties.name.lower()).strip("-")
    stem = options.out / f"{name}-{datetime.date.today()}"
    stem.with_suffix(".json").write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    report = "\n".join(["# GPU check", "", *[f"- {key}: {value}" for key, value in facts.items()], "", table(rows), ""])
    stem.with_suffix(".md").write_text(report)
    print(report)
    print(f"written: {stem}.md, {stem}.json")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
