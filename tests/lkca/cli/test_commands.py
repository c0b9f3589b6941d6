"""Every command on good input: what it writes, prints and returns."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from affine import Affine
from typer.testing import Result

import lkca
from lkca.data import degrade, open_cube, write_cube
from lkca.models.directory import load_model
from lkca_kernels import cpu

COMMANDS = ["demo", "fit", "upscale", "evaluate", "degrade", "inspect", "doctor", "schema"]
Cli = Callable[..., Result]


def test_help_lists_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert result.exit_code == 0
    assert all(f" {name} " in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(cli: Cli, name: str) -> None:
    result = cli(name, "--help")
    assert result.exit_code == 0
    assert "Examples" in result.stdout and f"lkca {name}" in result.stdout


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"lkca {lkca.__version__}\n"


def test_no_command_shows_the_help(cli: Cli) -> None:
    result = cli()
    assert result.exit_code == 2 and "fit" in result.output


@pytest.mark.parametrize(
    "args", [["fit"], ["nonsense"], ["upscale", "--wrong"], ["degrade", "-i", "a", "-o", "b", "-s", "1"]]
)
def test_wrong_use_is_exit_code_2(cli: Cli, args: list[str]) -> None:
    result = cli(*args)
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "says", "example"),
    [
        ("upscale scene.tif -m general", "Missing option '--input'", "lkca upscale -i scene.tif -o sharp.tif -s 4"),
        ("fit scene.tif model", "Missing option '--output'", "lkca fit scene.tif -s 4 -o model"),
        ("distill model scene.tif", "Missing option '--teacher'", "lkca distill --teacher model --energy"),
        ("export model", "Missing option '--to'", "lkca export model --to onnx -o model.onnx"),
        ("export -m model --to onnx", "No such option: -m", "lkca export model --to onnx -o model.onnx"),
        ("inspect a.tif b.tif", "unexpected extra argument", "lkca inspect scene.tif"),
        ("degrade -i a -o b -s 1", "Invalid value for '--scale'", "lkca degrade -i scene.tif -o coarse.tif -s 4"),
    ],
)
def test_wrong_use_shows_an_example(cli: Cli, args: str, says: str, example: str) -> None:
    said = " ".join(cli(*args.split()).stderr.replace("│", "").split())
    assert says in said and f"For example: {example}" in said


def test_many_files_after_one_flag(cli: Cli) -> None:
    """As a shell makes of -i *.tif."""
    said = " ".join(
        cli(*["upscale", "-i", "a.tif", "b.tif", "c.tif", "-o", "results", "-s", "4"]).stderr.replace("│", "").split()
    )
    assert "argument(s) (b.tif c.tif)" in said and "Give each file an -i of its own, or name their folder." in said
    said = cli(*["degrade", "-i", "a.tif", "b.tif", "-o", "results", "-s", "4"]).stderr
    assert "unexpected extra argument" in said and "folder" not in said  # it takes one


@pytest.mark.parametrize(
    ("args", "flag"),
    [
        ("evaluate {model} {scene}", "-m {model}"),
        ("evaluate cave31 {scene} -s 4", "-m cave31"),
        ("report general {scene} -o report.html", "-m general"),
        ("fit {model} {scene} -s 2 -o new", "--init {model}"),
    ],
)
def test_a_model_among_the_cubes_lacks_its_option(
    refuses: Callable[..., str], model_dir: Path, scene_file: Path, args: str, flag: str
) -> None:
    """It was looked for as a cube file, or the scale factor was asked for."""
    paths = {"model": str(model_dir), "scene": str(scene_file)}
    refuses(
        *args.format(**paths).split(),
        says=(f"is a model, not a cube; give it with its option, {flag}".format(**paths),),
    )


def test_module_entry_point_is_light() -> None:
    """``python -m lkca --version`` imports neither torch nor GDAL."""
    code = "import sys, lkca.cli.app; print(sorted({'torch', 'rasterio', 'scipy', 'numpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    run = subprocess.run([sys.executable, "-m", "lkca", "--version"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("lkca ")


def test_inspect(cli: Cli, scene_file: Path) -> None:
    facts = json.loads(cli("inspect", scene_file, "--json").stdout)
    assert (facts["rows"], facts["cols"], facts["bands"]) == (72, 40, 6)
    assert facts["valid_share"] == 1 and facts["empty_bands"] == []
    assert 0 <= facts["minimum"] < facts["maximum"] <= 1
    table = cli("inspect", scene_file).stdout
    assert "wavelengths_nm" in table and "450 to 950" in table


def test_inspect_counts_missing_samples(cli: Cli, tmp_path: Path) -> None:
    cube = np.ones((8, 5, 4), dtype=np.float32)
    cube[:4, 0] = np.nan
    cube[:, :, 2] = np.nan
    np.save(tmp_path / "c.npy", cube)
    facts = json.loads(cli("inspect", tmp_path / "c.npy", "--json").stdout)
    assert facts["empty_bands"] == [2]
    assert facts["valid_share"] == pytest.approx(np.isfinite(cube).mean())


def test_names_are_not_markup(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("[").mkdir()
    name = "[/red] ü [bold].npy"
    np.save(name, np.ones((8, 8, 4), dtype=np.float32))
    assert name in cli("inspect", name).stdout
    result = cli("upscale", "-i", name, "-o", "[/x].npz", "-s", "2", "--bicubic")
    assert result.exit_code == 0 and "[/x].npz" in result.stdout
    assert "[/y].npy" in cli("inspect", "[/y].npy").stderr


def test_ctrl_c_leaves_no_output(cli: Cli, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lkca.inference.array.fill_missing", interrupted)
    result = cli("upscale", "-i", scene_file, "-o", tmp_path / "o.tif", "-s", "2", "--bicubic")
    assert result.exit_code == 130 and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_degrade_then_bicubic_then_score(cli: Cli, scene_file: Path, tmp_path: Path) -> None:
    low, high = tmp_path / "low.img", tmp_path / "high.tif"
    assert cli("degrade", "-i", scene_file, "-o", low, "-s", "4", "--method", "area").exit_code == 0
    with open_cube(low) as cube, open_cube(scene_file) as truth:
        mean = truth.read().reshape(6, 18, 4, 10, 4).mean(axis=(2, 4))
        np.testing.assert_allclose(cube.read(), mean, atol=0.51e-4)
        np.testing.assert_allclose(cube.meta.wavelengths, truth.meta.wavelengths)
    assert cli("upscale", "-i", low, "-o", high, "-s", "4", "--bicubic").exit_code == 0
    result = cli("evaluate", "--reference", scene_file, "--prediction", high, "-s", "4", "--json")
    pair = json.loads(result.stdout)["results"][0]
    direct = json.loads(cli("evaluate", scene_file, "-s", "4", "--degradation", "area", "--json").stdout)["results"][0]
    assert pair["peak"] == direct["peak"]
    ours, theirs = pair["scores"]["prediction"], direct["scores"]["bicubic"]
    assert ours["mpsnr"] == pytest.approx(theirs["mpsnr"], abs=0.02)  # the files are rounded to 1e-4
    assert ours["ergas"] == pytest.approx(theirs["ergas"], rel=0.01)
    page = (Path(__file__).parents[3] / "docs/cli.md").read_text().partition("## evaluate")[2].partition("\n## ")[0]
    for key in (*direct, *direct["degradation"], *theirs, *direct["scores"], *pair["scores"]):
        assert f"`{key}`" in page, f"docs/cli.md does not tell what {key} is"


def test_a_gaussian_of_ones_own(cli: Cli, scene_file: Path, tmp_path: Path) -> None:
    """The same blur for a method of one's own, which gets the degraded cube, and for lkca's scores beside it."""
    low, high, page = tmp_path / "low.npz", tmp_path / "high.npz", tmp_path / "page.html"
    blur = ("gaussian", "--sigma", "1.1")
    assert cli("degrade", "-i", scene_file, "-o", low, "-s", "4", "--method", *blur).exit_code == 0
    with open_cube(low) as coarse, open_cube(scene_file) as sharp:
        expected = degrade(torch.from_numpy(sharp.read()), 4, "gaussian", sigma=1.1)
        np.testing.assert_allclose(coarse.read(), expected, atol=0.51e-4)
    assert cli("upscale", "-i", low, "-o", high, "-s", "4", "--bicubic").exit_code == 0
    pair = json.loads(cli("evaluate", "--reference", scene_file, "--prediction", high, "-s", "4", "--json").stdout)
    direct = cli("evaluate", scene_file, "-s", "4", "--degradation", *blur, "--json")
    entry, (theirs,) = json.loads(direct.stdout)["results"][0], pair["results"]
    assert entry["degradation"] == {"method": "gaussian", "scale": 4, "sigma": 1.1}
    assert theirs["scores"]["prediction"]["mpsnr"] == pytest.approx(entry["scores"]["bicubic"]["mpsnr"], abs=0.02)
    table = cli("evaluate", scene_file, "-s", "4", "--degradation", *blur).stdout
    assert "degradation gaussian, sigma 1.1 fine pixels" in " ".join(table.split())
    assert cli("report", scene_file, "-s", "4", "--degradation", *blur, "-o", page).exit_code == 0
    assert "degradation gaussian, sigma 1.1 fine pixels" in page.read_text()
    finished = ("--reference", scene_file, "--prediction", high, "-s", "4")
    for args in (
        ("degrade", "-i", scene_file, "-o", tmp_path / "x.npz", "-s", "4", "--sigma", "1"),
        ("degrade", "-i", scene_file, "-o", tmp_path / "x.npz", "-s", "4", "--method", "area", "--sigma", "1"),
        ("evaluate", scene_file, "-s", "4", "--sigma", "1"),
        ("report", scene_file, "-s", "4", "-o", page, "--overwrite", "--degradation", "bicubic", "--sigma", "1"),
        ("evaluate", *finished, "--sigma", "1"),
        ("report", *finished, "-o", page, "--overwrite", "--sigma", "1"),
        # Of a wider one the filter's margin would leave no room for a block: each pixel would be computed by itself.
        *(("evaluate", scene_file, "-s", "4", "--degradation", "gaussian", "--sigma", sigma) for sigma in ("0", "101")),
    ):
        refused = cli(*args)
        assert refused.exit_code == 2 and "sigma" in refused.stderr, args


def test_a_prediction_of_a_part_of_its_reference(cli: Cli, scene_file: Path, tmp_path: Path) -> None:
    """×5 of 72 × 40 pixels leaves 70 × 40; the finished file is scored as the model's own evaluation does it."""
    low, high = tmp_path / "low.tif", tmp_path / "high.tif"
    assert cli("degrade", "-i", scene_file, "-o", low, "-s", "5").exit_code == 0
    assert cli("upscale", "-i", low, "-o", high, "-s", "5", "--bicubic", "--dtype", "float32").exit_code == 0

    def score(*args: str | Path) -> dict[str, Any]:
        done = cli("evaluate", *args, "-s", "5", "--json")
        assert done.exit_code == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)["results"][0]
        return result

    pair = ("--reference", scene_file, "--prediction", high)
    cut, named, direct = score(*pair), score(*pair, "--region", "0:70,:"), score(scene_file)
    assert cut["region"] == named["region"] == direct["region"] == "0:70,0:40" and "cut" in cut["notes"][0]
    assert cut["scores"] == named["scores"] and cut["peak"] == direct["peak"]
    assert cut["scores"]["prediction"]["mpsnr"] == pytest.approx(direct["scores"]["bicubic"]["mpsnr"], abs=0.02)
    same = ("--reference", scene_file, "--prediction", scene_file)
    assert score(*same, "--region", "10:30,5:")["scores"]["prediction"]["pixels"] == 20 * 35
    assert cli("evaluate", *pair, "-s", "5", "--region", "0:50,:").exit_code == 2
    assert cli("evaluate", *pair, "-s", "5", "--degradation", "area").exit_code == 2


def test_a_file_that_fails_does_not_stop_the_others(
    cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took their scores with it: all in JSON, the later ones in the table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.tif").write_bytes(b"no picture")
    result = cli("evaluate", scene_file, "bad.tif", scene_file, "-s", "5")
    assert result.exit_code == 2 and "error: bad.tif" in result.stderr and result.stderr.count("region cut") == 2
    assert result.stdout.count("│ bicubic ") == 2
    pictures = ("-m", model_dir, "--report", "r.html", "--panel", "p.png")
    result = cli("evaluate", "bad.tif", scene_file, *pictures, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 2 and [entry["source"] for entry in told["results"]] == [str(scene_file)]
    assert [entry["source"] for entry in told["failed"]] == ["bad.tif"] and "bad.tif" in told["failed"][0]["error"]
    assert (tmp_path / "r.html").exists() and (tmp_path / "p.png").exists()
    result = cli("evaluate", "bad.tif", "none.tif", "-s", "2", "--report", "none.html", "--json")
    assert result.exit_code == 2 and not (tmp_path / "none.html").exists()
    assert [entry["source"] for entry in json.loads(result.stdout)["failed"]] == ["bad.tif", "none.tif"]
    assert cli("evaluate", "bad.tif", "-s", "2", "--json").stdout == ""


@pytest.mark.parametrize("suffix", [".tif", ".img", ".mat"])
def test_how_a_reference_is_read_is_not_asked_of_a_result(cli: Cli, tmp_path: Path, suffix: str) -> None:
    """A MATLAB cube with its bands first needs --axes, which a GeoTIFF refused and a result's own axes gave way to."""
    truth = np.random.default_rng(0).integers(1, 9000, (6, 12, 10)).astype(np.uint16)
    scipy.io.savemat(tmp_path / "truth.mat", {"Y": truth, "other": truth})
    how = ("--variable", "Y", "--axes", "brc")
    low, high = tmp_path / f"low{suffix}", tmp_path / f"high{suffix}"
    assert cli("degrade", "-i", tmp_path / "truth.mat", *how, "-o", low, "-s", "2").exit_code == 0
    assert cli("upscale", "-i", low, "-o", high, "-s", "2", "--bicubic").exit_code == 0
    pair = ("--reference", tmp_path / "truth.mat", "--prediction", high)
    result = cli("evaluate", *pair, *how, "-s", "2", "--json")
    assert result.exit_code == 0, result.stderr
    scored = json.loads(result.stdout)["results"][0]
    assert scored["region"] == "0:12,0:10" and scored["scores"]["prediction"]["mpsnr"] > 5
    page = cli("report", *pair, "-i", low, *how, "-o", tmp_path / "page.html")
    assert page.exit_code == 0, page.stderr
    both = cli("evaluate", "--reference", low, "--prediction", low, "--axes", "brc", "-s", "2")
    assert suffix == ".mat" or (both.exit_code == 2 and "--axes does not apply to" in both.stderr)


def test_a_perfect_prediction(cli: Cli, scene_file: Path) -> None:
    result = cli("evaluate", "--reference", scene_file, "--prediction", scene_file, "-s", "4", "--json")
    scores = json.loads(result.stdout)["results"][0]["scores"]["prediction"]
    assert scores["rmse"] == 0 and scores["sam"] == pytest.approx(0, abs=1e-4) and scores["mpsnr"] >= 100


def test_upscale_by_the_model(cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "sharp.tif"
    result = cli("upscale", "-i", scene_file, "-o", output, "-m", model_dir, "-s", "2", "--dtype", "float32")
    assert result.exit_code == 0 and str(output) in result.stdout
    with open_cube(output) as sharp, open_cube(scene_file) as source:
        assert sharp.shape == (144, 80, 6) and sharp.meta.stored_dtype == np.float32
        expected = lkca.upscale(source, str(model_dir))
        np.testing.assert_allclose(sharp.read(), expected, rtol=1e-6)
        bicubic = lkca.upscale(source, "bicubic", scale=2)
        assert np.abs(expected - bicubic).max() > 1e-4  # the network does add something


def test_evaluate_a_model(cli: Cli, model_dir: Path, scene_file: Path) -> None:
    table = cli("evaluate", "-m", model_dir, scene_file, "--region", "48:,:")
    assert table.exit_code == 0
    for words in ("bicubic", "model", "difference", "protocol sspsr", "peak ", "MPSNR"):
        assert words in table.stdout
    result = json.loads(cli("evaluate", "-m", model_dir, scene_file, "--region", "48:71,1:40", "--json").stdout)
    entry = result["results"][0]
    assert entry["region"] == "48:70,1:39" and "cut" in entry["notes"][0]
    with open_cube(scene_file) as cube:
        part = cube.read()[:, 48:70, 1:39]
    assert entry["peak"] == pytest.approx(float(part.max()))
    assert {"bicubic", "model"} == entry["scores"].keys()


def test_the_peak_of_a_protocol(cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path) -> None:
    """A data set's peak stands for 1 in all its scenes, however dark: MPSNR and RMSE differ by its ratio alone."""
    high, page = tmp_path / "high.tif", tmp_path / "page.html"
    assert cli("upscale", "-i", scene_file, "-o", high, "-s", "2", "--bicubic").exit_code == 0
    finished = ("--reference", high, "--prediction", high, "-s", "2", "--region", ":40,:")
    for args in (("-m", model_dir, scene_file), (scene_file, "-s", "2"), finished):
        own, given = (
            json.loads(cli("evaluate", *args, "--json", *more).stdout)["results"][0] for more in ((), ("--peak", "5"))
        )
        assert given["peak"] == 5 > own["peak"] and (given["peak_given"], own["peak_given"]) == (True, False)
        for name, scores in given["scores"].items():
            rise = 0 if args is finished else 20 * np.log10(5 / own["peak"])  # a perfect one has 100 dB at any peak
            assert scores["mpsnr"] == pytest.approx(own["scores"][name]["mpsnr"] + rise)
            assert scores["rmse"] == pytest.approx(own["scores"][name]["rmse"] * own["peak"] / 5)
            assert scores["sam"] == own["scores"][name]["sam"] and scores["peak"] == 5
    assert "peak 5 (as given)" in " ".join(cli("evaluate", scene_file, "-s", "2", "--peak", "5").stdout.split())
    for args in ((scene_file, "-s", "2"), finished):
        assert cli("report", *args, "--peak", "5", "-o", page, "--overwrite").exit_code == 0
        assert "peak 5 (as given)" in page.read_text()
        for peak in ("0", "-1", "nan", "inf"):
            refused = cli("evaluate", *args, "--peak", peak)
            assert refused.exit_code == 2 and "the positive value that stands for 1" in " ".join(refused.stderr.split())
    alone = cli("report", "-i", scene_file, "--prediction", high, "--peak", "5", "-o", page, "--overwrite")
    assert alone.exit_code == 2 and "--peak belongs to scores" in alone.stderr


def test_evaluate_draws_a_panel(cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path) -> None:
    result = cli("evaluate", "-m", model_dir, scene_file, "--panel", tmp_path / "p.png")
    assert result.exit_code == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", ["general", "."])
def test_a_panel_names_what_made_the_result(
    cli: Cli, model_dir: Path, scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """It called all of them LKCA-Net."""
    monkeypatch.chdir(model_dir)
    assert cli("evaluate", "-m", model, scene_file, "-s", "2", "--panel", tmp_path / "p.svg").exit_code == 0
    captions = re.findall("<!-- (.+?) -->", (tmp_path / "p.svg").read_text())
    name = model_dir.name if model == "." else model
    assert any(caption.startswith(f"{name}: ") for caption in captions) and f"mean |error|: {name}" in captions


def test_demo(cli: Cli, tmp_path: Path) -> None:
    args = ["demo", "-o", tmp_path / "d", "--size", "40", "--bands", "20", "--max-steps", "3", "--minutes", "5"]
    result = cli(*args)
    assert result.exit_code == 0, result.output
    names = {"scene.tif", "coarse.tif", "sharp.tif", "panel.png", "scores.json", "model"}
    assert {p.name for p in (tmp_path / "d").iterdir()} == names
    assert "difference" in result.stdout and "lkca upscale -i FILE" in result.stdout
    scores = json.loads((tmp_path / "d/scores.json").read_text())
    assert scores["region"] == "120:160,0:40" and {"bicubic", "model"} == scores["scores"].keys()
    with open_cube(tmp_path / "d/sharp.tif") as sharp, open_cube(tmp_path / "d/scene.tif") as scene:
        assert sharp.shape == (40, 40, 20)
        assert sharp.meta.transform == scene.meta.transform @ Affine.translation(0, 120)
    refused = cli(*args)
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    assert cli(*args, "--overwrite").exit_code == 0


def test_a_demo_whose_training_fails_says_so(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter((1.0, math.nan))
    monkeypatch.setattr("lkca.training.loop.rate_factor", lambda *_: next(rates, 1.0))
    result = cli("demo", "-o", tmp_path / "d", "--size", "40", "--bands", "20", "--max-steps", "16", "--minutes", "5")
    assert result.exit_code == 1 and "error: step 3: the loss is nan" in result.stderr
    assert (tmp_path / "d/scores.json").exists() and (tmp_path / "d/model").is_dir()


def test_evaluate_several_files(cli: Cli, model_dir: Path, scene_file: Path) -> None:
    result = cli("evaluate", "-m", model_dir, scene_file, scene_file, "--json")
    one, two = json.loads(result.stdout)["results"]
    assert one == two


def test_bad_bands_are_left_to_bicubic(cli: Cli, tmp_path: Path, scene_file: Path) -> None:
    with open_cube(scene_file) as cube:
        values, meta = cube.read(), cube.meta
    good = np.array([True, True, False, True, True, True])
    values[2] = np.random.default_rng(0).random(values.shape[1:])
    source, config = tmp_path / "bad.img", tmp_path / "fit.yaml"
    write_cube(source, values, meta.replace(good_bands=good))
    config.write_text("max_steps: 2\nrecipe: {prior: false, width: 4, blocks: 1}\n")
    assert cli("fit", source, "-s", "2", "-o", tmp_path / "m", "--config", config).exit_code == 0
    assert load_model(tmp_path / "m").config.bands.used == [0, 1, 3, 4, 5]
    result = cli("upscale", "-i", source, "-o", tmp_path / "o.img", "-m", tmp_path / "m")
    assert "1 bad or empty bands were upscaled by bicubic" in result.stdout
    entry = json.loads(cli("evaluate", "-m", tmp_path / "m", source, "--json").stdout)["results"][0]
    assert entry["bands_scored"] == 5
    for command in (
        ("distill", "--max-steps", "1", "--teacher", tmp_path / "m", "--data"),
        ("factorize", tmp_path / "m", "--calibration"),
    ):
        result = cli(*map(str, (*command, source, "--energy", "0.5", "-o", tmp_path / command[0])))
        assert result.exit_code == 0, result.stderr
        assert load_model(tmp_path / command[0]).config.bands.used == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("kind", "key"), [("fit", "scale"), ("train", "scale"), ("distill", "rank"), ("model", "scale")]
)
def test_schema_says_what_every_key_means(cli: Cli, kind: str, key: str) -> None:
    schema = json.loads(cli("schema", kind).stdout)
    assert schema["type"] == "object" and schema["additionalProperties"] is False and key in schema["properties"]
    records = {"": schema, **schema["$defs"]}
    silent = [
        f"{record}.{name}"
        for record, about in records.items()
        for name, value in about["properties"].items()
        if not value.get("description")
    ]
    assert not silent


def test_doctor(cli: Cli) -> None:
    facts = json.loads(cli("doctor", "--json").stdout)
    assert facts["versions"]["torch"] and facts["machine"]["cpu_capability"]
    entry = facts["operators"]["lowrank_pixel_shuffle on cpu"]
    assert entry["chosen"] in ("cpu", "reference") and entry["reason"]
    assert {"cpu", "cuda"} <= facts["extensions"].keys() and all(facts["extensions"].values())
    if facts["extensions"]["cpu"].startswith("loaded"):  # what serves here, not what some of it was compiled with
        assert facts["extensions"]["cpu kernels"].startswith(", ".join(cpu.available_isas()))
        assert not {"cpu_features", "cxx_standard"} & facts["extensions"].keys()
    table = cli("doctor").stdout
    assert "backends" in table and "lowrank_pixel_shuffle" in table


def test_doctor_names_a_wrong_backend(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LKCA_BACKEND", "abacus")
    result = cli("doctor")
    assert result.exit_code == 0 and "abacus" in result.stdout


def test_real_scene_end_to_end(cli: Cli, real_data: Path, tmp_path: Path) -> None:
    """A genuine ENVI file (stored as int16 with a reflectance scale factor) through fit, degrade, upscale, evaluate."""
    source = real_data / "formats" / "envi_bil_jasper" / "jasperRidge2_R198.img"
    config = tmp_path / "fit.yaml"
    config.write_text(
        "scale: 4\nmax_steps: 2\nregion: '0:48,0:48'\nrecipe: {prior: false, width: 4, blocks: 1, components: 4}\n"
    )
    assert cli("fit", source, "-o", tmp_path / "m", "--config", config).exit_code == 0
    assert cli("degrade", "-i", source, "-o", tmp_path / "low.img", "-s", "4").exit_code == 0
    result = cli("upscale", "-i", tmp_path / "low.img", "-o", tmp_path / "high.img", "-m", tmp_path / "m")
    assert result.exit_code == 0
    with open_cube(tmp_path / "high.img") as high, open_cube(source) as truth:
        assert high.shape == truth.shape and high.meta.interleave == "bil"
        np.testing.assert_allclose(high.meta.wavelengths, truth.meta.wavelengths)
        np.testing.assert_allclose(high.meta.scale_factor, truth.meta.scale_factor)
    # The .npz of the same scene holds counts: a model for reflectance must not take them silently.
    refused = cli("evaluate", "-m", tmp_path / "m", real_data / "cubes" / "jasper_ridge.npz")
    assert refused.exit_code == 2 and "units" in refused.stderr


def test_debug_shows_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch, scene_file: Path) -> None:
    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("boom\nmore")

    monkeypatch.setattr("lkca.data.open_cube", fails)
    monkeypatch.delenv("LKCA_DEBUG", raising=False)
    result = cli("inspect", scene_file)
    assert result.exit_code == 1 and "RuntimeError: boom)" in result.stderr and "Traceback" not in result.stderr
    monkeypatch.setenv("LKCA_DEBUG", "1")
    assert "Traceback" in cli("inspect", scene_file).stderr


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUDA out of memory")],
)
def test_too_little_memory(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("lkca.data.open_cube", fails)
    result = cli("inspect", "x.tif")
    assert result.exit_code == 1 and "error: not enough memory" in result.stderr and "--" not in result.stderr


def test_a_backend_that_cannot_serve_is_wrong_use(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, model_dir: Path, scene_file: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("LKCA_BACKEND", "abacus")
    result = cli("upscale", "-i", scene_file, "-o", tmp_path / "o.tif", "-m", model_dir)
    assert result.exit_code == 2 and "abacus" in result.stderr and "lkca doctor" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_failure_worth_a_traceback(scene_file: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    run = subprocess.Popen(
        [sys.executable, "-m", "lkca", "inspect", str(scene_file)], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    _, errors = run.communicate(timeout=60)
    assert b"Traceback" not in errors


def test_an_output_whose_encoding_lacks_a_character(scene_file: Path) -> None:
    """A result line with a multiplication sign ended a finished run as a failure."""
    run = subprocess.run(
        [sys.executable, "-m", "lkca", "inspect", str(scene_file)],
        capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert run.returncode == 0 and "\\u2013" in run.stdout, run.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("what", ["inspect", "--version", "--help"])
def test_a_full_disk_behind_the_output(scene_file: Path, what: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "lkca", what, *([str(scene_file)] if what == "inspect" else [])]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert run.returncode == 1 and run.stderr.startswith("error: the output could not be written (no space left)")
