"""``python -m studies.NAME DATA --work WORK``: train what is missing, then measure on the test scenes and report."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from studies.common.config import load
from studies.common.tasks import make_task
from studies.common.train import MAIN, check_settings, run

__all__ = ["main"]


def main(folder: Path, arguments: list[str] | None = None) -> None:
    """The command of the study in ``folder``, which holds its ``config.yaml``."""
    parser = argparse.ArgumentParser(prog=f"python -m studies.{folder.name}", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with cave/ and cubes/")
    parser.add_argument("--work", type=Path, required=True, help="finished trainings are kept here; a rerun resumes")
    parser.add_argument("--config", type=Path, default=folder / "config.yaml")
    trainings = ("main", "presets", "longer", "ablation", "all", "none")
    parser.add_argument("--train", choices=trainings, default="all", help="which trainings")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these")
    parser.add_argument("--report", type=Path, help="measure on the test scenes; write this page and results.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    study = load(args.config)
    task = make_task(args.data, study)
    work = args.work / folder.name
    check_settings(work, study.settings())
    parts: dict[str, tuple[tuple[str, ...], list[int]]] = {
        "main": (MAIN, study.seeds),
        "presets": (("baseline", *study.presets), study.seeds),
        "longer": (tuple(study.longer), study.seeds),
        "ablation": (tuple(study.ablation), study.ablation_seeds),
    }
    for part, (names, seeds) in parts.items():
        if args.train not in (part, "all"):
            continue
        for record in run(task, work, names=names, seeds=[s for s in seeds if args.seeds is None or s in args.seeds]):
            print(record, flush=True)
    if args.report:
        from studies.common.report import report

        report(task, work, folder, args.report)
