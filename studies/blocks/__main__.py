"""Ablation of the large-kernel block, on training scenes alone: ``python -m studies.blocks DATA --work WORK``.

Each row of ``config.yaml`` is trained for the same CPU time and rated on the validation scenes of ``studies.cave_x4``;
test scenes are not read. Finished trainings are kept in WORK, seed by seed, so that a rerun resumes.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lkca.config import StrictModel, read_yaml
from lkca.nn.layout import channels_last
from lkca_kernels import bicubic_upsample
from studies.blocks.variants import Row, build
from studies.common.config import load
from studies.common.measure import macs, parameters, seconds
from studies.common.report import spread, table, write
from studies.common.tasks import Task, make_task
from studies.common.train import check_settings, keep, record_of, supervised, warm_up

FOLDER = Path(__file__).parent


class Part(StrictModel):
    """Rows that are trained for one CPU time, the first of them the reference."""

    seconds: float
    rows: list[str] | None = None  # all


class Ablation(StrictModel):
    study: str
    seeds: list[int]
    parts: dict[str, Part]
    rows: dict[str, Row]

    def names(self, part: str) -> list[str]:
        return self.parts[part].rows or list(self.rows)


def network(task: Task, row: Row, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return channels_last(build(task.architecture(), row))


def train(tasks: dict[int, Task], work: Path, ablation: Ablation, part: str) -> None:
    warm_up(next(iter(tasks.values())))
    for seed in ablation.seeds:
        for name in ablation.names(part):
            if record_of(work / part, seed, name) is None:
                row = ablation.rows[name]
                task = tasks[row.components]
                net = network(task, row, seed)
                record = supervised(task, net, "lkcanet", seed, task.study.teacher.lr, ablation.parts[part].seconds)
                record["gain"], record["sam"] = task.gain(net.eval())
                keep(work / part, seed, name, net, record)
                print({"part": part, "seed": seed, "name": name, **record}, flush=True)


def finished(work: Path, ablation: Ablation, part: str) -> list[dict[str, Any]]:
    found = [record_of(work, seed, name) for seed in ablation.seeds for name in ablation.names(part)]
    return [record for record in found if record is not None]


def costs(tasks: dict[int, Task], rows: dict[str, Row]) -> dict[str, Any]:
    """Of the networks, untrained, on the first validation scene."""
    task = next(iter(tasks.values()))
    scene = task.degrade(task.cube(task.study.validation[0]))
    nets = {name: network(tasks[row.components], row, 0).eval() for name, row in rows.items()}
    with torch.no_grad():
        calls = {name: partial(tasks[rows[name].components].ready(net, scene), scene) for name, net in nets.items()}
    skip = macs(partial(bicubic_upsample, scene[None], task.scale))
    spent = seconds(list(calls.values()), rounds=30)
    return {
        name: {"parameters": parameters(nets[name]), "macs": macs(call) - skip, "ms": round(1000 * least, 1)}
        for (name, call), least in zip(calls.items(), spent, strict=True)
    }


def page(results: dict[str, Any]) -> str:
    lines = [
        "# Ablation of the large-kernel block",
        "",
        "Generated; do not edit. The commands:",
        "",
        '<!-- skip: next "an hour, and real data" -->',
        "```bash",
        "python -m studies.blocks ../shared/data --work WORK",
        "python -m studies.blocks ../shared/data --work WORK --report docs/results/blocks.md",
        "```",
        "",
        f"CAVE, ×{results['scale']}: {results['training']} training scenes, validation on "
        f"{', '.join(results['validation'])}; the test scenes were not read. Each network is a shared body with a "
        "full-rank upsampler. The first row of a table is the reference; each other one differs from it in what it "
        "says. Against it: the difference at the same seed. ± is the standard deviation over seeds. MACs and ms: one "
        "64×64 scene of 31 bands, one thread, least of 30 rounds in which all take turns. Every block is computed step "
        "by step: the library's operator for all of it serves some rows alone. With attention over the whole image a "
        "tile's result depends on the tile, and GELU breaks homogeneity (docs/model.md): both are there "
        f"for comparison alone. {results['machine']}.",
        "",
    ]
    for part in results["parts"].values():
        lines += [f"## {part['seconds']:g} s of CPU time, one thread", "", *_rows(part["runs"], results)]
    return "\n".join(lines)


def _rows(runs: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
    names = list(dict.fromkeys(run["name"] for run in runs))
    reference = {run["seed"]: run["gain"] for run in runs if run["name"] == names[0]}
    body = []
    for name in names:
        mine, cost = [run for run in runs if run["name"] == name], results["costs"][name]
        against = [run["gain"] - reference[run["seed"]] for run in mine]
        body.append(
            [
                results["rows"][name]["title"],
                str(len(mine)),
                spread([run["gain"] for run in mine], 2, "+"),
                "–" if name == names[0] else spread(against, 2, "+"),
                spread([run["sam"] for run in mine], 1, "+") + " %",
                f"{statistics.fmean(run['steps'] for run in mine):.0f}",
                f"{cost['parameters']:,}",
                f"{cost['macs'] / 1e6:,.0f} M",
                f"{cost['ms']:.1f}",
            ]
        )
    head = ["", "seeds", "dB over bicubic", "against the reference", "SAM, change", "steps", "weights", "MACs", "ms"]
    return table(head, body)


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.blocks", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with cave/")
    parser.add_argument("--work", type=Path, required=True, help="finished trainings are kept here; a rerun resumes")
    parser.add_argument("--part", help="only this of config.yaml's parts")
    parser.add_argument("--report", type=Path, help="measure the costs; write this page and results.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ablation = read_yaml(folder / "config.yaml", Ablation)
    study = load(folder / ablation.study)
    components = sorted({row.components for row in ablation.rows.values()})
    tasks = {k: make_task(args.data, study.model_copy(update={"components": k})) for k in components}
    work = args.work / "blocks"
    rows = {f"rows.{name}": row.model_dump(exclude={"title"}) for name, row in ablation.rows.items()}
    times = {f"parts.{name}": part.seconds for name, part in ablation.parts.items()}
    check_settings(work, study.model_copy(update={"presets": {}}).settings() | rows | times)  # it trains no presets
    for part in ablation.parts if args.part is None else [args.part]:
        train(tasks, work, ablation, part)
    if args.report:
        results = {
            "rows": {name: row.model_dump() for name, row in ablation.rows.items()},
            "scale": study.scale,
            "training": len(next(iter(tasks.values())).training),
            "validation": study.validation,
            "machine": f"{platform.machine()}, torch {torch.__version__}",
            "parts": {
                part: {"seconds": ablation.parts[part].seconds, "runs": finished(work / part, ablation, part)}
                for part in ablation.parts
            },
            "costs": costs(tasks, ablation.rows),
        }
        write(folder, results, args.report, page(results))


if __name__ == "__main__":
    main()
