"""Configurations: those that are shipped, and changes on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import Result

from lkca.errors import InputError
from lkca.training.config import DEFAULT_LOSS, read_train_config

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_makes_a_network(path: Path) -> None:
    config = read_train_config(path)
    network = config.model.build(bands=31, scale=config.scale)
    assert network.bands == 31 and f"_x{config.scale}_" in path.name and config.model.preset in path.name
    if config.data.dataset is not None:
        assert path.name.startswith(Path(config.data.dataset).stem)


def test_changes_go_before_the_file() -> None:
    assert len(CONFIGS) >= 4
    path = next(p for p in CONFIGS if p.stem == "cave_x4_base")
    changes = ["model.width=48", "loss.sam=0.5", "patience=3", "data.workers=2", "amp=bf16", "minutes=null"]
    config = read_train_config(path, changes)
    assert config.model.width == 48 and config.model.blocks is None and config.model.build(5, 4).width == 48
    assert config.loss == {"l2": 1.0, "sam": 0.5}
    assert (config.patience, config.data.workers, config.amp, config.minutes) == (3, 2, "bf16", None)
    assert config.data.dataset == "cave.h5"
    assert read_train_config(path, ["loss={charbonnier: 1}"]).loss == {"charbonnier": 1.0}
    whole = read_train_config(path, ["model.preset=base", "model.window=0"]).model.build(5, 4)
    assert whole.window == 0 != read_train_config(path).model.build(5, 4).window  # 0 is a size, not nothing
    for change, words in (
        ("width", "is no KEY=VALUE"),
        ("model.widht=3", "did you mean 'width'"),
        ("scale.x=3", "scale is no record"),
        ("steps=[1", "is no YAML"),
        ("steps=many", "'steps' is 'many'"),
        ("data.scenes=[a.tif]", "give either"),
        ("data.holdout=0.2", "data: holdout cuts 'scenes' and has no effect on a data set, which has its own"),
        ("data.nodata=-9999", "data: nodata tells how to read 'scenes' and has no effect on a data set"),
    ):
        with pytest.raises(InputError, match=words):
            read_train_config(path, [change])


def test_a_change_of_a_weight_leaves_the_others_of_a_file_that_names_none(tmp_path: Path) -> None:
    """The spectral angle alone was trained on."""
    file = tmp_path / "own.yaml"
    file.write_text("scale: 4\ndata: {dataset: own.h5}\n")
    assert read_train_config(file, ["loss.sam=0.5"]).loss == DEFAULT_LOSS | {"sam": 0.5}
    assert read_train_config(file, ["sigma=1.5", "degradation=gaussian"]).degrader.sigma == 1.5


@pytest.mark.parametrize("text", ("no", "'no'", "off"))
def test_no_mixed_precision_can_be_written_without_quotes(tmp_path: Path, text: str) -> None:
    """YAML takes a bare no for false."""
    file = tmp_path / "own.yaml"
    file.write_text(f"scale: 4\ndata: {{dataset: own.h5}}\namp: {text}\n")
    assert read_train_config(file).amp == "no"
    assert read_train_config(file, [f"amp={text}"]).amp == "no"
    with pytest.raises(InputError, match="'amp' is True; it should be 'no', 'bf16' or 'fp16'"):
        read_train_config(file, ["amp=yes"])


def test_a_far_wider_gaussian_than_the_commands_take_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("scale: 4\ndata: {dataset: own.h5}\ndegradation: gaussian\nsigma: 100\n")
    assert read_train_config(file).sigma == 100
    with pytest.raises(InputError, match="'sigma' is 101; it should be less than or equal to 100"):
        read_train_config(file, ["sigma=101"])


def test_commands(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from lkca.cli.app import app

    def cli(*args: str | Path) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args])

    assert json.loads(cli("schema", "train").stdout)["title"] == "TrainConfig"
    path = next(p for p in CONFIGS if p.stem == "cave_x4_base")
    for args, words in (
        (
            ("train", path, "-o", tmp_path / "run"),
            "error: cave.h5: does not exist; check the path, or make the data set with 'lkca prepare'\n",
        ),
        (("train", tmp_path / "none.yaml", "-o", tmp_path / "run"), "configuration cannot be read"),
        (("prepare", "pavia", "--root", tmp_path, "-o", tmp_path / "x.npz"), "end its name in .h5"),
        (("prepare", "pavia", "--root", tmp_path, "-o", tmp_path / "x.h5"), "holds no Pavia.mat"),
    ):
        result = cli(*args)
        assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
