from __future__ import annotations

import numpy as np
import pytest

from lkca.data import Window
from lkca.data.window import pieces, row_strips
from lkca.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:68,0:90", Window(0, 0, 68, 90)),
        ("0:68,:", Window(0, 0, 68, 90)),
        (",", Window(0, 0, 80, 90)),
        ("-12:,10:-10", Window(68, 10, 12, 70)),
        (" 5 : 7 , 3 : 4 ", Window(5, 3, 2, 1)),
    ],
)
def test_parse_means_what_python_slices_mean(text: str, expected: Window) -> None:
    window = Window.parse(text, (80, 90))
    assert window == expected
    scene = np.arange(80 * 90).reshape(80, 90)
    rows, cols = (
        slice(*(int(end) if end.strip() else None for end in part.split(":"))) if part.strip() else slice(None)
        for part in text.split(",")
    )
    assert np.array_equal(scene[window.slices], scene[rows, cols])


@pytest.mark.parametrize(
    "text", ["0:10", "0:10,0:10,0:10", "a:b,:", "0:10:2,:", "5:5,:", "0:0,:", "8:3,:", "0:81,:", "-90:,:", "3,4"]
)
def test_parse_refuses_with_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match="region"):
        Window.parse(text, (80, 90))


def test_parse_without_a_shape_needs_both_ends() -> None:
    assert Window.parse("0:68,2:100") == Window.parse(":68,2:100") == Window(0, 2, 68, 98)
    for text in ("0:68,:", "0:68,2:-1", "-3:68,2:4"):
        with pytest.raises(InputError, match="open or negative"):
            Window.parse(text)


def test_check_names_the_scene() -> None:
    for inside in (Window(0, 0, 4, 5), Window(3, 4, 1, 1)):
        inside.check(4, 5, "x.tif")
    for window in (Window(1, 0, 4, 5), Window(0, 1, 4, 5), Window(-1, 0, 2, 2), Window(0, -1, 2, 2)):
        with pytest.raises(InputError, match=r"x\.tif.*4 rows x 5 columns"):
            window.check(4, 5, "x.tif")
    for window in (Window(0, 0, 0, 5), Window(0, 0, 4, 0)):
        with pytest.raises(InputError, match="holds no pixel"):
            window.check(4, 5, "x.tif")


def test_widened_stops_at_the_scene() -> None:
    assert Window(5, 6, 2, 3).widened(2, 20, 20) == Window(3, 4, 6, 7)
    assert Window(1, 0, 18, 4).widened(3, 20, 30) == Window(0, 0, 20, 7)
    assert Window(4, 26, 1, 4).widened(9, 20, 30) == Window(0, 17, 14, 13)


def test_overlap_and_coarse() -> None:
    assert Window(2, 3, 10, 4).overlap(Window(5, 0, 20, 5)) == Window(5, 3, 7, 2)
    apart = Window(0, 0, 2, 9).overlap(Window(4, 1, 3, 2))
    assert apart.height == 0 and apart.width == 2
    beside = Window(0, 0, 9, 2).overlap(Window(1, 4, 2, 3))
    assert beside.height == 2 and beside.width == 0
    assert Window(8, 4, 12, 16).coarse(4) == Window(2, 1, 3, 4)


def test_centre() -> None:
    assert Window.centre(80, 91, 8, 256) == Window(36, 0, 8, 91)
    assert Window.centre(5, 8, 2, 3) == Window(1, 2, 2, 3)


def test_strips_and_pieces_cover_the_scene() -> None:
    assert [str(w) for w in pieces(Window(2, 1, 5, 3), 3, 2)] == ["2:5,1:3", "2:5,3:4", "5:7,1:3", "5:7,3:4"]
    strips = list(row_strips(5, 2**12, 2**11))
    assert strips == [Window(0, 0, 2, 2**12), Window(2, 0, 2, 2**12), Window(4, 0, 1, 2**12)]
    assert list(row_strips(2, 2**13, 2**12)) == [Window(0, 0, 1, 2**13), Window(1, 0, 1, 2**13)]
