"""Which array of a container is the cube, and which of its axes holds the bands."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from lkca.data import Window, open_cube
from lkca.data.readers.arrays import guess_axes
from lkca.errors import InputError

from .samples import CUBE, NM, RCB, write_v73


@pytest.mark.parametrize(
    ("shape", "counts", "axes"),
    [
        ((100, 100, 191), set(), "rcb"),
        ((191, 100, 100), set(), "brc"),
        ((100, 191, 100), set(), None),
        ((100, 191, 100), {191}, "rbc"),
        ((100, 120, 100), {100}, None),
        ((100, 100, 120), {100}, None),
        ((610, 340, 103), set(), "rcb"),
        ((64, 64, 64), {64}, None),
        ((64, 64, 64), set(), None),
        ((64, 96, 218), set(), "rcb"),
        ((103, 610, 340), set(), None),
        ((103, 610, 340), {103}, "brc"),
        ((64, 700, 900), set(), None),
        ((218, 64, 96), set(), "rcb"),
    ],
)
def test_axes_by_the_stated_rule(shape: tuple[int, ...], counts: set[int], axes: str | None) -> None:
    if axes is None:
        with pytest.raises(InputError, match="--axes"):
            guess_axes(shape, "x.mat", counts)
    else:
        assert guess_axes(shape, "x.mat", counts)[0] == axes


def test_a_guess_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 9), dtype=np.uint8))
    with open_cube(tmp_path / "x.npy") as cube:
        assert cube.shape == (4, 6, 9)
        assert "--axes" in cube.warnings[0]
    assert open_cube(tmp_path / "x.npy", axes="brc").shape == (6, 9, 4)
    assert not open_cube(tmp_path / "x.npy", axes="rcb").warnings
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 6), dtype=np.uint8))  # 4 bands, or as many bands as columns
    with open_cube(tmp_path / "x.npy") as cube:
        assert cube.shape == (6, 6, 4) and "bands, rows, columns" in cube.warnings[0]


@pytest.mark.parametrize("axes", ["rcb", "brc", "rbc", "crb", "bcr", "cbr"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5", ".v73.mat"])
def test_axes_override(tmp_path: Path, axes: str, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    array = np.ascontiguousarray(CUBE.transpose(["brc".index(axis) for axis in axes]))
    if suffix == ".npy":
        np.save(file, array)
    elif suffix == ".npz":
        np.savez(file, cube=array)
    elif suffix == ".mat":
        scipy.io.savemat(file, {"cube": array})
    elif suffix == ".h5":
        with h5py.File(file, "w") as h5:
            h5["cube"] = array
    else:
        write_v73(file, {"cube": array})
    with open_cube(file, axes=axes.upper()) as cube:
        assert cube.shape == (12, 9, 5)
        assert np.array_equal(cube.read(), CUBE)
        assert np.array_equal(cube.read(Window(2, 1, 3, 4), [4, 1]), CUBE[[4, 1], 2:5, 1:5])


def test_two_cubes_are_not_guessed(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"a": RCB, "b": RCB})
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["vnir/cube"], h5["swir/cube"] = RCB, RCB
    np.savez(tmp_path / "x.npz", a=RCB, b=RCB)
    for name, choices in (("x.mat", "a 12x9x5, b"), ("x.h5", "/swir/cube 12x9x5, /vnir"), ("x.npz", "a 12x9x5, b")):
        with pytest.raises(InputError, match=choices):
            open_cube(tmp_path / name)
    assert open_cube(f"{tmp_path / 'x.mat'}::b").shape == (12, 9, 5)
    assert open_cube(f"{tmp_path / 'x.h5'}::/swir/cube").shape == (12, 9, 5)
    assert open_cube(tmp_path / "x.npz", variable="a").shape == (12, 9, 5)


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5"])
def test_a_single_wavelength_tells_no_cube_among_several(tmp_path: Path, suffix: str) -> None:
    """It may be a laser's: a mask with an axis of length 1 was taken for the cube."""
    file, arrays = tmp_path / f"x{suffix}", {"hsi": RCB, "mask": np.ones((1, 12, 9)), "wavelength": np.array([550.0])}
    if suffix == ".npz":
        np.savez(file, **arrays)
    elif suffix == ".mat":
        scipy.io.savemat(file, arrays)
    else:
        with h5py.File(file, "w") as h5:
            for name, array in arrays.items():
                h5[name] = array
    with pytest.raises(InputError, match="several arrays that may be the cube"):
        open_cube(file)


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".h5"])
def test_a_shape_tells_the_axes_of_three_too(tmp_path: Path, suffix: str) -> None:
    """It was passed over, and 33 x 12 x 15 read as 33 rows and 15 bands, whatever was said."""
    file, bands_first = tmp_path / f"x{suffix}", np.arange(33 * 12 * 15, dtype=np.float32).reshape(33, 12, 15)
    if suffix == ".npy":
        np.save(file, bands_first)
    elif suffix == ".mat":
        scipy.io.savemat(file, {"Y": bands_first, "nRow": 99, "nCol": 98})
    else:
        with h5py.File(file, "w") as h5:
            h5["Y"] = bands_first
    with open_cube(file, shape=(12, 15)) as cube:
        assert np.array_equal(cube.read(), bands_first) and not cube.warnings
    with open_cube(file) as cube:
        assert cube.shape == (33, 12, 15) and "--axes overrides this" in cube.warnings[0]
    with pytest.raises(InputError, match="is 33 x 12 x 15, of which --shape 12x16 is no picture; leave it out"):
        open_cube(file, shape=(12, 16))
    with pytest.raises(InputError, match="is no picture with the axes rcb"):
        open_cube(file, shape=(12, 15), axes="rcb")
    with open_cube(file, shape=(15, 12), axes="bcr") as cube:
        assert np.array_equal(cube.read(), bands_first.transpose(0, 2, 1))


def test_axes_of_length_1_beside_three_others(tmp_path: Path) -> None:
    """A batch of one, as networks give, was refused."""
    for array in (RCB[None], np.asfortranarray(RCB)[None], RCB[:, None]):
        np.save(tmp_path / "x.npy", array)
        np.savez(tmp_path / "x.npz", picture=array, labels=RCB[..., 0], wavelength=NM)
        with open_cube(tmp_path / "x.npy") as cube, open_cube(tmp_path / "x.npz") as named:
            assert np.array_equal(cube.read(), CUBE) and np.array_equal(named.read(), CUBE)
            assert named.meta.wavelengths is not None


def _write(file: Path, **arrays: np.ndarray) -> None:
    if file.name == "v73.mat":
        write_v73(file, arrays)
    elif file.suffix == ".mat":
        scipy.io.savemat(file, arrays)
    elif file.suffix == ".npz":
        np.savez(file, **arrays)
    else:
        with h5py.File(file, "w") as h5:
            h5.update(arrays)


@pytest.mark.parametrize("name", ["x.npz", "x.mat", "v73.mat", "x.h5"])
def test_lists_of_another_number_of_bands_are_told(tmp_path: Path, name: str) -> None:
    """As of a cube whose water bands were taken out; they went unseen."""
    _write(tmp_path / name, cube=RCB, wavelength=np.arange(400.0, 470, 10), fwhm=np.ones(7), bbl=np.ones(6, dtype="u1"))
    with open_cube(tmp_path / name, axes="rcb") as cube:
        meta, told = cube.meta, cube.warnings
    assert meta.wavelengths is None and meta.fwhm is None and meta.good_bands is None
    for what, count in (("wavelength", 7), ("fwhm", 7), ("bbl", 6)):
        assert any(f"{what} lists {count} values for 5 bands and is left out" in note for note in told), told
    _write(tmp_path / name, cube=RCB, wavelength=NM, wl=np.ones(7), fwhm=np.array(10.0))
    with open_cube(tmp_path / name, axes="rcb") as cube:
        assert cube.meta.wavelengths is not None and cube.warnings == ()  # of another array, and of all bands


@pytest.mark.parametrize("name", ["x.npz", "x.mat", "v73.mat", "x.h5"])
def test_wavelengths_that_are_none_are_told(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name, cube=RCB, wavelength=np.full(5, np.nan))
    with open_cube(tmp_path / name, axes="rcb") as cube:
        assert cube.meta.wavelengths is None
        assert ["its wavelengths" in note and "left out" in note for note in cube.warnings] == [True]


@pytest.mark.parametrize("name", ["x.npz", "x.mat", "v73.mat", "x.h5"])
def test_a_picture_size_that_fits_no_array_is_told(tmp_path: Path, name: str) -> None:
    """The message asked for the --shape that was given."""
    _write(tmp_path / name, spectra=RCB.reshape(-1, 5))
    with pytest.raises(InputError, match=r"spectra .*, of which none has a side of 12 x 8 pixels"):
        open_cube(tmp_path / name, shape=(12, 8))
