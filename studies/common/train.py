"""The trainings of a study, each finished one kept as ``WORK/seedN/NAME.{safetensors,json}``, so that a run resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from lkca.lowrank import factorize
from lkca.models import LKCANet
from lkca.nn import LowRankUpsample
from lkca.nn.layout import channels_last
from lkca.output import written_aside
from lkca.training.distill import DistillRecipe, distill
from lkca.training.distillation import Point
from lkca.training.loop import Schedule, train_loop
from lkca.training.progress import Budget
from studies.common.config import other_time
from studies.common.tasks import Task

__all__ = [
    "MAIN",
    "NEXT",
    "STUDENTS",
    "build",
    "check_settings",
    "keep",
    "load_network",
    "record_of",
    "run",
    "supervised",
    "warm_up",
]

FEATURES = (Point("upsample", where="input"), Point("upsample.conv", "upsample.reduce"))  # F_N, and rank features

# Ways to train the factorised student; "kd" is what the others differ from in one thing. times: of the students' time.
STUDENTS: dict[str, dict[str, Any]] = {
    "finetune": {"start": 0.0},
    "kd": {},
    "no_alignment": {"points": ()},
    "constant": {"decay": "constant", "start": 0.5},
    "linear": {"decay": "linear"},
    "exponential": {"decay": "exponential"},
    "random_init": {},
    "warmup": {"warmup_share": 0.2},
    "ensemble": {"orientations": 2},
    "long": {"warmup_share": 0.2, "times": 3},
    "finetune_long": {"start": 0.0, "times": 3},
}
NEXT = ("lr_next", "finetune_next", "kd_next")  # one rank more than "lr", where ranks are coarse
MAIN = ("teacher", "baseline", "lr", "finetune", "kd")


class CpuBudget(Budget):
    """Seconds of this process on its one thread: what else the machine does takes no part of them."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds, None)
        self._start = time.process_time()

    @property
    def elapsed(self) -> float:
        return time.process_time() - self._start


def _file(work: Path, seed: int, name: str, kind: str) -> Path:
    return work / f"seed{seed}" / f"{name}.{kind}"


def keep(work: Path, seed: int, name: str, net: nn.Module, record: dict[str, Any]) -> None:
    """The record last and by renaming: where it is, all is."""
    weights, note = (_file(work, seed, name, kind) for kind in ("safetensors", "json"))
    weights.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({k: v.contiguous() for k, v in net.state_dict().items()}, weights)
    with written_aside(note) as part:
        part.write_text(json.dumps({"seed": seed, "name": name, **record}, indent=1))


def check_settings(work: Path, settings: dict[str, Any]) -> None:
    """SystemExit where ``work`` keeps trainings that were made with another value of one of ``settings``, or does not
    say with which.

    One named KIND.NAME is of the trainings NAME, or of those in the folder NAME, alone.
    """
    file = work / "settings.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    made = {part for note in work.glob("**/seed*/*.json") for part in note.relative_to(work).with_suffix("").parts}
    if made and not file.exists():
        raise SystemExit(
            f"{work}: no {file.name} says how the trainings there were made; give another --work or, where you know "
            f"that they are of these settings, write {{}} into {file}"
        )
    made |= {other_time(name)[0] for name in made}
    for key, value in settings.items():
        kept = made if "." not in key else made & {key.partition(".")[2]}
        if kept and known.get(key, value) != value:
            raise SystemExit(
                f"{key}: the trainings in {work} were made with {known[key]}, not {value}; give another --work, or "
                "remove them"
            )
    work.mkdir(parents=True, exist_ok=True)
    with written_aside(file) as part:
        part.write_text(json.dumps(known | settings, indent=1))


def record_of(work: Path, seed: int, name: str) -> dict[str, Any] | None:
    note = _file(work, seed, name, "json")
    return json.loads(note.read_text()) if note.exists() else None


def build(task: Task, seed: int, name: str, rank: int | None) -> nn.Module:
    """The network of ``name``, not trained; ``task`` is that :meth:`~Task.of` its name."""
    stem = other_time(name)[0]
    net = task.network("edsr" if stem == "baseline" else "lkcanet", seed)
    if rank is not None:
        assert isinstance(net, LKCANet)
        net = factorize(net, rank=rank) if stem in task.study.presets else task.student(net, rank)
    return channels_last(net).eval()


def load_network(task: Task, work: Path, seed: int, name: str) -> nn.Module:
    """The trained network, eval mode."""
    record = record_of(work, seed, name)
    assert record is not None
    net = build(task, seed, name, record.get("rank"))
    net.load_state_dict(safetensors.torch.load_file(_file(work, seed, name, "safetensors")))
    return net


def run(task: Task, work: Path, *, names: tuple[str, ...], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Train what is missing, seed by seed; yields each new record."""
    warm_up(task)
    for seed in seeds:
        for name in names:
            if record_of(work, seed, name) is None:
                mine, stem = task.of(name), other_time(name)[0]
                if stem in task.study.presets:
                    net, record = _preset(mine, stem, seed)
                elif stem in ("teacher", "baseline"):
                    kind = "edsr" if stem == "baseline" else "lkcanet"
                    net = mine.network(kind, seed)
                    lr = (mine.study.baseline if stem == "baseline" else mine.study.teacher).lr
                    record = supervised(mine, net, kind, seed, lr, mine.study.teacher_seconds)
                elif name == "lr":
                    net, record = _svd(task, work, seed)
                elif name == "lr_next":
                    net, record = _one_rank_more(task, work, seed)
                else:
                    net, record = _student(task, work, seed, name)
                record["gain_validation"], record["sam_validation"] = mine.gain(net.eval())
                keep(work, seed, name, net, record)
                yield {"seed": seed, "name": name, **record}


def supervised(task: Task, net: nn.Module, kind: str, seed: int, lr: float, seconds: float) -> dict[str, Any]:
    """Train ``net`` in place for ``seconds`` of CPU time; what to record of it."""
    draw, criterion = task.batches(kind, seed), task.criterion(kind)
    budget = CpuBudget(seconds)

    def loss(position: float) -> torch.Tensor:
        coarse, sharp, _ = draw()
        return criterion(task.apply(net, coarse), sharp)

    done = train_loop(net, loss, Schedule(0.0, 1.0, lr=lr), budget)
    return {"steps": done.steps, "cpu_seconds": round(budget.elapsed, 1)}


def warm_up(task: Task) -> None:
    """A process's first step takes a second or two more: outside of any budget."""
    supervised(task, task.network("lkcanet", 0), "lkcanet", 0, 1e-3, 0.1)


def _preset(task: Task, name: str, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """At full rank, then as a student of that, both in the time of one teacher."""
    study, teacher = task.study, task.network("lkcanet", seed)
    first = supervised(task, teacher, "lkcanet", seed, study.teacher.lr, study.teacher_seconds - study.student_seconds)
    rank = study.presets[name].rank
    student = channels_last(factorize(teacher, rank=rank))
    second = _distilled(task, teacher, student, seed, "warmup")
    return student, {"rank": rank, **{key: round(first[key] + second[key], 1) for key in first}}


def _svd(task: Task, work: Path, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """The largest rank at which the SVD alone loses at least ``svd_loss`` on validation."""
    teacher = load_network(task, work, seed, "teacher")
    assert isinstance(teacher, LKCANet)
    full = task.gain(teacher)[0]
    low, high = 1, task.full_rank
    tried = {}
    while low < high:  # the loss falls with the rank
        middle = (low + high + 1) // 2
        tried[middle] = full - task.gain(task.student(teacher, middle))[0]
        low, high = (middle, high) if tried[middle] >= task.study.svd_loss else (low, middle - 1)
    losses = {str(rank): loss for rank, loss in sorted(tried.items())}
    return task.student(teacher, low), {"rank": low, "svd_losses": losses}


def _one_rank_more(task: Task, work: Path, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    teacher, record = load_network(task, work, seed, "teacher"), record_of(work, seed, "lr")
    assert isinstance(teacher, LKCANet) and record is not None
    rank = record["rank"] + 1
    return task.student(teacher, rank), {"rank": rank}


def _student(task: Task, work: Path, seed: int, name: str) -> tuple[nn.Module, dict[str, Any]]:
    teacher = load_network(task, work, seed, "teacher")
    base = "lr_next" if name.endswith("_next") else "lr"
    student = load_network(task, work, seed, base)
    rank = (record_of(work, seed, base) or {})["rank"]
    if name == "random_init":
        assert isinstance(student, LKCANet) and isinstance(student.upsample, LowRankUpsample)
        torch.manual_seed(seed)
        student.upsample.reset_parameters()
        torch.nn.init.zeros_(student.upsample.weight)  # as a new network starts: from bicubic
    return student, {"rank": rank, **_distilled(task, teacher, student, seed, name)}


def _distilled(task: Task, teacher: nn.Module, student: nn.Module, seed: int, name: str) -> dict[str, Any]:
    """Train ``student`` in place in the way ``name``; what to record of it."""
    study = task.study
    common = {
        "points": FEATURES,
        "alignment": study.alignment,
        "lr": study.student_lr,
        "orientations": study.orientations,
        "end": 0.0,
    }
    options = {**common, **STUDENTS[name.removesuffix("_next")]}
    budget = CpuBudget(options.pop("times", 1) * study.student_seconds)
    recipe = DistillRecipe(**options)
    generator = torch.Generator().manual_seed(seed)
    done = distill(
        teacher,
        student.train(),
        task.batches("lkcanet", 1000 + seed),
        budget=budget,
        recipe=recipe,
        criterion=task.criterion("lkcanet"),
        apply=task.apply,
        generator=generator,
    )
    return {"steps": done.steps, "cpu_seconds": round(budget.elapsed, 1)}
