"""``lkca bench``: contenders agree before they are timed, what is left out is told, numbers hang together."""

from __future__ import annotations

import json
import runpy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import lkca_kernels
from lkca.bench import Clock, least_seconds, measure_limits, model_case, operator_case, preset_network, probes, run_case
from lkca.cli.app import app
from lkca.errors import LkcaError
from lkca.models.directory import save_model
from lkca_kernels import backends

FAST = Clock(0)  # nothing that has to be compiled


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)  # --threads sets it for the process


def test_the_cases_are_the_same_computation() -> None:
    for case in (
        operator_case(5, 3, 4, (6, 7)),
        operator_case(4, 2, 3, (5, 9), torch.bfloat16),
        model_case(preset_network("tiny", 5, 2), "tiny", (6, 7)),
    ):
        result = run_case(case, {}, FAST)
        timed = {m.contender: m for m in result.measurements}
        assert timed["eager"].error == 0 and result.limit is None
        assert {f"lkca {name}" for name in case.backends} < set(timed)
        assert all(m.rounds >= 3 and 0 < m.least <= m.median for m in timed.values())
        assert (
            result.left_out.keys() >= {"torch.compile", "ONNX Runtime"}
            and "--seconds" in result.left_out["ONNX Runtime"]
        )


def test_baselines_that_are_compiled() -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    case = operator_case(3, 2, 2, (5, 4))
    result = run_case(case, measure_limits(torch.float32, case.facts["bytes"]), Clock(600))
    timed = {m.contender: m for m in result.measurements}
    assert "ONNX Runtime" in timed, result.left_out
    assert "torch.compile" in timed or "ompiler" in result.left_out["torch.compile"]
    assert result.limit is not None and result.limit > 0


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = operator_case(3, 2, 2, (5, 4))
    with pytest.raises(LkcaError, match="lkca reference differs from eager by"):
        run_case(replace(case, backends=("reference",), ours=lambda *a: case.eager(*a) * 1.001), {}, FAST)
    monkeypatch.setattr("lkca.bench.run.compiled", lambda f: lambda *a: f(*a)[..., 1:])
    monkeypatch.setattr("lkca.bench.run.onnx_call", lambda f, *a: lambda: 1 / 0)
    result = run_case(case, {}, Clock(600))
    assert "inf" in result.left_out["torch.compile"] and "ZeroDivisionError" in result.left_out["ONNX Runtime"]
    assert {m.contender for m in result.measurements}.isdisjoint({"torch.compile", "ONNX Runtime"})


def test_a_backend_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_refusal", lambda name, *_: "was not built" if name == "cpu" else None)
    case = operator_case(3, 2, 2, (5, 4))
    assert case.backends == ("reference",) and case.left_out["cpu"] == "it was not built"


def test_multiplications_and_limit() -> None:
    case = operator_case(7, 3, 4, (5, 6))
    assert case.facts["flops"] == 2 * 4 * 7 * 9 * 30 and case.facts["bytes"] == 4 * 7 * 9 * 30
    net = preset_network("tiny", 5, 2)
    pixels = 6 * 7
    once = net.project.weight.numel() + net.upsample.weight.numel()  # per pixel; the rest per component
    weights = once + 5 * (sum(p.numel() for p in net.parameters()) - once)
    assert model_case(net, "tiny", (6, 7)).facts["flops"] == 2 * pixels * weights
    limits = {
        "matmul torch.float32": {"flops": 100.0, "median": 1.0},
        "write warm 1 MB": {"bytes": 10.0, "median": 1.0},
        "write fresh 1 MB": {"bytes": 5.0, "median": 1.0},
        "write fresh 9 MB": {"bytes": 9e6, "median": 1.0},
        "write fresh huge 1 MB": {"bytes": 8.0, "median": 1.0},
    }
    facts: dict[str, Any] = {"flops": 300.0, "bytes": 16.0, "dtype": "torch.float32", "fresh": True}
    assert least_seconds(facts, limits) == 3.0
    assert least_seconds({**facts, "flops": 10.0}, limits) == 2.0  # huge pages are the faster of the two
    assert least_seconds({**facts, "flops": 10.0, "fresh": False}, limits) == 1.6
    half = {**facts, "dtype": "torch.float16"}  # of which a kernel may be computed in float32
    slow = {"matmul torch.float16": {"median": 100.0, "flops": 1.0}}
    assert least_seconds(half, limits | slow) == 3.0 == least_seconds(half, limits)
    assert least_seconds({**facts, "dtype": "torch.float64"}, limits) is None
    assert least_seconds(facts, {}) is None


@pytest.fixture
def bench() -> Callable[..., Result]:
    def run(*args: str | Path) -> Result:
        return CliRunner().invoke(app, ["bench", "--seconds", "0", *map(str, args)], catch_exceptions=False)

    return run


def test_the_command(bench: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = bench("-m", "tiny", "--bands", 3, "-s", 2, "--rank", 6, "--size", "8x9", "--threads", 1, "--json", out)
    assert done.exit_code == 0, done.stderr
    assert "operator: 3 bands, ×2, rank 6, 8×9 → 16×18" in done.stdout and "network: tiny" in done.stdout
    assert "left out: ONNX Runtime: the 0 s were over" in done.stdout and "GFLOP/s" in done.stdout
    told = json.loads(out.read_text())
    assert told["threads"] == 1 and told["machine"]["cores"] >= 1 and len(told["cases"]) == 2
    for case in told["cases"]:
        assert case["ratios"]["eager"] > 0 and case["limit"] > 0
        ours = {m["contender"] for m in case["measurements"]} & {"lkca cpu", "lkca reference"}
        assert ours or "cpu" not in lkca_kernels.available_backends()
    for arguments, words in (
        (("--json", out), "--overwrite"),
        (("--size", "8"), "--size is '8'"),
        (("--size", "900000x900000"), "GiB of memory"),
        (("--bands", 3, "--rank", 4), "--rank: a shared body needs a multiple of its 3 groups"),
        (("-m", "huge"), "tiny, base, large, a model directory"),
        (("-m", tmp_path), "config.json"),
    ):
        refused = bench(*arguments)
        assert refused.exit_code == 2 and words in refused.stderr and not refused.stdout, refused.stderr


def test_a_model_directory(bench: Callable[..., Result], tmp_path: Path) -> None:
    from lkca.data.degradation import Degradation
    from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingRecord
    from lkca.models.directory import describe_architecture

    net = preset_network("tiny", 5, 3, 10)
    config = ModelConfig(
        architecture=describe_architecture(net), scale=3, bands=BandSet(count=5, used=list(range(5))),
        degradation=Degradation(scale=3), normalisation=Normalisation(peak=1.0),
        training=TrainingRecord(data=[], seed=0, seconds=0, device="cpu"),
    )  # fmt: skip
    save_model(tmp_path / "mine", net, config)
    done = bench("-m", tmp_path / "mine", "--size", "7x8")
    assert done.exit_code == 0 and "operator: 5 bands, ×3, rank 10" in done.stdout and "network: mine" in done.stdout
    refused = bench("-m", tmp_path / "mine", "--bands", 3, "--rank", 2)
    assert refused.exit_code == 2 and "leave out --bands, --rank" in refused.stderr


def test_a_run_of_scenes_alone_has_no_table_of_operators() -> None:
    table = runpy.run_path(str(Path(__file__).parents[3] / "bench" / "table.py"))["table"]

    def benchmark(group: str, contender: str, median: float) -> dict[str, Any]:
        facts = {"contender": contender, "threads": 1, "torch": "2.13", "samples": 134e6, "flops": 1e9, "bytes": 1e6}
        return {"group": group, "extra_info": facts, "stats": {"median": median}}

    scenes = [benchmark("scene, base", "network 32", 1.0), benchmark("scene, base", "scene .img int16", 2.0)]
    printed = table({"machine_info": {"cpu": {}}, "benchmarks": scenes})
    assert "| base, 134 | 1.00 | 2.00 s, 50 % |" in printed and "eager" not in printed
    operators = [benchmark("forward", "lkca", 1e-3), benchmark("forward", "eager", 2e-3)]
    printed = table({"machine_info": {"cpu": {}}, "benchmarks": operators})
    assert "| forward | 1.00 | 2.0 (2.0×) |" in printed and "scene" not in printed


def test_a_matrix_product_that_would_take_minutes_is_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of float16 on most processors: lkca bench --dtype float16 took a minute for the limits alone."""
    product = torch.matmul

    def slow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return product(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "matmul", slow)
        (name, call, facts), *_ = probes([torch.float16], [])
        assert name == "matmul torch.float16" and facts == {"flops": 2 * 256**3} and call().shape == (256, 256)
        patch.setattr(torch, "matmul", lambda a, b: a)
        assert next(probes([torch.float32], []))[2] == {"flops": 2 * 2048**3}
