"""A script of the tests: runs upscale_scene in forked processes, kills them as told, says how each ended.

Reads jobs from stdin, one JSON a line: {source (a scene, or a folder of them), output, model, options, delay (seconds
that reading a tile takes longer), late (Heartbeat.LATE), steps}. A step is a list of processes that run at once, each
{rank, world, wait (seconds before it begins), begin, close (seconds that reserving the samples, closing the output take
longer), kill (seconds after its start or, with "tile", after it has read its first tile, with "seen" after the next one
of the step has seen that it begins), fail (number of its read that fails), memory (a budget of its own), blind (seconds
for which it does not see a tile)}. Forking after the imports spares their seconds at every start; this process itself
never runs an operator, so that its children may.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rasterio  # noqa: F401
import scipy.ndimage  # noqa: F401

from lkca.data import Cube, CubeWriter, open_cube
from lkca.errors import LkcaError
from lkca.inference.batch import find_scenes, upscale_scenes
from lkca.inference.journal import Journal
from lkca.inference.ranks import Heartbeat, Ranks, Waiting
from lkca.inference.samples import Samples
from lkca.inference.scene import UpscaleReport, upscale_scene
from lkca.inference.task import SceneOptions
from lkca.models.directory import load_model

Heartbeat.BEAT, Heartbeat.SILENT = 0.2, 3.0


def slowly(delay: float, fail: int | None, started: int) -> None:
    """Every read of a tile takes ``delay`` longer; number ``fail`` does not work. The first is told to ``started``."""
    read, count = Cube.read, 0

    def slow(self: Cube, *args: Any) -> Any:
        nonlocal count
        if sys._getframe(1).f_code.co_name == "_read":  # of a tile
            count += 1
            if count == 2:
                os.write(started, b".")
            time.sleep(delay)
            if count == fail:
                self.read_stored = lambda *_: (_ for _ in ()).throw(OSError("bad sector"))  # type: ignore[method-assign]
        return read(self, *args)

    Cube.read = slow  # type: ignore[method-assign]


def later(owner: type, method: str, seconds: float) -> None:
    do = getattr(owner, method)

    def slow(*args: Any) -> Any:
        time.sleep(seconds)
        return do(*args)

    setattr(owner, method, slow)


def blindly(seconds: float) -> None:
    has = Journal.has

    def late(self: Journal, number: int) -> bool:
        return has(self, number) and time.time() - self._tile(number).stat().st_mtime > seconds

    Journal.has = late  # type: ignore[method-assign]


def listening(started: int) -> None:
    """Who waits tells ``started`` when it has seen the first process begin."""
    look = Waiting.look

    def told(self: Waiting) -> bool:
        seen = look(self)
        if seen:
            os.write(started, b".")
        return seen

    Waiting.look = told  # type: ignore[method-assign]


def child(job: dict[str, Any], process: dict[str, Any], result: Path, started: int) -> int:
    time.sleep(process.get("wait", 0))
    Heartbeat.LATE = job["late"]
    slowly(job["delay"], process.get("fail"), started)
    listening(started)
    later(Samples, "make", process.get("begin", 0))
    later(CubeWriter, "close", process.get("close", 0))
    if "blind" in process:
        blindly(process["blind"])
    if "memory" in process:
        job["options"]["memory"] = process["memory"]
    ranks = Ranks(process.get("rank", 0), process.get("world", 1))
    if Path(job["source"]).is_dir():
        scenes: list[Any] = []
        upscale_scenes(
            find_scenes([job["source"]])[0], Path(job["output"]), load_model(job["model"]),
            SceneOptions(**job["options"]), open_scene=open_cube, ranks=ranks,
            done=lambda scene, said: scenes.append(
                [scene, said.tiles, said.computed] if isinstance(said, UpscaleReport) else [scene, str(said)]
            ),
        )  # fmt: skip
        result.write_text(json.dumps(scenes))
        return 0
    try:
        with open_cube(job["source"]) as cube:
            options = SceneOptions(**job["options"])
            report = upscale_scene(cube, Path(job["output"]), load_model(job["model"]), options, ranks=ranks)
    except LkcaError as error:
        result.write_text(str(error))
        return error.exit_code
    result.write_text(json.dumps([report.tiles, report.computed, *report.notes]))
    return 0


def run_together(job: dict[str, Any], step: list[dict[str, Any]]) -> list[tuple[int, str]]:
    running = []
    for process in step:
        descriptor, name = tempfile.mkstemp()
        os.close(descriptor)
        started, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                code = child(job, process, Path(name), told)
            finally:
                os._exit(code)
        os.close(told)
        running.append((pid, Path(name), started, process))
    for number, (pid, _, started, process) in enumerate(running):
        if "kill" in process:
            if process.get("tile"):
                os.read(started, 1)
            if process.get("seen"):
                os.read(running[number + 1][2], 1)
            time.sleep(process["kill"])
            os.kill(pid, signal.SIGKILL)
        os.close(started)
    ends = [(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), name.read_text()) for pid, name, _, _ in running]
    for _, name, _, _ in running:
        name.unlink()
    return ends


for line in sys.stdin:
    order = json.loads(line)
    print(json.dumps([run_together(order, step) for step in order["steps"]]), flush=True)
