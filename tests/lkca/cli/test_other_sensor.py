"""A scene of other bands or units than a model's: what each command says that its user can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
