"""Tiles leave no trace in the result, and keep within their budget."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.env import get_gdal_config

import lkca
from lkca.data import Cube, CubeMeta, Window, open_cube
from lkca.data.gdal import bounded_cache
from lkca.data.memory import resident_memory
from lkca.errors import InputError
from lkca.inference import SceneOptions, plan_scene, upscale_scene
from lkca.inference.array import Upscaler, tile_margin
from lkca.inference.device import card_memory
from lkca.inference.fill import fill_missing, fill_spectra
from lkca.inference.plan import (
    MemoryBudget,
    TilePlan,
    copied_rows,
    plan_tiles,
    size_text,
    tile_bytes,
)
from lkca.inference.ranks import Ranks
from lkca.inference.stream import stream
from lkca.inference.strips import Piece
from lkca.inference.task import Task
from lkca.inference.windows import parse_roi, whole_pixels
from lkca.models.directory import LoadedModel

KINDS = ("full rank", "low rank", "shared body", "components", "no attention", "bicubic")
Models = Callable[..., LoadedModel]


def difference(one: np.ndarray, two: np.ndarray) -> float:
    """Largest difference, in units of the range; samples must be missing in both or in neither."""
    assert np.array_equal(np.isnan(one), np.isnan(two))
    return float(np.nanmax(np.abs(one - two)) / (np.nanmax(two) - np.nanmin(two)))


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_leave_no_trace(model_of: Models, meta: CubeMeta, holed_scene: np.ndarray, kind: str, scale: int) -> None:
    """With a hole, a swath's corner, a band that is lost in a part of the scene, and lone missing samples."""
    model = "bicubic" if kind == "bicubic" else model_of(kind, scale)
    cube = Cube.from_array(holed_scene, meta)
    whole = lkca.upscale(cube, model, scale=scale, tile=1000)
    assert whole.shape == (5, 61 * scale, 53 * scale)
    assert np.array_equal(np.isnan(whole), np.isnan(holed_scene).repeat(scale, 1).repeat(scale, 2))
    for tile in (1, 7, 16, 40):
        if tile > 1 or kind in ("low rank", "bicubic"):
            part = holed_scene if tile > 1 else holed_scene[:, :20, :18]
            expected = whole if tile > 1 else lkca.upscale(Cube.from_array(part, meta), model, scale=scale, tile=1000)
            assert difference(lkca.upscale(Cube.from_array(part, meta), model, scale=scale, tile=tile), expected) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_strips_leave_no_trace(
    model_of: Models, holed_scene: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nor does it matter how many rows and bands are made at once."""
    model = "bicubic" if kind == "bicubic" else model_of(kind)
    whole = lkca.upscale(holed_scene, model, scale=2)
    for name, few in (("_CHUNK_BYTES", {"cpu": 4000}), ("_CHUNK_ROWS", 7), ("_CHUNK_BANDS", 2)):
        monkeypatch.setattr(f"lkca.inference.array.{name}", few)
    strips = lkca.upscale(holed_scene, model, scale=2)
    np.testing.assert_allclose(strips, whole, rtol=0, atol=1e-5 * np.nanmax(np.abs(whole)))


@pytest.mark.parametrize("used", [[0, 2, 4], [1, 2, 3]])
def test_bands_beside_the_network(model_of: Models, meta: CubeMeta, holed_scene: np.ndarray, used: list[int]) -> None:
    """Bands that the network does not use, and one of its own that is bad."""
    model = model_of(used=used)
    good = np.arange(5) != used[1]
    cube = Cube.from_array(holed_scene, meta.replace(good_bands=good))
    whole = lkca.upscale(cube, model, tile=1000)
    assert difference(lkca.upscale(cube, model, tile=11), whole) < 1e-5
    bicubic = lkca.upscale(cube, "bicubic", scale=2)
    for band in range(5):
        assert np.array_equal(whole[band], bicubic[band], equal_nan=True) == (band not in used or band == used[1])


def test_the_halo_is_needed(model_of: Models, meta: CubeMeta, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: with half the halo, tiles show."""
    cube = Cube.from_array(np.random.default_rng(0).random((5, 40, 40), dtype=np.float32), meta)
    model = model_of()
    whole = lkca.upscale(cube, model)
    monkeypatch.setattr(type(model.net), "halo", 4)
    assert difference(lkca.upscale(cube, model, tile=16), whole) > 1e-4


def test_a_region_is_a_part_of_the_whole(
    tmp_path: Path, model_of: Models, meta: CubeMeta, holed_scene: np.ndarray
) -> None:
    """What lies around the region is read too, and the file says where on the ground it lies."""
    transform = Affine(30, 0, 500_000, 0, -30, 5_000_000)
    cube = Cube.from_array(holed_scene, meta.replace(transform=transform))
    whole = lkca.upscale(cube, model_of())
    part = lkca.upscale(cube, model_of(), roi="10:40,5:45", tile=16)
    assert difference(part, whole[:, 20:80, 10:90]) < 1e-5
    west, north = transform @ (5, 10)
    east, south = transform @ (45, 40)
    output = tmp_path / "o.tif"
    upscale_scene(cube, output, model_of(), SceneOptions(roi=f"{west},{south},{east},{north}", tile=16))
    with open_cube(output) as result:
        np.testing.assert_array_equal(result.read(), part)
        assert result.meta.transform == transform @ Affine.translation(5, 10) @ Affine.scale(0.5)


def test_regions_in_map_coordinates() -> None:
    north_up = Affine(30, 0, 500_000, 0, -30, 5_000_000)
    cube = Cube.from_array(np.zeros((2, 40, 50)), CubeMeta(transform=north_up))
    assert parse_roi("500060,4999700,500150,4999940", cube) == Window(2, 2, 8, 3)
    assert parse_roi("500081,4999729,500121,4999921", cube) == Window(2, 2, 8, 3)  # every pixel that is touched
    assert parse_roi("0,0,500030,1e7", cube) == Window(0, 0, 40, 1)  # as far as there are any
    assert parse_roi("500075,4999855,500075,4999855", cube) == Window(4, 2, 1, 1)  # a point
    assert parse_roi("30:,45:", cube) == Window(30, 45, 10, 5) and parse_roi(None, cube) == Window(0, 0, 40, 50)
    fine = Cube.from_array(np.zeros((2, 40, 50)), CubeMeta(transform=Affine(0.3, 0, 10, 0, -0.3, 50)))
    assert parse_roi("16.9,0,18.1,50", fine) == Window(0, 23, 40, 4)  # columns 22.9999… to 27.0000… in binary
    turned = Cube.from_array(np.zeros((2, 40, 50)), CubeMeta(transform=north_up @ Affine.rotation(90)))
    (x0, y0), (x1, y1) = (turned.meta.transform @ corner for corner in ((5, 2), (15, 8)))
    assert parse_roi(f"{min(x0, x1)},{min(y0, y1)},{max(x0, x1)},{max(y0, y1)}", turned) == Window(2, 5, 6, 10)
    askew = Cube.from_array(np.zeros((2, 20, 20)), CubeMeta(transform=Affine.scale(2**0.5) @ Affine.rotation(45)))
    assert parse_roi("-2,18,2,22", askew) == Window(8, 8, 4, 4)  # corners at (8, 10), (10, 8), (12, 10), (10, 12)
    for text, says in (
        ("0,0,10,10", "outside the scene"),
        ("501500,4999700,502000,4999940", "outside the scene"),  # beside its last column
        ("500060,5000030,500150,5000060", "outside the scene"),
        ("500060,5000001,500150,5000029", "outside the scene"),  # within a pixel of its first row
        ("500150,0,500060,1e7", "exchanged"),
        ("500060,1e7,500150,0", "exchanged"),
        ("1,2,3", "not understood"),
        ("nan,0,1,1", "not understood"),
        ("0:9,0:99", "outside"),
    ):
        with pytest.raises(InputError, match=says):
            parse_roi(text, cube)
    no_height, far = Affine(30, 0, 500000, 0, 0, 5000000), Affine(1e-300, 0, 1e300, 0, 1, 0)
    for transform in (None, no_height, far, Affine(30, 0, np.nan, 0, -30, 0)):
        with pytest.raises(InputError, match="no geotransform"):
            parse_roi("0,0,1,1", Cube.from_array(np.zeros((2, 4, 4)), CubeMeta(transform=transform)))


def test_regions_of_whole_coarse_pixels() -> None:
    cube = Cube.from_array(np.zeros((1, 41, 50), np.float32))
    whole, remarks = whole_pixels(cube, None, 4)
    assert whole == Window(0, 0, 40, 48) and "cut from 0:41,0:50 to 0:40,0:48" in remarks[0]
    assert whole_pixels(cube, "1:9,2:14", 4, least=2) == (Window(1, 2, 8, 12), [])
    for region in ("0:11,0:12", "0:12,0:11"):
        with pytest.raises(InputError, match="at least 12 × 12"):
            whole_pixels(cube, region, 4, least=3)


def upscaler(bands: int = 100, scale: int = 4) -> Upscaler:
    return Upscaler(None, scale, np.ones(bands, dtype=bool))


def budget(megabytes: int) -> MemoryBudget:
    return MemoryBudget(megabytes << 20, 300 << 20, "give more")


def covered(plan: TilePlan) -> np.ndarray:
    count = np.zeros((plan.area.height, plan.area.width), dtype=int)
    for tile in plan.tiles():
        count[tile.shifted(-plan.area.row, -plan.area.col).slices] += 1
    return count


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("copied", [False, True])
def test_tiles_cover_the_scene_once(scale: int, copied: bool) -> None:
    for megabytes in (700, 1500, 6000):
        plan = plan_tiles(Window(7, 5, 613, 1000), upscaler(scale=scale), budget(megabytes), copied=copied)
        assert (covered(plan) == 1).all() and plan.tiles()[0] == Window(7, 5, plan.rows, plan.cols)
        for length, side in ((613, plan.rows), (1000, plan.cols)):  # all of about one size
            assert side == math.ceil(length / math.ceil(length / side))
        assert plan.memory <= plan.budget == megabytes << 20
    small = plan_tiles(Window(0, 0, 40, 30), upscaler(scale=scale), budget(700), copied=copied, tile=2000)
    assert (small.rows, small.cols) == (40, 30)


def test_more_memory_gives_larger_tiles_up_to_a_point() -> None:
    area = Window(0, 0, 4000, 4000)
    plans = [plan_tiles(area, upscaler(), budget(megabytes)) for megabytes in (600, 1000, 2000, 50_000, 100_000)]
    sizes = [plan.rows * plan.cols for plan in plans]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] and sizes[-2] == sizes[-1]


def test_tiles_are_as_wide_as_the_scene_unless_halos_cost_too_much() -> None:
    def size(width: int, halo: int, megabytes: int) -> tuple[int, int]:
        one = upscaler()
        one.halo, one.reach = halo, 3 * halo // 2
        plan = plan_tiles(Window(0, 0, 2000, width), one, budget(megabytes))
        return plan.rows, plan.cols

    assert size(1000, 18, 20_000) == (334, 1000)
    low = plan_tiles(Window(0, 0, 16, 30_000), upscaler(), budget(20_000))  # of which 16 rows are more than 2 GiB
    assert low.rows == 16 and 4 * 16 * low.cols * 4**2 * 100 <= 2 << 30
    assert size(4000, 2, 20_000)[1] < 4000  # of bicubic: rows enough for its halo, but not for a raster's blocks
    for width, halo, megabytes in ((1000, 18, 1000), (2200, 60, 20_000)):  # a wide tile would be half margin
        rows, cols = size(width, halo, megabytes)
        assert cols < width and 0.8 < rows / cols < 1.25


def test_a_tile_fits_the_card_too() -> None:
    area, card = Window(0, 0, 400, 400), 100 << 20
    on_cpu, on_card = (plan_tiles(area, upscaler(), budget(6000), device_memory=most) for most in (None, card))
    assert tile_bytes(on_card.rows, on_card.cols, upscaler()) <= card < tile_bytes(on_cpu.rows, on_cpu.cols, upscaler())
    with pytest.raises(InputError, match="tiles of 400 × 400 pixels need"):
        plan_tiles(area, upscaler(), budget(6000), tile=400, device_memory=card)


def test_a_card_keeps_some_of_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (10 << 30, 80 << 30))
    allowed = card_memory(torch.device("cuda", 0))
    assert allowed is not None and 5 << 30 < allowed <= 9 << 30 and card_memory(torch.device("cpu")) is None


@pytest.mark.parametrize("kind", ["low rank", "full rank"])
def test_what_a_tile_takes_is_what_the_page_says(model_of: Models, kind: str) -> None:
    """The table of docs/scenes.md; features: two for each that the upsampling takes, and those of a block at work."""
    model = model_of(kind)
    net, bands, rows, cols = model.net.config, 5, 100, 300
    one = Upscaler(model, 2, np.ones(bands, dtype=bool))
    halo, margin = one.halo, one.halo + one.reach
    assert one.features == 2 * (net.rank or net.width) + net.width * (4 + 2 * net.expansion)
    read = 2 * 10 * bands * (rows + 2 * margin) * (cols + 2 * margin)
    network = 4 * (3 * bands + one.features) * (rows + 2 * halo) * (cols + 2 * halo)
    piece = 4 * bands * 4 * (cols + 4) * (rows + 4)  # float32, ×2, and what a convolution sees around it
    assert 4 * one.buffer_size(rows, cols) == piece < 12 << 20
    assert tile_bytes(rows, cols, one) == read + network + 4 * piece


def test_what_is_copied_through_memory_counts() -> None:
    kept, copied = (
        plan_tiles(Window(0, 0, 400, 400), upscaler(), budget(6000), stored_bytes=2, copied=copies, tile=100).memory
        for copies in (False, True)
    )
    assert copied - kept == 2 * 2 * (2**22 // (100 * 400)) * (100 * 400)  # rows of about four million samples, twice
    assert copied_rows(2**22 + 1) == 1


def test_a_budget_that_is_too_small() -> None:
    area = Window(0, 0, 400, 400)
    with pytest.raises(InputError, match=r"the smallest tiles .* need .* MiB are allowed; give more"):
        plan_tiles(area, upscaler(), budget(470))
    with pytest.raises(InputError, match=r"tiles of 400 × 400 pixels need .* or give a smaller --tile"):
        plan_tiles(area, upscaler(), budget(600), tile=400)
    with pytest.raises(InputError, match=r"collected in memory"):
        plan_tiles(area, upscaler(), budget(600), resident=500 << 20)


def test_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MemoryBudget.of("2G").total == 2 << 30 and MemoryBudget.of("1.5 GiB").total == 3 << 29
    assert [MemoryBudget.of(text).total for text in ("7", "7kB", "7m", "7T")] == [7, 7 << 10, 7 << 20, 7 << 40]
    assert MemoryBudget.of("800M").total == 800 << 20 and "--memory" in MemoryBudget.of("800M").remedy
    assert (size_text(12 << 20), size_text(3 << 29)) == ("12 MiB", "1.50 GiB")
    monkeypatch.setattr("lkca.inference.plan.available_memory", lambda: 8 << 30)
    own, shared = MemoryBudget.of(None), MemoryBudget.of("half", 4)
    assert own.held > 0 and (own.total - own.held, shared.total - shared.held) == (4 << 30, 1 << 30)
    assert "--memory" not in own.remedy and "--memory" in shared.remedy
    for text in ("", "much", "0", "-1G", "2X", "1e9", 400 * "9", 308 * "9" + "T"):
        with pytest.raises(InputError, match="not understood"):
            MemoryBudget.of(text)
    held = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert held is not None and abs(resident_memory() - 1024 * int(held[1])) < 32 << 20


def test_the_cache_that_is_counted_is_what_gdal_may_fill() -> None:
    for megabytes, cache in ((100, 16), (1000, 80), (5000, 256), (100_000, 256)):
        counted = budget(megabytes).cache
        assert counted >> 20 == cache
        with rasterio.Env(GDAL_CACHEMAX=counted), bounded_cache():
            assert get_gdal_config("GDAL_CACHEMAX") == counted


def test_a_plan_leaves_nothing_behind(
    tmp_path: Path, model_of: Models, meta: CubeMeta, holed_scene: np.ndarray
) -> None:
    cube = Cube.from_array(holed_scene, meta)
    plan = plan_scene(cube, tmp_path / "o.tif", model_of(), SceneOptions(tile=13, memory="2G"))
    assert plan.shape == (122, 106, 5) and len(plan.tiles.tiles()) == 25 and plan.dtype == "float32"
    assert plan.tiles.halo == model_of().net.halo and plan.tiles.margin == tile_margin(model_of())
    assert plan.nbytes > 4 * 5 * 122 * 106
    assert plan.seconds > 0 and not list(tmp_path.iterdir())


def test_a_plan_and_a_run_share_time_and_memory_with_the_other_processes(
    tmp_path: Path, meta: CubeMeta, holed_scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube, neighbours, of = Cube.from_array(holed_scene), [], MemoryBudget.of
    monkeypatch.setattr(MemoryBudget, "of", lambda text, local=1: neighbours.append(local) or of(text, local))
    options = SceneOptions(scale=2, tile=13, dtype="int16", memory="2G")
    with monkeypatch.context() as patch:
        patch.setattr("lkca.inference.scene.time", SimpleNamespace(perf_counter=iter((0.0, 8.0)).__next__))
        plan = plan_scene(cube, tmp_path / "o.npz", None, options, ranks=Ranks(0, 4, 2))
    assert plan.seconds == pytest.approx(8 * 61 * 53 / 13**2 / 4)
    assert plan.copied and "scale factor" in plan.notes[0] and not list(tmp_path.iterdir())
    upscale_scene(cube, tmp_path / "o.img", None, options, ranks=Ranks(0, 1, 3))
    assert neighbours == [2, 3]


def test_a_run_that_goes_on_may_begin_with_a_smaller_tile(holed_scene: np.ndarray) -> None:
    shapes: list[tuple[int, ...]] = []
    one, tiles = Upscaler(None, 2, np.ones(5, dtype=bool)), [Window(52, 39, 9, 13), Window(0, 0, 26, 53)]
    stream(Cube.from_array(holed_scene), one, tiles, lambda _, piece: shapes.append(piece.samples.shape))
    assert shapes == [(5, 18, 26), (5, 52, 106)]
    stream(Cube.from_array(holed_scene), one, [], lambda *_: pytest.fail("a process may have no tiles at all"))


def test_a_slow_disk_gets_the_samples_that_are_its_own(holed_scene: np.ndarray) -> None:
    """Two buffers serve all tiles; none may be filled again while it is being stored."""
    cube, one = Cube.from_array(holed_scene), Upscaler(None, 2, np.ones(5, dtype=bool))
    plan, found = plan_tiles(Window.full(61, 53), one, budget(2000), tile=13), np.zeros((5, 122, 106), np.float32)

    def slow(number: int, piece: Piece) -> None:
        time.sleep(0.01)
        rows, cols = plan.fine(plan.tiles()[number]).slices
        found[piece.bands, rows, cols][:, piece.rows] = piece.samples

    stream(cube, one, plan.tiles(), slow)
    assert difference(found, lkca.upscale(cube, "bicubic", scale=2)) < 1e-5


def test_what_a_format_holds_in_memory_counts(tmp_path: Path) -> None:
    """All of an .npz or .mat; some rows, twice, of what is copied into bil; nothing where their file is taken."""
    task = Task.of(Cube.from_array(np.zeros((5, 200, 200), np.float32), CubeMeta()), None, SceneOptions(scale=2))

    def memory(name: str) -> int:
        writer = task.writer(tmp_path / name, SceneOptions(), overwrite=False)
        writer.abort()
        return task.plan(budget(2000), 50, writer).memory

    copied = 2 * 4 * 5 * 100 * 100  # a tile's 100 rows are fewer than four million samples
    for name, more in {
        "o.npz": copied + 4 * 5 * 400 * 400,
        "o.mat": copied + 4 * 5 * 400 * 400,
        "o.bil": copied,
        "o.tif": 0,
    }.items():
        assert memory(name) - memory("o.img") == more, name


def test_filling_does_not_depend_on_what_is_far() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        rows, cols = rng.integers(20, 50, 2)
        reach = int(rng.integers(2, 9))
        cube = rng.random((2, rows, cols), dtype=np.float32)
        cube[:, rng.random((rows, cols)) < rng.choice([0.2, 0.8, 0.97])] = np.nan
        cube[1, : rows // 2] = np.nan
        whole, _ = fill_missing(cube, reach)
        row, col = rng.integers(0, rows - 4), rng.integers(0, cols - 4)
        top, left = max(0, row - reach), max(0, col - reach)
        part, _ = fill_missing(cube[:, top : row + 4 + reach, left : col + 4 + reach], reach)
        inner = part[:, row - top : row - top + 4, col - left : col - left + 4]
        assert np.array_equal(inner, whole[:, row : row + 4, col : col + 4], equal_nan=True)


def test_spectra_are_interpolated() -> None:
    nan = np.nan
    spectra = np.array(
        [[nan, 1, nan, nan, 4], [nan, 2, nan, nan, nan], [nan] * 5, [1, nan, nan, 4, 5]], dtype=np.float32
    )
    cube = np.ascontiguousarray(spectra.T[:, None])
    fill_spectra(cube)
    assert cube[:, 0].T.tolist() == [[1, 1, 2, 3, 4], [2] * 5, [0] * 5, [1, 2, 3, 4, 5]]
