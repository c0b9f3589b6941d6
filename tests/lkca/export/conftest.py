"""Tiny models with weights that do something, in each of the forms that ``lkca fit`` writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lkca.data.degradation import Degradation
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingData, TrainingRecord
from lkca.models.directory import LoadedModel, describe_architecture, load_model, save_model

SHAPES: dict[str, dict[str, Any]] = {
    "full": {"scale": 3},
    "shared": {"scale": 4, "components": 2, "shared": True, "rank": 4},
}


def make(folder: Any, kind: str) -> LoadedModel:
    """A model over 5 of a file's 6 bands, peak 4095, offset 20; two of them are cut at 0."""
    torch.manual_seed(0)
    net = LKCANet(LKCANetConfig(bands=5, width=4, blocks=1, kernel_size=5, window=7, **SHAPES[kind]))
    for parameter in net.parameters():  # a new network is bicubic: its weights would hide an error
        torch.nn.init.normal_(parameter, std=0.1)
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=net.config.scale,
        bands=BandSet(
            count=6,
            used=[0, 1, 2, 3, 5],
            nonnegative=[1, 5],
            wavelengths_nm=[400.0, 500, 600, 700, 800, 900],
            fwhm_nm=[10.0, 11, 12, 13, 14, 15],
        ),
        degradation=Degradation(scale=net.config.scale),
        normalisation=Normalisation(offset=20.0, peak=4095.0),
        training=TrainingRecord(
            data=[TrainingData(name="a.tif", rows=9, cols=8, region="0:8,0:8")], seed=1, seconds=1, device="cpu"
        ),
    )
    return load_model(save_model(folder / kind, net.eval(), config))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: make(folder, kind) for kind in SHAPES}
