"""Several processes on one scene, or on many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from lkca.data import CubeMeta, open_cube, write_cube
from lkca.errors import InputError, OutputError
from lkca.inference import SceneOptions, UpscaleReport, batch, upscale_scene
from lkca.inference.batch import find_scenes, upscale_scenes
from lkca.inference.journal import part_folder
from lkca.inference.ranks import Beginning, Heartbeat, Ranks, Waiting
from lkca.models.directory import load_model

InProcesses = Callable[..., list[list[tuple[int, str]]]]
TILES = 25


def stored(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


@pytest.fixture(scope="module")
def alone(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    output = tmp_path_factory.mktemp("alone") / "o.tif"
    with open_cube(files[0]) as cube:
        upscale_scene(cube, output, load_model(files[1]), SceneOptions(tile=13))
    return stored(output)


def test_three_ranks(tmp_path: Path, in_processes: InProcesses, alone: np.ndarray) -> None:
    output = tmp_path / "o.tif"
    [ends] = in_processes(output, [[{"rank": rank, "world": 3} for rank in (2, 0, 1)]], tile=13)
    assert [code for code, _ in ends] == [0, 0, 0], ends
    shares = [json.loads(message)[1] for _, message in ends]
    assert shares == [8, 9, 8]  # ranks 2, 0, 1
    assert np.array_equal(stored(output), alone)
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.tif"]


def test_a_killed_rank(tmp_path: Path, in_processes: InProcesses, alone: np.ndarray) -> None:
    """The first one does what it can and says what is missing; a resume by another number of ranks completes."""
    output = tmp_path / "o.tif"
    step = [{"rank": 1, "world": 2, "kill": 0.2, "tile": True}, {"rank": 0, "world": 2}]
    [[(killed, _), (code, message)]] = in_processes(output, [step], delay=0.1, tile=13)
    assert killed == -9 and code == 1
    assert "tiles are missing" in message and "rank 1: its process has ended" in message and "--resume" in message
    assert not output.exists() and part_folder(output).is_dir()
    [ends] = in_processes(output, [[{"rank": rank, "world": 3} for rank in range(3)]], resume=True)
    assert [code for code, _ in ends] == [0, 0, 0], ends
    assert 0 < sum(json.loads(message)[1] for _, message in ends) < TILES - 12
    assert np.array_equal(stored(output), alone)


def test_who_comes_when_the_first_one_has_failed_learns_that_too(tmp_path: Path, in_processes: InProcesses) -> None:
    step = [{"rank": 1, "world": 2, "wait": 2.0}, {"rank": 0, "world": 2, "fail": 1}]
    [[(code, message), (first, _)]] = in_processes(tmp_path / "o.tif", [step], late=5.0, tile=13)
    assert (code, first) == (1, 2) and "is not finished; rank 0: " in message and "bad sector" in message


def test_a_rank_that_fails_or_never_comes(tmp_path: Path, in_processes: InProcesses) -> None:
    output = tmp_path / "o.tif"
    step = [{"rank": 1, "world": 2, "fail": 3}, {"rank": 0, "world": 2}]
    [[(other, why), (code, message)]] = in_processes(output, [step], tile=13)
    assert other == 2 and code == 1
    assert "bad sector" in why and "rank 1" in message and "bad sector" in message
    [[(code, message)]] = in_processes(tmp_path / "p.tif", [[{"rank": 1, "world": 2}]], late=1.0, tile=13)
    assert code == 1 and "waited in vain" in message and "rank 0 has not begun" in message


@pytest.mark.parametrize("again", [{"resume": True}, {"overwrite": True, "tile": 20}], ids=["resume", "overwrite"])
def test_what_an_earlier_run_left_is_nobodys_task(
    tmp_path: Path, in_processes: InProcesses, alone: np.ndarray, again: dict[str, object]
) -> None:
    """A rank that comes before the first one finds the plan of a run that ended, and the failure of that."""
    output = tmp_path / "o.tif"
    step = [{"rank": 0, "world": 2, "fail": 3}, {"rank": 1, "world": 2}]
    [[(failed, _), (code, _)]] = in_processes(output, [step], tile=13)
    assert failed == 2 and code == 1 and (part_folder(output) / "rank-0").exists()
    step = [{"rank": 0, "world": 2, "wait": 0.7}, {"rank": 1, "world": 2}]
    [ends] = in_processes(output, [step], late=10.0, **again)
    assert [code for code, _ in ends] == [0, 0], ends
    assert np.abs(stored(output).astype(int) - alone).max() <= (1 if "tile" in again else 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.tif"]


def test_no_rank_waits_for_a_task_that_never_comes(tmp_path: Path, in_processes: InProcesses) -> None:
    """The output is finished, or refused: every rank sees it, not the first one alone."""
    output = tmp_path / "o.tif"
    both = [{"rank": 1, "world": 2}, {"rank": 0, "world": 2}]
    [[(code, _), (first, _)]] = in_processes(output, [both], tile=13)
    assert (code, first) == (0, 0)
    for options, codes, says in (({"resume": True}, [0, 0], "nothing to resume"), ({}, [1, 2], "exists already")):
        [ends] = in_processes(output, [both], **options)
        assert [code for code, _ in ends] == codes and all(says in message for _, message in ends), ends


@pytest.mark.parametrize(
    ("late", "options", "why"),
    [(0, {}, "holds the finished tiles of an earlier run"), (1, {"overwrite": True}, "the smallest tiles")],
)
def test_all_ranks_learn_why_the_first_one_refuses(
    tmp_path: Path, in_processes: InProcesses, late: int, options: dict[str, bool], why: str
) -> None:
    """From a place of its own: the folder that is there may be another run's."""
    output = tmp_path / "o.tif"
    in_processes(output, [[{"fail": 3}]], tile=13)
    before = sorted(part_folder(output).iterdir())
    ranks: list[dict[str, object]] = [{"rank": 1, "world": 3}, {"rank": 0, "world": 3}, {"rank": 2, "world": 3}]
    ranks[late]["wait"] = 1.0
    [ends] = in_processes(output, [ranks], memory="20M", **options)
    assert [code for code, _ in ends] == [1, 2, 1] and all(why in message for _, message in ends), ends
    assert all("rank 0 has refused: " in ends[other][1] for other in (0, 2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.tif.lkca-part"]
    assert options or sorted(part_folder(output).iterdir()) == before


def test_a_refusal_is_of_the_run_whose_first_process_is_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs on one output: one is refused while the other reserves its samples, and goes on."""
    monkeypatch.setattr(Heartbeat, "BEAT", 0.2)
    place, told = tmp_path / "o", []

    def refuse() -> None:
        with pytest.raises(InputError), Beginning(place, Ranks(0, 2)):
            raise InputError("no luck")
        told.append(time.monotonic())

    thread = threading.Thread(target=refuse)
    waiting = Waiting(place, Ranks(1, 2))
    with Beginning(place, Ranks(0, 2)):
        thread.start()
        until, lives = time.monotonic() + 2.0, 0
        while time.monotonic() < until:
            lives += waiting.look()
            time.sleep(0.05)
        assert lives > 2 and not told
    with pytest.raises(OutputError, match="rank 0 has refused: no luck"):
        while thread.is_alive():
            waiting.look()
            time.sleep(0.05)
    thread.join()
    assert not list(tmp_path.iterdir())


def test_the_first_rank_is_killed_before_it_begins(tmp_path: Path, in_processes: InProcesses) -> None:
    """The others do not wait until it is late; what it left goes with the next run."""
    output = tmp_path / "o.tif"
    step = [{"rank": 0, "world": 2, "begin": 60.0, "kill": 0.1, "seen": True}, {"rank": 1, "world": 2, "wait": 3.0}]
    began = time.monotonic()
    [[(killed, _), (code, why)]] = in_processes(output, [step], late=200.0, tile=13)
    assert killed == -9 and code == 1 and "rank 0 did not begin: its process has ended" in why
    assert time.monotonic() - began < 100
    both = [{"rank": 1, "world": 2}, {"rank": 0, "world": 2}]
    [ends] = in_processes(output, [both], overwrite=True, tile=13)
    assert [code for code, _ in ends] == [0, 0] and [entry.name for entry in tmp_path.iterdir()] == ["o.tif"]


def test_a_refusal_waits_for_no_rank_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that never come; one process; a folder in which nothing can be written."""
    monkeypatch.setattr(Heartbeat, "HEARD", 1.0)
    for place, world, least, most in (
        (tmp_path / "o", 2, 1, 20),
        (tmp_path / "o", 1, 0, 0.9),
        (tmp_path / "n/o", 2, 0, 0.9),
    ):
        began = time.monotonic()
        with pytest.raises(InputError, match="no luck"), Beginning(place, Ranks(0, world)):
            raise InputError("no luck")
        assert least <= time.monotonic() - began < most and not list(tmp_path.iterdir())


def test_who_is_interrupted_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    monkeypatch.setattr(Heartbeat, "fail", lambda _, why: refused.append(why))
    for error in (KeyboardInterrupt("stop"), InputError("no cube")):
        with pytest.raises(type(error)), Beginning(tmp_path / "o", Ranks(0, 2)):
            raise error
    assert refused == ["no cube"] and not list(tmp_path.iterdir())


def test_who_hears_a_refusal_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first process would stay a minute for them."""
    monkeypatch.setattr(Heartbeat, "BEAT", 0.02)
    waiting, until = Waiting(tmp_path / "o", Ranks(1, 2)), time.monotonic() + 10
    with Beginning(tmp_path / "o", Ranks(0, 2)) as first:
        first._heartbeat.say("failed", "no luck")
        with pytest.raises(OutputError, match="rank 0 has refused: no luck"):
            while time.monotonic() < until:
                waiting.look()
        assert first._heartbeat.state(1)[0] == "heard"


def test_what_is_left_of_a_beginning_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not look alive; that of another run which does stays."""
    monkeypatch.setattr(Heartbeat, "SILENT", 30.0)
    place = tmp_path / "o"
    place.mkdir()
    other = Beginning(place, Ranks(0, 2))
    with monkeypatch.context() as patch, subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        patch.setattr(os, "getpid", lambda: process.pid)
        Beginning(place, Ranks(0, 2)).__enter__()._heartbeat._stop.set()
    with other:
        assert len(list(tmp_path.glob(".o.*.begin"))) == 2
        Beginning(place, Ranks()).over()
        [left] = tmp_path.glob(".o.*.begin")
        past = place.stat().st_mtime - 31
        os.utime(left / "rank-0", (past, past))
        Beginning(place, Ranks()).over()
        assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("slow", ("begin", "close"))
def test_the_first_rank_takes_its_time(tmp_path: Path, in_processes: InProcesses, alone: np.ndarray, slow: str) -> None:
    """To reserve or to check the samples of a large scene, and to make a COG of them, during which GDAL lets no other
    thread say that it lives: a first process that lives is waited for, and nobody waits for the COG."""
    output = tmp_path / "o.tif"
    step = [{"rank": 1, "world": 2}, {"rank": 0, "world": 2, slow: 9.0}]
    [ends] = in_processes(output, [step], late=6.0, tile=13)
    assert [code for code, _ in ends] == [0, 0], ends
    assert np.array_equal(stored(output), alone)
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.tif"]


def test_a_rank_that_cannot_do_its_share_says_so(tmp_path: Path, in_processes: InProcesses) -> None:
    """A machine with less memory than the first one's: that one does not wait for it until it is late."""
    output = tmp_path / "o.tif"
    began = time.monotonic()
    step = [{"rank": 1, "world": 2, "memory": "9M"}, {"rank": 0, "world": 2}]
    [[(other, why), (code, message)]] = in_processes(output, [step], tile=13)
    assert (other, code) == (2, 1) and "tiles of 13 × 13 pixels need" in why
    assert "tiles are missing" in message and "rank 1: tiles of 13 × 13 pixels need" in message
    assert time.monotonic() - began < 30


def test_torchrun(tmp_path: Path, files: tuple[Path, Path], alone: np.ndarray) -> None:
    source, model = files
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "lkca", "upscale", "-i", source, "-o", tmp_path / "o.tif", "-m", model, "--tile", "13"),
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(stored(tmp_path / "o.tif"), alone)
    assert done.stdout.count("pixels, 5 bands") == 1 and "rank 1: 12 of 25 tiles" in done.stderr


RESULTS = {"large.img", "middle.tif", "small.tif"}


@pytest.fixture(scope="module")
def folders(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three scenes of other sizes and formats, and what one process makes of them."""
    scenes, alone = tmp_path_factory.mktemp("scenes"), tmp_path_factory.mktemp("alone")
    for name, rows, cols in (("large.img", 61, 53), ("middle.tif", 45, 40), ("small.npy", 30, 33)):
        values = np.random.default_rng(rows).random((5, rows, cols), dtype=np.float32) + 0.1
        values[:, 3:9, 4:7] = np.nan
        if name == "small.npy":
            np.save(scenes / name, values.transpose(1, 2, 0))
        else:
            write_cube(scenes / name, values, CubeMeta(wavelengths=np.linspace(450.0, 650.0, 5)))
    results: list[UpscaleReport | Exception] = []
    upscale_scenes(
        find_scenes([str(scenes)])[0], alone, load_model(files[1]), SceneOptions(tile=13), open_scene=open_cube,
        ranks=Ranks(), done=lambda scene, result: results.append(result),
    )  # fmt: skip
    assert all(isinstance(result, UpscaleReport) for result in results) and len(results) == 3
    return scenes, alone


def same(one: Path, other: Path) -> bool:
    """Whether the results are there, and no more, with samples that are equal byte by byte."""
    names = {entry.name for entry in one.iterdir()}
    return names == RESULTS | {"large.hdr"} and all(
        stored(one / name).tobytes() == stored(other / name).tobytes() for name in RESULTS
    )


def test_a_folder_over_two_ranks(tmp_path: Path, files: tuple[Path, Path], folders: tuple[Path, Path]) -> None:
    scenes, alone = folders
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lkca"),
        *("upscale", "-i", scenes, "-o", tmp_path / "o", "-m", files[1], "--tile", "13"),
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "rank 0: 1 of 1 scenes done" in done.stdout  # the largest
    assert "rank 1: 2 of 2 scenes done" in done.stdout
    assert same(tmp_path / "o", alone)


def test_a_killed_rank_of_a_folder(
    tmp_path: Path, files: tuple[Path, Path], folders: tuple[Path, Path], in_processes: InProcesses
) -> None:
    """The other one finishes its own; a resume by one process does the rest, and only that."""
    scenes, alone = folders
    output = tmp_path / "o"
    step = [{"rank": 0, "world": 2, "kill": 0.3, "tile": True}, {"rank": 1, "world": 2}]
    [[(killed, _), (code, message)]] = in_processes(output, [step], folder=scenes, delay=0.1, tile=13)
    assert killed == -9 and code == 0 and [scene[1:] for scene in json.loads(message)] == [[16, 16], [9, 9]]
    assert (output / "large.img.lkca-part").is_dir() and not (output / "large.img").exists()
    assert not (output / ".lkca-ranks").exists()  # who is left removes it
    [[(code, message)]] = in_processes(output, [[{}]], folder=scenes, resume=True)
    assert code == 0, message
    [(name, tiles, computed), *others] = json.loads(message)
    assert Path(name).name == "large.hdr" and tiles == TILES and 0 < computed < TILES
    assert [scene[1:] for scene in others] == [[0, 0], [0, 0]]
    assert {entry.name for entry in output.iterdir()} == RESULTS | {"large.hdr"}
    assert same(output, alone)


def test_all_ranks_of_a_folder_killed(tmp_path: Path, folders: tuple[Path, Path], in_processes: InProcesses) -> None:
    """As torchrun ends them all when one dies: a resume by one process leaves nothing of their meeting place."""
    scenes, alone = folders
    output = tmp_path / "o"
    step = [{"rank": rank, "world": 2, "kill": 0.2, "tile": True} for rank in range(2)]
    [ends] = in_processes(output, [step], folder=scenes, delay=0.1, tile=13)
    assert [code for code, _ in ends] == [-9, -9]
    assert {entry.name for entry in (output / ".lkca-ranks").iterdir()} >= {"rank-0", "rank-1"}
    [[(code, message)]] = in_processes(output, [[{}]], folder=scenes, resume=True, tile=13)
    assert code == 0, message
    assert same(output, alone)


@pytest.mark.parametrize(
    ("rank", "world", "local"), [("2", "2", "1"), ("-1", "2", "1"), ("0", "", "1"), ("a", "2", ""), ("0", "2", "0")]
)
def test_nonsense_in_the_environment(monkeypatch: pytest.MonkeyPatch, rank: str, world: str, local: str) -> None:
    for name, text in (("RANK", rank), ("WORLD_SIZE", world), ("LOCAL_WORLD_SIZE", local)):
        monkeypatch.setenv(name, text)
    with pytest.raises(InputError, match="RANK="):
        Ranks.from_environment()


def test_ranks_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks.from_environment() == Ranks(0, 1, 1)
    for name, text in (("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, text)
    assert Ranks.from_environment() == Ranks(3, 8, 4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert Ranks.from_environment() == Ranks(3, 8, 1)


def test_who_lives_says_so_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heartbeat, "BEAT", 0.02)
    with Heartbeat(tmp_path, Ranks()) as heartbeat:
        began, until = heartbeat.touched(0), time.monotonic() + 10
        while heartbeat.touched(0) == began and time.monotonic() < until:
            time.sleep(0.02)
        assert heartbeat.touched(0) != began


def test_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heartbeat, "SILENT", 30.0)
    monkeypatch.setattr(Heartbeat, "LATE", 0.0)
    with Heartbeat(tmp_path, Ranks(0, 4), "new") as first:
        assert first.state(1) == ("dead", "it did not start")
        with Heartbeat(tmp_path, Ranks(1, 4), "new") as second:
            assert first.state(1) == ("running", "")
            second.say("done")
            assert first.state(1)[0] == "done"
        with pytest.raises(ValueError), Heartbeat(tmp_path, Ranks(2, 4), "new"):
            raise ValueError("no luck")
        assert first.state(2) == ("failed", "no luck")
        Heartbeat(tmp_path, Ranks(3, 4), "old").say("done")
        assert first.state(3) == ("running", "")  # of another run: not of this one
        later = (tmp_path / "rank-0").stat().st_mtime + 31
        os.utime(tmp_path / "rank-0", (later, later))
        assert first.state(3) == ("dead", "it has said nothing for 30 s")


@pytest.mark.parametrize(("earlier", "now"), [("", ""), ("old", "new")], ids=["many scenes", "one scene"])
@pytest.mark.parametrize("said", ["running", "done", "failed"])
def test_what_was_said_before_this_run_began_is_not_of_it(tmp_path: Path, earlier: str, now: str, said: str) -> None:
    """A rank that has yet to start is neither done nor dead because of what an earlier run left of it."""
    Heartbeat(tmp_path, Ranks(1, 2), earlier).say(said)
    past = time.time() - 2 * Heartbeat.SILENT
    os.utime(tmp_path / "rank-1", (past, past))
    with Heartbeat(tmp_path, Ranks(0, 2), now) as first:
        assert first.state(1) == ("running", "")
        Heartbeat(tmp_path, Ranks(1, 2), now).say(said)
        assert first.state(1) == (said, "")


def test_who_still_uses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume by one process must not take the meeting place from a rank of the earlier run that still lives."""
    monkeypatch.setattr(Heartbeat, "SILENT", 30.0)
    (tmp_path / "rank-7").write_text("no JSON")
    with Heartbeat(tmp_path, Ranks(0, 1)) as alone:
        assert not alone.others_here()
        earlier = Heartbeat(tmp_path, Ranks(3, 4))
        for state, here in (("running", True), ("done", True), ("left", False), ("failed", False), ("running", True)):
            earlier.say(state)
            assert alone.others_here() is here
        with monkeypatch.context() as patch, subprocess.Popen([sys.executable, "-c", ""]) as other:
            other.wait()
            patch.setattr(os, "getpid", lambda: other.pid)
            earlier.say("running")
        assert not alone.others_here()
        earlier.say("running")
        past = (tmp_path / "rank-0").stat().st_mtime - 31
        os.utime(tmp_path / "rank-3", (past, past))
        assert not alone.others_here()
    assert not Heartbeat(tmp_path / "no folder", Ranks()).others_here()


@pytest.mark.parametrize("late", (0, 1))
@pytest.mark.parametrize("seconds", (0.0, 0.2))
def test_all_leave_whoever_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int, seconds: float
) -> None:
    monkeypatch.setattr(Heartbeat, "POLL", 0.1)
    meeting = tmp_path / "meeting"
    ended: list[int] = []
    left: list[tuple[int, int]] = []
    meeting.mkdir()

    def leave(rank: int) -> None:
        with Heartbeat(meeting, Ranks(rank, 2)) as heartbeat:
            both.wait()
            time.sleep(seconds if rank == late else 0)
            ended.append(rank)
            batch._leave_together(heartbeat, meeting)
            left.append((rank, len(ended)))

    both = threading.Barrier(2)
    threads = [threading.Thread(target=leave, args=(rank,), daemon=True) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(left) == [(0, 2), (1, 2)] and not meeting.exists()


def test_a_process_of_this_machine_that_has_ended_is_dead_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another machine, or container, of that number may live."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with Heartbeat(tmp_path, Ranks(0, 3), "run") as heartbeat:
        for rank, number in ((1, process.pid), (2, os.getpid())):
            monkeypatch.setattr(os, "getpid", lambda number=number: number)
            Heartbeat(tmp_path, Ranks(rank, 3), "run").say("running")
        assert heartbeat.others() == {1: ("dead", "its process has ended"), 2: ("running", "")}
        monkeypatch.setattr(os, "getpid", lambda: process.pid)
        Heartbeat(tmp_path, Ranks(2, 3), "another run").say("running")
        assert heartbeat.state(2) == ("running", "")  # this run's has yet to start
        said = json.loads((tmp_path / "rank-1").read_text())
        (tmp_path / "rank-1").write_text(json.dumps({**said, "process": ["elsewhere", process.pid]}))
        assert heartbeat.state(1) == ("running", "")
        for age, state in ((170, "running"), (190, "dead")):
            past = (tmp_path / "rank-0").stat().st_mtime - age
            os.utime(tmp_path / "rank-1", (past, past))
            heartbeat._born = past
            assert heartbeat.state(1)[0] == state


def test_tiles_that_a_network_file_system_shows_late(
    tmp_path: Path, in_processes: InProcesses, alone: np.ndarray
) -> None:
    """The other process has said that it has done its share, and its tiles are not seen yet."""
    output = tmp_path / "o.tif"
    [ends] = in_processes(output, [[{"rank": 1, "world": 2}, {"rank": 0, "world": 2, "blind": 1.5}]], tile=13)
    assert [code for code, _ in ends] == [0, 0], ends
    assert np.array_equal(stored(output), alone)
