"""Many scenes: which files, what their results are called, and who does which."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lkca.data import Cube
from lkca.data.readers import CUBE_SUFFIXES, OTHER_SUFFIXES, dlr, jpl
from lkca.data.readers.envi import DATA_SUFFIXES, find_header, find_tiff, is_header
from lkca.data.readers.envi_header import no_image, read_header
from lkca.errors import InputError, LkcaError, OutputError
from lkca.inference.ranks import Heartbeat, Ranks
from lkca.inference.scene import UpscaleReport, upscale_scene
from lkca.inference.task import Model, SceneOptions
from lkca.output import check_utf8

__all__ = ["deal", "find_scenes", "folder_to_plan_in", "name_outputs", "upscale_scenes"]

_WRITABLE = {".mat": ".mat", ".npz": ".npz"}
_MEETING = ".lkca-ranks"


def find_scenes(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files among ``inputs`` as they are, and the cubes in the folders among them, by name; then remarks.

    A folder's cubes are its ENVI headers and the files whose suffix is a cube's; subfolders are not searched. A TIFF's
    header goes with its TIFF. Left out, and named in the remarks, are files that only go with a spectral image there
    (quick looks, quality, geometry), ENVI's classifications and spectral libraries, and formats that mostly hold no
    cube (``OTHER_SUFFIXES``), which have to be named. Raises InputError for a folder without any cube, and for an
    empty name.
    """
    scenes: list[str] = []
    remarks: list[str] = []
    for text in inputs:
        if not text:  # of a shell variable that is not set; Path takes it for the current folder
            raise InputError("the name of an input is empty; name a cube, or a folder of cubes")
        folder = Path(text)
        if not folder.is_dir():
            scenes.append(text)
            continue
        files = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".") and entry.is_file()]
        cubes = [entry for entry in files if _is_cube(entry)]
        kinds = {entry: kind for entry in cubes if (kind := _no_image(entry))}
        no_images = ", ".join(f"{entry.name} ({kind})" for entry, kind in kinds.items())
        found = [entry for entry in cubes if entry not in kinds]
        unnamed = ", ".join(entry.name for entry in files if entry.suffix.lower() in OTHER_SUFFIXES)
        if not found:
            told = f"{folder}: holds no cube ({', '.join(sorted(CUBE_SUFFIXES))}, or ENVI with its .hdr)"
            told += f"; these are no images: {no_images}" if no_images else ""
            raise InputError(told + (f"; name {unnamed} itself" if unnamed else ""))
        if others := [*dlr.accessories(found), *jpl.accessories(found)]:
            names = ", ".join(entry.name for entry in others)
            remarks.append(f"{folder}: left out, as they only go with the spectral images there: {names}")
        if no_images:
            remarks.append(f"{folder}: left out, as they are no images: {no_images}")
        if unnamed:
            remarks.append(f"{folder}: left out: {unnamed}; name with -i what is a cube of its own")
        scenes += [str(entry) for entry in found if entry not in others]
    return scenes, remarks


def name_outputs(scenes: Sequence[str], folder: Path) -> list[Path]:
    """Where each scene's result goes: its name, in its format where that is written, else as GeoTIFF.

    Raises InputError where two would have one name, or ``folder`` is named as a file, or not in UTF-8.
    """
    check_utf8(folder)
    if folder.suffix.lower() in {*CUBE_SUFFIXES, *OTHER_SUFFIXES, *DATA_SUFFIXES, ".hdr"} and not folder.is_dir():
        raise InputError(
            f"{folder}: is a file's name, but the results of many scenes go into a folder; name one with -o"
        )
    outputs: dict[Path, str] = {}
    for scene in scenes:
        output = folder / _result_name(Path(scene.partition("::")[0]))
        if output in outputs:
            raise InputError(f"{scene} and {outputs[output]} would both become {output}; upscale one of them apart")
        outputs[output] = scene
    return list(outputs)


@contextmanager
def folder_to_plan_in(folder: Path) -> Iterator[Path]:
    """``folder``; or, where :func:`upscale_scenes` will have to make it, one in its place that goes again.

    Raises OutputError where none can be made.
    """
    if folder.exists():
        yield folder
        return
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    try:
        place = tempfile.TemporaryDirectory(dir=parent, prefix=".lkca-")
    except OSError as error:
        raise _no_folder(folder, error) from error
    with place as name:
        yield Path(name)


def deal(scenes: Sequence[str], ranks: Ranks) -> list[int]:
    """Numbers of the scenes that this rank does: the largest first, each to whom has least."""
    sizes = [_size(scene) for scene in scenes]
    loads = [0] * ranks.world
    mine = []
    for number in sorted(range(len(scenes)), key=lambda n: (-sizes[n], n)):
        to = min(range(ranks.world), key=lambda rank: (loads[rank], rank))
        loads[to] += sizes[number]
        if to == ranks.rank:
            mine.append(number)
    return mine


def upscale_scenes(
    scenes: Sequence[str],
    folder: Path,
    model: Model,
    options: SceneOptions,
    *,
    open_scene: Callable[[str], Cube],
    ranks: Ranks,
    done: Callable[[str, UpscaleReport | Exception], None],
) -> None:
    """Upscales this rank's share into ``folder``, one scene after the other; ``done`` hears of each.

    A scene that fails does not stop the others. Returns when every rank has come to its end, since torchrun stops all
    of them as soon as one ends badly. Raises InputError or OutputError where the folder cannot be used.
    """
    outputs = name_outputs(scenes, folder)
    meeting = folder / _MEETING
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if ranks.world > 1:
            meeting.mkdir(exist_ok=True)
    except OSError as error:
        raise _no_folder(folder, error) from error
    alone = Ranks(local=ranks.local)
    with Heartbeat(meeting, ranks) as heartbeat:
        for number in deal(scenes, ranks):
            try:
                with open_scene(scenes[number]) as cube:
                    result: UpscaleReport | Exception = upscale_scene(
                        cube, outputs[number], model, options, ranks=alone
                    )
            except Exception as error:
                result = error if isinstance(error, LkcaError) else OutputError(_unexpected(scenes[number], error))
            done(scenes[number], result)
        _leave_together(heartbeat, meeting)


def _leave_together(heartbeat: Heartbeat, meeting: Path) -> None:
    """Waits for every other rank. The first of those that live stays until all have left, and removes the folder."""

    def others_are(*states: str) -> bool:
        return meeting.exists() and any(state in states for state, _ in heartbeat.others().values())

    heartbeat.say("done")
    while others_are("running"):
        time.sleep(Heartbeat.POLL)
    heartbeat.say("left")
    before = [state for rank, (state, _) in heartbeat.others().items() if rank < heartbeat.ranks.rank]
    if any(state not in ("failed", "dead") for state in before):
        return
    while others_are("running", "done"):
        time.sleep(Heartbeat.POLL)
    if not heartbeat.others_here():
        shutil.rmtree(meeting, ignore_errors=True)


def _no_folder(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder}: cannot be made ({error.strerror}); choose another folder")


def _is_cube(file: Path) -> bool:
    suffix = file.suffix.lower()
    return suffix in CUBE_SUFFIXES or (suffix == ".hdr" and is_header(file) and find_tiff(file) is None)


def _no_image(file: Path) -> str | None:
    """What a cube's file is that is no image; None where that cannot be told, which opening it will tell."""
    try:
        return no_image(read_header(file)) if file.suffix.lower() == ".hdr" else None
    except InputError:
        return None


def _result_name(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix == ".hdr":
        file = file.with_suffix("")
    elif suffix in CUBE_SUFFIXES | OTHER_SUFFIXES or find_header(file) is None:
        return file.stem + _WRITABLE.get(suffix, ".tif")
    return (file.stem if file.suffix.lower() in DATA_SUFFIXES else file.name) + ".img"  # names may hold dots


def _size(scene: str) -> int:
    """Bytes of the files that share the scene's name: an ENVI header is small."""
    file = Path(scene.partition("::")[0])
    try:
        if file.suffix.lower() != ".hdr":
            return file.stat().st_size
        stem = file.name[: -len(".hdr")]
        return sum(near.stat().st_size for near in file.parent.iterdir() if near.name.startswith(stem))
    except OSError:
        return 0


def _unexpected(scene: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{scene}: unexpected failure ({type(error).__name__}: {lines[0] if lines else 'no message'})"
