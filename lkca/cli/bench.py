"""``lkca bench``: how fast lkca is on this machine, beside what one would write without it."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lkca.cli.console import note, print_line, print_table
from lkca.cli.options import FITTED_HELP, Overwrite, Threads, examples, parse_shape, set_threads
from lkca.errors import InputError
from lkca.output import check_output, written_aside

if TYPE_CHECKING:
    from lkca.bench import CaseResult
    from lkca.models import LKCANet

__all__ = ["EXAMPLES", "bench_command"]

EXAMPLES = examples(
    "lkca bench",
    "lkca bench --bands 102 --size 128x128 --threads 1 --json bench.json",
    "lkca bench -m model",
)

_BANDS, _SCALE = 128, 4
_RANK = 32  # of the operator, where a model's upsampler has full rank
_BYTES_PER_SAMPLE = 4 * 10  # of the output: the results and temporaries of all contenders, generously


def bench_command(
    model: Annotated[
        str,
        typer.Option("--model", "-m", help=f"Network: tiny, base or large with random weights. {FITTED_HELP}"),
    ] = "base",
    bands: Annotated[
        int | None, typer.Option("--bands", min=1, max=65_536, help="Bands.", show_default=str(_BANDS))
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", min=2, max=64, help="Scale factor.", show_default=str(_SCALE))
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=1, max=65_536, help="Rank of the upsampling layer.", show_default="the preset's"),
    ] = None,
    size: Annotated[str, typer.Option("--size", help="Coarse pixels, 'ROWSxCOLS'.")] = "64x64",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="Type of the numbers.")
    ] = "float32",
    threads: Threads = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="After these, nothing that has to be compiled is begun.")
    ] = 40,
    json: Annotated[Path | None, typer.Option("--json", help="File for all the numbers.", show_default=False)] = None,
    overwrite: Overwrite = False,
) -> None:
    """Times the upsampling operator and a whole network: lkca, plain PyTorch, torch.compile and ONNX Runtime.

    Every result is compared with plain PyTorch's before it is timed. Times are medians of calls in turns; "limit" is
    the least time that this machine could need, measured in the same run. CPU only.
    """
    import torch

    from lkca.bench import Clock, measure_limits, model_case, operator_case, rate_text, run_case
    from lkca.data.memory import check_memory

    clock = Clock(seconds)
    if json is not None:
        check_output(json, overwrite=overwrite)
    pixels = _size(size)
    net, name = _network(model, bands, scale, rank)
    set_threads(threads)
    config, kind = net.config, getattr(torch, dtype)
    samples = config.bands * pixels[0] * pixels[1] * config.scale**2
    check_memory(samples * _BYTES_PER_SAMPLE, f"a benchmark of {size} pixels", "give a smaller --size")
    if sys.stderr.isatty():
        note(f"about a minute; {torch.get_num_threads()} thread(s)")
    limits = measure_limits(kind, samples * kind.itemsize)
    operator = operator_case(config.bands, config.scale, config.rank or _RANK, pixels, kind)
    results = [run_case(case, limits, clock) for case in (operator, model_case(net, name, pixels, kind))]
    for result in results:
        _print(result)
    rates = "; ".join(rate_text(probe, facts) for probe, facts in limits.items())
    print_line(f"{dtype}, {torch.get_num_threads()} thread(s), torch {torch.__version__}; measured limits: {rates}")
    if json is not None:
        _write(json, results, limits, clock.spent, dtype)


def _size(text: str) -> tuple[int, int]:
    try:
        size = parse_shape(text)
    except InputError:
        size = None
    if size is None:
        raise InputError(f"--size is '{text}'; give rows and columns as 64x64")
    return size


def _network(model: str, bands: int | None, scale: int | None, rank: int | None) -> tuple[LKCANet, str]:
    from lkca.bench import preset_network
    from lkca.inference.choose import fitted_model
    from lkca.models import PRESETS
    from lkca.models.shipped import SHIPPED

    if model in PRESETS and not Path(model).exists():
        try:
            return preset_network(model, bands or _BANDS, scale or _SCALE, rank), model
        except ValueError as error:
            raise InputError(f"--{error}; leave it out for the preset's own") from error
    given = [name for name, value in (("--bands", bands), ("--rank", rank)) if value is not None]
    if given:
        raise InputError(f"{model}: has its own bands and rank; leave out {', '.join(given)}")
    if not Path(model).exists() and model not in SHIPPED:
        raise InputError(
            f"{model}: does not exist; -m takes {', '.join(PRESETS)}, a model directory, or the name of a shipped "
            "model ('lkca models')"
        )
    return fitted_model(model, scale).net, Path(model).name


def _print(result: CaseResult) -> None:
    ours = result.ours
    rows = []
    for m in result.measurements:
        share = "" if result.limit is None else f"{result.limit / m.median:.0%}"
        rows.append([m.contender, f"{1e3 * m.median:.2f}", f"{m.median / ours.median:.2f}×", share, f"{m.error:.0e}"])
    columns = ["", "ms", f"of {ours.contender}", "limit / time", "difference"]
    print_table(result.name, columns, rows)
    for name, reason in result.left_out.items():
        print_line(f"left out: {name}: {reason}")
    print_line()


def _write(path: Path, results: list[CaseResult], limits: dict[str, Any], seconds: float, dtype: str) -> None:
    import torch

    from lkca.cli.doctor import machine
    from lkca.models.directory import package_versions

    cases = [
        {**asdict(result), "ratios": {m.contender: m.median / result.ours.median for m in result.measurements}}
        for result in results
    ]
    report = {
        "machine": machine(), "versions": package_versions(), "threads": torch.get_num_threads(), "dtype": dtype,
        "seconds": seconds, "limits": limits, "cases": cases,
    }  # fmt: skip
    with written_aside(path) as aside:
        aside.write_text(jsonlib.dumps(report, indent=1) + "\n", encoding="utf-8")
    note(f"numbers written to {path}")
