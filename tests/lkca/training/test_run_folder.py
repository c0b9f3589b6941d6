"""What a run keeps in its folder, and how it goes on: stopped, killed, damaged, with other data, twice at once."""

from __future__ import annotations

import concurrent.futures
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lkca.errors import InputError, OutputError
from lkca.models.directory import load_model
from lkca.output import alone_in
from lkca.training import Progress
from lkca.training.checkpoint import latest_checkpoint
from lkca.training.trainer import _signals

from .runs import run, settings, weights, worst

pytest.importorskip("accelerate", reason="needs the extra 'train'")


@pytest.fixture(scope="module")
def stopped(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After its third step, which left a state."""
    folder = tmp_path_factory.mktemp("stopped") / "run"

    def interrupt(progress: Progress) -> None:
        if progress.step == 3:
            signal.raise_signal(signal.SIGTERM)

    run(folder, settings(dataset, validate_every=3), callback=interrupt)
    return folder


IN_IT = """
import sys, time
from pathlib import Path
from lkca.output import alone_in
with alone_in(Path(sys.argv[1])):
    print("in it", flush=True)
    time.sleep(100)
"""


def test_two_runs_in_one_folder(stopped: Path, dataset: Path, tmp_path: Path) -> None:
    """They wrote over each other's states. Of one that was killed nothing is left to wait for."""
    folder, values = shutil.copytree(stopped, tmp_path / "run"), settings(dataset, validate_every=3)
    command = [sys.executable, "-c", IN_IT, str(folder)]
    before = [*folder.rglob("*")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline()
            for how in ({"resume": True}, {"overwrite": True}):
                with pytest.raises(InputError, match="another process is at work in it"):
                    run(folder, values, **how)
            assert {*folder.rglob("*")} == {*before, folder / ".lock"}
        finally:
            other.kill()
    refused: list[str] = []

    def look(progress: Progress) -> None:
        refused.append(subprocess.run(command, capture_output=True, text=True).stderr)
        signal.raise_signal(signal.SIGTERM)

    assert run(folder, values, resume=True, callback=look).end == "interrupted"
    assert "another process is at work in it" in refused[0]


def test_two_threads_in_one_folder(tmp_path: Path) -> None:
    """A process's own lock lets its second thread in, whose end gives up the first one's."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread, alone_in(tmp_path):
        with pytest.raises(InputError, match="another run of this process is at work in it"):
            thread.submit(alone_in(tmp_path).__enter__).result()
        command = [sys.executable, "-c", IN_IT, str(tmp_path)]
        assert "another process is at work in it" in subprocess.run(command, capture_output=True, text=True).stderr
    with alone_in(tmp_path):
        pass


def test_time_adds_up_over_the_parts_of_a_run(
    dataset: Path, tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is that of one part: 9 steps of 8 s, the clock being read twice in each, are within its 90 s."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    path = folder / "checkpoints" / "step-00000003" / "state.pt"
    state = torch.load(path)
    assert state["progress"]["best_step"] == 3  # the validation of its own step is in it
    state["progress"]["seconds"] = 1000.0
    torch.save(state, path)
    clock = SimpleNamespace(monotonic=partial(next, itertools.count(0, 4)))
    monkeypatch.setattr("lkca.training.trainer.time", clock)
    result = run(folder, settings(dataset, validate_every=3, minutes=1.5), resume=True)
    assert (result.end, result.seconds) == ("done", 1072)
    assert load_model(folder / "last").config.training.seconds == 1072


def test_stopped_by_its_time_or_a_signal_and_gone_on_with(dataset: Path, tmp_path: Path) -> None:
    values = settings(dataset, steps=6)
    first = run(tmp_path / "run", values | {"minutes": 1e-9})
    assert (first.end, first.steps, first.model) == ("time", 0, None)

    def interrupt(progress: Progress) -> None:
        if progress.step == 4:
            signal.raise_signal(signal.SIGTERM)

    second = run(tmp_path / "run", values, resume=True, callback=interrupt)
    assert "minutes: null\n" in (tmp_path / "run" / "config.yaml").read_text()
    assert (second.end, second.steps) == ("interrupted", 4) and not (tmp_path / "run" / "last").exists()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
    assert load_model(tmp_path / "run" / "best").config.training.interrupted
    assert run(tmp_path / "run", values, resume=True).steps == 6
    run(tmp_path / "whole", values)
    assert worst(weights(tmp_path / "whole"), weights(tmp_path / "run")) < 1e-5


def test_overwriting_begins_anew(stopped: Path, dataset: Path, tmp_path: Path) -> None:
    """And leaves no model of the run before, should the new one be stopped early."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    (folder / "tensorboard").mkdir()
    result = run(folder, settings(dataset, minutes=1e-9), overwrite=True)
    assert (result.steps, result.model) == (0, None)
    assert {path.name for path in folder.iterdir()} == {".lock", "config.yaml", "checkpoints"}


def test_an_absent_tensorboard_costs_no_run(
    stopped: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the one that is to be overwritten, nor an --overwrite for the next attempt."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    before = {path.name for path in folder.iterdir()}
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for path in (folder, tmp_path / "new"):
        with pytest.raises(InputError, match=r"TensorBoard is not installed; pip install 'lkca\[train\]'"):
            run(path, settings(dataset, tensorboard=True), overwrite=True)
    assert {path.name for path in folder.iterdir()} == before and not (tmp_path / "new").exists()


def test_one_signal_is_heeded_and_the_next_acts_at_once() -> None:
    wish, both = threading.Event(), (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in both]
    with _signals(wish):
        signal.raise_signal(signal.SIGINT)
        assert wish.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in both] == before
    with concurrent.futures.ThreadPoolExecutor() as pool:  # which may not set handlers
        pool.submit(_signals(wish).__enter__).result()


def test_a_state_that_is_there_is_not_written_again(
    dataset: Path, tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped right after a state replaced it by the same: a kill on the way left none."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)

    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if target.parent.name == "checkpoints":
            raise SystemExit
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        assert run(folder, settings(dataset, validate_every=3, minutes=1e-9), resume=True).end == "time"
    assert worst(weights(stopped), weights(folder)) == 0


def test_a_full_disk_leaves_no_half_of_a_state(
    dataset: Path, tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    words = r"step-00000003: the state could not be written \(.*\); free some space, then go on with --resume"
    with full_disk(5_000), pytest.raises(OutputError, match=words):
        run(tmp_path / "run", settings(dataset, validate_every=9))
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_folder_that_cannot_be_made(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ended as unexpected failures."""

    def full(self: Path, **_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with pytest.raises(InputError, match="too long a name; give the output a shorter one"):
        run(tmp_path / ("n" * 300), settings(dataset))
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OutputError, match=r"run: cannot be made \(No space left on device\); choose another folder"):
        run(tmp_path / "run", settings(dataset))


def test_what_a_kill_left_half_written_is_cleared_away(
    dataset: Path, tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames of a model, and while the configuration is written again."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (folder / ".best.x.old").mkdir()
    (folder / "best").rename(folder / ".best.x.old" / "best")
    (folder / ".last.x.part").mkdir()
    (folder / "checkpoints" / "step-00000001").mkdir()  # and while an older state is removed
    text = (folder / "config.yaml").read_text()

    def killed(path: Path, text: str, **_: object) -> None:
        path.write_bytes(text[:20].encode())
        raise SystemExit

    again = settings(dataset, validate_every=3, minutes=1e-9)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(SystemExit):
            run(folder, again, resume=True)
    assert (folder / "config.yaml").read_text() == text
    assert run(folder, again, resume=True).metrics == load_model(folder / "best").config.validation.scores
    assert [path.name for path in folder.glob(".*")] == [".lock"]


class Harmful:
    """What a pickle of another's makes: a folder here, anything else elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: torch.save(torch.load(state) | {"optimiser": Harmful(state.with_name("ran"))}, state),
        lambda state: state.write_bytes(b""),  # as a power cut leaves it
        lambda state: state.write_bytes(state.read_bytes()[:5000]),
        lambda state: state.write_bytes(bytes(5000)),
        lambda state: torch.save(torch.load(state) | {"optimiser": None}, state),
        lambda state: (state.parent / "weights.safetensors").write_bytes(b""),
        lambda state: state.unlink(),
    ],
    ids=("harmful", "empty", "cut", "zeros", "no optimiser", "empty weights", "missing"),
)
def test_a_damaged_state_is_named(
    dataset: Path, tmp_path: Path, stopped: Path, damage: Callable[[Path], object]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    damage(folder / "checkpoints" / "step-00000003" / "state.pt")
    with pytest.raises(InputError, match=r"step-00000003: is not a state of this run \(.+\); nothing .* --overwrite"):
        run(folder, settings(dataset, validate_every=3), resume=True)
    assert load_model(folder / "best").config.scale == 2  # nothing is removed
    assert not list(folder.rglob("ran"))


@pytest.mark.parametrize("change", ["gone", "taller", "brighter"])
def test_a_run_does_not_go_on_with_other_data(tmp_path: Path, dataset: Path, change: str) -> None:
    """Before, it learned from one set and recorded the other."""
    import h5py

    file = Path(shutil.copy(dataset, tmp_path / "own.h5"))
    values = settings(file, steps=4)
    run(tmp_path / "run", values)
    run(tmp_path / "run", values, resume=True)
    with h5py.File(file, "r+") as data:
        if change == "brighter":
            data.attrs["peak"] = 2 * data.attrs["peak"]
        else:
            two = data["train/two"]
            samples, attributes = np.concatenate([two[()], two[()]], 1), dict(two.attrs)
            del data["train/two"]
            if change == "taller":
                data["train/two"] = samples
                data["train/two"].attrs.update(attributes | {"region": "0:72,0:70"})
    before = (tmp_path / "run" / "best" / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"data: the run in .* began with other scenes or another peak"):
        run(tmp_path / "run", values, resume=True)
    assert (tmp_path / "run" / "best" / "config.json").read_bytes() == before


def test_a_state_of_before_goes_on_and_takes_down_its_data(stopped: Path, dataset: Path, tmp_path: Path) -> None:
    """Older states have no list of scenes; from its first resumption on such a run is held to those it then has."""
    folder = shutil.copytree(stopped, tmp_path / "run")

    def state() -> tuple[Path, Any]:
        path = latest_checkpoint(folder / "checkpoints")
        assert path is not None
        return path / "state.pt", torch.load(path / "state.pt", weights_only=True)

    path, content = state()
    data = content["progress"].pop("data")
    torch.save(content, path)
    assert run(folder, settings(dataset, validate_every=3), resume=True).end == "done"
    assert state()[1]["progress"]["data"] == data != []
