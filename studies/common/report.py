"""Test scenes once, then ``results.json`` and the page: means ± standard deviation over seeds."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lkca.metrics import PROTOCOL
from lkca_kernels import bicubic_upsample
from studies.common.config import Study, other_time
from studies.common.measure import macs, parameters, seconds
from studies.common.tasks import Task
from studies.common.train import MAIN, NEXT, STUDENTS, build, load_network, record_of

__all__ = ["load_results", "measure", "page", "report", "spread", "table", "write"]

KEYS = ("mpsnr", "mssim", "sam", "cc", "rmse", "ergas")
ROUNDS = 15  # of timing
_PRESET_TIME = "; a preset had a teacher's time in all, or what its row says, the last of it as a student"
TITLES = {
    "bicubic": "bicubic",
    "baseline": "EDSR-64",
    "teacher": "LKCA-Net (teacher)",
    "lr": "LKCA-LR (SVD, nothing after)",
    "finetune": "fine-tuned, no teacher",
    "kd": "LKCA-KD",
    "no_alignment": "no alignment",
    "constant": "no decay (weight 0.5 throughout)",
    "linear": "linear decay",
    "exponential": "exponential decay",
    "random_init": "factors from random weights",
    "warmup": "factors alone for the first fifth",
    "long": "three times the time, factors alone for the first fifth",
    "finetune_long": "three times the time, no teacher",
    "lr_next": "one rank more: SVD, nothing after",
    "finetune_next": "one rank more: fine-tuned, no teacher",
    "kd_next": "one rank more: LKCA-KD",
    "ensemble": "teacher's self-ensemble, 2 orientations a step",
}


def report(task: Task, work: Path, folder: Path, page_path: Path) -> None:
    """Measure every finished training of the study and write both files.

    Trainings that ``results.json`` knows and WORK does not have keep their scores, unless their settings have changed.
    """
    known = folder / "results.json"
    results = measure(task, work, load_results(known) if known.exists() else None)
    write(folder, results, page_path, page(folder.name, results))


def write(folder: Path, results: dict[str, Any], page_path: Path, text: str) -> None:
    """``results.json`` in the study's folder, and the page that is made of it."""
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    page_path.parent.mkdir(parents=True, exist_ok=True)
    page_path.write_text(text)


def load_results(path: Path) -> dict[str, Any]:
    """``results.json``; fields that its study did not know yet have their defaults."""
    results: dict[str, Any] = json.loads(path.read_text())
    return results | {"study": Study(**results["study"]).model_dump()}


def measure(task: Task, work: Path, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    """Scores of every finished training on the test scenes; costs of the networks."""
    study = task.study
    coarse = {name: task.degrade(task.cube(name)) for name in study.test}

    def score(net: nn.Module | None, task: Task = task) -> dict[str, dict[str, float]]:
        found = {name: task.score(net, name) for name in study.test}
        return {name: {key: round(getattr(m, key), 6) for key in KEYS} for name, m in found.items()}

    runs = []
    for seed in sorted({*study.seeds, *study.ablation_seeds}):
        for name in (*MAIN, *study.presets, *study.longer, *study.ablation):
            record = record_of(work, seed, name)
            if record is not None:
                mine = task.of(name)
                runs.append({**record, "test": score(load_network(mine, work, seed, name), mine)})
            elif earlier is not None and _settings(Study(**earlier["study"]), name) == _settings(study, name):
                runs += [run for run in earlier["runs"] if (run["seed"], run["name"]) == (seed, name)]
    return {
        "study": study.model_dump(),
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "bicubic": score(None),
        "runs": runs,
        "timing": f"least of {ROUNDS} turns, one thread, networks in turn",
        "costs": _costs(task, runs, coarse),
    }


def _settings(study: Study, name: str) -> dict[str, Any]:
    """What a training of ``name`` depends on."""
    preset = f"presets.{other_time(name)[0]}"
    return {key: value for key, value in study.settings().items() if not key.startswith("presets.") or key == preset}


def _costs(task: Task, runs: list[dict[str, Any]], coarse: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Of the networks on the first test scene, the first seed's; ms per test scene."""
    wanted = ("baseline", "teacher", "kd", *task.study.presets)
    ranks: dict[str, int | None] = {}
    for run in runs:
        if run["name"] in wanted:
            ranks.setdefault(run["name"], run.get("rank"))
    tasks = {name: task.of(name) for name in wanted if name in ranks}
    nets = {name: build(mine, task.study.seeds[0], name, ranks[name]) for name, mine in tasks.items()}
    costs: dict[str, Any] = {name: {"parameters": parameters(net), "ms": {}} for name, net in nets.items()}
    for scene, x in coarse.items():
        with torch.no_grad():
            calls = {name: partial(tasks[name].ready(net, x), x) for name, net in nets.items()}
        for name, spent in zip(calls, seconds(list(calls.values()), ROUNDS), strict=True):
            costs[name]["ms"][scene] = round(1000 * spent, 1)
        if scene == next(iter(coarse)):
            skip = macs(partial(bicubic_upsample, x[None], task.scale))
            for name, call in calls.items():
                costs[name]["macs"] = macs(call) - skip
    return costs


# ---- the page ------------------------------------------------------------------------------------------------------


def _title(name: str) -> str:
    stem, seconds = other_time(name)
    return TITLES.get(stem, f"`{stem}`, LKCA-KD") + ("" if seconds is None else f", {seconds:g} s")


def _mean(scores: dict[str, dict[str, float]], key: str) -> float:
    return statistics.fmean(scene[key] for scene in scores.values())


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    text = f"{statistics.fmean(values):{sign}.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows)] + [""]


def page(name: str, results: dict[str, Any]) -> str:
    """Markdown of ``results.json``."""
    study, base = results["study"], results["bicubic"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        by_name.setdefault(run["name"], []).append(run)
    lines = [
        f"# Study {name}",
        "",
        "Generated; do not edit. The commands:",
        "",
        '<!-- skip: next "hours, and real data" -->',
        "```bash",
        f"python -m studies.{name} ../shared/data --work WORK",
        f"python -m studies.{name} ../shared/data --work WORK --report docs/results/{name}.md",
        "```",
        "",
        f"×{study['scale']}, bicubic degradation. Test scenes, on which nothing was chosen: "
        f"{', '.join(study['test'])}. Validation scenes, taken from the training ones: "
        f"{', '.join(study['validation'])}. Every teacher and baseline had {study['teacher_seconds']:g} s of CPU time "
        f"on one thread, every student {study['student_seconds']:g} s{_PRESET_TIME if study['presets'] else ''}. "
        f"Seeds: {', '.join(map(str, study['seeds']))}; ± is the standard deviation over them. "
        f"Protocol {PROTOCOL}, peak: each scene's largest value; nothing below 0. {results['machine']}.",
        "",
        "## Test scenes",
        "",
    ]
    head = ["", "seeds", "MPSNR dB", "over bicubic", "MSSIM", "SAM °", "SAM, change", "CC", "RMSE", "ERGAS"]
    rows = [_scores("bicubic", [{"test": base}], base)]
    shown = [n for n in (*MAIN, *study["presets"], *study["longer"]) if n in by_name]
    rows += [_scores(n, by_name[n], base) for n in shown]
    lines += table(head, rows)
    lines += ["Gain over bicubic in MPSNR (dB) and change of SAM (%) by scene:", ""]
    scenes = list(base)
    lines += table(["", *scenes], [[_title(n), *_by_scene(by_name[n], base, scenes)] for n in shown])
    lines += ["## Cost", "", f"ms per test scene: {results['timing']}.", ""]
    costs = results["costs"]
    lines += table(
        ["", "weights", "MACs (first scene)", *(f"ms, {s}" for s in scenes)],
        [
            [_title(n) if n != "kd" else "LKCA-LR, LKCA-KD", f"{c['parameters']:,}", f"{c['macs'] / 1e6:,.0f} M"]
            + [f"{c['ms'][s]:.1f}" for s in scenes]
            for n, c in costs.items()
        ],
    )
    lines += ["## From teacher to student", ""]
    lines += _students(study, by_name)
    lines += ["## Goals", "", *_goals(by_name, base, costs, study), ""]
    return "\n".join(lines)


def _scores(name: str, runs: list[dict[str, Any]], base: dict[str, Any]) -> list[str]:
    def over(key: str, digits: int) -> str:
        return spread([_mean(r["test"], key) for r in runs], digits)

    gain = [_mean(r["test"], "mpsnr") - _mean(base, "mpsnr") for r in runs]
    angle = [100 * (_mean(r["test"], "sam") / _mean(base, "sam") - 1) for r in runs]
    bicubic = name == "bicubic"
    return [
        _title(name),
        "–" if bicubic else str(len(runs)),
        over("mpsnr", 2),
        "–" if bicubic else spread(gain, 2, "+"),
        over("mssim", 4),
        over("sam", 2),
        "–" if bicubic else spread(angle, 1, "+") + " %",
        over("cc", 4),
        over("rmse", 5),
        over("ergas", 2),
    ]


def _by_scene(runs: list[dict[str, Any]], base: dict[str, Any], scenes: list[str]) -> list[str]:
    cells = []
    for scene in scenes:
        gain = statistics.fmean(r["test"][scene]["mpsnr"] for r in runs) - base[scene]["mpsnr"]
        angle = 100 * (statistics.fmean(r["test"][scene]["sam"] for r in runs) / base[scene]["sam"] - 1)
        cells.append(f"{gain:+.2f}, {angle:+.1f}")
    return cells


def _students(study: dict[str, Any], by_name: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Against the teacher of the same seed, on test and on validation scenes."""
    teachers = {r["seed"]: r for r in by_name.get("teacher", [])}
    rows = []
    for name in ("lr", *STUDENTS, *NEXT):
        runs = [r for r in by_name.get(name, []) if r["seed"] in teachers]
        if not runs:
            continue
        test = [_mean(r["test"], "mpsnr") - _mean(teachers[r["seed"]]["test"], "mpsnr") for r in runs]
        angle = [_mean(r["test"], "sam") - _mean(teachers[r["seed"]]["test"], "sam") for r in runs]
        held = [r["gain_validation"] - teachers[r["seed"]]["gain_validation"] for r in runs]
        steps = [r["steps"] for r in runs if "steps" in r]
        taken = f"{statistics.fmean(steps):.0f}" if steps else "–"
        spreads = (spread(test, 3, "+"), spread(angle, 3, "+"), spread(held, 3, "+"))
        rows.append([TITLES[name], str(len(runs)), taken, *spreads])
    ranks = ", ".join(f"{r['rank']} (seed {r['seed']})" for r in by_name.get("lr", []))
    return [
        f"Rank of the student's upsampler: {ranks}: the largest at which the SVD alone loses at "
        f"least {study['svd_loss']:g} dB on the validation scenes. Rows below LKCA-KD differ from it in what they say.",
        "",
        *table(["", "seeds", "steps", "MPSNR − teacher's, test", "SAM − teacher's, °", "MPSNR, validation"], rows),
    ]


def _goals(
    by_name: dict[str, list[dict[str, Any]]], base: dict[str, Any], costs: dict[str, Any], study: dict[str, Any]
) -> list[str]:
    def mean(name: str, key: str) -> float:
        return statistics.fmean([_mean(r["test"], key) for r in by_name[name]]) if name in by_name else math.nan

    lost, won = mean("kd", "mpsnr") - mean("teacher", "mpsnr"), mean("kd", "mpsnr") - mean("finetune", "mpsnr")
    svd = mean("lr", "mpsnr") - mean("teacher", "mpsnr")
    lines = []

    def goal(text: str, found: str, reached: bool) -> None:
        lines.append(f"- {text}: {found}: {'reached' if reached else '**not reached**'}.")

    compared = ["teacher", *study["presets"], *(n for n in study["longer"] if other_time(n)[0] != "baseline")]
    for name in compared:
        if name in by_name:
            gain = mean(name, "mpsnr") - _mean(base, "mpsnr")
            angle = 100 * (mean(name, "sam") / _mean(base, "sam") - 1)
            found, reached = f"{gain:+.2f} dB, {angle:+.1f} %", gain >= 1 and angle <= -10
            goal(f"{_title(name)} 1.0 dB over bicubic, SAM 10 % lower (asked for on CAVE ×4)", found, reached)
    for name in ("kd", *compared):
        seconds = other_time(name)[1]
        rival = "baseline" if seconds is None else f"baseline_{seconds:g}"  # trained for the same time
        if rival in by_name and name in by_name:
            ahead = mean(name, "mpsnr") - mean(rival, "mpsnr")
            turned = mean(name, "sam") - mean(rival, "sam")
            ratio = sum(costs["baseline"]["ms"].values()) / sum(costs[other_time(name)[0]]["ms"].values())
            goal(
                f"{_title(name)} at or above {_title(rival)} in MPSNR and SAM, at no more latency",
                f"{ahead:+.2f} dB, SAM {turned:+.2f}°, {ratio:.1f} times as fast",
                ahead >= 0 and turned <= 0 and ratio >= 1,
            )
    if "kd" in by_name:
        goal("The SVD alone loses at least 0.3 dB", f"{svd:+.2f} dB on the test scenes", svd <= -0.3)
        goal("LKCA-KD within 0.05 dB of the teacher", f"{lost:+.3f} dB", lost >= -0.05)
        goal("LKCA-KD above fine-tuning without teacher, at equal time", f"{won:+.3f} dB", won > 0)
    return lines
