"""Model directories: what is written comes back; what is not exactly a model is refused with a sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lkca.data.degradation import Degradation
from lkca.errors import InputError, OutputError
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingData, TrainingRecord, ValidationRecord
from lkca.models.directory import CARD, CONFIG, WEIGHTS, describe_architecture, load_model, recover_model, save_model

BANDS, SCALE = 5, 2


def network(**changes: Any) -> LKCANet:
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(**{"bands": BANDS, "scale": SCALE, "width": 4, "blocks": 1, "rank": 3, **changes}))
    for parameter in net.parameters():  # a new network is bicubic: its weights would hide an error
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def config_of(net: LKCANet) -> ModelConfig:
    return ModelConfig(
        architecture=describe_architecture(net),
        scale=SCALE,
        bands=BandSet(count=BANDS + 1, used=[0, 1, 2, 3, 5], wavelengths_nm=[400.0, 500, 600, 700, 800, 900]),
        degradation=Degradation(scale=SCALE, method="gaussian", sigma=0.8),
        normalisation=Normalisation(offset=-0.25, peak=4095.0),
        training=TrainingRecord(
            data=[TrainingData(name="a.tif", rows=9, cols=8, region="0:8,0:8")],
            seed=1,
            seconds=2.5,
            interrupted=True,
            device="cpu",
            details={"prior": {"scenes": "synthetic"}},
        ),
        validation=ValidationRecord(protocol="sspsr", scores={"bicubic": {"mpsnr": 30.0}, "student": {"mpsnr": 31.5}}),
        versions={"lkca": "0"},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    net = network()
    return save_model(tmp_path / "model", net, config_of(net))


def edit(folder: Path, change: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load_model(folder)
    message = str(error.value)
    assert str(folder) in message and "\n" not in message and len(message) < 600
    return message


def test_round_trip(saved: Path) -> None:
    net, loaded = network(), load_model(saved)
    x = torch.rand(1, BANDS, 7, 6)
    assert torch.equal(loaded.net(x), net(x))
    assert loaded.config == config_of(net)
    assert not loaded.net.training
    assert sorted(p.name for p in saved.iterdir()) == sorted([WEIGHTS, CONFIG, CARD])
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model"]
    card = (saved / CARD).read_text()
    size = sum(tensor.numel() for tensor in net.state_dict().values() if tensor.is_floating_point())
    for words in (
        "# LKCANet ×2, 6 bands",
        "(400–900 nm). The network sees 5; the others (bad or empty in training) are upscaled by bicubic.",
        "(value − -0.25) / 4095.",
        "gaussian (sigma 0.8 fine pixels) ×1/2",
        "a.tif",
        f"{size:,} numbers in the weights; 2 s on cpu, seed 1, stopped before its time budget.",
        'Started from lkca\'s shipped prior: `{"scenes": "synthetic"}`',
        "| student | 31.5 |",
    ):
        assert words in card
    unknown = loaded.config.model_copy(update={"training": loaded.config.training.model_copy(update={"data": []})})
    save_model(saved, net, unknown, overwrite=True)
    assert "Scenes that trained it" in card and "Scenes that trained it" not in (saved / CARD).read_text()


@pytest.mark.parametrize("changes", [{}, {"rank": None}, {"shared": True, "components": 2, "rank": 4}])
def test_every_kind_of_network_round_trips(tmp_path: Path, changes: dict[str, Any]) -> None:
    net = network(**changes)
    x = torch.rand(1, BANDS, 5, 5)
    loaded = load_model(save_model(tmp_path / "m", net, config_of(net))).net
    assert torch.equal(loaded(x), net(x))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    net, old = network(), os.umask(0o027)
    try:
        path = save_model(tmp_path / "m", net, config_of(net))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o640}


def test_not_a_directory(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none")
    assert "'lkca models NAME -s 4 -o DIR' writes a shipped one" in refusal(Path("cave31"))  # a name is no directory
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in refusal(file)


def test_a_folder_of_models_names_those_within(saved: Path, tmp_path: Path) -> None:
    """As the run of ``lkca train``, which holds best/ and last/."""
    run = tmp_path / "run"
    for name in ("last", "best", ".best.x7.part"):  # of a run that was killed while it wrote
        shutil.copytree(saved, run / name)
    assert f"give one of those in it: {run / 'best'}, {run / 'last'}" in refusal(run)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert f"has no readable {name}" in refusal(saved)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"{", b"\xff" * 9])
def test_garbage(saved: Path, name: str, content: bytes) -> None:
    (saved / name).write_bytes(content)
    assert name in refusal(saved)


def test_truncated_weights(saved: Path) -> None:
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[:-10])
    assert "not a whole safetensors file" in refusal(saved)


def test_a_pickle_is_not_opened(saved: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(saved / "exploded"),))

    (saved / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    assert "not a whole safetensors file" in refusal(saved)
    assert not (saved / "exploded").exists()


def test_unknown_key_is_named_with_a_hint(saved: Path) -> None:
    edit(saved, lambda c: c.update(scael=2))
    assert "unknown key 'scael'; did you mean 'scale'?" in refusal(saved)


def test_unknown_nested_keys(saved: Path) -> None:
    edit(saved, lambda c: c["training"]["data"][0].update(colour="red"))
    assert "unknown key 'training.data.0.colour'" in refusal(saved)


def test_unknown_architecture_key(saved: Path) -> None:
    edit(saved, lambda c: c["architecture"]["config"].update(depth=3))
    assert "depth" in refusal(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(scale="four"), "'scale' is 'four'"),
        (lambda c: c.pop("scale"), "'scale' is missing"),
        (lambda c: c.update(scale=3), "architecture.config.scale"),
        (lambda c: c["normalisation"].update(peak=0), "normalisation.peak"),
        (lambda c: c["bands"].update(used=[0, 1, 2, 3, 9]), "bands.used"),
        (lambda c: c["bands"].update(used=[0, 1, 3, 2, 5]), "bands.used"),
        (lambda c: c["bands"].update(used=[0, 1, 2, 3, 6]), "bands.used"),
        (lambda c: c["bands"].update(used=[-1, 0, 1, 2, 3]), "bands.used"),
        (lambda c: c["bands"].update(nonnegative=[4]), "bands.nonnegative"),
        (lambda c: c["degradation"].update(scale=3), "degradation.scale"),
        (lambda c: c["bands"].update(wavelengths_nm=[1.0]), "wavelengths_nm"),
        (lambda c: c.update(format_version=99), "format_version"),
        (lambda c: c["architecture"].update(name="os.system"), "architecture.name"),
        (lambda c: c["architecture"]["config"].update(width="wide"), "width"),
    ],
)
def test_bad_values_are_named(saved: Path, change: Any, words: str) -> None:
    edit(saved, change)
    message = refusal(saved)
    assert words in message and "''" not in message and "{" not in message


def test_a_configuration_that_is_no_record(saved: Path) -> None:
    (saved / CONFIG).write_text("[]")
    assert "holds a list; expected a record" in refusal(saved)


def test_non_finite_number_in_the_configuration(saved: Path) -> None:
    text = (saved / CONFIG).read_text().replace('"peak": 4095.0', '"peak": NaN')
    (saved / CONFIG).write_text(text)
    assert CONFIG in refusal(saved)


@pytest.mark.parametrize(
    ("name", "value"), [("width", 10**12), ("blocks", 10**6), ("blocks", 500), ("kernel_size", 10**9 + 1)]
)
def test_claimed_sizes_are_checked_before_memory_is_taken(saved: Path, name: str, value: int) -> None:
    edit(saved, lambda c: c["architecture"]["config"].update({name: value}))
    refusal(saved)


def test_weights_of_another_network(saved: Path) -> None:
    edit(saved, lambda c: c["architecture"]["config"].update(width=8))
    message = refusal(saved)
    assert "has shape" in message and "do not belong together" in message


def test_weights_of_an_unknown_type(saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    save_file(weights | {"head.weight": weights["head.weight"].to(torch.int16)}, saved / WEIGHTS)
    assert "holds tensors of type I16" in refusal(saved)


def test_weights_of_another_precision_are_used_in_float32(saved: Path) -> None:
    save_file({name: tensor.half() for name, tensor in load_file(saved / WEIGHTS).items()}, saved / WEIGHTS)
    assert {tensor.dtype for tensor in load_model(saved).net.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", ["head.weight", "extra"])
def test_missing_and_surplus_tensors(saved: Path, name: str) -> None:
    weights = load_file(saved / WEIGHTS)
    if name in weights:
        del weights[name]
    else:
        weights[name] = torch.zeros(2)
    save_file(weights, saved / WEIGHTS)
    assert f"'{name}'" in refusal(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights(saved: Path, value: float) -> None:
    weights = load_file(saved / WEIGHTS)
    weights["head.weight"].view(-1)[3] = value
    save_file(weights, saved / WEIGHTS)
    assert "'head.weight' holds NaN or infinite values" in refusal(saved)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_links_out_of_the_directory(saved: Path, name: str) -> None:
    outside = saved.parent / "outside"
    (saved / name).rename(outside)
    (saved / name).symlink_to(outside)
    assert "leads out of the model directory" in refusal(saved)


def test_a_fifo_is_not_waited_for(saved: Path) -> None:
    (saved / CONFIG).unlink()
    os.mkfifo(saved / CONFIG)
    assert "not a regular file" in refusal(saved)


def test_huge_configuration(saved: Path) -> None:
    with open(saved / CONFIG, "r+b") as file:
        file.truncate(17 << 20)
    assert "16 MiB" in refusal(saved)


def test_existing_model_needs_overwrite(saved: Path) -> None:
    before = (saved / WEIGHTS).read_bytes()
    other = network(width=8)
    with pytest.raises(InputError, match="--overwrite"):
        save_model(saved, other, config_of(other))
    assert (saved / WEIGHTS).read_bytes() == before
    save_model(saved, other, config_of(other), overwrite=True)
    assert load_model(saved).net.config.width == 8
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_other_peoples_files_are_never_replaced(saved: Path) -> None:
    (saved / "thesis.tex").write_text("years of work")
    net = network()
    with pytest.raises(InputError, match=r"thesis\.tex"):
        save_model(saved, net, config_of(net), overwrite=True)
    assert (saved / "thesis.tex").exists()


def test_the_old_model_survives_a_failure(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    real = Path.rename

    def fails_for_the_new_model(self: Path, target: Any) -> Any:
        if self.name.endswith(".part"):
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_model)
    net = network()
    with pytest.raises(OutputError, match="No space left"):
        save_model(saved, net, config_of(net), overwrite=True)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("killed", (False, True), ids=("Ctrl-C", "kill -9"))
def test_the_old_model_survives_an_end_between_the_renames(
    saved: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    before, other, real = load_model(saved), network(width=8), Path.rename
    ended: list[Path] = []

    def ends_at_the_new_model(self: Path, target: Any) -> Any:
        if self.name.endswith(".part"):
            ended.append(self)
            raise KeyboardInterrupt
        return None if killed and ended else real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", ends_at_the_new_model)
        if killed:  # nothing is put back or cleared away
            patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            save_model(saved, other, config_of(other), overwrite=True)
    assert saved.exists() == (not killed)
    recover_model(saved)
    assert load_model(saved).net.config == before.net.config
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("renames", (1, 2))
def test_ctrl_c_is_told_after_the_rename_that_it_met(
    saved: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    before, other, real, done = load_model(saved).net.config, network(width=8), Path.rename, 0

    def met(self: Path, target: Any) -> Any:
        nonlocal done
        real(self, target)
        done += 1
        if done == renames:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", met)
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, other, config_of(other), overwrite=True)
    assert load_model(saved).net.config == (before if renames == 1 else other.config)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file/model", "is not a directory"),
        ("missing/model", "does not exist"),
        ("file", "exists and is not a directory"),
        ("link", "exists and is not a directory"),
    ],
)
def test_unusable_places(tmp_path: Path, place: str, says: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    net = network()
    with pytest.raises(InputError, match=says):
        save_model(tmp_path / place, net, config_of(net))


def test_a_network_that_diverged_is_not_saved(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net.head.weight[0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        save_model(tmp_path / "m", net, config_of(net))
    assert not list(tmp_path.iterdir())
