"""A small scene, a model fitted to it in a few steps, and a runner that checks how commands fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from lkca.cli.app import app
from lkca.data import CubeMeta, write_cube

BANDS = 6
WAVELENGTHS = np.linspace(450.0, 950.0, BANDS)


def scene(rows: int = 72, cols: int = 40, bands: int = BANDS, seed: int = 0) -> np.ndarray:
    """Smooth fields with sharp edges and two spectra, reflectance 0..1, float32 (bands, rows, cols)."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((-(-rows // 5), -(-cols // 5))).repeat(5, 0).repeat(5, 1)[:rows, :cols]
    ramp = np.linspace(0, 1, cols)[None]
    spectra = np.stack([np.linspace(0.1, 0.8, bands), np.linspace(0.5, 0.2, bands)])
    cube = spectra[0][:, None, None] * blocks + spectra[1][:, None, None] * ramp * (1 - blocks)
    return (cube + rng.normal(0, 0.002, cube.shape)).clip(0, 1).astype(np.float32)


def reflectance() -> CubeMeta:
    return CubeMeta(wavelengths=WAVELENGTHS, scale_factor=1e-4, nodata=-9999.0, stored_dtype=np.dtype(np.int16))


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*args: str | Path) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)

    return run


def named_options(message: str) -> set[str]:
    """What is neither quoted nor part of a quoted command."""
    return set(re.findall(r"(?<![\w-])(?:--[a-z][a-z-]*|-[a-zA-Z](?![\w-]))", re.sub(r"'[^']*'", "", message)))


@pytest.fixture
def refuses(cli: Callable[..., Result]) -> Callable[..., str]:
    """Runs a command that must fail with one sentence on stderr, no traceback, and nothing on stdout.

    It may name no option that the command lacks, other than in a quoted command.
    """

    def run(*args: str | Path, code: int = 2, says: tuple[str, ...] = ()) -> str:
        result = cli(*args)
        message = result.stderr
        assert result.exit_code == code, message
        assert result.stdout == ""
        assert "Traceback" not in message and "unexpected failure" not in message
        lines = [line for line in message.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1 and lines[0].startswith("error: "), message
        for words in says:
            assert words in lines[0], message
        foreign = named_options(message) - {name for p in get_command(app).commands[args[0]].params for name in p.opts}
        assert not foreign, f"lkca {args[0]} has no {foreign}: {message}"
        return lines[0]

    return run


@pytest.fixture(scope="session")
def scene_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    write_cube(path, scene(), reflectance())
    return path


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, scene_file: Path) -> Path:
    """A ×2 model; a few steps are enough to have something other than bicubic."""
    folder = tmp_path_factory.mktemp("model")
    path, config = folder / "model", folder / "fit.yaml"
    config.write_text("max_steps: 12\nrecipe: {prior: false, width: 8, blocks: 1}\n")
    args = ["fit", scene_file, "-s", "2", "-o", path, "--region", "0:48,:", "--config", config]
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return path
