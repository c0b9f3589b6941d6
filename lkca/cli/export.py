"""``lkca export``: a model as a file for programs that have no lkca, or no Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lkca.choices import Format
from lkca.cli.console import note, print_json, print_line, print_table
from lkca.cli.options import FITTED_HELP, Json, ModelScale, Overwrite, examples

__all__ = ["EXAMPLES", "export_command"]

EXAMPLES = examples(
    "lkca export model --to onnx -o model.onnx",
    "lkca export model --to pt2 -o model.pt2",
    "lkca export model --to aoti -o model_cpu.pt2",
)


def export_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=FITTED_HELP, show_default=False)],
    to: Annotated[
        Format,
        typer.Option(
            "--to", help="onnx; pt2 (torch.export); aoti (compiled for this machine's CPU).", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .onnx, or .pt2 for the others.", show_default=False)
    ],
    plain: Annotated[
        bool,
        typer.Option("--plain", help="pt2, aoti: PyTorch's own operations only, none of lkca's. ONNX is always so."),
    ] = False,
    scale: ModelScale = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Writes a model as ONNX, as a torch.export package, or compiled for C++ programs.

    The file takes and gives physical values, with batch, rows and columns free. It is run and compared with the model
    on three sizes before it takes its name.
    """
    from lkca.export import ONNX_OPSET, export_model
    from lkca.inference.choose import fitted_model

    loaded = fitted_model(model, scale)
    if len(loaded.config.bands.used) < loaded.config.bands.count:
        note(
            f"{model}: uses {len(loaded.config.bands.used)} of a file's {loaded.config.bands.count} bands; the "
            "exported file takes those, in that order (its metadata 'lkca.bands' lists them)"
        )
    if to == "aoti" and sys.stderr.isatty():
        note("compiling, about half a minute")
    done = export_model(loaded, output, to, plain=plain, overwrite=overwrite)
    checks = [(f"{c.batch} × {c.rows} × {c.cols}", f"{c.error:.1e}") for c in done.checks]
    if json:
        print_json(
            {
                "path": str(done.path),
                "format": done.format,
                "plain": done.plain,
                "opset": ONNX_OPSET if to == "onnx" else None,
                "bytes": done.bytes,
                "error": done.error,
                "checks": [vars(c) for c in done.checks],
                "metadata": done.metadata,
            }
        )
        return
    print_table(f"{output}  compared with the model", ["batch × rows × cols", "largest error / data range"], checks)
    contents = f"ONNX opset {ONNX_OPSET}" if to == "onnx" else "PyTorch's operations" if plain else "lkca's operators"
    print_line(
        f"{done.bytes / 1e6:.2f} MB, {contents}; takes float32 (batch, {loaded.net.config.bands}, rows, cols) in "
        f"physical units, gives ×{loaded.config.scale}"
    )
