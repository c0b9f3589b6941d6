"""Transforms, GCPs and RPCs of a finer, a coarser or a cut grid: the same ground under each place of the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer, RPCTransformer

from lkca.data import CubeMeta, Window, open_cube, write_cube
from lkca.data.envi_control import parse_geo_points, parse_rpc_info, rpc_info_text
from lkca.errors import InputError

WGS84 = CRS.from_epsg(4326).to_wkt()
CUBE = np.random.default_rng(0).random((2, 24, 20), dtype=np.float32)
GRIDS = {
    "north up": Affine(30, 0, 364095, 0, -30, 5809965),
    "rotated": Affine.translation(364095, 5809965) @ Affine.rotation(33) @ Affine.scale(30, -20),
    "sheared": Affine(30, 4, 364095, -7, -25, 5809965),
    "mirrored": Affine(30, 0, 364095, 0, 30, 5809965),
}
# old place (row, col), from the upper-left corner, -> new place
CHANGES: dict[str, tuple[Callable[[CubeMeta], CubeMeta], Callable[[float, float], tuple[float, float]]]] = {
    "upsampled": (lambda meta: meta.upsampled(4), lambda row, col: (row * 4, col * 4)),
    "degraded": (lambda meta: meta.degraded(3), lambda row, col: (row / 3, col / 3)),
    "window": (lambda meta: meta.window(Window(5, 7, 9, 8)), lambda row, col: (row - 5, col - 7)),
    "window, upsampled": (
        lambda meta: meta.window(Window(0, 7, 9, 8)).upsampled(2),
        lambda row, col: (row * 2, (col - 7) * 2),
    ),
}
PLACES = [(0.0, 0.0), (0.5, 0.5), (7.25, 11.5), (20.0, 24.0)]


def gcps(count: int = 4) -> tuple[GroundControlPoint, ...]:
    """Corners (and then points inside) of a picture that is turned and sheared on the ground, in degrees."""
    places = [(0, 0), (0, 20), (24, 20), (24, 0), (7.5, 3.25), (11, 16)][:count]
    ground = Affine(2e-4, 3e-5, 13.0, -2e-5, -2e-4, 52.4)
    points = [(row, col, *(ground @ (col, row))) for row, col in places]
    return tuple(GroundControlPoint(row, col, x, y, 35.0, id=str(n)) for n, (row, col, x, y) in enumerate(points, 1))


def rpc() -> RPC:
    """A made-up sensor near Potsdam: mostly linear, with some height and second-order terms."""
    rest = [0.0] * 10
    return RPC(
        height_off=40.0, height_scale=500.0, lat_off=52.4, lat_scale=0.05, long_off=13.0, long_scale=0.08,
        line_off=11.5, line_scale=13.0, samp_off=9.25, samp_scale=11.0,
        line_num_coeff=[0.003, 0.02, -0.98, 0.04, 0.003, 0.0, 0.001, 0.002, 0.004, 0.0, *rest],
        line_den_coeff=[1.0, 0.001, 0.002, 0.0005, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, *rest],
        samp_num_coeff=[-0.002, 0.99, 0.015, -0.06, 0.002, 0.0, 0.0, 0.003, 0.0, 0.0, *rest],
        samp_den_coeff=[1.0, 0.0, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, *rest],
    )  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("grid", GRIDS)
def test_any_affine_grid_is_exact(grid: str, change: str) -> None:
    meta, (changed, place) = CubeMeta(transform=GRIDS[grid]), CHANGES[change]
    new = changed(meta)
    assert new.transform is not None
    for row, col in PLACES:
        new_row, new_col = place(row, col)
        assert new.transform @ (new_col, new_row) == pytest.approx(GRIDS[grid] @ (col, row), rel=1e-14)


@pytest.mark.parametrize("grid", GRIDS)
def test_any_affine_grid_survives_a_geotiff(tmp_path: Path, grid: str) -> None:
    meta = CubeMeta(transform=GRIDS[grid], crs=CRS.from_epsg(32633).to_wkt()).upsampled(2)
    report = write_cube(tmp_path / "x.tif", CUBE, meta)
    assert not report.warnings
    with rasterio.open(tmp_path / "x.tif") as dataset, open_cube(tmp_path / "x.tif") as cube:
        assert list(dataset.transform) == pytest.approx(list(meta.transform), rel=1e-14)
        assert cube.meta.transform == dataset.transform


@pytest.mark.parametrize("change", CHANGES)
def test_gcps_by_gdals_transformer(change: str) -> None:
    changed, place = CHANGES[change]
    old, new = gcps(6), changed(CubeMeta(gcps=gcps(6), gcps_crs=WGS84)).gcps
    assert [(p.x, p.y, p.z, p.id) for p in new] == [(p.x, p.y, p.z, p.id) for p in old]
    with GCPTransformer(old) as before, GCPTransformer(new) as after:
        for row, col in PLACES:
            new_row, new_col = place(row, col)
            here, there = before.xy(row, col, offset="ul"), after.xy(new_row, new_col, offset="ul")
            assert there == pytest.approx(here, abs=1e-9)  # degrees: 0.1 mm


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("height", [0.0, 180.0])
def test_rpc_by_gdals_transformer(change: str, height: float) -> None:
    """RPCs count from pixel centres: a plain multiplication of the offsets would be (s - 1) / 2 pixels off."""
    changed, place = CHANGES[change]
    new = changed(CubeMeta(rpc=rpc())).rpc
    assert new is not None
    for lon, lat in [(13.0, 52.4), (12.97, 52.43), (13.04, 52.37)]:
        with RPCTransformer(rpc()) as before, RPCTransformer(new) as after:
            row, col = before.rowcol(lon, lat, zs=height, op=float)
            assert after.rowcol(lon, lat, zs=height, op=float) == pytest.approx(place(row, col), abs=1e-6)


@pytest.mark.parametrize("name", ["x.tif", "x.img", "x.npz", "x.mat"])
def test_control_survives_every_format(tmp_path: Path, name: str) -> None:
    meta = CubeMeta(gcps=gcps(), gcps_crs=WGS84, rpc=rpc()).upsampled(4)
    report = write_cube(tmp_path / name, CUBE, meta)
    assert not report.warnings
    with open_cube(tmp_path / name) as cube:
        found = cube.meta
    assert found.transform is None and found.gcps_crs is not None and CRS.from_wkt(found.gcps_crs).to_epsg() == 4326
    for point, expected in zip(found.gcps, meta.gcps, strict=True):
        assert (point.row, point.col) == pytest.approx((expected.row, expected.col))
        assert (point.x, point.y) == pytest.approx((expected.x, expected.y), rel=1e-14)
    assert found.rpc is not None and meta.rpc is not None
    for key, value in meta.rpc.to_dict().items():
        assert key.startswith("err") or getattr(found.rpc, key) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("name", ["x.tif", "x.img"])
def test_gdal_reads_the_same_control(tmp_path: Path, name: str) -> None:
    meta = CubeMeta(gcps=gcps(), gcps_crs=WGS84, rpc=rpc()).upsampled(4)
    write_cube(tmp_path / name, CUBE, meta)
    with rasterio.open(tmp_path / name) as dataset:
        points, crs = dataset.gcps
        assert name == "x.img" or crs.to_epsg() == 4326  # in ENVI files GDAL does not say
        for point, expected in zip(points, meta.gcps, strict=True):
            assert (point.row, point.col) == pytest.approx((expected.row, expected.col))
            assert (point.x, point.y) == pytest.approx((expected.x, expected.y))
        with RPCTransformer(dataset.rpcs) as theirs, RPCTransformer(meta.rpc) as ours:
            at = {"zs": 60.0, "op": float}
            assert theirs.rowcol(13.01, 52.39, **at) == pytest.approx(ours.rowcol(13.01, 52.39, **at), abs=1e-6)


def test_geo_points_that_gdal_writes(tmp_path: Path) -> None:
    """The other way round: what GDAL writes is understood here."""
    with rasterio.open(
        tmp_path / "x.img", "w", driver="ENVI", height=24, width=20, count=2, dtype="float32",
        gcps=list(gcps()), crs="EPSG:4326",
    ) as dataset:  # fmt: skip
        dataset.write(CUBE)
    with open_cube(tmp_path / "x.img") as cube:
        for point, expected in zip(cube.meta.gcps, gcps(), strict=True):
            assert (point.row, point.col) == pytest.approx((expected.row, expected.col))
            assert (point.x, point.y) == pytest.approx((expected.x, expected.y), abs=1e-7)


@pytest.mark.parametrize(("count", "crs"), [(6, 4326), (4, 32633)])
def test_what_envi_cannot_hold_is_named(tmp_path: Path, count: int, crs: int) -> None:
    meta = CubeMeta(gcps=gcps(count), gcps_crs=CRS.from_epsg(crs).to_wkt())
    report = write_cube(tmp_path / "x.img", CUBE, meta)
    assert len(report.warnings) == 1
    assert f"{count} ground control points were left out, write .tif to keep them" in report.warnings[0]
    assert open_cube(tmp_path / "x.img").meta.gcps == ()


def test_a_geotiff_holds_a_transform_or_gcps(tmp_path: Path) -> None:
    report = write_cube(tmp_path / "x.tif", CUBE, CubeMeta(transform=GRIDS["rotated"], gcps=gcps(), gcps_crs=WGS84))
    assert "points were left out" in report.warnings[0]
    with open_cube(tmp_path / "x.tif") as cube:
        assert cube.meta.gcps == () and list(cube.meta.transform) == pytest.approx(list(GRIDS["rotated"]))


def test_gcps_without_a_crs_survive_a_geotiff(tmp_path: Path) -> None:
    write_cube(tmp_path / "x.tif", CUBE, CubeMeta(gcps=gcps()))
    with open_cube(tmp_path / "x.tif") as cube:
        assert len(cube.meta.gcps) == 4 and cube.meta.gcps_crs is None


def test_rpc_of_a_larger_image(tmp_path: Path) -> None:
    """ENVI notes where a tile starts in the image that its RPC describes; without that it is the whole one."""
    numbers = rpc_info_text(rpc()).rpartition(", 0, 0, 1")[0]
    tile, whole = (parse_rpc_info(numbers + end, "x.hdr") for end in (", 5, 7, 1", ""))
    assert tile is not None and (tile.line_off, tile.samp_off) == (11.5 - 5, 9.25 - 7)
    assert whole is not None and (whole.line_off, whole.samp_off) == (11.5, 9.25)


@pytest.mark.parametrize("text", ["1, 1, 52.4", "1, 1, 52.4, x", "1, 1, nan, 13"])
def test_bad_geo_points(text: str) -> None:
    with pytest.raises(InputError, match=r"x\.hdr: geo points"):
        parse_geo_points(text, "x.hdr")


@pytest.mark.parametrize("text", ["1, 2, 3", "1" + ", 0" * 88, "x" + ", 0" * 92])
def test_bad_rpc_info(text: str) -> None:
    with pytest.raises(InputError, match=r"x\.hdr: rpc info"):
        parse_rpc_info(text, "x.hdr")
