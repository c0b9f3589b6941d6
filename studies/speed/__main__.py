"""Weights, multiplications and CPU latency: ``python -m studies.speed --report docs/results/speed.md``.

128 bands, 32×32 -> 128×128, ×4, random weights (time does not depend on them; LKCA-LR and LKCA-KD are one network). All
networks take turns. The least of the rounds is what a network takes when nothing else runs; the median tells how busy
the machine was.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lkca.models import PRESETS, LKCANet, LKCANetConfig
from lkca.models.edsr import EDSR
from lkca.nn.layout import channels_last
from lkca_kernels import bicubic_upsample, use_backend
from studies.common.measure import macs, parameters, turns
from studies.common.report import table, write

BANDS, SCALE, SIDE = 128, 4, 32
FOLDER = Path(__file__).parent


def networks() -> dict[str, nn.Module]:
    nets: dict[str, nn.Module] = {
        "EDSR-64, 16 blocks, as published": EDSR(BANDS, SCALE, 64, 16),
        "EDSR-64, 16 blocks, LKCA-Net's upsampler": EDSR(BANDS, SCALE, 64, 16, upsampler="bands"),
    }
    for preset in PRESETS:
        teacher = LKCANetConfig.preset(preset, bands=BANDS, scale=SCALE)
        nets[f"`{preset}`, teacher"] = LKCANet(teacher)
        student = replace(teacher, rank=teacher.student_rank)
        nets[f"`{preset}`, LKCA-LR, LKCA-KD, rank {student.rank}"] = LKCANet(student)
    return {name: channels_last(net).eval() for name, net in nets.items()}


def measure(threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Name -> path -> milliseconds of each round. The reference path is plain PyTorch."""
    torch.set_num_threads(threads)
    nets, x = networks(), torch.rand(1, BANDS, SIDE, SIDE)
    paths = {"fused": "auto", "reference": "reference"}

    def call(net: nn.Module, backend: str) -> None:
        with use_backend(backend):
            net(x)

    calls = {(name, path): partial(call, nets[name], paths[path]) for name in nets for path in paths}
    spent = dict(zip(calls, turns(list(calls.values()), rounds), strict=True))
    return {name: {path: [1000 * s for s in spent[name, path]] for path in paths} for name in nets}


def costs() -> dict[str, dict[str, int]]:
    x = torch.rand(1, BANDS, SIDE, SIDE)
    skip = macs(lambda: bicubic_upsample(x, SCALE))
    result = {}
    for name, net in networks().items():
        own = skip if isinstance(net, LKCANet) or net.tail is None else 0

        def run(net: nn.Module = net) -> Any:
            return net(x)

        result[name] = {"parameters": parameters(net), "macs": macs(run) - own}
    return result


def page(results: dict[str, Any]) -> str:
    times: dict[str, Any] = results["times"]
    head = ["", "weights", "MACs"]
    for threads in times:
        head += [f"fused, {threads} thread{'s' * (threads != '1')}", "×", f"reference, {threads}"]
    lines = [
        "# Speed of whole networks",
        "",
        "Generated; do not edit. The command:",
        "",
        '<!-- skip: next "a benchmark" -->',
        "```bash",
        "python -m studies.speed --report docs/results/speed.md",
        "```",
        "",
        f"{BANDS} bands, {SIDE}×{SIDE} → {SIDE * SCALE}×{SIDE * SCALE}, ×{SCALE}, float32. ms: least (median) of "
        f"{results['rounds']} rounds in which all take turns; ×: how many times as fast as EDSR-64 with LKCA-Net's "
        f"upsampler in plain PyTorch (its reference path), by the least. MACs without the bicubic skip. "
        f"{results['machine']}; load average "
        f"{results['load'][0]:.1f} before and {results['load'][1]:.1f} after the run, on {results['cores']} cores: the "
        "higher, the more the other processes of the machine are in these times. The goal (`base` 5 times, `tiny` 10 "
        "times as fast on one thread): "
        + ", ".join(f"`{name}` {ratio:.1f}" for name, ratio in _goal(results).items())
        + ".",
        "",
    ]
    rows = []
    peer = next(name for name in results["costs"] if "upsampler" in name)
    for name, cost in results["costs"].items():
        cells = [name, f"{cost['parameters']:,}", f"{cost['macs'] / 1e6:,.0f} M"]
        for found in times.values():
            best = min(found[name]["fused"])
            cells.append(f"{best:.1f} ({statistics.median(found[name]['fused']):.1f})")
            cells.append(f"{min(found[peer]['reference']) / best:.1f}")
            cells.append(f"{min(found[name]['reference']):.1f}")
        rows.append(cells)
    return "\n".join([*lines, *table(head, rows)])


def _goal(results: dict[str, Any]) -> dict[str, float]:
    """Preset -> how many times as fast as plain EDSR-64 its student is, at the first number of threads."""
    found = next(iter(results["times"].values()))
    plain = next(min(times["reference"]) for name, times in found.items() if "upsampler" in name)
    return {
        preset: plain / min(times["fused"])
        for preset in ("base", "tiny")
        for name, times in found.items()
        if name.startswith(f"`{preset}`, LKCA-LR")
    }


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.speed", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--report", type=Path, help="write this page and results.json")
    args = parser.parse_args(arguments)
    before = os.getloadavg()[0]
    results: dict[str, Any] = {
        "machine": f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count(),
        "rounds": args.rounds,
        "costs": costs(),
        "times": {str(threads): measure(threads, args.rounds) for threads in args.threads},
    }
    results["load"] = [before, os.getloadavg()[0]]
    text = page(results)
    print(text)
    if args.report:
        write(folder, results, args.report, text)


if __name__ == "__main__":
    main()
