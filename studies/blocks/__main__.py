"""Ablation of the large-kernel block, on training scenes alone: ``python -m studies.blocks DATA --work WORK``.

Each row of ``config.yaml`` is trained for the same CPU time and rated on the validation scenes of ``studies.cave_x4``;
test scenes are not read. Finished trainings are kept in WORK, seed by seed, so that a rerun resumes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lkca.config import StrictModel, read_yaml
from lkca.training.supervised import channels_last
from lkca_kernels import bicubic_upsample
from studies.blocks.variants import Row, build
from studies.common.config import load
from studies.common.measure import macs, parameters, seconds
from studies.common.report import spread, table
from studies.common.tasks import Task, make_task
from studies.common.train import keep, record_of, supervised, warm_up

FOLDER = Path(__file__).parent


class Ablation(StrictModel):
    study: str
    seconds: float
    seeds: list[int]
    rows: dict[str, Row]


def network(task: Task, row: Row, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return channels_last(build(task.architecture(), row))


def train(tasks: dict[int, Task], work: Path, ablation: Ablation) -> None:
    warm_up(next(iter(tasks.values())))
    for seed in ablation.seeds:
        for name, row in ablation.rows.items():
            if record_of(work, seed, name) is None:
                task = tasks[row.components]
                net = network(task, row, seed)
                record = supervised(task, net, "lkcanet", seed, task.study.teacher.lr, ablation.seconds)
                record["gain"], record["sam"] = task.gain(net.eval())
                keep(work, seed, name, net, record)
                print({"seed": seed, "name": name, **record}, flush=True)


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
    runs, costs = results["runs"], results["costs"]
    first = next(iter(costs))
    reference = {r["seed"]: r["gain"] for r in runs if r["name"] == first}
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
        f"full-rank upsampler and had {results['seconds']:g} s of CPU time on one thread; ± is the standard deviation "
        "over seeds. The first row is the reference; each other one differs from it in what it says. Against it: mean "
        "and standard deviation of the difference at the same seed. MACs and ms: one 64×64 scene of 31 bands, one "
        f"thread, least of 30 rounds in which all take turns; a tile's result depends on the tile with attention over "
        f"the whole image, and GELU breaks homogeneity (docs/model.md). {results['machine']}.",
        "",
    ]
    titles = {name: row["title"] for name, row in results["rows"].items()}
    body = []
    for name, cost in costs.items():
        mine = [r for r in runs if r["name"] == name]
        if not mine:
            continue
        against = [r["gain"] - reference[r["seed"]] for r in mine]
        body.append(
            [
                titles[name],
                str(len(mine)),
                spread([r["gain"] for r in mine], 3, "+"),
                "–" if name == first else spread(against, 3, "+"),
                spread([r["sam"] for r in mine], 1, "+") + " %",
                f"{statistics.fmean(r['steps'] for r in mine):.0f}",
                f"{cost['parameters']:,}",
                f"{cost['macs'] / 1e6:,.0f} M",
                f"{cost['ms']:.1f}",
            ]
        )
    head = ["", "seeds", "dB over bicubic", "against the reference", "SAM, change", "steps", "weights", "MACs", "ms"]
    return "\n".join([*lines, *table(head, body)])


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.blocks", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with cave/")
    parser.add_argument("--work", type=Path, required=True, help="finished trainings are kept here; a rerun resumes")
    parser.add_argument("--report", type=Path, help="measure the costs; write this page and results.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ablation = read_yaml(folder / "config.yaml", Ablation)
    study = load(folder / ablation.study)
    components = sorted({row.components for row in ablation.rows.values()})
    tasks = {k: make_task(args.data, study.model_copy(update={"components": k})) for k in components}
    work = args.work / "blocks"
    train(tasks, work, ablation)
    if args.report:
        results = {
            **ablation.model_dump(),
            "scale": study.scale,
            "training": len(next(iter(tasks.values())).training),
            "validation": study.validation,
            "machine": f"{platform.machine()}, torch {torch.__version__}",
            "runs": [r for s in ablation.seeds for n in ablation.rows if (r := record_of(work, s, n)) is not None],
            "costs": costs(tasks, ablation.rows),
        }
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(page(results))


if __name__ == "__main__":
    main()
