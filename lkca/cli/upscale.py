"""``lkca upscale``: the main use of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lkca.choices import Precision
from lkca.cli.console import command_line, complain, note, print_line, row_progress
from lkca.cli.options import (
    LARGE,
    MODEL_HELP,
    Axes,
    BandShape,
    Device,
    Force,
    Memory,
    Nodata,
    Overwrite,
    ReportOption,
    Threads,
    Variable,
    check_report,
    examples,
    reading,
    set_threads,
)
from lkca.errors import InputError, LkcaError

if TYPE_CHECKING:
    from lkca.data import Cube
    from lkca.inference.ranks import Ranks
    from lkca.inference.scene import ScenePlan, UpscaleReport
    from lkca.inference.task import Model, SceneOptions

__all__ = ["EXAMPLES", "upscale_command"]

EXAMPLES = examples(
    "lkca upscale -i scene.tif -o sharp.tif -s 4",
    "lkca upscale -i scene.tif -o sharp.tif -m model --memory 4G --resume",
    "lkca upscale -i scene.hdr -o sharp.img -m model --dtype float32 --roi 0:200,100:400",
    "lkca upscale -i cube.mat::paviaU -o cube_x4.mat -m model --axes rcb",
    "lkca upscale -i scenes/ -o sharp/ -m model",
    "lkca upscale -i scene.tif -o bicubic.tif -s 4 --bicubic",
    "torchrun --nproc-per-node=4 -m lkca upscale -i scene.tif -o sharp.tif -m model",
)


def upscale_command(
    source: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", help="Cube to upscale, or a folder of them; may be repeated.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Cube to write; the suffix picks the format. A folder, where there are several inputs.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help=MODEL_HELP, show_default="general, which takes any cube")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option("--scale", "-s", min=2, max=64, help="Scale factor.", show_default="the directory's"),
    ] = None,
    bicubic: Annotated[bool, typer.Option("--bicubic", help="No model: plain bicubic, for comparison.")] = False,
    roi: Annotated[
        str | None,
        typer.Option(
            "--roi",
            help="Part to upscale: pixels as '0:200,100:400' (rows, columns), or map coordinates as "
            "'XMIN,YMIN,XMAX,YMAX'.",
            show_default="the whole scene",
        ),
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the finished tiles of a run that was stopped.")
    ] = False,
    force: Force = False,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Type of the stored samples, such as float32.", show_default="the input's"),
    ] = None,
    compress: Annotated[
        str | None, typer.Option("--compress", help="Compression, where the format has one: deflate, zstd, none.")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="Picture of the result to write too (PNG).", show_default=False)
    ] = None,
    report: ReportOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done: tiles, memory, time, sizes.")
    ] = False,
    tile: Annotated[
        str,
        typer.Option("--tile", rich_help_panel=LARGE, help="Side of a tile in pixels of the input, or auto."),
    ] = "auto",
    memory: Memory = "half",
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision", rich_help_panel=LARGE, help="Of the network's body; the upsampling itself stays fp32."
        ),
    ] = "fp32",
    device: Device = "auto",
    threads: Threads = None,
    variable: Variable = None,
    shape: BandShape = None,
    axes: Axes = None,
    nodata: Nodata = None,
) -> None:
    """Makes a cube s times sharper and keeps its metadata.

    Nodata stays nodata and never reaches its neighbours. Bad bands are upscaled by bicubic. Scenes of any size are done
    in bounded memory; a run that was stopped goes on with --resume; torchrun spreads a scene, or many, over processes.
    """
    if bicubic and model is not None:
        raise InputError("give either a model with -m, or --bicubic")
    if scale is None and (bicubic or model is None):
        other = "" if bicubic else ", or a model directory with -m"
        raise InputError(f"the scale factor is missing; give -s, for example -s 4{other}")
    from lkca.data import open_cube
    from lkca.data.memory import keep_freed_memory
    from lkca.inference.batch import find_scenes
    from lkca.inference.ranks import Ranks
    from lkca.inference.task import SceneOptions
    from lkca.models.shipped import GENERAL, find_model

    set_threads(threads)
    keep_freed_memory()
    options = SceneOptions(
        scale=scale,
        overwrite=overwrite,
        resume=resume,
        force=force,
        device=device,
        precision=precision,
        dtype=dtype,
        compress=compress,
        tile=_parse_tile(tile),
        memory=memory,
        roi=roi,
        preview=preview,
        command=command_line(),
    )
    ranks = Ranks.from_environment()
    chosen = GENERAL if model is None else model
    name = "bicubic" if bicubic else f"model {chosen}"
    loaded = None if bicubic else find_model(chosen, scale)

    def open_scene(scene: str) -> Cube:
        cube = open_cube(scene, **reading(variable, shape, axes, nodata))
        for warning in cube.warnings:
            note(warning)
        return cube

    scenes, remarks = find_scenes(source)
    for remark in remarks if ranks.rank == 0 else ():
        note(remark)
    many = len(source) > 1 or Path(source[0]).is_dir()
    if many and output.is_dir() and any(Path(text).is_dir() and output.samefile(text) for text in source):
        raise InputError(
            f"{output}: holds the scenes; the next run would take the results for some, name another folder"
        )
    if report is not None:
        if many:
            raise InputError("--report shows one scene; leave it out, or give one input")
        check_report(report, overwrite=overwrite, inputs=[*scenes, str(output)])
    if preview is not None and many:
        raise InputError("--preview draws one scene; leave it out, or give one input")
    with _stoppable():
        if dry_run:
            if ranks.rank == 0:  # it prints the plan of all
                _plan(scenes, output, loaded, options, ranks, open_scene, report, many=many)
        elif many:
            _upscale_many(scenes, output, loaded, options, ranks, open_scene, name)
        else:
            _upscale_one(scenes[0], output, loaded, options, ranks, open_scene, name, report)


def _plan(
    scenes: list[str],
    output: Path,
    model: Model,
    options: SceneOptions,
    ranks: Ranks,
    open_scene: Callable[[str], Cube],
    page: Path | None,
    *,
    many: bool,
) -> None:
    from lkca.inference.batch import folder_to_plan_in, name_outputs
    from lkca.inference.scene import plan_scene

    targets = name_outputs(scenes, output) if many else [output]
    failed = False
    with folder_to_plan_in(output) if many else nullcontext(output.parent) as folder:
        for scene, target in zip(scenes, targets, strict=True):
            try:
                with open_scene(scene) as cube:
                    if page is not None:
                        _check_shown(cube, options)
                    _print_plan(scene, target, plan_scene(cube, folder / target.name, model, options, ranks=ranks))
            except LkcaError as error:
                if not many:
                    raise
                failed = True  # the other scenes would be done
                complain(str(error))
    if failed:
        raise typer.Exit(1)


def _upscale_one(
    scene: str,
    output: Path,
    model: Model,
    options: SceneOptions,
    ranks: Ranks,
    open_scene: Callable[[str], Cube],
    name: str,
    page: Path | None,
) -> None:
    from lkca.inference.scene import upscale_scene

    with open_scene(scene) as cube, row_progress(f"upscaling {scene}") as progress:
        if page is not None:
            _check_shown(cube, options)
        report = upscale_scene(cube, output, model, options, ranks=ranks, progress=progress)
        if ranks.rank == 0:
            _print_report(report, name)
            if page is not None:
                _write_page(page, cube, report, options)
        else:
            note(f"rank {ranks.rank}: {report.computed} of {report.tiles} tiles of {output}")


def _check_shown(cube: Cube, options: SceneOptions) -> None:
    """Refuses now what would be refused after all the work: a report of a part without any sample."""
    from lkca.inference.windows import parse_roi

    if options.roi is None:
        return
    part = cube.region(parse_roi(options.roi, cube))
    if not (part.good_bands & ~part.empty_bands()).any():
        raise InputError(
            f"{cube.source}: the region {options.roi} holds no valid sample in any good band, and --report would "
            "have nothing to show; leave it out, or give another region"
        )


def _write_page(page: Path, cube: Cube, done: UpscaleReport, options: SceneOptions) -> None:
    """The HTML report of the scene: what came out, beside what went in."""
    from lkca.data import open_cube
    from lkca.inference.windows import parse_roi
    from lkca.report.build import report_of_files
    from lkca.report.page import write_report

    with open_cube(done.output) as result:
        low = cube.region(parse_roi(options.roi, cube))
        report = report_of_files(result, low=low, command=options.command)
    if 0 < done.computed == done.tiles:  # of one that was finished before there is none
        report.facts["time"] = f"{done.seconds:.1f} s for {done.rows} × {done.cols} pixels"
    write_report(page, report)
    note(f"report written to {page}")


def _upscale_many(
    scenes: list[str],
    folder: Path,
    model: Model,
    options: SceneOptions,
    ranks: Ranks,
    open_scene: Callable[[str], Cube],
    name: str,
) -> None:
    from lkca.inference.batch import upscale_scenes

    failed: list[str] = []
    finished = 0

    def done(scene: str, result: UpscaleReport | Exception) -> None:
        nonlocal finished
        if isinstance(result, Exception):
            failed.append(scene)
            complain(str(result))
        else:
            finished += 1
            _print_report(result, name)

    upscale_scenes(scenes, folder, model, options, open_scene=open_scene, ranks=ranks, done=done)
    who = "" if ranks.world == 1 else f"rank {ranks.rank}: "
    print_line(
        f"{who}{finished} of {finished + len(failed)} scenes done"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    if failed:
        raise typer.Exit(1)


def _print_report(report: UpscaleReport, name: str) -> None:
    for remark in report.notes:
        note(remark)
    if not report.tiles:
        return
    print_line(
        f"{report.output}: {report.rows} × {report.cols} pixels, {report.bands} bands, by {name} in "
        f"{report.seconds:.1f} s"
    )
    if name != "bicubic" and report.bicubic_bands:
        print_line(f"{report.bicubic_bands} bad or empty bands were upscaled by bicubic")


def _print_plan(scene: str, output: Path, plan: ScenePlan) -> None:
    from lkca.inference.plan import size_text

    for remark in plan.notes:
        note(remark)
    tiles, (rows, cols, bands) = plan.tiles, plan.shape
    print_line(f"{scene}: region {tiles.area} ×{tiles.scale} → {output}")
    ending = ", and as" if plan.copied else ""
    print_line(f"  output  {rows} × {cols} pixels, {bands} bands, {plan.dtype}: {size_text(plan.nbytes)}{ending}")
    if plan.copied:
        print_line("          much again for the finished tiles until it is complete")
    print_line(f"  tiles   {len(tiles.tiles())} of {tiles.rows} × {tiles.cols} pixels")
    print_line(f"  halo    {tiles.halo} pixels, {tiles.margin} are read")
    print_line(f"  memory  {size_text(tiles.memory)} of {size_text(tiles.budget)} allowed")
    print_line(f"  time    about {_duration(plan.seconds)}, from one tile that was timed")


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _parse_tile(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) == 0:
        raise InputError(f"--tile is '{text}'; give a number of pixels, or auto")
    return int(text)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM say what is kept."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        for text in getattr(error, "__notes__", ()):
            note(f"stopped; {text}")
        raise
