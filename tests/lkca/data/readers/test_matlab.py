"""MATLAB files of both kinds: companions, 2-D matrices, and what is no numeric array."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from lkca.data import open_cube
from lkca.errors import InputError

from .samples import CUBE, NM, RCB, write_v73


@pytest.mark.parametrize("write", [write_v73, scipy.io.savemat])
def test_matlab_companions_and_choice(tmp_path: Path, write: Callable[[Path, dict[str, np.ndarray]], None]) -> None:
    file = tmp_path / "x.mat"
    write(file, {
        "HSI": RCB, "gt": np.ones((12, 9)), "Wavelength": NM[:, None] / 1000, "bbl": np.uint8([[1, 1, 0, 1, 1]]),
        "other": np.ones((4, 3)),
    })  # fmt: skip
    with open_cube(file) as cube:
        assert cube.source.endswith("::HSI")
        assert np.allclose(cube.meta.wavelengths, NM)
        assert cube.good_bands.tolist() == [True, True, False, True, True]
        assert np.array_equal(cube.read(), CUBE)
    with pytest.raises(InputError, match="HSI 12x9x5, gt 12x9"):
        open_cube(f"{file}::nothing")
    assert open_cube(file, variable="hsi").shape == (12, 9, 5)
    with pytest.raises(InputError, match="give the picture size"):
        open_cube(f"{file}::gt")


@pytest.mark.parametrize("write", [write_v73, scipy.io.savemat])
def test_a_list_called_bands(tmp_path: Path, write: Callable[[Path, dict[str, np.ndarray]], None]) -> None:
    """In ICVL's and ARAD's files it holds the wavelengths, elsewhere the numbers of the bands."""
    for bands, expected in ((NM, NM), (np.arange(105.0, 110.0), None)):
        write(tmp_path / "x.mat", {"rad": RCB, "rgb": RCB[..., :3], "bands": bands[:, None]})
        with open_cube(f"{tmp_path / 'x.mat'}::rad") as cube:
            assert np.array_equal(cube.meta.wavelengths, expected) if expected is not None else True
            assert (cube.meta.wavelengths is None) == (expected is None)
        if expected is None:
            with pytest.raises(InputError, match=r"several arrays .*\(rad 12x9x5, rgb 12x9x3\)"):
                open_cube(tmp_path / "x.mat")
        else:
            with open_cube(tmp_path / "x.mat") as cube:
                assert cube.source.endswith("::rad")


def test_odd_companions_do_no_harm(tmp_path: Path) -> None:
    """A sound cube was said to be truncated or damaged."""
    with h5py.File(tmp_path / "h5.mat", "w") as h5:  # as Python writes it, without MATLAB's classes
        h5["cube"], h5["gain"], h5["nothing"], h5["strange"] = RCB, 2.0, h5py.Empty("f4"), np.arange(3)
        h5["strange"].attrs["MATLAB_class"] = np.bytes_(b"\xff\xfe")
    with open_cube(tmp_path / "h5.mat", axes="bcr") as cube:
        assert sorted(cube.shape) == sorted(RCB.shape)
    with h5py.File(tmp_path / "2d.mat", "w") as h5:
        h5["Y"], h5["nRow"], h5["nCol"] = np.ones((108, 5)), 12.0, 9.0
    with open_cube(tmp_path / "2d.mat") as cube:
        assert cube.shape == (12, 9, 5)
    scipy.io.savemat(tmp_path / "v5.mat", {"HSI": RCB, "lkca_meta": ""})
    with open_cube(tmp_path / "v5.mat") as cube:
        assert np.array_equal(cube.read(), CUBE)


@pytest.mark.parametrize("write", [write_v73, scipy.io.savemat])
def test_matlab_2d(tmp_path: Path, write: Callable[[Path, dict[str, np.ndarray]], None]) -> None:
    file = tmp_path / "x.mat"
    pixels = CUBE.transpose(0, 2, 1).reshape(5, 108)  # columns first
    write(file, {"Y": pixels.astype(np.float64)})
    assert np.array_equal(open_cube(file, shape=(12, 9)).read(), CUBE)
    write(file, {"Y": np.ascontiguousarray(pixels.T).astype(np.float64)})
    assert np.array_equal(open_cube(file, shape=(12, 9)).read(), CUBE)
    with pytest.raises(InputError, match="--shape ROWSxCOLS"):
        open_cube(file)
    with pytest.raises(InputError, match="10 rows x 10 columns are 100 pixels"):
        open_cube(f"{file}::Y", shape=(10, 10))
    write(file, {"Y": pixels.astype(np.float64), "nRow": np.array([[12.0]]), "nCol": np.array([[9.0]])})
    assert np.array_equal(open_cube(file).read(), CUBE)


def test_matlab_objects_and_complex_are_refused(tmp_path: Path) -> None:
    cells = np.empty((2, 2), dtype=object)
    cells[:] = "x"
    scipy.io.savemat(tmp_path / "x.mat", {"cells": cells, "z": RCB.astype(complex), "s": {"a": 1}})
    with pytest.raises(InputError, match="'cells' is a cell, not a numeric array"):
        open_cube(tmp_path / "x.mat", variable="cells")
    with pytest.raises(InputError, match="'z' is a complex double, not a numeric array"):
        open_cube(tmp_path / "x.mat", variable="z")
    scipy.io.savemat(tmp_path / "s.mat", {"scene": {"data": RCB}})
    for options in ({}, {"variable": "scene"}):
        with pytest.raises(InputError, match=r"struct scene is not looked into: .*cube = scene\.FIELD; save"):
            open_cube(tmp_path / "s.mat", **options)


def test_matlab_samples_of_unknown_type_are_refused(tmp_path: Path) -> None:
    """scipy 1.17 follows the type as an index, unchecked, and ends the process."""
    for compress in (False, True):
        scipy.io.savemat(tmp_path / "x.mat", {"cube": RCB}, do_compression=compress)
        raw = (tmp_path / "x.mat").read_bytes()
        variable = zlib.decompress(raw[136:]) if compress else raw[128:]
        at = variable.index(b"cube") + 4
        for unknown in (0, 8, 11, 14, 30, 200, 60000):
            spoiled = variable[:at] + unknown.to_bytes(4, "little") + variable[at + 4 :]
            if compress:
                stream = zlib.compress(spoiled)
                spoiled = struct.pack("<II", 15, len(stream)) + stream
            (tmp_path / "x.mat").write_bytes(raw[:128] + spoiled)
            with pytest.raises(InputError, match=f"unknown type {unknown}; it is damaged"):
                open_cube(tmp_path / "x.mat")
