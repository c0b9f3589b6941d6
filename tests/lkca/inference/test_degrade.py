"""Scenes made coarser block by block: what comes out is what the whole array gives, byte by byte."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from affine import Affine

from lkca.data import Cube, CubeMeta, Window, open_cube, write_cube
from lkca.data.degradation import Degradation, DegradationMethod
from lkca.errors import InputError
from lkca.inference import degrade, degrade_scene
from lkca.inference.degrade import degrade_array, degraded

METHODS = get_args(DegradationMethod)


def whole(cube: np.ndarray, degradation: Degradation) -> np.ndarray:
    rows, cols = (size // degradation.scale * degradation.scale for size in cube.shape[1:])
    return degrade_array(cube[:, :rows, :cols], degradation)


def test_a_wide_gaussian_does_not_filter_pixel_by_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its margin leaves no room for a block in the samples that are read at once: each pixel was filtered by itself."""
    blocks: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        degrade, "degrade_array", lambda part, how: blocks.append(part.shape) or degrade_array(part, how)
    )
    scene = np.random.default_rng(0).random((2, 24, 32), dtype=np.float32)
    degradation = Degradation(method="gaussian", scale=4, sigma=250.0)
    low = degraded(Cube.from_array(scene), degradation).read()
    assert blocks == [(1, 24, 32)] * 2
    np.testing.assert_array_equal(low, degrade_array(scene, degradation))


@pytest.mark.parametrize("samples", [1, 3000, 20_000])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("method", METHODS)
def test_blocks_leave_no_trace(
    monkeypatch: pytest.MonkeyPatch, holed_scene: np.ndarray, method: DegradationMethod, scale: int, samples: int
) -> None:
    """With holes, an empty corner, a band that ends, lone samples; blocks as wide as their margin, some, and strips."""
    degradation = Degradation(method=method, scale=scale)
    expected = whole(holed_scene, degradation)
    assert np.isnan(expected).any() and np.isfinite(expected).any()
    monkeypatch.setattr(degrade, "_BLOCK_SAMPLES", samples)
    monkeypatch.setattr(degrade, "_CHUNK_SAMPLES", samples // 2)
    rows, cols = (size * scale for size in expected.shape[1:])
    low = degraded(Cube.from_array(holed_scene).region(Window(0, 0, rows, cols)), degradation)
    np.testing.assert_array_equal(low.read(), expected)
    part, bands = Window(2, 1, 3, 4), [4, 1]
    np.testing.assert_array_equal(low.read(part, bands), expected[(bands, *part.slices)])


@pytest.mark.parametrize("method", METHODS)
def test_any_gaps(monkeypatch: pytest.MonkeyPatch, method: DegradationMethod) -> None:
    """Ties among the nearest valid pixels, gaps wider than a block, scenes narrower than the filter."""
    monkeypatch.setattr(degrade, "_BLOCK_SAMPLES", 600)
    rng = np.random.default_rng(1)
    for shape, share in (
        ((2, 40, 36), 0.05),
        ((1, 64, 40), 0.6),
        ((2, 4, 60), 0.3),
        ((3, 36, 4), 0.5),
        ((1, 8, 8), 0.9),
    ):
        for _ in range(4):
            cube = rng.random(shape, dtype=np.float32)
            cube[rng.random(shape) < share] = np.nan
            cube[:, : shape[1] // 3, : shape[2] // 2] = np.nan
            degradation = Degradation(method=method, scale=4)
            np.testing.assert_array_equal(degraded(Cube.from_array(cube), degradation).read(), whole(cube, degradation))


@pytest.mark.parametrize(("suffix", "order"), [(".tif", "bsq"), (".img", "bip"), (".npz", "bsq")])
def test_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holed_scene: np.ndarray, suffix: str, order: str
) -> None:
    """Window by window into the output; the georeference goes with it, and the cut is said."""
    source, output, transform = tmp_path / "in.img", tmp_path / f"out{suffix}", Affine(30, 0, 5e5, 0, -30, 5e6)
    meta = CubeMeta(
        stored_dtype=np.dtype(np.int16), scale_factor=1e-4, nodata=-9999.0, transform=transform, interleave=order,
        wavelengths=np.linspace(450.0, 650.0, 5),
    )  # fmt: skip
    write_cube(source, holed_scene, meta)
    degradation = Degradation(scale=2)
    monkeypatch.setattr(degrade, "_BLOCK_SAMPLES", 2000)
    with open_cube(source) as cube:
        expected = whole(cube.read(), degradation)
        report = degrade_scene(cube, output, degradation)
        with pytest.raises(InputError, match="exists already"):
            degrade_scene(cube, output, degradation)
        with pytest.raises(InputError, match="is an input"):
            degrade_scene(cube, source, degradation, overwrite=True)
    assert report.shape == (30, 26, 5) and "cut from 0:61,0:53 to 0:60,0:52" in report.warnings[0]
    write_cube(tmp_path / f"whole{suffix}", expected, meta)
    with open_cube(output) as low, open_cube(tmp_path / f"whole{suffix}") as at_once:
        assert low.meta.transform == transform @ Affine.scale(2)
        np.testing.assert_array_equal(low.read(), at_once.read())


def test_a_part_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holed_scene: np.ndarray) -> None:
    def broken(window: Window, bands: np.ndarray) -> np.ndarray:
        if window.row > 20:
            raise OSError("bad sector")
        return holed_scene[(bands, *window.slices)]

    monkeypatch.setattr(degrade, "_BLOCK_SAMPLES", 2000)
    cube = Cube("scene", (61, 53, 5), CubeMeta(), broken, format="test")
    with pytest.raises(InputError, match="bad sector"):
        degrade_scene(cube, tmp_path / "out.tif", Degradation(scale=2))
    assert not list(tmp_path.iterdir())


def test_closing_a_coarser_cube_closes_its_source() -> None:
    closed: list[bool] = []
    values = np.ones((2, 4, 4), dtype=np.float32)
    cube = Cube(
        "scene", (4, 4, 2), CubeMeta(), lambda window, bands: values[(bands, *window.slices)], format="test",
        close=lambda: closed.append(True),
    )  # fmt: skip
    degraded(cube, Degradation(scale=2)).close()
    assert closed
