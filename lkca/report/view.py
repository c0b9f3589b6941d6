"""The part of a scene that a report shows, at full resolution: every cube of it that is known, on one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lkca.data import Cube, Window
from lkca.errors import InputError
from lkca.evaluation import Evaluation
from lkca.inference.array import bicubic_array, tile_margin
from lkca.views import pictured_window

__all__ = ["SceneView", "view_of_evaluation", "view_of_files"]


@dataclass(frozen=True)
class SceneView:
    """Cubes in physical units, float32, NaN where missing.

    window: what is shown, in fine pixels of a scene of ``shape`` (rows, cols). low: (bands, rows/s, cols/s) or None.
    images: fine cubes (bands, rows, cols) by name, in the order in which they are shown; "truth" where it is known.
    good: (bands,) bool. wavelengths: nm. peak: of the reference, None where there is none.
    """

    source: str
    scale: int
    window: Window
    shape: tuple[int, int]
    low: np.ndarray | None
    images: Mapping[str, np.ndarray]
    good: np.ndarray
    wavelengths: np.ndarray | None
    peak: float | None = None

    @property
    def base(self) -> np.ndarray:
        """The cube that decides stretch, pixels and crops, so that no result is favoured: truth, else bicubic."""
        return self.images["truth"] if "truth" in self.images else next(iter(self.images.values()))

    @property
    def whole(self) -> bool:
        """Whether the whole scene is shown."""
        return (self.window.height, self.window.width) == self.shape


def view_of_evaluation(result: Evaluation) -> SceneView | None:
    """The middle of an evaluated region; None where it was not kept."""
    middle = result.middle
    if middle is None:
        return None
    return SceneView(
        source=result.source,
        scale=result.scale,
        window=middle.part.shifted(result.window.row, result.window.col),
        shape=(result.window.height, result.window.width),
        low=middle.low,
        images=middle.results | {"truth": middle.truth},
        good=result.scored,
        wavelengths=result.wavelengths,
        peak=result.peak,
    )


def view_of_files(
    prediction: Cube,
    scale: int,
    *,
    low: Cube | None = None,
    reference: Cube | None = None,
    result: Evaluation | None = None,
) -> SceneView:
    """The middle of a finished prediction (:func:`pictured_window`), beside the coarse cube that it came from and the
    truth, where given.

    result: scores of prediction against reference, which says what region they share. Only the part that is shown is
    read. Raises InputError where the sizes do not fit.
    """
    size = (prediction.rows, prediction.cols)
    inside = Window.full(*size)
    if result is not None and size != (result.window.height, result.window.width):
        inside = result.window
    if low is not None:
        _check_pair(low, prediction, scale)
        inside = Window(0, 0, inside.height // scale * scale, inside.width // scale * scale)
    corner = inside if result is None else result.window
    shared = prediction.region(inside) if reference is None else reference.region(corner)
    part = pictured_window(shared, scale)
    at = part.shifted(inside.row, inside.col)  # in the prediction
    good = prediction.good_bands.copy()
    images: dict[str, np.ndarray] = {}
    coarse = None
    if low is not None:
        good &= low.good_bands
        coarse, images["bicubic"] = _coarse_and_bicubic(low, at, scale)
    images["prediction"] = prediction.read(at)
    window = at
    if reference is not None:
        window = part.shifted(corner.row, corner.col)
        good &= reference.good_bands
        images["truth"] = reference.read(window)
    base = images["truth"] if "truth" in images else images["prediction"]
    good &= np.isfinite(base).any(axis=(1, 2))
    if not good.any():
        raise InputError(f"{prediction.source}: the part to be shown, {at}, holds no valid sample in any good band")
    described = next(cube for cube in (reference, low, prediction) if cube is not None)
    return SceneView(
        source=prediction.source,
        scale=scale,
        window=window,
        shape=(inside.height, inside.width),
        low=coarse,
        images=images,
        good=good,
        wavelengths=described.meta.wavelengths,
        peak=None if result is None else result.peak,
    )


def _check_pair(low: Cube, prediction: Cube, scale: int) -> None:
    expected = (low.rows * scale, low.cols * scale, low.bands)
    if prediction.shape != expected:
        found, wanted = (" × ".join(map(str, shape)) for shape in (prediction.shape, expected))
        raise InputError(
            f"{prediction.source}: is {found} (rows × columns × bands), expected {wanted}: ×{scale} of the input "
            f"{low.source}; give the cube that was made of that input"
        )


def _coarse_and_bicubic(low: Cube, fine: Window, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The coarse samples under a fine window, and their bicubic upsampling as that of the whole scene."""
    part = fine.coarse(scale)
    wide = part.widened(tile_margin(None), low.rows, low.cols)
    around = low.read(wide)
    inner = part.shifted(-wide.row, -wide.col)
    upscaled = bicubic_array(around, scale)
    return around[(slice(None), *inner.slices)], upscaled[(slice(None), *inner.scaled(scale).slices)]
