"""Nothing partial ever stands under the final name, whatever goes wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lkca.data import CubeMeta, Window, create_writer, open_cube, write_cube
from lkca.data.writers.base import write_error
from lkca.data.writers.geotiff import check_blocks
from lkca.errors import InputError, OutputError

NAMES = ["x.tif", "x.hdr", "x.bil", "x.npz", "x.mat"]
CUBE = np.random.default_rng(0).uniform(0, 1, (8, 90, 80)).astype(np.float32)
META = CubeMeta(wavelengths=np.linspace(400, 900, 8))


FullDisk = Callable[[int], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        *((name, None) for name in [*NAMES, "plain.tif"]),
        *((name, "deflate") for name in ["x.tif", "plain.tif", "x.npz"]),
    ],
)
def test_full_disk(full_disk: FullDisk, tmp_path: Path, name: str, compress: str | None) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with full_disk(50_000), pytest.raises(OutputError, match=f"{name}: could not be written .*nothing was kept"):
        write_cube(tmp_path / name, CUBE, META, compress=compress, driver="GTiff" if name == "plain.tif" else None)
    assert [file.name for file in tmp_path.iterdir()] == ["keep.txt"]


@pytest.mark.parametrize("rows", [1, 5, 9, 16])
def test_full_disk_that_shows_only_when_gdal_flushes(full_disk: FullDisk, tmp_path: Path, rows: int) -> None:
    with full_disk(600), pytest.raises(OutputError, match="could not be written"):
        write_cube(tmp_path / "x.tif", CUBE[:, :rows], META, driver="GTiff")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_earlier_file_survives_a_failure(tmp_path: Path, name: str) -> None:
    write_cube(tmp_path / name, CUBE, META)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with (
        pytest.raises(RuntimeError, match="model"),
        create_writer(tmp_path / name, (90, 80, 8), META, overwrite=True) as writer,
    ):
        writer.write(Window(0, 0, 10, 80), CUBE[:, :10])
        raise RuntimeError("the model failed")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", NAMES)
def test_existing_target(tmp_path: Path, name: str) -> None:
    write_cube(tmp_path / name, CUBE, META)
    with pytest.raises(InputError, match="exists already; give --overwrite to replace it or choose another name"):
        write_cube(tmp_path / name, CUBE, META)
    write_cube(tmp_path / name, CUBE[:, :20, :20], META, overwrite=True)
    assert open_cube(tmp_path / name).shape == (20, 20, 8)


def test_existing_header_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "x.hdr").write_text("mine")
    with pytest.raises(InputError, match=r"x\.hdr: exists already"):
        write_cube(tmp_path / "x.img", CUBE, META)
    assert (tmp_path / "x.hdr").read_text() == "mine"


def test_a_header_of_the_longer_name_is_replaced_too(tmp_path: Path) -> None:
    write_cube(tmp_path / "x.img", CUBE, META)
    (tmp_path / "x.hdr").rename(tmp_path / "x.img.hdr")  # as ENVI itself and others name it
    with pytest.raises(InputError, match="exists already"):
        write_cube(tmp_path / "x.img", CUBE[:, :20], META)
    write_cube(tmp_path / "x.img", CUBE[:, :20], META, overwrite=True)
    with open_cube(tmp_path / "x.img") as cube:
        assert np.array_equal(cube.read(), CUBE[:, :20])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.img", "x.img.hdr"]


def test_sidecars_of_the_replaced_file_go(tmp_path: Path) -> None:
    write_cube(tmp_path / "x.tif", CUBE, META)
    (tmp_path / "x.tif.aux.xml").write_text("<PAMDataset/>")
    write_cube(tmp_path / "x.tif", CUBE, META, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["x.tif"]


@pytest.mark.parametrize("name", NAMES)
def test_output_is_the_input(tmp_path: Path, name: str) -> None:
    write_cube(tmp_path / name, CUBE, META)
    (tmp_path / "link").symlink_to(tmp_path / name)
    with open_cube(tmp_path / name) as cube:
        for inputs in (cube.files, [f"{tmp_path / name}::cube"], [tmp_path / "link"]):
            with pytest.raises(InputError, match="is an input of the same command"):
                create_writer(tmp_path / name, (90, 80, 8), META, overwrite=True, inputs=inputs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/x.tif", "folder .* does not exist; create it"),
        ("folder.tif", "is a directory"),
        ("x.xyz", "suffix '.xyz' names no output format"),
        ("x", "suffix '' names no output format"),
        *(
            (length * "n" + end, "is too long a name")
            for length in (226, 238, 252)
            for end in (".tif", ".hdr", ".img", ".npz")
        ),
    ],
)
def test_impossible_names(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(InputError, match=message):
        write_cube(tmp_path / name, CUBE, META)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.tif", {"driver": "JPEG"}, "driver 'JPEG' is unknown"),
        ("x.tif", {"interleave": "bil"}, "cannot be bil"),
        ("x.tif", {"compress": "jpeg"}, "compression 'jpeg' is unknown"),
        ("x.img", {"interleave": "bsp"}, "interleave 'bsp'"),
        ("x.img", {"compress": "deflate"}, "not compressed"),
        ("x.img", {"dtype": "int8"}, "no data type for int8"),
        ("x.npz", {"compress": "zstd"}, "not possible"),
    ],
)
def test_impossible_options(tmp_path: Path, name: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_cube(tmp_path / name, CUBE, META, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_that_turns_out_unwritable(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mount, say: ``os.access`` did not know (where it does, ``check_output`` refuses at the start)."""

    def denied(*args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(OutputError, match=r"Permission denied.*choose a directory you may write to"):
        write_cube(tmp_path / name, CUBE, META)
    assert not list(tmp_path.iterdir())


def test_no_space_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=CUBE.nbytes - 1))
    for name, options, needed in (
        ("x.tif", {}, "0.2"),
        ("x.tif", {"interleave": "bip"}, "0.5"),
        ("plain.tif", {"driver": "GTiff"}, "0.2"),
    ):
        with pytest.raises(OutputError, match=f"{name}: needs {needed} MiB, 0.2 MiB are free"):
            write_cube(tmp_path / name, CUBE, META, **options)
        assert not list(tmp_path.iterdir())


def test_samples_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, fsync, replace = list[str](), os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda source, target: (calls.append("replace"), replace(source, target)))
    write_cube(tmp_path / "x.img", CUBE, META)
    assert calls == ["fsync", "fsync", "replace", "replace"]


@pytest.mark.parametrize("end", [-1, 0])
def test_a_geotiff_that_ends_before_its_last_block(tmp_path: Path, end: int) -> None:
    write_cube(tmp_path / "x.tif", CUBE, META, driver="GTiff")
    os.truncate(tmp_path / "x.tif", (tmp_path / "x.tif").stat().st_size + end)
    with pytest.raises(OSError, match="incomplete") if end else nullcontext():
        check_blocks(tmp_path / "x.tif")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_limit_of_space_is_told_as_such(code: int) -> None:
    error = write_error(Path("x.tif"), OSError(code, os.strerror(code)))
    assert f"the disk is full or a size limit is reached: {os.strerror(code)}" in str(error)


@pytest.mark.parametrize("broken", [1, 2])
def test_a_failing_rename_leaves_no_half_pair(tmp_path: Path, broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, replace = [], os.replace

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == broken:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OutputError, match="Input/output error"):
        write_cube(tmp_path / "x.img", CUBE, META)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "replace", replace)
    write_cube(tmp_path / "x.img", CUBE, META)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    calls.clear()
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OutputError, match="Input/output error"):
        write_cube(tmp_path / "x.img", 2 * CUBE, META, overwrite=True)
    if broken == 2:  # new samples would stand beside the header of the old ones
        del before["x.img"]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_mat5_limit_is_told_before_memory_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not fit into a MATLAB v5 variable"):
        create_writer(tmp_path / "x.mat", (30000, 30000, 200), META.replace(wavelengths=None))


def test_files_have_the_users_permissions(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        for name in NAMES:
            folder = tmp_path / Path(name).suffix
            folder.mkdir()
            write_cube(folder / name, CUBE, META)
            assert (folder / name).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(previous)
