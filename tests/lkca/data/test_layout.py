"""Where samples lie in a file: every window at its place, whatever the order, and nothing twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lkca.data import Window
from lkca.data.window import pieces
from lkca.data.writers import blocks
from lkca.data.writers.layout import Layout, Planes, Pyramid
from lkca.data.writers.tiff import Entry, head, read_directory

DTYPE = np.dtype(np.int16)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(1, 70))
    if draw(st.booleans()):
        return Planes(shape, DTYPE)
    return Pyramid(shape, DTYPE, draw(st.integers(0, 5000)), (16, draw(st.sampled_from([16, 32]))))


@settings(deadline=None)
@given(layout=layouts(), height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_windows_find_their_place(
    tmp_path_factory: pytest.TempPathFactory, layout: Layout, height: int, width: int, seed: int
) -> None:
    rng, file = np.random.default_rng(seed), tmp_path_factory.mktemp("layout") / "samples"
    cube = rng.integers(1, 30000, layout.shape, dtype=np.int16)
    content, times = np.zeros(layout.nbytes, np.uint8), np.zeros(layout.nbytes, np.uint8)
    windows = list(pieces(Window.full(*layout.shape[1:]), height, width))
    rng.shuffle(windows)  # type: ignore[arg-type]
    for window in windows:
        extents = []
        for band in range(len(cube)):
            for start, part in layout.parts(window, band, cube[(slice(band, band + 1), *window.slices)]):
                assert part.flags.c_contiguous
                content[start : start + part.nbytes] = part.view(np.uint8).ravel()
                times[start : start + part.nbytes] += 1
                extents.append((start, part.nbytes))
        assert list(layout.extents(window)) == extents
    assert times.max() == 1 and (content.view(DTYPE) > 0).sum() == cube.size
    content.tofile(file)
    for window in (*windows[:3], Window.full(*layout.shape[1:])):
        np.testing.assert_array_equal(
            layout.read(file, window, slice(len(cube) - 1, None)), cube[(slice(len(cube) - 1, None), *window.slices)]
        )
    assert Layout.of(layout.shape, DTYPE, layout.place) == layout


def test_a_call_that_writes_less_than_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of more than 2 GiB does; and as it is done where there is no pwrite."""

    def few(file: int, samples: Any, start: int) -> int:
        return blocks._seek_and_write(file, memoryview(samples).cast("B")[:40], start)

    samples = np.arange(99, dtype=DTYPE).reshape(9, 11)
    monkeypatch.setattr(blocks, "_put", few)
    file = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
    blocks.write_at(file, samples, 7)
    os.close(file)
    assert (tmp_path / "x").read_bytes() == bytes(7) + samples.tobytes()


def test_levels_follow_each_other() -> None:
    layout = Pyramid((3, 1000, 513), DTYPE, 77, (256, 256))
    assert [level.shape for level in layout.levels] == [(3, 1000, 513), (3, 500, 257), (3, 250, 129)]
    begins, ends = ([getattr(level, name) for level in reversed(layout.levels)] for name in ("start", "end"))
    assert begins[0] == 4096 and all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))
    assert layout.nbytes == ends[-1] and all(begin % 4096 == 0 for begin in begins)
    assert layout.levels[1].offset(2, 1, 1) == layout.levels[1].offsets[-1]


@pytest.mark.parametrize("big", [False, True])
def test_directories_come_back(tmp_path: Path, big: bool) -> None:
    """Values that stand in their entry and others; the second directory is found behind the first."""
    tags = {300: Entry(3, 1, b"\1\0"), 256: Entry(2, 5, b"abcd\0"), 270: Entry(12, 2, bytes(range(16)))}
    (tmp_path / "x").write_bytes(head([tags, {257: Entry(4, 1, b"wxyz")}], big=big))
    found, is_big = read_directory(tmp_path / "x")
    assert (found, is_big, list(found)) == (tags, big, [256, 270, 300])
    (tmp_path / "y").write_bytes(head([{257: Entry(4, 1, b"wxyz")}], big=big))
    assert read_directory(tmp_path / "y") == ({257: Entry(4, 1, b"wxyz")}, big)
