"""Options that several commands share, each with one wording."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lkca.choices import WIDEST_SIGMA, DegradationMethod
from lkca.errors import InputError
from lkca.output import check_output

if TYPE_CHECKING:
    from lkca.config import StrictModel
    from lkca.data import Cube
    from lkca.data.degradation import Degradation

__all__ = [
    "FITTED_HELP",
    "LARGE",
    "MODEL_HELP",
    "Axes",
    "BandShape",
    "DegradationOption",
    "Device",
    "Force",
    "InputFiles",
    "Json",
    "Memory",
    "ModelOutput",
    "ModelScale",
    "Nodata",
    "Overwrite",
    "Peak",
    "Region",
    "ReportOption",
    "Scale",
    "Seed",
    "SharpFiles",
    "Sigma",
    "Threads",
    "Variable",
    "check_report",
    "configured",
    "degradation_asked",
    "examples",
    "one_process",
    "open_together",
    "parse_shape",
    "reading",
    "set_threads",
]

Settings = TypeVar("Settings", bound="StrictModel")

MODEL_HELP = (
    "A model directory, as 'lkca fit' and 'lkca train' write it, or the name of a shipped model ('lkca models'); a "
    "directory of that name goes first."
)
FITTED_HELP = f"{MODEL_HELP} But not general, which is made for each cube."

_PANEL = "How to read the file"
_RUN = "Where to run"
LARGE = "Large scenes"
_PAGES = (".html", ".htm")


def _cubes(context: typer.Context, files: list[str] | None) -> list[str] | None:
    """Refuses a model among the cubes: its option was forgotten."""
    flag = "--init" if context.command.name == "fit" else "-m"
    for name in files or []:
        shipped = False
        if flag == "-m" and not os.path.exists(name):
            from lkca.models.shipped import SHIPPED

            shipped = name in SHIPPED
        if shipped or os.path.isfile(os.path.join(name, "model.safetensors")):
            raise InputError(f"{name}: is a model, not a cube; give it with its option, {flag} {name}")
    return files


SharpFiles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILES]...", help="Sharp cubes to degrade and restore.", show_default=False, callback=_cubes
    ),
]
InputFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="FILES...",
        help="Cubes: ENVI, GeoTIFF, .mat, HDF5, NetCDF, .npz, .npy. "
        "'file.mat::name' and 'file.h5::/path' pick a variable.",
        show_default=False,
        callback=_cubes,
    ),
]
Scale = Annotated[int, typer.Option("--scale", "-s", min=2, max=64, help="Scale factor.", show_default=False)]
ModelScale = Annotated[
    int | None,
    typer.Option("--scale", "-s", min=2, max=64, help="Of a shipped model, which has several.", show_default=False),
]
Region = Annotated[
    str | None,
    typer.Option(
        "--region",
        help="Rows and columns of the scene to use, as Python slices: '0:68,:' is the first 68 rows.",
        show_default="the whole scene",
    ),
]
Peak = Annotated[
    float | None,
    typer.Option(
        "--peak",
        help="Value that the metrics take as 1, in the units that lkca inspect shows (a file's scale factor applied); "
        "give a data set's for each of its scenes.",
        show_default="the largest valid sample of the scored part",
    ),
]
DegradationOption = Annotated[
    DegradationMethod | None,
    typer.Option(
        "--degradation",
        help="How a sharp cube is made blurry: MATLAB's antialiased bicubic, Gaussian blur, or area mean.",
        show_default=False,
    ),
]
Sigma = Annotated[
    float | None,
    typer.Option(
        "--sigma",
        min=0.01,
        max=WIDEST_SIGMA,
        help="Of the Gaussian blur: its standard deviation in fine pixels.",
        show_default="a typical sensor's",
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", rich_help_panel=_RUN, help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=4096, rich_help_panel=_RUN, help="CPU threads.", show_default="all cores"),
]
Memory = Annotated[
    str,
    typer.Option(
        "--memory",
        rich_help_panel=LARGE,
        help="What the process may take, such as 2G; half: of what is free.",
    ),
]
ModelOutput = Annotated[Path, typer.Option("--output", "-o", help="Model directory to write.", show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random.", show_default="0")]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="HTML page to write as well: pictures, maps, curves, tables.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Force = Annotated[bool, typer.Option("--force", help="Go on though wavelengths or values are not like the model's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Variable = Annotated[
    str | None,
    typer.Option(
        "--variable", rich_help_panel=_PANEL, help="Variable or dataset in a .mat, HDF5, NetCDF or .npz file."
    ),
]
BandShape = Annotated[
    str | None,
    typer.Option(
        "--shape",
        rich_help_panel=_PANEL,
        help="'ROWSxCOLS' of the picture, such as 100x100; a 2-D (bands × pixels) matrix needs it.",
    ),
]
Axes = Annotated[
    str | None,
    typer.Option(
        "--axes", rich_help_panel=_PANEL, help="Order of the array's axes: a permutation of r, c, b, such as 'brc'."
    ),
]
Nodata = Annotated[
    float | None,
    typer.Option(
        "--nodata",
        rich_help_panel=_PANEL,
        help="Value that the file stores where samples are missing, such as -9999.",
        show_default="what the file says",
    ),
]


def examples(*commands: str) -> str:
    """The examples that end a command's help."""
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  [cyan]{command}[/cyan]" for command in commands)


def parse_shape(text: str | None) -> tuple[int, int] | None:
    """``'100x80'`` → (100, 80)."""
    if text is None:
        return None
    rows, separator, cols = text.lower().replace(",", "x").partition("x")
    if not separator or not rows.strip().isdigit() or not cols.strip().isdigit() or int(rows) * int(cols) == 0:
        raise InputError(f"--shape is '{text}'; give rows and columns as 100x80")
    return int(rows), int(cols)


def reading(variable: str | None, shape: str | None, axes: str | None, nodata: float | None) -> dict[str, Any]:
    """What :func:`lkca.data.open_cube` is to be told, of these options as they were given."""
    return {"variable": variable, "shape": parse_shape(shape), "axes": axes, "nodata": nodata}


def degradation_asked(method: DegradationMethod | None, sigma: float | None, scale: int) -> Degradation | None:
    """What the options for the degradation say; None where no method is given."""
    from lkca.data.degradation import Degradation

    if sigma is not None and method != "gaussian":
        raise InputError("--sigma belongs to the gaussian blur; ask for that as well, or leave it out")
    return None if method is None else Degradation(method=method, scale=scale, sigma=sigma)


def configured(
    kind: type[Settings], file: Path | None, given: Mapping[str, Any], *, alternatives: Collection[str] = ()
) -> Settings:
    """The configuration in ``file``, or the defaults, with the options that were ``given``: those that are not None.

    ``minutes`` of 0 leave the end to the steps. alternatives: keys that exclude each other: where one of them is given,
    the file's values of all of them are dropped.
    """
    from lkca.config import read_yaml, validated

    settings = kind() if file is None else read_yaml(file, kind)
    changes = {name: value for name, value in given.items() if value is not None}
    if changes.get("minutes") == 0:
        changes["minutes"] = None
    kept = settings.model_dump(exclude_unset=True)
    if not changes.keys().isdisjoint(alternatives):
        kept = {name: value for name, value in kept.items() if name not in alternatives}
    return validated(kind, kept | changes, "command line")


@contextmanager
def open_together(paths: Sequence[str], how: dict[str, Any]) -> Iterator[list[Cube]]:
    """Cubes that are compared, open within the context. how: as :func:`reading` gives it.

    Its variable, shape and axes are meant for the files that need them. Those that say themselves how they are read
    (ENVI, rasters, arrays that we wrote) are opened without, unless all of them do.
    """
    from lkca.data import open_cube

    with ExitStack() as stack:

        def described(path: str) -> Cube | None:
            try:
                cube = open_cube(path, nodata=how["nodata"])
            except InputError:
                return None
            if cube.describes_itself:
                return stack.enter_context(cube)
            cube.close()
            return None

        asked = any(how[name] is not None for name in ("variable", "shape", "axes"))
        cubes = [described(path) if asked else None for path in paths]
        if all(cubes):
            stack.close()
            cubes = [None] * len(paths)
        yield [cube or stack.enter_context(open_cube(path, **how)) for path, cube in zip(paths, cubes, strict=True)]


def check_report(path: Path, *, overwrite: bool, inputs: Iterable[str]) -> None:
    """Refuses now, of a report's name, what would be refused after all the work."""
    if path.suffix.lower() not in _PAGES:
        raise InputError(f"{path}: is no page's name; end it in .html")
    check_output(path, overwrite=overwrite, inputs=inputs)


def set_threads(threads: int | None) -> None:
    """Limits torch to so many CPU threads (None: leave torch's choice)."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def one_process(command: str) -> None:
    """Refuses torchrun for a command that shares no work: each process would do all of it, and all but one lose it."""
    world = os.environ.get("WORLD_SIZE") or "1"
    if world != "1":
        raise InputError(
            f"WORLD_SIZE is {world}, but 'lkca {command}' is the work of one process; start it without torchrun, or "
            "unset WORLD_SIZE"
        )
