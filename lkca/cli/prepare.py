"""``lkca prepare``: a data set of the field, from the user's own download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lkca.choices import Protocol
from lkca.cli.console import note, print_line, print_table
from lkca.cli.options import Overwrite, examples
from lkca.errors import InputError

__all__ = ["EXAMPLES", "prepare_command"]

EXAMPLES = examples(
    "lkca prepare chikusei --root Chikusei_MATLAB -o chikusei.h5",
    "lkca prepare cave --root complete_ms_data -o cave.h5",
)


def prepare_command(
    name: Annotated[
        Protocol,
        typer.Argument(help="Data set; docs/protocols.md has each one's crop, peak and splits.", show_default=False),
    ],
    root: Annotated[Path, typer.Option("--root", help="Folder of the download.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="HDF5 file to write (.h5).", show_default=False)],
    overwrite: Overwrite = False,
) -> None:
    """Cuts a downloaded data set into training, validation and test scenes, for 'lkca train'.

    The download is checked by shape and by how its pixels and bands resemble their neighbours; range, means and a
    checksum are printed, to be compared between laboratories.
    """
    from lkca.data.protocols import prepare

    if output.suffix.lower() not in (".h5", ".hdf5"):
        raise InputError(f"{output}: a prepared data set is an HDF5 file; end its name in .h5")
    dataset = prepare(name, root, output, overwrite=overwrite, progress=lambda scene: note(f"copying {scene}"))
    rows = [[scene.split, scene.name, *map(str, scene.shape[1:]), scene.region] for scene in dataset.scenes]
    title = f"{output}  {dataset.bands} bands, peak {dataset.peak:g}"
    print_table(title, ["split", "scene", "rows", "columns", "region"], rows, text_columns=2)
    print_line(", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                         for key, value in dataset.statistics.items()))  # fmt: skip
    print_line(dataset.protocol)
