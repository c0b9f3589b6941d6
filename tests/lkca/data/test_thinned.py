"""What is kept of a scene does not depend on how it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from lkca.data import Window
from lkca.data.thinned import Thinned
from lkca.data.window import pieces


@pytest.mark.parametrize(("rows", "cols", "step"), [(7, 1024, 1), (1025, 9, 2), (11, 3500, 4)])
@pytest.mark.parametrize("side", [1, 5, 1000])
def test_every_kth_pixel_however_it_is_cut(rows: int, cols: int, step: int, side: int) -> None:
    scene = np.arange(2 * rows * cols, dtype=np.float32).reshape(2, rows, cols)
    thinned = Thinned(2, rows, cols)
    assert thinned.step == step and np.isnan(thinned.pixels).all()
    for window in pieces(Window.full(rows, cols), side, side + 2):
        thinned.put(window, thinned.of(window, scene[(slice(None), *window.slices)]))
    np.testing.assert_array_equal(thinned.pixels, scene[:, ::step, ::step])
