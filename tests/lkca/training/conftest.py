from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lkca.data.protocols.dataset import write_dataset

from .runs import BANDS, scene


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny.h5"
    with write_dataset(path) as writer:
        writer.add("train", "one", scene(60, 44, 0))
        writer.add("train", "two", scene(36, 70, 1))
        writer.add("validation", "three", scene(30, 27, 2))
        writer.finish("tiny", "none", 4095.0, np.linspace(450, 850, BANDS))
    return path
