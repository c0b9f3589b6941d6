"""Protocols on small stand-ins with the layout of the real downloads, their windows as they are."""

from __future__ import annotations

import dataclasses
import shutil
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io

from lkca.data import Cube, CubeMeta, Window, open_cube
from lkca.data.protocols import PROTOCOLS, open_dataset, prepare
from lkca.data.protocols.cave import CAVE_TEST, CAVE_VALIDATION
from lkca.data.protocols.dataset import write_dataset
from lkca.data.protocols.scene import CHIKUSEI, HOUSTON2018, PAVIA, SceneProtocol
from lkca.data.protocols.statistics import Statistics
from lkca.errors import InputError

SCENES = [CHIKUSEI, HOUSTON2018, PAVIA]


def smooth(rows: int, cols: int, bands: int, seed: int = 0) -> np.ndarray:
    """(rows, cols, bands) uint16, neighbours alike, every pixel different."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :cols]
    spectra = np.linspace(0.5, 1.5, bands) * rng.uniform(0.9, 1.1)
    field = 1000 + 400 * np.sin(y / 7 + seed) + 300 * np.cos(x / 5) + rng.uniform(0, 20, (rows, cols))
    return (field[:, :, None] * spectra).astype(np.uint16)


def shrunk(protocol: SceneProtocol, factor: int, bands: int) -> SceneProtocol:
    """The same layout on a scene ``factor`` times smaller."""

    def small(w: Window) -> Window:
        return Window(w.row // factor, w.col // factor, w.height // factor, w.width // factor)

    rows, cols, _ = protocol.shape
    return dataclasses.replace(
        protocol,
        shape=(rows // factor, cols // factor, bands),
        crop=small(protocol.crop),
        train=small(protocol.train),
        test=tuple((n, small(w)) for n, w in protocol.test),
        validation=tuple((n, small(w)) for n, w in protocol.validation),
    )


def v73(path: Path, name: str, cube: np.ndarray) -> None:
    """A MATLAB v7.3 file: HDF5 with the axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file[name] = cube.transpose(2, 1, 0)
        file[name].attrs["MATLAB_class"] = np.bytes_("uint16")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


@pytest.mark.parametrize("protocol", SCENES, ids=lambda p: p.name)
def test_the_parts_lie_in_the_crop_and_share_no_pixel(protocol: SceneProtocol) -> None:
    rows, cols, _ = protocol.shape
    protocol.crop.check(rows, cols, protocol.name)
    seen = np.zeros((protocol.crop.height, protocol.crop.width), dtype=int)
    for _, window in (("train", protocol.train), *protocol.test, *protocol.validation):
        window.check(protocol.crop.height, protocol.crop.width, protocol.name)
        seen[window.slices] += 1
    assert seen.max() == 1
    area = {name: sum(w.height * w.width for _, w in part) for name, part in
            (("test", protocol.test), ("validation", protocol.validation))}  # fmt: skip
    left = seen.size - area["test"]
    assert 0.085 < area["validation"] / left < 0.115  # 10 % of what is not tested
    assert all(w.height % 8 == 0 and w.width % 8 == 0 for _, w in (*protocol.test, *protocol.validation))


def test_chikusei_is_cut_as_sspsr_cuts_it() -> None:
    crop = CHIKUSEI.crop  # MATLAB's 107:2410, 144:2191
    assert (crop.row + 1, crop.row + crop.height) == (107, 2410) and (crop.col + 1, crop.col + crop.width) == (
        144,
        2191,
    )
    assert [str(w) for _, w in CHIKUSEI.test] == [f"0:512,{c}:{c + 512}" for c in (0, 512, 1024, 1536)]


def test_chikusei_from_a_v73_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = shrunk(CHIKUSEI, 16, 9)
    cube = smooth(157, 145, 9)
    cube[0, 0] = 60000  # outside the crop: not the peak
    (tmp_path / "inner").mkdir()
    v73(tmp_path / "inner" / "HyperspecVNIR_Chikusei_20140729.mat", "chikusei", cube)
    monkeypatch.setitem(PROTOCOLS, "chikusei", small.write)
    said: list[str] = []
    done = prepare("chikusei", tmp_path, tmp_path / "out.h5", progress=said.append)
    used = cube[6:150, 8:136]
    assert done.peak == used.max() and done.bands == 9
    assert done.statistics["max"] == used.max() and done.statistics["missing"] == 0
    assert said == [scene.path[1:] for scene in done.scenes if scene.split == "train"] + [
        f"{split}/chikusei_{i}" for split in ("validation", "test") for i in (1, 2, 3, 4)
    ]
    with open_cube(f"{tmp_path / 'out.h5'}::/test/chikusei_2") as tile:  # as 'lkca evaluate' reads it
        np.testing.assert_array_equal(tile.read(), used[:32, 32:64].transpose(2, 0, 1))
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["train/chikusei"].dtype == np.uint16  # as small as the download
        np.testing.assert_array_equal(file["train/chikusei"][()], used[32:133].transpose(2, 0, 1))


def test_houston_drops_the_two_last_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(shrunk(HOUSTON2018, 8, 6), patterns=("*.tif",))
    cube = smooth(150, 596, 8)
    with rasterio.open(tmp_path / "h.tif", "w", driver="GTiff", height=150, width=596, count=8, dtype="uint16") as out:
        out.write(cube.transpose(2, 0, 1))
    monkeypatch.setitem(PROTOCOLS, "houston2018", small.write)
    done = prepare("houston2018", tmp_path, tmp_path / "out.h5")
    assert done.bands == 6 and len(done.split("test")) == 8 and done.peak == cube[..., :6].max()


def test_pavia_is_divided_by_8000(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy.io.savemat(tmp_path / "Pavia.mat", {"pavia": smooth(137, 89, 5)}, do_compression=True)
    monkeypatch.setitem(PROTOCOLS, "pavia", shrunk(PAVIA, 8, 5).write)
    done = prepare("pavia", tmp_path, tmp_path / "out.h5")
    assert done.peak == 8000 and [s.shape for s in done.split("test")] == [(5, 28, 28)] * 4


def write_pngs(root: Path, scene: str, cube: np.ndarray, channels: int = 1) -> None:
    folder = root / f"{scene}_ms" / f"{scene}_ms"
    folder.mkdir(parents=True)
    shape = {"height": 40, "width": 36, "count": channels, "dtype": cube.dtype.name}
    for band in range(31):
        with rasterio.open(folder / f"{scene}_ms_{band + 1:02d}.png", "w", driver="PNG", **shape) as out:
            out.write(np.repeat(cube[None, :, :, band], channels, axis=0))


def test_cave_from_the_original_folders(tmp_path: Path) -> None:
    cubes = {name: smooth(40, 36, 31, seed) * 10 for seed, name in enumerate(("balloons", "feathers", "face"))}
    for name, cube in cubes.items():
        write_pngs(tmp_path, name, cube)
    done = prepare("cave", tmp_path, tmp_path / "out.h5")
    assert {s.split: s.name for s in done.scenes} == {"train": "balloons", "validation": "feathers", "test": "face"}
    assert done.peak == 65535 and done.wavelengths is not None and done.wavelengths[-1] == 700
    with open_cube(f"{tmp_path / 'out.h5'}::/train/balloons") as cube:
        np.testing.assert_array_equal(cube.read(), cubes["balloons"].transpose(2, 0, 1))
        assert cube.meta.wavelengths is not None and cube.meta.wavelengths[0] == 400
    (tmp_path / "face_ms" / "face_ms" / "face_ms_17.png").unlink()
    with pytest.raises(InputError, match=r"face_ms_17.png: is missing"):
        prepare("cave", tmp_path, tmp_path / "again.h5")
    assert not list(tmp_path.glob("*again*"))


def test_a_cave_scene_in_8_bit_colour(tmp_path: Path) -> None:
    grey = (smooth(40, 36, 31) // 16).clip(0, 255).astype(np.uint8)
    write_pngs(tmp_path, "watercolors", grey, channels=4)
    write_pngs(tmp_path, "balloons", grey)
    prepare("cave", tmp_path, tmp_path / "out.h5")
    with open_cube(f"{tmp_path / 'out.h5'}::/train/watercolors") as cube:
        np.testing.assert_array_equal(cube.read(), grey.transpose(2, 0, 1) * 257.0)


def test_cave_archives(real_data: Path, tmp_path: Path) -> None:
    for name in ("beads", "feathers", "clay"):
        shutil.copy(real_data / "cave" / f"{name}.npz", tmp_path)
    done = prepare("cave", tmp_path, tmp_path / "out.h5")
    assert {s.split: s.name for s in done.scenes} == {"train": "clay", "validation": "feathers", "test": "beads"}
    assert done.peak == 4095 and done.statistics["max"] <= 4095


def test_the_public_test_scenes_test_and_no_validation_scene_does() -> None:
    assert {"beads", "pompoms"} <= set(CAVE_TEST) and not set(CAVE_TEST) & set(CAVE_VALIDATION)


def test_what_is_missing_or_not_the_scene_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(InputError, match=r"holds no Pavia.mat; download the scene from https"):
        prepare("pavia", tmp_path, out)
    with pytest.raises(InputError, match="is no folder"):
        prepare("chikusei", tmp_path / "nowhere", out)
    with pytest.raises(InputError, match="holds neither"):
        prepare("cave", tmp_path, out)
    scipy.io.savemat(tmp_path / "Pavia.mat", {"pavia": smooth(30, 20, 5)})
    with pytest.raises(InputError, match="has 30 x 20 x 5 rows, columns and bands, the pavia scene 1096 x 715 x 102"):
        prepare("pavia", tmp_path, out)
    (tmp_path / "more").mkdir()
    shutil.copy(tmp_path / "Pavia.mat", tmp_path / "more")
    with pytest.raises(InputError, match=r"holds 2 files Pavia\.mat"):
        prepare("pavia", tmp_path, out)
    assert not out.exists() and not [p for p in tmp_path.iterdir() if ".tmp" in p.name]


@pytest.mark.parametrize("wrong", ["shuffled pixels", "axes"])
def test_a_scrambled_scene_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    cube = smooth(137, 89, 5)
    if wrong == "axes":
        cube = np.ascontiguousarray(cube).reshape(5, 137, 89).transpose(1, 2, 0)  # bands unfolded as pixels
    else:
        cube = np.random.default_rng(0).permutation(cube.reshape(-1, 5)).reshape(137, 89, 5)
    scipy.io.savemat(tmp_path / "Pavia.mat", {"pavia": cube})
    monkeypatch.setitem(PROTOCOLS, "pavia", shrunk(PAVIA, 8, 5).write)
    with pytest.raises(InputError, match="correlate by"):
        prepare("pavia", tmp_path, tmp_path / "out.h5")


def test_a_file_that_is_no_prepared_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    for name, words in (
        ("text.h5", "prepared data set"),
        ("other.h5", "prepared data set"),
        ("absent.h5", "not exist"),
    ):
        with pytest.raises(InputError, match=words):
            open_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("split", "name", "bands", "words"),
    [
        ("valid", "b", 5, "'valid' is no split; choose train, validation, test"),  # it was written and never read
        ("train", "a", 5, "'a' is no new name of a scene in train"),
        ("train", "b/c", 5, "'b/c' is no new name"),
        ("train", "b", 7, "has 7 bands, the scenes before it 5"),
    ],
)
def test_a_data_set_of_ones_own_is_checked_scene_by_scene(
    tmp_path: Path, split: Any, name: str, bands: int, words: str
) -> None:
    with pytest.raises(InputError, match=words), write_dataset(tmp_path / "own.h5") as writer:
        writer.add("train", "a", Cube.from_array(smooth(9, 8, 5).transpose(2, 0, 1)))
        writer.add(split, name, Cube.from_array(smooth(9, 8, bands).transpose(2, 0, 1)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("described", [{"scale_factor": 1e-4}, {"offset": 0.5}, {"nodata": 0.0}], ids=str)
def test_what_are_no_plain_counts_stay_floats(tmp_path: Path, described: dict[str, float]) -> None:
    values = (smooth(9, 8, 5).transpose(2, 0, 1) * 1e-4).astype(np.float32)
    values[0, 2, 3] = np.nan
    meta = CubeMeta(stored_dtype=np.dtype(np.uint16), **described)
    with write_dataset(tmp_path / "own.h5") as writer:
        writer.add("train", "a", Cube.from_array(values, meta))
        writer.finish("own", "all trains", None, None)
    with h5py.File(tmp_path / "own.h5") as file:
        np.testing.assert_array_equal(file["train/a"][()], values)


def test_statistics_are_of_all_blocks() -> None:
    first = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    second = first + 12
    second[0, 0, :2] = np.nan
    found = Statistics()
    found.update(first), found.update(second)
    assert found.summary() == {
        "min": 0, "max": 23, "mean": (sum(range(24)) - 12 - 13) / 22, "missing": 2 / 24,
        "mean_of_first_band": (sum(range(6)) + 14 + 15 + 16 + 17) / 10, "mean_of_last_band": 14.5,
        "crc32": f"{zlib.crc32(first.tobytes() + second.tobytes()):08x}",
    }  # fmt: skip


def test_wavelengths_of_a_data_set_are_those_of_its_bands(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(3,\) are given for 5 bands"), write_dataset(tmp_path / "own.h5") as writer:
        writer.add("train", "a", Cube.from_array(smooth(9, 8, 5).transpose(2, 0, 1)))
        writer.finish("own", "all trains", None, np.array([400.0, 500, 600]))
    with pytest.raises(InputError, match="holds no scene"), write_dataset(tmp_path / "own.h5") as writer:
        writer.finish("own", "all trains", None, np.array([400.0, 500, 600]))


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="there is no data set 'indian_pines'; there are chikusei, houston2018, pavia, cave"
    ):
        prepare("indian_pines", tmp_path, tmp_path / "x.h5")
