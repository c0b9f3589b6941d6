"""A scene of other bands or units than a model's: what each command says that its user can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from lkca.data import open_cube, write_cube

COMMANDS = {
    "upscale": ("-o", "{out}.tif", "-m", "{model}", "-i"),
    "evaluate": ("-m", "{model}"),
    "report": ("-o", "{out}.html", "-m", "{model}"),
    "distill": ("--teacher", "{model}", "--energy", "0.5", "-o", "{out}", "--data"),
    "factorize": ("{model}", "-o", "{out}", "--calibration"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_can_be_done(
    command: str, model_dir: Path, scene_file: Path, refuses: Callable[..., str], tmp_path: Path
) -> None:
    """``refuses`` sees that no command names another's option: --force is only of those that judge or use a model."""
    with open_cube(scene_file) as cube:
        samples, meta = cube.read(), cube.meta
    places = {"out": tmp_path / "out", "model": model_dir}
    arguments = [word.format(**places) for word in COMMANDS[command]]
    forced = command in ("upscale", "evaluate", "report")
    other, counts = tmp_path / "other.npz", tmp_path / "counts.npz"
    assert meta.wavelengths is not None
    write_cube(other, samples, meta.replace(wavelengths=meta.wavelengths + 80))
    message = refuses(command, *arguments, other, says=("nm", "lkca fit"))
    assert ("--force" in message) == forced
    write_cube(counts, samples * 1000, meta.replace(scale_factor=1.0, nodata=None, stored_dtype=samples.dtype))
    message = refuses(command, *arguments, counts, says=("values reach", "same units"))
    assert ("--force" in message) == forced


def test_a_scene_without_the_bands_of_the_model(
    scene_file: Path, cli: Callable[..., Result], refuses: Callable[..., str], tmp_path: Path
) -> None:
    """It can be upscaled by bicubic, which evaluate has no option for."""
    with open_cube(scene_file) as cube:
        samples, meta = cube.read(), cube.meta
    one, other, config = tmp_path / "one.tif", tmp_path / "other.tif", tmp_path / "fit.yaml"
    config.write_text("max_steps: 1\nrecipe: {prior: false, width: 4, blocks: 1}\n")
    for path, lost in ((one, slice(4, 6)), (other, slice(0, 4))):
        values = samples.copy()
        values[lost] = np.nan
        write_cube(path, values, meta)
    assert cli("fit", one, "-s", "2", "-o", tmp_path / "model", "--config", config).exit_code == 0
    refuses("evaluate", "-m", tmp_path / "model", other, says=("every band", "'lkca upscale --bicubic'"))
