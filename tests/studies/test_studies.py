"""Every study's command from training to its page, on synthetic scenes and a budget of a fraction of a second."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]


def write_scene(path: Path, bands: int, side: int, peak: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (side // 4, side // 4)).repeat(4, 0).repeat(4, 1)
    spectra = np.cumsum(rng.random((4, bands)), 1) / bands
    cube = spectra[labels] + 0.02 * rng.random((side, side, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, cube=(peak * cube / cube.max()).astype(np.uint16))


@pytest.mark.parametrize("name", ("cave_x4", "cave_x8", "aviris_x4"))
def test_study(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    command = importlib.import_module("studies.common.command")
    config = yaml.safe_load((ROOT / "studies" / name / "config.yaml").read_text())
    folder = tmp_path / name
    folder.mkdir()
    for options in (config["baseline"], config["teacher"]):
        options["options"] = {"width": 8, "blocks": 1}
    config |= {"teacher_seconds": 0.05, "student_seconds": 0.02, "seeds": [0, 1], "svd_loss": 0.01, "components": 2}
    config |= {"patch": 6, "batch": 1, "validation": config["validation"][:1], "test": config["test"][:2]}
    config |= {"ablation": config.get("ablation", [])[-3:], "ablation_seeds": [1]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    where, bands = ("cave", 31) if config["data"] == "cave" else ("cubes", 9)
    for index, scene in enumerate([*config["validation"], *config["test"], "abu_one"]):
        write_scene(tmp_path / "data" / where / f"{scene}.npz", bands + index * (where == "cubes"), 48, 4000, index)

    page = tmp_path / "page.md"
    arguments = [str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    command.main(folder, [*arguments, "--seeds", "0"])
    first = tmp_path / "work" / name / "seed0" / "teacher.json"
    before = first.stat().st_mtime_ns
    command.main(folder, [*arguments, "--report", str(page)])
    assert first.stat().st_mtime_ns == before, "a finished training ran again"

    results = json.loads((folder / "results.json").read_text())
    runs = {(run["seed"], run["name"]) for run in results["runs"]}
    assert {(s, n) for s in (0, 1) for n in ("teacher", "baseline", "lr", "finetune", "kd")} <= runs
    assert {(1, n) for n in config.get("ablation", [])} <= runs
    assert set(results["bicubic"]) == set(config["test"])
    assert all(np.isfinite(value) for run in results["runs"] for s in run["test"].values() for value in s.values())
    costs = results["costs"]
    assert costs["kd"]["macs"] > 0 and set(costs) == {"baseline", "teacher", "kd"}
    text = page.read_text()
    assert "±" in text and "LKCA-KD" in text and "reached" in text and "nan" not in text


def test_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    speed = importlib.import_module("studies.speed.__main__")
    threads = torch.get_num_threads()
    try:
        speed.main(["--threads", "1", "--rounds", "1", "--report", str(tmp_path / "speed.md")])
    finally:
        torch.set_num_threads(threads)
    costs = json.loads((tmp_path / "speed.json").read_text())["costs"]
    student, teacher = costs["`base`, LKCA-LR, LKCA-KD, rank 32"], costs["`base`, teacher"]
    # 3×3 convolution 64 -> 128·16 on 32×32 pixels against 64 -> 32 -> 128·16
    assert teacher["macs"] - student["macs"] == 32 * 32 * (64 * 9 * 2048 - 32 * (64 * 9 + 2048))
    assert "tiny" in (tmp_path / "speed.md").read_text()
