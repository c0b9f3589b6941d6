"""A scene from a reader, through a model, to a writer: by tiles, in bounded memory, to go on with after any stop.

Every process computes its share of the tiles into the journal (lkca.inference.journal); the first one takes them from
there, in order, to the writer while the others still come. docs/scenes.md.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lkca.data import Cube, CubeMeta, Window, open_cube
from lkca.data.codec import Encoder
from lkca.data.writers import output_meta
from lkca.data.writers.base import check_disk_space, leftovers
from lkca.data.writers.layout import Layout
from lkca.errors import InputError, LkcaError, OutputError
from lkca.inference.finish import Finisher
from lkca.inference.journal import Journal, Record, differences, part_folder
from lkca.inference.plan import MemoryBudget, TilePlan
from lkca.inference.preview import Preview
from lkca.inference.ranks import Beginning, Heartbeat, Ranks, Waiting
from lkca.inference.samples import Samples
from lkca.inference.stream import stream
from lkca.inference.strips import Piece
from lkca.inference.task import Model, SceneOptions, Task, asked_scale, fingerprint, input_checksum, model_name
from lkca.inference.windows import parse_roi
from lkca.models.directory import LoadedModel, load_model, save_model
from lkca.models.shipped import GENERAL
from lkca.output import check_output

__all__ = ["ScenePlan", "UpscaleReport", "plan_scene", "upscale_scene"]

Progress = Callable[[int, int], None]  # tiles done, tiles in all


@dataclass(frozen=True)
class UpscaleReport:
    """What was written: path, size in pixels, number of bands, bands done by bicubic, seconds, remarks.

    tiles: how many there are; computed: how many of them by this process in this run.
    """

    output: Path
    rows: int
    cols: int
    bands: int
    bicubic_bands: int
    seconds: float
    notes: tuple[str, ...]
    tiles: int = 0
    computed: int = 0


@dataclass(frozen=True)
class ScenePlan:
    """What would be done. shape: of the output, (rows, cols, bands). seconds: expected, from one tile.

    nbytes: that are reserved for the samples, and a COG's overviews. copied: whether these lie beside the output until
    it is complete, or are its data file.
    """

    tiles: TilePlan
    shape: tuple[int, int, int]
    dtype: str
    seconds: float
    nbytes: int
    copied: bool
    notes: tuple[str, ...]


def upscale_scene(
    cube: Cube,
    output: str | os.PathLike[str],
    model: Model,
    options: SceneOptions | None = None,
    *,
    ranks: Ranks | None = None,
    progress: Progress | None = None,
) -> UpscaleReport:
    """Upscales a scene tile by tile and writes it with its metadata on the finer grid.

    model: None for bicubic; a prior, the general model, is made to fit the cube. Without ``dtype`` the samples are
    stored as the input's, with its scale factor, offset and nodata. ``output`` appears when it is whole; a file that
    was there survives a failure. Finished tiles survive too, in a folder beside the output, and ``resume`` goes on with
    them. With several ``ranks``, every one makes this call; they meet in that folder, and the first writes the output.

    Raises InputError for what cannot be done as asked or cannot be read, OutputError where writing fails or another
    rank does not do its part.
    """
    options, ranks = options or SceneOptions(), ranks or Ranks()
    job = _Job(cube, Path(output), model, options, ranks, MemoryBudget.of(options.memory, ranks.local), progress)
    start = time.perf_counter()
    with cube.caching(job.budget.cache):
        report = job.finished() or (job.lead() if ranks.rank == 0 else job.help())
    return replace(report, seconds=time.perf_counter() - start)


def plan_scene(
    cube: Cube,
    output: str | os.PathLike[str],
    model: Model,
    options: SceneOptions | None = None,
    *,
    ranks: Ranks | None = None,
) -> ScenePlan:
    """What :func:`upscale_scene` would do, and how long it would take: one tile in the middle is upscaled and timed.

    Leaves nothing behind. Raises what upscale_scene would raise at its start.
    """
    options, ranks = options or SceneOptions(), ranks or Ranks()
    budget = MemoryBudget.of(options.memory, ranks.local)
    job = _Job(cube, Path(output), model, options, ranks, budget, None)
    with cube.caching(budget.cache):
        earlier, notes = job.earlier()
        task = Task.of(cube, model, options)
        writer = task.writer(Path(output), options, overwrite=options.overwrite or options.resume)
        writer.abort()
        encoder = Encoder(writer.meta)
        task.upscaler.store_as(encoder)
        plan = task.plan(budget, options.tile if earlier is None else earlier.tile, writer)
        tiles = plan.tiles()
        middle = tiles[len(tiles) // 2]

        def encode(_: int, piece: Piece) -> None:
            _stored(encoder, piece)

        start = time.perf_counter()
        stream(cube, task.upscaler, [middle], encode)
        spent = time.perf_counter() - start
    share = plan.area.height * plan.area.width / (middle.height * middle.width)
    return ScenePlan(
        plan,
        task.shape,
        str(writer.meta.stored_dtype),
        spent * share / ranks.world,
        (writer.layout or _layout(task, writer.meta, {})).nbytes,
        not writer.keeps,
        (*task.notes, *notes),
    )


@dataclass(frozen=True)
class _Job:
    cube: Cube
    output: Path
    model: Model
    options: SceneOptions
    ranks: Ranks
    budget: MemoryBudget
    progress: Progress | None

    def finished(self) -> UpscaleReport | None:
        """Every process: the report where ``resume`` finds the output made, and no unfinished run of it; else None.

        InputError where the output is not what is asked for.
        """
        options, output = self.options, self.output
        if not options.resume or options.overwrite or part_folder(output).exists() or not output.exists():
            return None
        with open_cube(output) as done:
            if differing := self._differing(done):
                raise InputError(
                    f"{output}: is finished, but not what is asked for: {'; '.join(differing)}; give --overwrite to "
                    "make it anew, or another name"
                )
        note = f"{output}: is there, and no unfinished run of it: nothing to resume (--overwrite makes it anew)"
        if options.preview is not None:
            note += f"; {options.preview} was not drawn"
        return UpscaleReport(output, *done.shape, 0, 0.0, (note,))

    def _differing(self, done: Cube) -> list[str]:
        """In what a finished output is another than is asked for: size, place, type, the model and the samples that it
        was made of."""
        cube, model, options = self.cube, self.model, self.options
        area, scale, tags = parse_roi(options.roi, cube), asked_scale(model, options), done.meta.tags
        differing = []
        if scale is not None and done.shape != (area.height * scale, area.width * scale, cube.bands):
            asked = f"{area.height * scale} × {area.width * scale} pixels, {cube.bands} bands"
            differing.append(f"it has {done.rows} × {done.cols} pixels, {done.bands} bands, asked for are {asked}")
        corners = [meta.transform @ (0, 0) for meta in (cube.meta.window(area), done.meta) if meta.transform]
        if len(corners) == 2 and math.dist(*corners) > (done.meta.gsd or 0) / 2:
            begins = [", ".join(f"{number:.10g}" for number in corner) for corner in corners]
            differing.append(f"it begins at {begins[1]}, asked for is {begins[0]}")
        dtype = output_meta(cube.meta, options.dtype, str(self.output)).stored_dtype
        if done.meta.stored_dtype != dtype:
            differing.append(f"it holds {done.meta.stored_dtype}, asked for is {dtype}")
        wanted = model_name(model)
        made = tags.get("LKCA_MODEL", wanted)
        if Path(made).name != Path(wanted).name:
            differing.append(f"it was made by {made}, asked for is {wanted}")
        sample = str(input_checksum(cube))
        if tags.get("LKCA_INPUT_CRC32", sample) != sample:
            differing.append(f"it was made of other samples ({tags.get('LKCA_COMMAND', 'another command')})")
        return differing

    def earlier(self) -> tuple[Record | None, list[str]]:
        """What a run would go on with, and remarks on what is there; InputError where it would refuse that."""
        done = self.finished()
        journal, options = Journal(self.output), self.options
        identity = fingerprint(self.cube, self.model, options)
        record = journal.check(identity, resume=options.resume, overwrite=options.overwrite)
        notes = [] if done is None else list(done.notes)
        if record is not None:
            notes.append(f"{self.output}: {journal.finished()} of {record.tiles} tiles are there; the plan is of all")
        return record, notes

    def lead(self) -> UpscaleReport:
        """The first process: begins the journal, computes its share, takes all tiles to the writer."""
        journal, identity = Journal(self.output), fingerprint(self.cube, self.model, self.options)
        with Beginning(journal.folder, self.ranks) as beginning:
            return self._lead(journal, identity, beginning)

    def _lead(self, journal: Journal, identity: dict[str, Any], beginning: Beginning) -> UpscaleReport:
        options = self.options
        interrupted = journal.folder.exists()
        earlier = journal.check(identity, resume=options.resume, overwrite=options.overwrite)
        if earlier is None:
            journal.empty()
        task = Task.of(self.cube, self.model, options, made=None if earlier is None else self._kept(journal))
        tags = {**task.meta.tags, "LKCA_INPUT_CRC32": str(identity["input"]["sample"])}
        task = replace(task, meta=task.meta.replace(tags=tags))
        # An earlier run was allowed to write this output; what may stand there now is its own.
        writer = task.writer(self.output, options, overwrite=options.overwrite or earlier is not None)
        tiles = -1
        record: Record | None = None
        try:
            if interrupted:
                _sweep(writer.files, writer.temporaries)
            task.upscaler.store_as(Encoder(writer.meta))
            if earlier is not None and writer.layout is not None:
                writer.lay_out(_layout(task, writer.meta, earlier.place))
            size = options.tile if earlier is None else earlier.tile
            plan = task.plan(self.budget, size, writer)
            preview = (
                None if options.preview is None else Preview(Path(options.preview), task.shape, writer.meta, self.cube)
            )
            journal.make()
            windows = [plan.fine(tile) for tile in plan.tiles()]
            tiles = len(windows)
            layout = writer.layout or _layout(task, writer.meta, {})
            samples = Samples(journal.samples, layout, flush=writer.keeps)
            if not samples.path.exists():  # what compression will save is not known
                check_disk_space(self.output, layout.nbytes)
            self._keep(journal, task)
            record = journal.begin(identity, (plan.rows, plan.cols), windows, samples, self.ranks.world)
            mine = record.todo[:: self.ranks.world]
            with Heartbeat(journal.folder, self.ranks, record.run) as heartbeat:
                beginning.over()
                try:
                    with Finisher(journal, samples, writer, plan, heartbeat, preview, self.progress) as finisher:
                        _compute(task, journal, samples, plan, mine, writer.meta, finisher)
                except Exception as error:
                    heartbeat.fail(str(error))
                    raise
                heartbeat.say("done")
            if samples.replaced():
                raise _taken_over(self.output)
            report = writer.close()
        except BaseException as error:
            writer.abort()
            if record is not None and journal.taken_over(record.run):  # what is there now is not ours to remove
                if isinstance(error, Exception):
                    raise _taken_over(self.output) from error
            elif tiles >= 0:
                _tell_what_is_kept(error, journal, tiles, alone=record is None or self.ranks.world == 1)
            raise
        if not journal.taken_over(record.run):
            journal.remove()
        if preview is not None:
            preview.write()
        assert report is not None
        return self._report(task, tiles, len(mine), report.warnings)

    def help(self) -> UpscaleReport:
        """Another process: waits for the journal, computes its share, stays until the first one has all tiles."""
        journal = Journal(self.output)
        check_output(self.output, overwrite=True)  # of its folder: there the first one says what else it refuses
        record: Record | None = self._await_journal(journal)
        computed = 0
        while record is not None:
            with Heartbeat(journal.folder, self.ranks, record.run) as heartbeat:
                task = Task.of(self.cube, self.model, self.options, made=self._kept(journal))
                meta = output_meta(task.meta, self.options.dtype, str(self.output))
                task.upscaler.store_as(Encoder(meta))
                plan = task.plan(self.budget, record.tile)
                mine = record.todo[self.ranks.rank :: self.ranks.world]
                mine = [number for number in mine if not journal.has(number)]
                samples = Samples(journal.samples, _layout(task, meta, record.place))
                _compute(task, journal, samples, plan, mine, meta)
                heartbeat.say("done")
                tiles, computed = record.tiles, computed + len(mine)
                record = _await_end(journal, record, heartbeat)
        return self._report(task, tiles, computed, ())

    def _await_journal(self, journal: Journal) -> Record:
        identity = fingerprint(self.cube, self.model, self.options)
        heartbeat = Heartbeat(journal.folder, self.ranks)
        earlier = heartbeat.touched(0)  # perhaps of a run that has ended, whose record is no task of ours
        waiting = Waiting(journal.folder, self.ranks)
        began, why = time.monotonic(), "rank 0 has not begun"
        while time.monotonic() - began < Heartbeat.LATE:
            lives = heartbeat.touched(0) not in (None, earlier)  # asked first: it begins to beat after its record
            record = journal.read()
            if lives and record is not None and record.world == self.ranks.world:
                differing = differences(record.fingerprint, identity)
                if not differing:
                    return record
                why = "; ".join(differing)
            if waiting.look():  # it still reserves or checks the samples
                began = time.monotonic()
            time.sleep(Heartbeat.POLL)
        raise OutputError(f"{journal.folder}: rank {self.ranks.rank} waited in vain for its task: {why}")

    def _keep(self, journal: Journal, task: Task) -> None:
        """A network that was made for this cube is kept: made again, its last digits might differ."""
        made = task.upscaler.model
        folder = journal.folder / "model"
        if made is not None and made.adapted and not folder.exists():
            save_model(folder, made.net, made.config)

    def _kept(self, journal: Journal) -> LoadedModel | None:
        folder = journal.folder / "model"
        return replace(load_model(folder), path=Path(GENERAL), adapted=True) if folder.exists() else None

    def _report(self, task: Task, tiles: int, computed: int, warnings: Sequence[str]) -> UpscaleReport:
        bicubic = int(np.count_nonzero(~task.upscaler.by_network))
        notes = (*task.notes, *warnings)
        return UpscaleReport(self.output, *task.shape, bicubic, 0.0, notes, tiles, computed)


def _compute(
    task: Task,
    journal: Journal,
    samples: Samples,
    plan: TilePlan,
    numbers: Sequence[int],
    meta: CubeMeta,
    finisher: Finisher | None = None,
) -> None:
    """Upscales the tiles of these numbers into the samples, stored as ``meta`` says.

    finisher: in the first process, hears of each tile, and may raise before each.
    """
    tiles = plan.tiles()
    encoder, total, rows_done = Encoder(meta), 0, 0  # of the tile that is being stored

    def store(index: int, piece: Piece) -> None:
        nonlocal encoder, total, rows_done
        number, bands, rows = numbers[index], piece.bands, piece.rows
        window = plan.fine(tiles[number])
        height = rows.stop - rows.start
        try:
            stored = _stored(encoder, piece)
            part = Window(window.row + rows.start, window.col, height, window.width)
            total ^= samples.write(part, bands.start, stored)
            rows_done += len(stored) * height
            if rows_done == task.cube.bands * window.height:
                samples.settle()
                if samples.replaced():
                    raise _taken_over(journal.output)
                step = task.upscaler.strip_rows(tiles[number].height, tiles[number].width)
                journal.save(number, total, step, encoder.counts())
                encoder, total, rows_done = Encoder(meta), 0, 0
                if finisher is not None:
                    finisher.look()
        except ValueError as error:
            raise OutputError(
                f"{journal.output}: {error}; write a float dtype or set a nodata value in the metadata"
            ) from error
        except OSError as error:
            raise unwritten(error) from error

    def unwritten(error: OSError) -> OutputError:
        if not journal.folder.exists():
            return _taken_over(journal.output)
        return OutputError(
            f"{journal.folder}: a tile could not be written ({error.strerror or error}); free some space"
        )

    try:
        mine = [tiles[number] for number in numbers]
        stream(task.cube, task.upscaler, mine, store, None if finisher is None else finisher.check)
    except BaseException:
        with contextlib.suppress(OSError):
            samples.close()
        raise
    try:
        samples.close()
    except OSError as error:
        raise unwritten(error) from error


def _layout(task: Task, meta: CubeMeta, place: Mapping[str, Any]) -> Layout:
    """Of the samples of the output in their file."""
    rows, cols, bands = task.shape
    assert meta.stored_dtype is not None
    return Layout.of((bands, rows, cols), meta.stored_dtype, place)


def _taken_over(output: Path) -> OutputError:
    return OutputError(f"{output}: another run took its folder over, or it was removed; this one has ended")


def _stored(encoder: Encoder, piece: Piece) -> np.ndarray:
    """The piece as the output stores it, counted."""
    if piece.counts is None:
        return encoder.encode(piece.samples, piece.bands)
    encoder.add(piece.counts)
    return piece.samples


def _await_end(journal: Journal, record: Record, heartbeat: Heartbeat) -> Record | None:
    """None once the first process has all tiles; the new record if it began anew. OutputError where it failed."""
    while True:
        if not journal.folder.exists():
            return None
        now = journal.read()
        if now is not None and now.run != record.run:
            return now
        state, detail = heartbeat.state(0)
        if state == "done":
            return None
        if state in ("failed", "dead") and journal.folder.exists():
            raise OutputError(f"{journal.output}: is not finished; rank 0: {detail or 'was stopped'}")
        time.sleep(Heartbeat.POLL)


def _sweep(files: Sequence[Path], keep: Sequence[Path]) -> None:
    """Removes the temporary files of writers that were killed."""
    for file in files:
        for left in leftovers(file):
            if left not in keep:
                left.unlink(missing_ok=True)


def _tell_what_is_kept(error: BaseException, journal: Journal, tiles: int, *, alone: bool) -> None:
    """Raises our own errors again with what is kept; notes it on others. A journal without any tile is removed."""
    finished = journal.finished()
    if finished == 0 and alone:
        journal.remove()
        return
    kept = (
        f"{finished} of {tiles} tiles are kept in {journal.folder}; the same command with --resume goes on from there"
    )
    if isinstance(error, LkcaError):
        raise type(error)(f"{error}; {kept}") from error
    error.add_note(kept)
