"""A trained model's body in a fit of other bands: exactly what it was, and better than nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lkca.data import CubeMeta, write_cube
from lkca.data.degradation import Degradation, degrade
from lkca.errors import InputError
from lkca.fitting import FitConfig, fit_scenes
from lkca.lowrank import factorize
from lkca.metrics import evaluate
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingRecord
from lkca.models.directory import LoadedModel, describe_architecture, load_model, save_model
from lkca.models.lkcanet import lift, repeat
from lkca.training import fit
from lkca.training.fit import Recipe
from lkca.training.transfer import backbone

SMALL = Recipe(components=3, width=8, blocks=1, batch=2, patch=8, prior=False, teacher_lr=5e-3)


def network(**config: object) -> LKCANet:
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(**({"scale": 2, "width": 6, "blocks": 2, "window": 3} | config)))  # type: ignore[arg-type]
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net


def model(net: LKCANet) -> LoadedModel:
    scale, bands = net.config.scale, net.config.bands
    entry = ModelConfig(
        architecture=describe_architecture(net),
        scale=scale,
        bands=BandSet(count=bands, used=list(range(bands))),
        degradation=Degradation(scale=scale),
        normalisation=Normalisation(peak=1.0),
        training=TrainingRecord(data=[], seed=0, seconds=0, device="cpu"),
    )
    return LoadedModel(net, entry, Path("old"))


def test_it_is_the_same_whatever_was_drawn_before() -> None:
    """Else a fit from it would not depend on its seed alone."""
    old = model(repeat(factorize(network(bands=1, shared=True), rank=3), 5))
    torch.manual_seed(1)
    first, left = backbone(old), torch.rand(3)
    torch.manual_seed(2)
    again = backbone(old)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), left)
    assert all(torch.equal(first.state[name], tensor) for name, tensor in again.state.items())


@pytest.mark.parametrize("kind", ["full rank", "low rank", "lifted", "lifted full rank"])
def test_a_shared_body_is_taken_as_it_is(kind: str) -> None:
    one, x = network(bands=1, shared=True), torch.rand(2, 1, 7, 6)
    if kind == "full rank":
        net = repeat(one, 5)
    elif kind == "low rank":
        net = repeat(factorize(one, rank=4), 5)  # rank 4 of s² = 4: nothing is lost
    else:
        analysis = torch.randn(5, 9)
        inner = one if kind == "lifted full rank" else factorize(one, rank=4)
        net = lift(repeat(inner, 5), torch.rand(9), analysis, torch.linalg.pinv(analysis))
    start = backbone(model(net))
    assert start.scales == (2,) and start.origin["exact"] and start.origin["bands"] == net.config.bands
    torch.testing.assert_close(start.network(2).residual(x), one.residual(x), rtol=1e-3, atol=1e-5)
    other = start.network(3)  # a scale that it does not know: the features are there, the upsampler is new
    torch.testing.assert_close(other.features(x), one.features(x))
    assert not other.residual(x).any()


def test_the_origin_goes_back_to_the_first_model() -> None:
    old = model(network(bands=4, shared=True))
    details = {"prior": {"scenes": ["first"]}, "factorized": [{"rank": 4}]}
    old.config.training.details.update(details)
    origin = backbone(old).origin
    assert origin["started_from"] == details["prior"] and origin["factorized"] == details["factorized"]


@pytest.mark.parametrize("config", [{}, {"rank": 7}, {"components": 3, "rank": 6}], ids=str)
def test_a_body_over_all_bands_is_restricted_to_grey(config: dict[str, int]) -> None:
    net, x = network(bands=6, **config), torch.rand(2, 1, 5, 4)
    start = backbone(model(net))
    assert not start.origin["exact"]
    expected = net.residual(x.expand(2, 6, 5, 4)).mean(1, keepdim=True)
    torch.testing.assert_close(start.network(2).residual(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_float32_whatever_the_default_dtype(
    shared: bool, double_by_default: Callable[[], AbstractContextManager[None]]
) -> None:
    old = model(network(bands=6, shared=shared))
    with double_by_default():
        start = backbone(old)
        assert {value.dtype for value in start.network(2).state_dict().values()} == {torch.float32}


def scene(bands: int, seed: int) -> torch.Tensor:
    """Sharp-edged patches of a few spectra."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (14, 12)), np.ones((5, 4), int))[:48, :40]
    spectra = np.random.default_rng(bands).uniform(0.1, 0.9, (4, bands))
    cube = spectra[labels] + rng.normal(0, 0.002, (48, 40, bands))
    return torch.from_numpy(np.moveaxis(cube, 2, 0).astype(np.float32))


def test_it_beats_a_fit_from_scratch_of_as_many_steps() -> None:
    old = fit([scene(6, 0)], 2, minutes=None, max_steps=90, recipe=SMALL)
    start = backbone(model(old.net))
    sharp = scene(9, 7)
    coarse = degrade(sharp, 2)[None]
    mpsnr = {}
    for name, init in (("scratch", None), ("init", start)):
        result = fit([scene(9, 3)], 2, minutes=None, max_steps=20, recipe=SMALL, init=init)
        with torch.no_grad():
            mpsnr[name] = evaluate(sharp, result.net(coarse)[0], scale=2).mpsnr
    assert mpsnr["init"] > mpsnr["scratch"] + 0.2
    assert result.net.config.bands == 9 and result.description["prior"]["model"] == "old"


def test_the_command_starts_from_a_model(tmp_path: Path) -> None:
    save_model(tmp_path / "old", network(bands=4, shared=True), model(network(bands=4, shared=True)).config)
    meta = CubeMeta(wavelengths=np.linspace(400, 900, 6), stored_dtype=np.dtype(np.float32))
    write_cube(tmp_path / "new.tif", scene(6, 1).numpy(), meta)
    config = FitConfig(scale=2, max_steps=4, minutes=None, init=str(tmp_path / "old"))
    fitted = fit_scenes([str(tmp_path / "new.tif")], config)
    save_model(tmp_path / "new", fitted.result.net, fitted.config)
    loaded = load_model(tmp_path / "new")
    assert loaded.net.config.width == 6 and loaded.config.bands.count == 6
    card = (tmp_path / "new" / "README.md").read_text()
    assert "Started from another model" in card and str(tmp_path / "old") in card
    with pytest.raises(InputError, match=r"recipe.width has no effect on the model"):
        fit_scenes([str(tmp_path / "new.tif")], FitConfig(**config.model_dump() | {"recipe": {"width": 9}}))


def test_its_option_needs_a_model(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from lkca.cli.app import app

    write_cube(tmp_path / "new.tif", scene(6, 1).numpy(), CubeMeta(stored_dtype=np.dtype(np.float32)))
    command = ["fit", tmp_path / "new.tif", "-s", "2", "-o", tmp_path / "m", "--init", tmp_path / "absent"]
    result = CliRunner().invoke(app, [str(arg) for arg in command])
    assert result.exit_code == 2 and "absent: does not exist" in result.stderr
