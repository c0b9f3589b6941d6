"""Every study's command from training to its page, on synthetic scenes and a budget of a fraction of a second."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lkca.models import PRESETS, LKCANetConfig
from lkca.models.prior import load_prior

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
    if "presets" in config:
        config["presets"] = {
            "small": {
                "options": {"width": 8, "blocks": 1},
                "lr": 1e-3,
                "components": 1,
                "rank": 3,
                "student_seconds": 0.02,
            }
        }
        config["longer"] = ["small_1"]
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
    assert {(s, n) for s in (0, 1) for n in [*config.get("presets", []), *config.get("longer", [])]} <= runs
    assert set(results["bicubic"]) == set(config["test"])
    assert all(np.isfinite(value) for run in results["runs"] for s in run["test"].values() for value in s.values())
    costs = results["costs"]
    assert costs["kd"]["macs"] > 0 and set(costs) == {"baseline", "teacher", "kd", *config.get("presets", [])}
    for note in (tmp_path / "work" / name / "seed1").glob("kd.*"):
        note.unlink()
    known = {key: value for key, value in results["study"].items() if value or key not in ("presets", "longer")}
    (folder / "results.json").write_text(json.dumps(results | {"study": known}))  # as before there were presets
    command.main(folder, [*arguments, "--train", "none", "--report", str(page)])
    again = json.loads((folder / "results.json").read_text())
    assert again["runs"] == results["runs"], "a score was lost with its weights"
    text = page.read_text()
    assert "±" in text and "LKCA-KD" in text and "reached" in text and "nan" not in text
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"student_lr": 1e-4}))
    with pytest.raises(SystemExit, match=r"student_lr: the trainings in .* were made with"):
        command.main(folder, [*arguments, "--train", "none", "--report", str(page)])
    assert page.read_text() == text, "trainings of other settings were reported"
    shutil.rmtree(tmp_path / "work")
    command.main(folder, [*arguments, "--train", "none", "--report", str(page)])
    assert json.loads((folder / "results.json").read_text())["runs"] == [], "a score of other settings was kept"


def test_settings_of_trainings_that_are_not_there_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset or a row that nothing was trained of does not spoil hours of other trainings."""
    monkeypatch.syspath_prepend(str(ROOT))
    check_settings = importlib.import_module("studies.common.train").check_settings

    def trained(file: str) -> None:
        path = tmp_path / f"{file}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")

    check_settings(tmp_path, {"student_lr": 1, "presets.one": 1, "presets.two": 1, "parts.long": 1})
    check_settings(tmp_path, {"student_lr": 2, "presets.one": 2, "presets.two": 2, "parts.long": 2})
    trained("seed0/one_480")  # for another time than the study's
    check_settings(tmp_path, {"student_lr": 2, "presets.one": 2, "presets.two": 3, "parts.long": 3})
    trained("long/seed0/row")
    for key in ("student_lr", "presets.one", "parts.long"):
        with pytest.raises(SystemExit, match=f"{key}: the trainings in .* remove them"):
            check_settings(tmp_path, {key: 4})
    settings = tmp_path / "settings.json"
    settings.unlink()
    with pytest.raises(SystemExit, match=r"no settings\.json says how the trainings .* were made"):
        check_settings(tmp_path, {"student_lr": 2})
    assert not settings.exists()
    settings.write_text("{}")  # as the error advises where they are known to be of these settings
    check_settings(tmp_path, {"student_lr": 2})


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    blocks = importlib.import_module("studies.blocks.__main__")
    config = yaml.safe_load((ROOT / "studies/blocks/config.yaml").read_text())
    parts = {"short": {"seconds": 0.02}, "long": {"seconds": 0.04, "rows": ["reference", "gelu"]}}
    config |= {"parts": parts, "seeds": [0, 1], "study": "study.yaml"}
    small = {"width": 8, "blocks": 1, "components": 2}
    config["rows"] = {name: {**row, **small} for name, row in config["rows"].items()}
    study = yaml.safe_load((ROOT / "studies/cave_x4/config.yaml").read_text())
    study |= {"validation": study["validation"][:1], "patch": 6, "batch": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    for index, scene in enumerate([*study["validation"], *study["test"], "one"]):
        write_scene(tmp_path / "data" / "cave" / f"{scene}.npz", 31, 48, 4000, index)
    arguments = [str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--report", str(tmp_path / "page.md")]
    blocks.main(arguments, tmp_path)

    results = json.loads((tmp_path / "results.json").read_text())
    for part, names in (("short", list(config["rows"])), ("long", ["reference", "gelu"])):
        runs = results["parts"][part]["runs"]
        assert {(r["seed"], r["name"]) for r in runs} == {(s, n) for s in (0, 1) for n in names}
        assert all(np.isfinite(r["gain"]) and r["steps"] > 0 for r in runs)
    costs = results["costs"]
    # of 12×12 pixels, 2 components, 8 channels: 11×11 instead of 7×7 weights, or two more weights per tap in P1
    assert costs["kernel_11"]["macs"] - costs["reference"]["macs"] == 12 * 12 * 2 * 8 * (121 - 49)
    assert costs["parallel"]["macs"] - costs["reference"]["macs"] == 12 * 12 * 2 * 8 * (9 + 25 + 2 * 16)
    assert costs["no_attention"]["parameters"] < costs["reference"]["parameters"]
    page = (tmp_path / "page.md").read_text()
    assert all(row["title"] in page for row in config["rows"].values()) and "nan" not in page
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(config | {"parts": parts | {"long": {"seconds": 0.03}}}, sort_keys=False)
    )
    with pytest.raises(SystemExit, match=r"parts\.long: the trainings in"):
        blocks.main(arguments, tmp_path)


def test_blocks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variant maps a batch to finite features; only GELU and attention over the image change with the scale."""
    monkeypatch.syspath_prepend(str(ROOT))
    variants = importlib.import_module("studies.blocks.variants")
    config = LKCANetConfig(bands=1, scale=4, shared=True)
    x = torch.randn(2, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    for row in yaml.safe_load((ROOT / "studies/blocks/config.yaml").read_text())["rows"].values():
        torch.manual_seed(0)
        net = variants.build(config, variants.Row(**row))
        for module in net.modules():
            if hasattr(module, "fc2"):
                torch.nn.init.normal_(module.fc2.weight)  # gates that are not 1
        with torch.no_grad():
            once, twice = net.features(x), net.features(2 * x)
        assert once.shape == (2, row.get("width", 32), 10, 10)
        even = torch.allclose(twice, 2 * once, rtol=1e-4, atol=1e-5)
        assert even == (row.get("activation") != "gelu" and row.get("attention") != "global"), row["title"]


def test_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    speed = importlib.import_module("studies.speed.__main__")
    threads = torch.get_num_threads()
    try:
        speed.main(["--threads", "1", "--rounds", "1", "--report", str(tmp_path / "speed.md")], tmp_path)
    finally:
        torch.set_num_threads(threads)
    costs = json.loads((tmp_path / "results.json").read_text())["costs"]
    student, teacher = costs["`base`, LKCA-LR, LKCA-KD, rank 40"], costs["`base`, teacher"]
    # 3×3 convolution of 8 components' 32 channels to 5 instead of 16 each, and from there to 128·16, on 32×32 pixels
    assert teacher["macs"] - student["macs"] == 32 * 32 * (16 - 5) * 8 * (32 * 9 + 2048)
    assert "tiny" in (tmp_path / "speed.md").read_text()


def test_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    study, pictures = (importlib.import_module(f"studies.prior.{name}") for name in ("__main__", "images"))
    monkeypatch.setattr(pictures, "PHOTOGRAPHS", ("camera",))
    monkeypatch.setattr(pictures, "dead_leaves", lambda size, channels, generator: torch.randn(channels, size, size))
    for index, scene in enumerate(("cave/one", "cave/beads", "cubes/two", "cubes/sandiego_a")):
        write_scene(tmp_path / f"{scene}.npz", 7, 192, 4000, index)
    for name, start in (("first", None), ("second", tmp_path / "first")):
        study.train_prior(tmp_path, tmp_path / name, minutes=0.01, seed=0, lr=1e-3, start_from=start)
    first, second = (load_prior(str(tmp_path / name)) for name in ("first", "second"))
    assert first.scales == (2, 3, 4, 8) and first.origin["scenes"] == ["one", "two", "skimage.data.camera"]
    assert second.origin["steps"] and second.origin["scenes"] == first.origin["scenes"]
    assert second.origin["before"] == [{"steps": first.origin["steps"], "seed": first.origin["seed"]}]
    assert not torch.equal(first.state["tail.4"], second.state["tail.4"])


@pytest.mark.parametrize("name", ("cave_x4", "cave_x8", "aviris_x4", "blocks", "speed"))
def test_pages_are_generated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    folder, committed = ROOT / "studies" / name, (ROOT / "docs/results" / f"{name}.md").read_text()
    if name not in ("blocks", "speed"):
        report = importlib.import_module("studies.common.report")
        assert report.page(name, report.load_results(folder / "results.json")) == committed
    else:
        study = importlib.import_module(f"studies.{name}.__main__")
        assert study.page(json.loads((folder / "results.json").read_text())) == committed


@pytest.mark.parametrize("name", ("cave_x4", "aviris_x4"))
def test_presets_are_the_library_s(name: str) -> None:
    presets = yaml.safe_load((ROOT / "studies" / name / "config.yaml").read_text())["presets"]
    for title, preset in presets.items():
        size = PRESETS[title.partition("_")[0]]
        assert {"components": preset["components"], **preset["options"]} == size
        config = LKCANetConfig.preset(title.partition("_")[0], bands=31, scale=4)
        assert config.student_rank == preset["rank"] * preset["components"]
