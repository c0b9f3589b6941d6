"""``lkca evaluate``: how good a model is on cubes whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lkca.cli.console import note, print_json, print_line, print_table
from lkca.cli.options import (
    MODEL_HELP,
    Axes,
    BandShape,
    DegradationOption,
    Device,
    Json,
    Overwrite,
    Region,
    Threads,
    Variable,
    examples,
    parse_shape,
    set_threads,
)
from lkca.errors import InputError

if TYPE_CHECKING:
    from lkca.evaluation import Evaluation

__all__ = ["EXAMPLES", "SCORES", "evaluate_command", "print_evaluation"]

EXAMPLES = examples(
    'lkca evaluate -m model scene.tif --region "68:,:" --panel compare.png',
    "lkca evaluate -m model *.mat --json > scores.json",
    "lkca evaluate -m general scene.tif -s 4",
    "lkca evaluate scene.tif -s 4",
    "lkca evaluate --reference truth.tif --prediction sharp.tif -s 4",
)

# name, heading, digits, whether more is better
SCORES = (
    ("mpsnr", "MPSNR dB", 2, True),
    ("mssim", "MSSIM", 4, True),
    ("sam", "SAM °", 3, False),
    ("cc", "CC", 4, True),
    ("rmse", "RMSE", 5, False),
    ("ergas", "ERGAS", 3, False),
)

_PICTURES = (".png", ".pdf", ".svg")
_REFLECTANCE = 2.0  # no reflectance is larger, glints included; no count or radiance scene stays below


def evaluate_command(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILES]...", help="Sharp cubes to degrade and restore.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"{MODEL_HELP} Without it, bicubic alone is scored.", show_default=False),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", min=2, max=64, help="Scale factor.", show_default="the model's")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="True cube, to score a finished --prediction.", show_default=False)
    ] = None,
    prediction: Annotated[str | None, typer.Option("--prediction", help="Finished cube.", show_default=False)] = None,
    region: Region = None,
    degradation: DegradationOption = None,
    json: Json = False,
    panel: Annotated[
        Path | None,
        typer.Option("--panel", help="Picture (PNG) to write: the first file's cubes compared.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on though wavelengths or values are not like the model's.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
) -> None:
    """Degrades cubes, restores them by the model and by bicubic, and compares both with the truth.

    Or scores a finished prediction against its reference. Metrics follow the SSPSR family's protocol, with the
    largest valid sample of the reference as peak; bad bands are not scored.
    """
    from lkca.data import open_cube
    from lkca.data.degradation import Degradation
    from lkca.evaluation import evaluate_model, evaluate_prediction
    from lkca.inference.array import resolve_device
    from lkca.inference.output import check_output
    from lkca.models.directory import LoadedModel
    from lkca.models.shipped import find_model

    how: dict[str, Any] = {"variable": variable, "shape": parse_shape(shape), "axes": axes}
    set_threads(threads)
    if panel is not None:
        if not files or model is None:
            raise InputError("--panel compares a model with bicubic; give -m MODEL and a file")
        if panel.suffix.lower() not in _PICTURES:
            raise InputError(f"{panel}: is no picture's name; end it in one of {', '.join(_PICTURES)}")
        check_output(panel, overwrite=overwrite, inputs=files)
    results: list[Evaluation] = []
    if reference is not None or prediction is not None:
        if reference is None or prediction is None or files or model is not None:
            raise InputError("--reference and --prediction go together, without files and without -m")
        if degradation is not None:
            raise InputError("--degradation has no effect on a finished --prediction; leave it out")
        if scale is None:
            raise InputError("--reference and --prediction need the scale factor for ERGAS; give -s, for example -s 4")
        with open_cube(reference, **how) as truth, open_cube(prediction, **how) as guess:
            results.append(evaluate_prediction(truth, guess, scale, region=region))
    else:
        if not files:
            raise InputError("give cubes to degrade and restore, or --reference and --prediction")
        loaded = None if model is None else find_model(model, scale)
        factor = loaded.config.scale if scale is None and isinstance(loaded, LoadedModel) else scale
        if factor is None:
            raise InputError("give the scale factor with -s, for example -s 4; only a model directory has its own")
        blur = None if degradation is None else Degradation(method=degradation, scale=factor)
        where = resolve_device(device)
        for file in files:
            with open_cube(file, **how) as cube:
                results.append(
                    evaluate_model(cube, loaded, factor, region=region, degradation=blur, device=where, force=force)
                )
    for result in results:
        for remark in result.notes:
            note(remark)
    if json:
        print_json({"results": [result.summary() for result in results]})
    else:
        for result in results:
            print_evaluation(result)
    if panel is not None:
        write_panel(panel, results[0])
        note(f"picture written to {panel}")


def print_evaluation(result: Evaluation) -> None:
    """The table of one scene and the line that says how it was measured."""
    rows = [
        [name, *(f"{getattr(metrics, key):.{digits}f}" for key, _, digits, _ in SCORES)]
        for name, metrics in result.scores.items()
    ]
    if {"bicubic", "model"} <= result.scores.keys():
        ours, base = result.scores["model"], result.scores["bicubic"]
        rows.append(
            ["difference", *(f"{getattr(ours, key) - getattr(base, key):+.{digits}f}" for key, _, digits, _ in SCORES)]
        )
    title = f"{result.source}  ×{result.scale}  region {result.window}"
    print_table(title, ["", *(heading for _, heading, _, _ in SCORES)], rows)
    blur = "" if result.degradation is None else f"degradation {result.degradation.method}, "
    print_line(
        f"protocol {result.protocol}; {blur}peak {result.peak:.6g} (largest valid sample of the reference), "
        f"{result.bands.size} bands scored; more is better for MPSNR, MSSIM, CC"
    )


def write_panel(path: Path, result: Evaluation) -> None:
    """The picture that compares low resolution, bicubic, model and truth."""
    import numpy as np

    from lkca.panel import comparison_panel

    scored = np.zeros(result.arrays["truth"].shape[0], dtype=bool)
    scored[result.bands] = True
    comparison_panel(
        path,
        result.arrays["low"],
        result.arrays["bicubic"],
        result.arrays["model"],
        result.arrays["truth"],
        result.wavelengths,
        scored,
        metrics={"bicubic": result.scores["bicubic"], "ours": result.scores["model"]},
        title=f"{Path(result.source).name}, region {result.window}, ×{result.scale}",
        units="reflectance" if result.peak < _REFLECTANCE else "value",
    )
