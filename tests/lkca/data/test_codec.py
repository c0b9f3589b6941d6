from __future__ import annotations

import numpy as np
import pytest

from lkca.data import CubeMeta
from lkca.data.codec import Encoder, beside, nodata_code, to_physical, unmasked


def test_scale_is_one_rounding_of_the_exact_product() -> None:
    stored = np.arange(-500, 10000, 7, dtype=np.int16).reshape(1, 1, -1)
    physical = to_physical(stored, CubeMeta(scale_factor=1 / 10000))
    assert physical.dtype == np.float32
    assert np.array_equal(physical, (stored / 10000).astype(np.float32))


def test_nodata_is_compared_in_stored_units_and_nonfinite_is_missing() -> None:
    stored = np.array([[[0, 10, 20]], [[10, 0, 30]]], dtype=np.uint16)
    physical = to_physical(stored, CubeMeta(nodata=0, scale_factor=np.array([0.1, 1.0]), offset=np.array([1.0, -2.0])))
    assert np.array_equal(physical, np.float32([[[np.nan, 2, 3]], [[8, np.nan, 28]]]), equal_nan=True)
    floats = np.array([[[1.0, np.inf, -np.inf, np.nan, 1e300, -9999.0]]])
    assert np.array_equal(np.isnan(to_physical(floats, CubeMeta(nodata=-9999.0)))[0, 0], [False] + [True] * 5)


@pytest.mark.parametrize("nodata", [-9999.0, 0.5, np.nan, 1e30, np.inf, -np.inf])
def test_nodata_that_no_sample_can_hold_matches_nothing(nodata: float) -> None:
    stored = np.array([[[0, 1, 55537]]], dtype=np.uint16)  # 55537 is -9999 in 16 bits
    assert np.isfinite(to_physical(stored, CubeMeta(nodata=nodata))).all()


def test_booleans_have_no_nodata_code() -> None:
    assert to_physical(np.array([[[True, False]]]), CubeMeta(nodata=1.0)).tolist() == [[[1, 0]]]


def test_what_is_masked_costs_the_others_no_digits() -> None:
    assert unmasked(np.ma.masked_array([1 / 3, 2.0], [False, True])).tolist() == [
        1 / 3,
        pytest.approx(np.nan, nan_ok=True),
    ]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_integers_round_clip_and_count(dtype: str) -> None:
    info = np.iinfo(dtype)
    meta = CubeMeta(stored_dtype=np.dtype(dtype), nodata=float(info.min))
    encoder = Encoder(meta)
    values = np.array([[[2.5, 3.4999, 1e30, -1e30, np.nan, np.inf]]])
    stored = encoder.encode(values)
    assert stored.dtype == dtype
    assert stored[0, 0].tolist() == [2, 3, info.max, info.min + 1, info.min, info.min]
    assert (encoder.clipped, encoder.missing) == (2, 2)


@pytest.mark.parametrize("some", [slice(None), slice(2), slice(2, None)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_the_range_are_values_and_what_is_beyond_is_clipped(dtype: type, some: slice) -> None:
    encoder = Encoder(CubeMeta(stored_dtype=np.dtype("i2"), nodata=-32768.0))
    stored = encoder.encode(np.array([[[-32767.4, -32767.6, 32767.4, 32767.6]]], dtype=dtype)[..., some])
    assert stored[0, 0].tolist() == [-32767, -32767, 32767, 32767][some]
    assert encoder.clipped == len(stored[0, 0]) / 2


def test_integers_of_more_digits_than_float32_has_are_exact() -> None:
    values = np.random.default_rng(0).uniform(-2, 2, (1, 1, 1000)).astype(np.float32)
    stored = Encoder(CubeMeta(stored_dtype=np.dtype("i4"), scale_factor=1e-9)).encode(values)
    assert np.array_equal(stored, np.rint(values.astype(np.float64) / 1e-9))


def test_counts_of_parts_add_up() -> None:
    values = np.array([[[1.0, 2.0], [-7.0, np.nan], [99999.0, 4.0], [3.0, np.nan]]])
    meta = CubeMeta(stored_dtype=np.dtype("i2"), nodata=-32768.0)
    whole, parts = Encoder(meta), Encoder(meta)
    whole.encode(values)
    for row in range(4):
        one = Encoder(meta)
        one.encode(values[:, row : row + 1])
        parts.add(one.counts())
    assert parts.counts() == whole.counts() == {"clipped": 1, "missing": 2, "low": -7, "high": 32767}


def test_halves_round_to_even() -> None:
    """IEEE 754's rule: no drift where many samples fall in the middle."""
    encoder = Encoder(CubeMeta(stored_dtype=np.dtype("i2")))
    stored = encoder.encode(np.array([[[-1.5, -0.5, 0.5, 1.5, 2.5, 3.5]]]))
    assert stored[0, 0].tolist() == [-2, 0, 0, 2, 2, 4] and (encoder.low, encoder.high) == (-2, 4)


@pytest.mark.parametrize("nodata", [0.0, -9999.0])
def test_a_valid_float_never_becomes_nodata(nodata: float) -> None:
    """Zero is the nodata value of many float files, and what a network may well return."""
    encoder, least = Encoder(CubeMeta(stored_dtype=np.dtype("f4"), nodata=nodata)), 1e-3 if nodata else 2e-38
    stored = encoder.encode(np.array([[[nodata, np.nan, 1.0]]]))
    assert 0 < stored[0, 0, 0] - nodata < least
    assert abs(stored[0, 0, 0]) >= np.finfo(np.float32).tiny  # processors may take subnormal numbers for 0
    assert stored[0, 0, 1:].tolist() == [nodata, 1.0] and encoder.missing == 1
    for others in (1, -1):  # of which it is the lowest, or the highest
        stored = encoder.encode(np.array([[[nodata, nodata + others]]], dtype=np.float32))
        assert 0 < stored[0, 0, 0] - nodata < least and stored[0, 0, 1] == nodata + others


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("infinite", [False, True])
def test_a_valid_float_beside_the_largest_is_not_infinite(dtype: str, infinite: bool) -> None:
    """The largest float32 is the nodata value of some files; an infinite sample would be missing too."""
    largest = float(np.finfo(dtype).max)
    nodata = np.inf if infinite else largest
    stored = Encoder(CubeMeta(stored_dtype=np.dtype(dtype), nodata=nodata)).encode(np.array([[[largest, np.nan, 1.0]]]))
    assert (stored[0, 0, 0] == largest) == infinite and 0.99 * largest < stored[0, 0, 0] <= largest
    assert stored[0, 0, 1:].tolist() == [nodata, 1.0]
    assert np.isfinite(beside(stored.dtype.type(nodata)))


def test_a_valid_sample_never_becomes_nodata() -> None:
    encoder = Encoder(CubeMeta(stored_dtype=np.dtype("i2"), nodata=0.0, scale_factor=0.5))
    stored = encoder.encode(np.array([[[0.1, -0.1, 0.0, 7.0, np.nan]]]))
    assert stored[0, 0].tolist() == [1, -1, 1, 14, 0]
    for values, codes in (([0, 7], [1, 14]), ([-7, 0], [-14, 1])):  # of which it is the lowest, or the highest
        assert encoder.encode(np.array([[values]], dtype=np.float32))[0, 0].tolist() == codes


def test_missing_samples_without_a_code_are_refused() -> None:
    with pytest.raises(ValueError, match="no nodata value"):
        Encoder(CubeMeta(stored_dtype=np.dtype("i2"))).encode(np.full((1, 1, 1), np.nan))


def test_decode_after_encode_is_identity_on_codes() -> None:
    codes = np.arange(-32767, 32768, dtype=np.int16).reshape(3, 5, -1)
    meta = CubeMeta(stored_dtype=codes.dtype, scale_factor=1.5259021896696422e-05, offset=0.125, nodata=-32768.0)
    assert np.array_equal(Encoder(meta).encode(to_physical(codes, meta)), codes)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "f4"])
@pytest.mark.parametrize("nodata", [None, 0.0, -128.0, 250.0, float("nan")])
def test_float32_samples_are_stored_as_float64_ones_are(dtype: str, nodata: float | None) -> None:
    """The common case has a way of its own; the same samples as float64 do not take it."""
    rng = np.random.default_rng(0)
    meta = CubeMeta(stored_dtype=np.dtype(dtype), nodata=nodata, scale_factor=np.array([1.0, 0.25, 1.0, 1.0]))
    values = rng.integers(-40, 400, (4, 50, 30)).astype(np.float32) / 4
    values[0] += 60  # plain in every dtype but i1
    values[3, 7, 7] = 3e38
    if dtype == "f4" or nodata_code(np.dtype(dtype), nodata) is not None:
        values[2, 3, 4], values[3, 5, 6] = np.nan, np.inf
    counts = []
    for samples in (values, values.astype(np.float64)):
        encoder = Encoder(meta)
        counts.append((encoder.encode(samples), encoder.counts()))
    assert np.array_equal(counts[0][0], counts[1][0], equal_nan=dtype == "f4")
    assert counts[0][1] == counts[1][1]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("missing", [None, [True, False, False], [True, True, True]])
@pytest.mark.parametrize(
    ("dtype", "nodata", "values", "mended"),
    [
        ("i2", -9999.0, [1, 2.4, 7], True),
        ("i2", None, [1, 2.4, 7], True),
        ("u2", 0.0, [5, 0, 7], True),
        ("u2", 0.0, [5, 0, 7e4], False),
        ("i2", 32767.0, [5, 4e4, 7], True),
        ("i2", 32767.0, [5, 4e4, -4e4], False),
        ("i2", 6.0, [5, 6, 7], False),
        ("f4", 0.0, [5, 0, 7], True),
        ("f4", None, [5, 0, 7], True),
    ],
)
def test_products_are_mended_to_what_is_encoded(
    dtype: str, nodata: float | None, values: list[float], mended: bool, missing: list[bool] | None, exact: bool
) -> None:
    meta, samples = CubeMeta(stored_dtype=np.dtype(dtype), nodata=nodata), np.float32([[values], [values]])
    products, mask = samples, None if missing is None else np.array([[missing]])
    if dtype != "f4":
        ends, products = np.iinfo(dtype), np.rint(samples)
        products = products.clip(ends.min, ends.max)
        mended &= missing is None or nodata is not None
    stored = products.astype(dtype)
    beyond = 0 if exact else 1
    extremes = (np.rint(samples).min() - beyond, np.rint(samples).max() + beyond)
    counts = Encoder(meta).mend(stored, extremes, mask, exact=exact)
    if not mended:
        assert counts is None and np.array_equal(stored, products)
        return
    encoder = Encoder(meta)
    expected = encoder.encode(samples if mask is None else np.where(mask, np.float32(np.nan), samples))
    assert np.array_equal(stored, expected, equal_nan=dtype == "f4") and counts == encoder.counts()


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4"])
@pytest.mark.parametrize("other", [np.nan, 1e38])
def test_a_code_does_not_depend_on_the_samples_around_it(dtype: str, other: float) -> None:
    """Some 4 of 100,000 samples would, where codes near a half are rounded by another arithmetic beside a gap."""
    meta = CubeMeta(stored_dtype=np.dtype(dtype), scale_factor=1e-4, nodata=0.0)
    values = np.random.default_rng(0).uniform(1e-3, 0.02 if dtype == "u1" else 3.2, (1, 1, 300_000)).astype(np.float32)
    beside = np.append(values, np.float32(other)).reshape(1, 1, -1)
    np.testing.assert_array_equal(Encoder(meta).encode(beside)[..., :-1], Encoder(meta).encode(values))


def test_a_scale_below_float32_is_applied() -> None:
    encoder = Encoder(CubeMeta(stored_dtype=np.dtype(np.int16), scale_factor=1e-42))
    assert encoder.encode(np.zeros((1, 1, 3), dtype=np.float32)).tolist() == [[[0, 0, 0]]] and encoder.clipped == 0


def test_some_bands_of_many() -> None:
    meta = CubeMeta(stored_dtype=np.dtype("i2"), scale_factor=np.array([1.0, 0.5, 0.25]))
    values = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    assert np.array_equal(Encoder(meta).encode(values[1:], slice(1, 3)), Encoder(meta).encode(values)[1:])


@pytest.mark.parametrize(("dtype", "field", "values"), [("i2", "offset", [0, 0.5]), ("f4", "scale_factor", [1, 0.5])])
def test_bands_of_which_one_is_no_product(dtype: str, field: str, values: list[float]) -> None:
    meta = CubeMeta(stored_dtype=np.dtype(dtype)).replace(**{field: np.array(values)})
    assert Encoder(meta).gains(slice(0, 2)) is None


def test_samples_of_another_byte_order_are_no_products() -> None:
    assert Encoder(CubeMeta(stored_dtype=np.dtype("<i2"))).gains(slice(0, 1)) is not None
    assert Encoder(CubeMeta(stored_dtype=np.dtype(">i2"))).gains(slice(0, 1)) is None
