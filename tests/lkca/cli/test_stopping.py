"""What a signal does to a command that trains, whenever it comes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lkca.cli import stopping as module
from lkca.cli.stopping import stopping


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(module, "time", clock)
    return clock


def at(step: int) -> Any:
    return SimpleNamespace(step=step)


def test_the_first_waits_for_a_report_and_the_next_does_not(clock: SimpleNamespace) -> None:
    with stopping(lambda progress: None) as watch:
        watch(at(1))
        signal.raise_signal(signal.SIGINT)
        clock.now += 0.5
        signal.raise_signal(signal.SIGTERM)  # of the same wish
        with pytest.raises(KeyboardInterrupt):
            watch(at(2))
        clock.now += 10
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_before_the_first_step_it_acts_at_once() -> None:
    with stopping(lambda progress: None) as watch:
        watch(at(0))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("step", [0, 1])
def test_what_ends_the_command_gives_its_exit_code(clock: SimpleNamespace, step: int) -> None:
    """After SIGTERM it was Ctrl-C's, 130."""
    for number, error in ((signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)):
        with pytest.raises(error) as told, stopping(lambda progress: None) as watch:
            watch(at(step))
            signal.raise_signal(number)
            clock.now += 10
            signal.raise_signal(number)  # after a step, the second one
        assert number == signal.SIGINT or told.value.code == 143


def test_a_terminal_that_has_gone_costs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*said: object) -> None:
        raise OSError("no terminal")

    monkeypatch.setattr(module, "note", gone)
    with stopping(lambda progress: None) as watch:
        watch(at(1))
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            watch(at(2))


def test_what_was_ignored_still_is() -> None:
    """A shell that is no terminal starts a command in the background so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping(lambda progress: None) as watch:
        watch(at(1))
        signal.raise_signal(signal.SIGINT)
        watch(at(2))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
