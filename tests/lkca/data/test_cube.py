from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from lkca.data import Cube, CubeMeta, Window, open_cube, write_cube
from lkca.data.spectral import described_wavelengths, to_nanometers
from lkca.errors import InputError


def scene(bands: int = 5, rows: int = 12, cols: int = 9) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (bands, rows, cols)).astype(np.float32)


def test_array_is_physical_whatever_the_metadata_scale() -> None:
    array = scene()
    cube = Cube.from_array(array, CubeMeta(scale_factor=1e-4, nodata=0.0))
    assert cube.shape == (12, 9, 5)
    assert np.array_equal(cube.read(), array)


def test_windows_and_bands_in_any_order() -> None:
    array = scene()
    cube = Cube.from_array(array)
    window = Window(2, 3, 4, 5)
    assert np.array_equal(cube.read(window, [4, 0, 0, 2]), array[[4, 0, 0, 2], 2:6, 3:8])
    view = cube.region(window).select([3, 1])
    assert view.shape == (4, 5, 2)
    assert np.array_equal(view.read(Window(1, 1, 2, 2)), array[[3, 1], 3:5, 4:6])


def test_a_selection_is_described_by_what_its_bands_have() -> None:
    numbers = np.arange(1.0, 6.0)
    meta = CubeMeta(
        wavelengths=100 * numbers, fwhm=numbers, good_bands=numbers != 2, scale_factor=numbers, offset=-numbers,
        band_names=tuple("abcde"), tags={"default bands": "5, 4, 3", "z plot range": "0, 1", "sensor": "x"},
    )  # fmt: skip
    found = Cube.from_array(scene(), meta).select([3, 1]).meta
    assert (found.wavelengths.tolist(), found.fwhm.tolist()) == ([400, 200], [4, 2])
    assert (found.scale_factor.tolist(), found.offset.tolist()) == ([4, 2], [-4, -2])
    assert found.good_bands.tolist() == [True, False] and found.band_names == ("d", "b")
    assert found.tags == {"sensor": "x"}  # the others count the bands of the whole


@pytest.mark.parametrize("bands", [[], [5], [-1], [0.5], [[0]], np.ones(4, dtype=bool)])
def test_bands_that_do_not_exist(bands: list) -> None:
    with pytest.raises(InputError, match="band"):
        Cube.from_array(scene()).read(bands=bands)


def test_valid_mask_looks_at_good_bands_only() -> None:
    array = scene()
    array[1] = np.nan
    array[2, 3, 4] = np.inf
    cube = Cube.from_array(array, CubeMeta(good_bands=np.arange(5) < 4))
    assert not cube.valid_mask().any()
    cube.mark_empty_bands()
    assert cube.good_bands.tolist() == [True, False, True, True, False]
    mask = cube.valid_mask(Window(3, 0, 2, 9))
    assert np.argwhere(~mask).tolist() == [[0, 4]]
    assert not Cube.from_array(scene(), CubeMeta(good_bands=np.zeros(5, dtype=bool))).valid_mask().any()


def test_a_band_with_one_valid_sample_far_from_the_middle_is_not_empty() -> None:
    array = np.full((3, 600, 40), np.nan, dtype=np.float32)
    array[0] = 1.0
    array[1, 599, 39] = 1.0
    assert Cube.from_array(array).empty_bands().tolist() == [False, False, True]


@pytest.mark.parametrize(("nodata", "words"), [(None, "is NaN"), (np.nan, "is NaN"), (-9.0, r"is nodata \(-9\), NaN")])
def test_check_usable_says_what_is_wrong(nodata: float | None, words: str) -> None:
    cube = Cube.from_array(np.full((1, 6, 7), np.nan, dtype=np.float32), CubeMeta(nodata=nodata), source="x.npz")
    with pytest.raises(InputError, match=rf"x\.npz: holds no valid sample: every band is marked bad, or {words}, inf"):
        cube.check_usable()


def test_a_part_without_a_valid_sample_is_not_usable() -> None:
    array = scene()
    array[:, :5] = np.nan
    with pytest.raises(InputError, match="holds no valid sample"):
        Cube.from_array(array).region(Window(0, 0, 5, 9)).check_usable()
    Cube.from_array(scene()).check_usable()


def test_closed_cube_and_closed_region() -> None:
    cube = Cube.from_array(scene())
    region = cube.region(Window(0, 0, 2, 2))
    region.close()
    for closed in (cube, region):
        with pytest.raises(InputError, match="closed"):
            closed.read()


@pytest.mark.parametrize("array", [np.zeros((3, 4)), np.zeros((0, 4, 4)), np.zeros((2, 2, 2), dtype=complex)])
def test_arrays_that_are_no_cube(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected"):
        Cube.from_array(array)


def test_lists_of_wrong_length_and_impossible_numbers() -> None:
    for name in ("wavelengths", "fwhm", "good_bands", "band_names", "scale_factor", "offset"):
        with pytest.raises(InputError, match=f"4 {name.replace('_', ' ')} for 5 bands"):
            Cube.from_array(scene(), CubeMeta(**{name: np.ones(4)}))
    for name, value in (("scale_factor", 0.0), ("scale_factor", np.inf), ("offset", np.nan)):
        with pytest.raises(InputError, match=f"the {name.replace('_', ' ')} is {value}"):
            Cube.from_array(scene(), CubeMeta(**{name: value}))
        with pytest.raises(InputError, match=f"the {name.replace('_', ' ')} is "):  # of one band
            Cube.from_array(scene(), CubeMeta(**{name: np.array([1, 1, value, 1, 1])}))


def test_memory_is_asked_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lkca.data.memory.available_memory", lambda: 1000)
    with pytest.raises(InputError, match="read a smaller region"):
        Cube.from_array(scene()).read()


def test_transform_keeps_the_corner() -> None:
    transform = Affine(30.0, 0.0, 364095.0, 0.0, -30.0, 5809965.0)
    tags = {"x start": "247", "pixel size": "30, 30, units=Meters", "spatialResolution": "30", "sensor": "EnMAP"}
    tags |= {"geospatial_lat_resolution": "0.0005", "geospatial_lon_resolution": "0.0005"}
    meta = CubeMeta(transform=transform, tags=tags)
    fine = meta.upsampled(4)
    assert fine.transform == Affine(7.5, 0.0, 364095.0, 0.0, -7.5, 5809965.0)
    assert fine.gsd == 7.5
    assert fine.transform @ (128, 128) == transform @ (32, 32)
    assert fine.degraded(4).transform == transform
    assert dict(fine.tags) == {"sensor": "EnMAP"}
    for row, col in ((2, 3), (0, 3), (2, 0)):
        assert meta.window(Window(row, col, 4, 4)).transform @ (0, 0) == transform @ (col, row)


def test_summary_is_json() -> None:
    meta = CubeMeta(
        wavelengths=np.linspace(400, 800, 5),
        good_bands=np.array([1, 1, 0, 1, 1], dtype=bool),
        nodata=float("nan"),
        scale_factor=np.full(5, 0.1),
        stored_dtype=np.dtype("i2"),
        transform=Affine.scale(2.0),
    )
    summary = Cube.from_array(scene(), meta, source="x").summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["wavelengths_nm"] == [400.0, 800.0]
    assert (summary["bad_bands"], summary["gsd"], summary["nodata"]) == (1, 2.0, "nan")
    assert summary["bounds"] == [0.0, 0.0, 18.0, 24.0] and summary["transform"] == [2, 0, 0, 0, 2, 0]
    turned = Cube.from_array(scene(), CubeMeta(transform=Affine(0, 3, 100, -2, 0, 50))).summary()
    assert (turned["bounds"], turned["gsd"]) == ([100.0, 32.0, 136.0, 50.0], 2.0)


@pytest.mark.parametrize(
    ("values", "units", "expected"),
    [
        ([0.4, 2.5], "Micrometers", [400, 2500]),
        ([0.4, 2.5], "µm", [400, 2500]),
        ([400, 2500], "Nanometers", [400, 2500]),
        ([0.4, 2.5], None, [400, 2500]),
        ([400, 2500], "Unknown", [400, 2500]),
        ([0.4, 2.5], "Nanometers", [400, 2500]),
        ([400, 2500], "Micrometers", [400, 2500]),
        ([7.5, 12.0], "um", [7500, 12000]),
        ([7.5, 120.0], "um", [7500, 120000]),
        ([100, 2500], "um", [100, 2500]),
        ([90, 400], "nm", [90, 400]),
        ([25000.0, 4000.0], "Wavenumber", [400, 2500]),
        ([749481.145, 119916.9832], "GHz", [400, 2500]),
        ([749481145.0, 119916983.2], "MHz", [400, 2500]),
        ([749.481145, 119.9169832], "THz", [400, 2500]),
        ([4000, 25000], "Angstroms", [400, 2500]),
        ([4000, 25000], "Angstroms [A]", [400, 2500]),
        ([400, 2500], "Nanometers (nm)", [400, 2500]),
        ([25000.0, 4000.0], "[cm-1]", [400, 2500]),
        ([400, 2500], "(Hz)", None),
        ([7.5, 12.0], None, [7500, 12000]),
        ([4e-4, 2.5e-3], "mm", [400, 2500]),
        ([4e-4, 2.5e-3], "Millimeters", [400, 2500]),
        ([4e-5, 2.5e-4], "cm", [400, 2500]),
        ([4e-7, 2.5e-6], "Meters", [400, 2500]),
        ([4e-7, 2.5e-6], "m", [400, 2500]),
        ([1, 2], "Index", None),
        ([], "nm", None),
        ([np.nan, 500], "nm", None),
        ([0, 0], "nm", None),
        ([0, 25000], "Wavenumber", None),
    ],
)
def test_wavelength_units(values: list[float], units: str | None, expected: list[float] | None) -> None:
    found, _ = to_nanometers(np.array(values), None, units)
    assert found is None if expected is None else np.allclose(found, expected)
    if expected is not None:
        assert np.allclose(to_nanometers(np.array(values), np.array(values) / 100, units)[1], np.array(expected) / 100)


def test_wavelengths_in_the_names_of_bands() -> None:
    found, unit = described_wavelengths(["1 (418.2 nm)", "2: 424.5 +/- 4.8 nm"])
    assert found is not None and found.tolist() == [418.2, 424.5] and unit == "nm"
    for names in (["1 (418.2 nm)", None], ["1 (418.2 nm)", "2"], ["1 (418.2 nm)", "2 (0.6 um)"], []):
        assert described_wavelengths(names) == (None, None)


@pytest.mark.parametrize(
    ("values", "units", "fwhm", "fwhm_units", "expected"),
    [
        ([400, 2500], "nm", 0.01, "um", 10),
        ([0.4, 2.5], None, 10, "nm", 10),
        ([0.4, 2.5], "Nanometers", 0.01, "nm", 10),  # one wrong unit in two spellings
        ([400, 2500], "um", 10, "Micrometers", 10),
        ([1, 2], "Index", 0.01, "um", None),  # else converted again with wavelengths found elsewhere
    ],
)
def test_units_of_widths(
    values: list[float], units: str | None, fwhm: float, fwhm_units: str, expected: float | None
) -> None:
    _, found = to_nanometers(np.array(values), np.full(2, fwhm), units, fwhm_units)
    assert found is None if expected is None else np.allclose(found, expected)


def test_what_a_masked_array_masks_is_missing(tmp_path: Path) -> None:
    array = np.ma.masked_equal(np.arange(2 * 6 * 5, dtype=np.int16).reshape(2, 6, 5), 7)
    expected = np.where(array.mask, np.nan, array.data.astype(np.float32))
    np.testing.assert_array_equal(Cube.from_array(array).read(), expected)
    file = tmp_path / "x.npz"
    write_cube(file, array, CubeMeta(stored_dtype=np.dtype(np.int16), nodata=-1))
    with open_cube(file) as cube:
        np.testing.assert_array_equal(cube.read(), expected)
