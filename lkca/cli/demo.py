"""``lkca demo``: the whole road on a scene that the package makes itself."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lkca.cli.console import note, print_line
from lkca.cli.evaluate import print_evaluation, write_panel
from lkca.cli.fit import fit_progress, print_fit
from lkca.cli.options import Device, Overwrite, Threads, examples, set_threads
from lkca.errors import InputError, LkcaError, OutputError
from lkca.output import check_utf8, written_aside

if TYPE_CHECKING:
    from lkca.data import Cube
    from lkca.evaluation import Evaluation
    from lkca.models.directory import LoadedModel

__all__ = ["EXAMPLES", "demo_command"]

EXAMPLES = examples("lkca demo", "lkca demo -o /tmp/demo --minutes 5 --seed 3")

_FILES = ("scene.tif", "coarse.tif", "sharp.tif", "panel.png", "scores.json")


def demo_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything it makes.")] = Path("demo"),
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="Time budget of the fit.")] = 2.0,
    scale: Annotated[int, typer.Option("--scale", "-s", min=2, max=8, help="Scale factor.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the scene and of the fit.")] = 0,
    size: Annotated[
        int, typer.Option("--size", min=24, max=2048, help="Columns of the scene; it has four times as many rows.")
    ] = 112,
    bands: Annotated[int, typer.Option("--bands", min=8, max=1024, help="Bands of the scene, 400 to 2500 nm.")] = 128,
    max_steps: Annotated[
        int | None,
        typer.Option("--max-steps", min=1, help="Bound on the training steps.", show_default="the time budget's"),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Makes a scene, fits a model to its upper three quarters, and scores the model on the lowest.

    Writes the scene, the coarse and the sharpened test part, the model, the scores and a picture that compares
    bicubic, the model and the truth.
    """
    from lkca.data import open_cube, synthetic_scene, write_cube
    from lkca.evaluation import evaluate_model
    from lkca.fitting import FitConfig, fit_scenes
    from lkca.inference.device import resolve_device
    from lkca.models.directory import load_model, save_model

    set_threads(threads)
    where = resolve_device(device)
    _prepare_folder(output, overwrite)
    rows = 4 * size
    edge = 3 * size // scale * scale
    training, test = f"0:{edge},:", f"{edge}:,:"

    scene = synthetic_scene(rows=rows, cols=size, bands=bands, seed=seed)
    source = output / "scene.tif"
    write_cube(source, scene.read(), scene.meta, overwrite=overwrite)
    print_line(f"made {source}: {rows} × {size} pixels, {bands} bands (synthetic, seed {seed})")

    settings = FitConfig(
        scale=scale, minutes=minutes, max_steps=max_steps, region=training, seed=seed, device=device, threads=threads
    )
    folder = output / "model"
    command = f"lkca fit {_quoted(source)} -s {scale} -o {_quoted(folder)} --minutes {minutes:g} --region {training}"
    with fit_progress() as callback:
        fitted = fit_scenes([str(source)], settings, callback=callback, command=command)
    for remark in fitted.notes:
        note(remark)
    save_model(folder, fitted.result.net, fitted.config, overwrite=overwrite)
    print_fit(fitted, folder)
    print_line()

    model = load_model(folder)
    with open_cube(source) as cube:
        result = evaluate_model(cube, model, scale, region=test, device=where, overview=True)
        _write_cubes(output, cube, result, model, overwrite, device)
    print_evaluation(result)
    with written_aside(output / "scores.json") as aside:
        aside.write_text(json.dumps(result.summary(), indent=2) + "\n", encoding="utf-8")
    write_panel(output / "panel.png", result)

    print_line()
    for name in (*_FILES, "model"):
        print_line(f"wrote {output / name}")
    if fitted.result.failure:
        raise LkcaError(f"{fitted.result.failure}; {folder} holds the best model until then")
    print_line()
    print_line("The same on your own scene:")
    print_line(f"  lkca fit FILE -s {scale} -o my_model --minutes 5")
    print_line("  lkca upscale -i FILE -o sharp.tif -m my_model")


def _prepare_folder(output: Path, overwrite: bool) -> None:
    check_utf8(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; give the name of a folder with -o")
    there = [name for name in (*_FILES, "model") if (output / name).exists()]
    if there and not overwrite:
        raise InputError(f"{output}: holds {there[0]} already; give --overwrite or another folder with -o")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be made ({error.strerror}); choose another folder with -o") from error


def _write_cubes(
    output: Path, cube: Cube, result: Evaluation, model: LoadedModel, overwrite: bool, device: str
) -> None:
    """The coarse test part as a file, and what ``lkca upscale`` makes of that file."""
    from lkca.data import open_cube, write_cube
    from lkca.inference import SceneOptions, upscale_scene
    from lkca.inference.degrade import degraded

    coarse = output / "coarse.tif"
    made = degraded(cube.region(result.window), model.config.degradation)
    write_cube(coarse, made.read(), made.meta, overwrite=overwrite)
    with open_cube(coarse) as low:
        upscale_scene(low, output / "sharp.tif", model, SceneOptions(overwrite=overwrite, device=device))


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
