"""Sharpen a scene file window by window and keep its map: ``python examples/upscale_scene.py [SCENE OUTPUT]``.

Without arguments it makes a scene first. The shipped ``general`` model needs no training.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lkca


def main(scene: Path, output: Path) -> None:
    report = lkca.upscale(scene, "general", scale=4, output=output, overwrite=True)
    print(f"{report.output}: {report.rows} × {report.cols} pixels, {report.bands} bands in {report.seconds:.1f} s")
    with lkca.open_cube(scene) as before, lkca.open_cube(output) as after:
        assert before.meta.crs == after.meta.crs
        print("pixel size:", before.meta.transform.a, "→", after.meta.transform.a)
        window = lkca.Window(0, 0, 8, 8)
        print("first spectrum:", after.read(window)[:, 0, 0].round(3)[:6], "…")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "scene.tif"
            with lkca.synthetic_scene(rows=96, cols=64, bands=24) as cube:
                lkca.write_cube(made, cube.read(), cube.meta)
            main(made, Path(folder) / "sharper.tif")
