"""The emulated grid itself, and the host's forms of the kernels' small functions."""

from __future__ import annotations

import ctypes

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .cases import random


def test_emulation_notices_faults(emulation: ctypes.CDLL) -> None:
    out = (ctypes.c_float * 64)()

    def run(fault: int) -> tuple[str | None, list[float]]:
        message = emulation.lkca_emulation_fault(fault, ctypes.addressof(out), 64)
        return None if message is None else message.decode(), list(out)

    right = [float((t + 1) % 64) for t in range(64)]
    assert run(0) == (None, right)
    missing_barrier = []
    for order in (0, 1):
        emulation.lkca_emulation_thread_order(order)
        missing_barrier.append(run(1)[1] == right)
    emulation.lkca_emulation_thread_order(0)
    assert missing_barrier != [True, True]
    run(0)
    assert run(7) == (None, right[1:] + right[:1])  # copies of `right`
    assert all(value != value for value in run(6)[1])
    for fault, words in {2: "outside", 3: "misaligned", 4: "barrier", 5: "past its end"}.items():
        message, _ = run(fault)
        assert message is not None and words in message, (fault, message)


def test_conversions(emulation: ctypes.CDLL) -> None:
    """The host's storage conversions agree with torch's: all 16-bit values, and floats at every rounding border."""
    for code, dtype in ((1, torch.float16), (2, torch.bfloat16)):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        values = every[~every.isnan()].float()
        between = (values[:-1].double() + values[1:].double()).div(2).float()
        near = torch.cat(
            [values, between, between.nextafter(torch.tensor(9e38)), random(2000, dtype=torch.float32, seed=0)]
        )
        near = near[~near.isnan()][::3]
        got = torch.tensor([emulation.lkca_emulation_round(code, v) for v in near.tolist()])
        assert torch.equal(got, near.to(dtype).float())
        assert emulation.lkca_emulation_round(code, float("nan")) != emulation.lkca_emulation_round(code, float("nan"))


@given(divisor=st.integers(1, 2**31 - 1), n=st.integers(0, 2**31 - 1))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fast_division(emulation: ctypes.CDLL, divisor: int, n: int) -> None:
    for value in {n, n // divisor * divisor, max(0, n // divisor * divisor - 1)}:
        assert emulation.lkca_emulation_divide(divisor, value) == value // divisor


def test_border_rule_without_a_loop(emulation: ctypes.CDLL) -> None:
    """The kernels' short form of bicubic_border, over all that taps reach."""
    for size in range(1, 9):
        for i in range(-2, size + 2):
            for convention in (0, 1):
                short, full = (
                    f(i, size, convention) for f in (emulation.lkca_emulation_inside, emulation.lkca_emulation_border)
                )
                assert short == full, (i, size, convention)


def test_blocks_of_the_forward_are_even(emulation: ctypes.CDLL) -> None:
    """Of a card with 132 multiprocessors that run 4 blocks each; a pixel tile has 16 chunks."""

    def splits(tiles: int) -> int:
        return int(emulation.lkca_emulation_even_splits(tiles, 16, 132, 4))

    assert splits(512) == splits(2048) == 1  # 3.9 and 15.5 tiles to a multiprocessor: nothing to be won
    assert splits(128) == 4  # each has four blocks
    assert splits(1) == splits(32) == 16  # there are no more, and room is left
    assert emulation.lkca_emulation_even_splits(1, 500, 132, 4) == 500
