"""A script of the tests: upscales a synthetic scene that exists nowhere, prints the peak of its memory in bytes.

argv: budget, rows, cols, bands, kind ("bicubic", one of conftest's networks, "degrade": coarser instead, or
"evaluate": scored, with its panel and report), output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from conftest import make_model
from peak import peak_bytes

from lkca.data import Cube, CubeMeta, Window
from lkca.data.degradation import Degradation
from lkca.data.memory import keep_freed_memory
from lkca.evaluation import evaluate_model
from lkca.inference.degrade import degrade_scene
from lkca.inference.scene import upscale_scene
from lkca.inference.task import SceneOptions
from lkca.panel import comparison_panel
from lkca.report.build import report_of_model
from lkca.report.page import write_report

SCALE = 4


def main() -> None:
    budget, rows, cols, bands, kind, output = sys.argv[1:]
    if kind != "evaluate":  # as the commands do
        keep_freed_memory()
    shape = int(rows), int(cols), int(bands)
    rng = np.random.default_rng(0)
    pattern = rng.random((shape[2], 64, 64), dtype=np.float32)
    pattern[:, 20:24, 30:35] = np.nan

    def read(window: Window, index: np.ndarray) -> np.ndarray:
        down, across = (np.arange(part.start, part.stop) % 64 for part in window.slices)
        samples = pattern[np.ix_(index, down, across)]
        if kind == "evaluate":  # a strip of data across an empty scene: metrics take their time
            samples[:, np.abs(np.arange(*window.slices[0].indices(shape[0])) - shape[0] // 2) > 100] = np.nan
        return samples

    cube = Cube("synthetic", shape, CubeMeta(stored_dtype=np.dtype(np.float32)), read, format="none", physical=True)
    if kind == "degrade":
        degrade_scene(cube, Path(output), Degradation(scale=SCALE))
        print(json.dumps({"peak": peak_bytes(), "samples": cube.rows * cube.cols * cube.bands}))
        return
    if kind == "evaluate":
        model = make_model("low rank", SCALE, range(shape[2]), bands=shape[2], width=8)
        result = evaluate_model(cube, model, SCALE, memory=budget, force=True, middle=True, overview=True)
        assert result.overview is not None
        comparison_panel(Path(output), result.overview)
        write_report(Path(output).with_suffix(".html"), report_of_model([result], None))
        print(json.dumps({"peak": peak_bytes(), "samples": cube.rows * cube.cols * cube.bands}))
        return
    model = None if kind == "bicubic" else make_model(kind, SCALE, range(shape[2]), bands=shape[2], width=32)
    options = SceneOptions(scale=SCALE, memory=budget, force=True, overwrite=True)
    report = upscale_scene(cube, Path(output), model, options)
    print(
        json.dumps(
            {"peak": peak_bytes(), "samples": report.rows * report.cols * report.bands, "seconds": report.seconds}
        )
    )


main()
