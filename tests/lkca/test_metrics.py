"""Metrics against scikit-image and torchmetrics where they are right, against hand-computed values elsewhere."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
import torchmetrics.functional.image as tmi
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lkca.metrics import PROTOCOL, PSNR_LIMIT, MetricAccumulator, Metrics, evaluate, mpsnr

FIELDS = ("mpsnr", "mssim", "sam", "cc", "rmse", "ergas")


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.05, 1, (5, 33, 21)).astype(np.float32)
    return reference, (reference + rng.normal(0, 0.05, reference.shape)).astype(np.float32)


def close(a: Metrics, b: Metrics, tolerance: float = 1e-9) -> None:
    for name in FIELDS:
        assert getattr(a, name) == pytest.approx(getattr(b, name), abs=tolerance, nan_ok=True), name
    assert a.pixels == b.pixels
    np.testing.assert_allclose(a.psnr_per_band, b.psnr_per_band, atol=tolerance)


@pytest.mark.parametrize("peak", [1.0, 0.3])
def test_psnr_and_ssim_are_scikit_images_band_means(pair: tuple[np.ndarray, np.ndarray], peak: float) -> None:
    reference, prediction = (x.astype(np.float64) for x in pair)
    got = evaluate(reference, prediction, scale=4, peak=peak)
    psnr = [peak_signal_noise_ratio(r, p, data_range=peak) for r, p in zip(reference, prediction, strict=True)]
    ssim = [structural_similarity(r, p, data_range=peak) for r, p in zip(reference, prediction, strict=True)]
    np.testing.assert_allclose(got.psnr_per_band, psnr, atol=1e-10)
    assert got.mpsnr == pytest.approx(np.mean(psnr), abs=1e-10)
    assert got.mssim == pytest.approx(np.mean(ssim), abs=1e-10)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_sam_and_ergas_are_torchmetrics_in_degrees_and_with_the_real_ratio(
    pair: tuple[np.ndarray, np.ndarray], scale: int
) -> None:
    reference, prediction = (torch.from_numpy(x).double()[None] for x in pair)
    got = evaluate(reference[0], prediction[0], scale=scale, peak=1.0)
    radians = tmi.spectral_angle_mapper(prediction, reference)
    assert got.sam == pytest.approx(math.degrees(float(radians)), abs=1e-9)
    ergas = tmi.error_relative_global_dimensionless_synthesis(prediction, reference, ratio=scale)
    assert got.ergas == pytest.approx(float(ergas), abs=1e-9)


def test_cc_is_the_mean_of_numpys_correlations(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = pair
    expected = [np.corrcoef(r.ravel(), p.ravel())[0, 1] for r, p in zip(*map(np.float64, pair), strict=True)]
    assert evaluate(reference, prediction, scale=2).cc == pytest.approx(np.mean(expected), abs=1e-12)


def test_values_computed_by_hand() -> None:
    reference = np.array([[[3.0, 4.0]], [[4.0, 0.0]]])  # two bands, one row; means 3.5 and 2
    prediction = np.array([[[4.0, 4.0]], [[3.0, 3.0]]])  # squared errors 1, 0 and 1, 9
    got = evaluate(reference, prediction, scale=2, peak=10.0)
    assert got.psnr_per_band == pytest.approx((10 * math.log10(100 / 0.5), 10 * math.log10(100 / 5)))
    assert got.rmse == pytest.approx(math.sqrt((0.005 + 0.05) / 2))
    assert got.sam == pytest.approx((math.degrees(math.acos(24 / 25)) + math.degrees(math.acos(4 / 5))) / 2)
    assert got.ergas == pytest.approx(50 * math.sqrt((0.5 / 3.5**2 + 5 / 4) / 2))
    assert got.cc == 0.0  # a prediction without variation explains none
    assert math.isnan(got.mssim) and got.as_dict()["mssim"] is None  # no 7 x 7 window


@pytest.mark.parametrize("heights", [[33], [1] * 33, [5, 2, 20, 6], [32, 1], [3, 30]])
def test_strips_equal_the_whole(pair: tuple[np.ndarray, np.ndarray], heights: list[int]) -> None:
    reference, prediction = pair
    mask = np.random.default_rng(1).random((33, 21)) > 0.02
    whole = evaluate(reference, prediction, scale=4, peak=1.3, mask=mask)
    strips = MetricAccumulator(5, 4, 1.3)
    row = 0
    for height in heights:
        part = slice(row, row + height)
        strips.update(reference[:, part], prediction[:, part], mask[part])
        row += height
    close(strips.compute(), whole)


def test_strips_of_a_large_scene_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lkca.metrics._CHUNK", 1 << 16)
    rng = np.random.default_rng(2)
    strips = MetricAccumulator(16, 4, 1.0)
    strip = rng.random((16, 32, 512)).astype(np.float32)
    strips.update(strip, strip * 0.99)
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    for _ in range(8):
        strips.update(strip, strip * 0.99)
    now, top = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now - base < 2 * strip[:, :6].nbytes + 2**18  # the rows kept, and little else
    assert top - base < 10 * strip.nbytes  # 24 of all bands at once
    assert strips.compute().pixels == 9 * 32 * 512


def test_chunks_do_not_matter(pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(*pair, scale=4)
    for samples in (2 * 33 * 21, 5 * 21, 1):  # two bands at a time; of MSSIM's five rows of one, and one
        monkeypatch.setattr("lkca.metrics._CHUNK", samples)
        close(evaluate(*pair, scale=4), whole, 1e-12)


def test_units_do_not_matter(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (x.astype(np.float64) for x in pair)
    plain, tiny = evaluate(*pair, scale=4), evaluate(reference * 1e-12, prediction * 1e-12, scale=4)
    assert tiny.peak == pytest.approx(plain.peak * 1e-12)
    close(tiny, plain)


def test_a_mask_may_be_masked_itself(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """As comparisons of masked arrays are: what is masked is not compared."""
    reference, prediction = pair
    mask = np.ma.masked_less(reference[0], 0.2) > 0.5
    close(
        evaluate(reference, prediction, scale=4, peak=1.0, mask=mask),
        evaluate(reference, prediction, scale=4, peak=1.0, mask=reference[0] > 0.5),
    )


def test_masked_pixels_do_not_count_whatever_they_hold(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (x.copy() for x in pair)
    cropped = evaluate(reference[:, :20], prediction[:, :20], scale=4, peak=1.0)
    mask = np.zeros((33, 21), dtype=bool)
    mask[:20] = True
    reference[:, 20:], prediction[:, 20:] = np.nan, 1e30
    close(evaluate(reference, prediction, scale=4, peak=1.0, mask=mask), cropped)
    close(evaluate(reference, prediction, scale=4, peak=1.0), cropped)  # NaN in the reference is a mask too


def test_what_masked_arrays_mask_does_not_count(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = pair
    broken = reference.copy()
    broken[:, 4, 5] = 1e9
    masked = np.ma.masked_greater(broken, 1e8)
    expected = evaluate(np.where(masked.mask, np.nan, reference), prediction, scale=4)
    close(evaluate(masked, prediction, scale=4), expected)


def test_what_only_the_prediction_lacks_is_counted_as_missing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (x.copy() for x in pair)
    prediction[2, 4, 5] = np.inf
    reference[1, 7, 8] = np.nan  # nobody could have it
    got = evaluate(reference, prediction, scale=4)
    assert (got.missing, got.pixels) == (1, 33 * 21 - 2)
    assert all(math.isfinite(getattr(got, name)) for name in FIELDS)


def test_a_mask_keeps_only_windows_that_are_wholly_valid(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (x.astype(np.float64) for x in pair)
    mask = np.ones((33, 21), dtype=bool)
    mask[16, 10] = False
    full = np.array(
        [structural_similarity(r, p, data_range=1.0, full=True)[1] for r, p in zip(reference, prediction, strict=True)]
    )[:, 3:-3, 3:-3]
    keep = np.ones(full.shape[1:], dtype=bool)
    keep[10:17, 4:11] = False
    got = evaluate(reference, prediction, scale=4, peak=1.0, mask=mask)
    assert got.mssim == pytest.approx(full[:, keep].mean(), abs=1e-10)


def test_bad_bands_do_not_count(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (x.copy() for x in pair)
    good = np.array([True, False, True, True, False])
    expected = evaluate(reference[good], prediction[good], scale=4)
    reference[1], prediction[4] = np.nan, 1e9
    close(evaluate(reference, prediction, scale=4, good_bands=good), expected)


def test_mpsnr_alone_is_evaluates(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (x.copy() for x in pair)
    prediction[2, 4, 5] = np.nan  # the pixel is left out in every band
    good = np.array([True, False, True, True, True])
    assert mpsnr(reference, prediction, 1.3, good) == (
        evaluate(reference, prediction, scale=4, peak=1.3, good_bands=good).mpsnr
    )
    assert mpsnr(reference, reference, 1.3) == PSNR_LIMIT
    with pytest.raises(ValueError, match="must both be"):
        mpsnr(reference, prediction[1:], 1.3)


def test_identical_images_have_finite_numbers(pair: tuple[np.ndarray, np.ndarray]) -> None:
    got = evaluate(pair[0], pair[0], scale=4)
    assert got.mpsnr == PSNR_LIMIT == 100
    assert got.mssim == pytest.approx(1) and got.cc == pytest.approx(1)
    assert got.sam == pytest.approx(0, abs=2e-6) and got.rmse == 0 and got.ergas == 0
    reference = pair[0].astype(np.float64)
    brighter = evaluate(reference, reference * 1.7, scale=4)  # rounding takes some cosines beyond 1
    assert brighter.sam == pytest.approx(0, abs=1e-4) and brighter.cc == pytest.approx(1)


def test_the_numbers_go_to_json(pair: tuple[np.ndarray, np.ndarray]) -> None:
    got = evaluate(*pair, scale=4)
    said = json.loads(json.dumps(got.as_dict(per_band=True), allow_nan=False))
    assert said.pop("psnr_per_band") == list(got.psnr_per_band) and len(got.psnr_per_band) == got.bands == 5
    assert said == got.as_dict() and said["protocol"] == PROTOCOL
    assert {name: said[name] for name in (*FIELDS, "peak", "pixels")} == {
        name: getattr(got, name) for name in (*FIELDS, "peak", "pixels")
    }


def test_zero_pixels_have_no_angle_in_the_reference_and_90_degrees_in_the_prediction() -> None:
    reference = np.ones((3, 8, 8))
    prediction = reference * 2
    reference[:, 0, 0] = 0  # no direction to compare with: left out
    assert evaluate(reference, prediction, scale=4).sam == pytest.approx(0, abs=2e-6)
    prediction[:, 1, 1] = 0
    assert evaluate(reference, prediction, scale=4).sam == pytest.approx(90 / 63, abs=2e-6)
    dark = evaluate(np.zeros((3, 8, 8)), prediction, scale=4, peak=1.0)
    assert dark.sam == dark.ergas == 0


def test_constant_bands_have_no_correlation_and_zero_bands_no_ergas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (np.concatenate((x, x[:1])) for x in pair)
    plain = evaluate(*pair, scale=4, peak=1.0)
    reference[5] = 0.3
    assert evaluate(reference, prediction, scale=4, peak=1.0).cc == pytest.approx(plain.cc)
    reference[5] = 0
    assert evaluate(reference, prediction, scale=4, peak=1.0).ergas == pytest.approx(plain.ergas)
    constant = np.full((2, 9, 7), 0.1)  # whose mean over 63 pixels is rounded
    assert evaluate(constant, constant, scale=4).cc == 1
    assert evaluate(constant, constant * 1.5, scale=4).cc == 0
    assert evaluate(constant, np.stack((constant[0], constant[1] * 1.5)), scale=4).cc == 0
    flat = pair[1].copy()
    flat[4] = 0.3  # explains nothing of its band, which counts
    assert evaluate(pair[0], flat, scale=4).cc == pytest.approx(0.8 * evaluate(pair[0][:4], pair[1][:4], scale=4).cc)


def test_default_peak_is_the_largest_valid_good_value(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (x.copy() for x in pair)
    reference[0], reference[1, 0, 0] = 50.0, 70.0
    good = np.array([False, True, True, True, True])
    mask = np.ones((33, 21), dtype=bool)
    mask[0, 0] = False
    got = evaluate(reference, prediction, scale=4, mask=mask, good_bands=good)
    assert got.peak == reference[1:][:, mask].max()


def test_a_far_offset_costs_no_digits() -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(1e4, 1, (2, 40, 40))
    prediction = reference + rng.normal(0, 1, reference.shape)
    strips = MetricAccumulator(2, 4, 1e4)
    for row in range(0, 40, 8):
        strips.update(reference[:, row : row + 8], prediction[:, row : row + 8])
    expected = np.mean([np.corrcoef(r.ravel(), p.ravel())[0, 1] for r, p in zip(reference, prediction, strict=True)])
    assert strips.compute().cc == pytest.approx(expected, abs=1e-10)


def test_half_precision_tensors_and_integers_are_fine(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, prediction = (torch.from_numpy(x).to(torch.bfloat16).requires_grad_() for x in pair)
    close(
        evaluate(reference, prediction, scale=4),
        evaluate(reference.detach().double(), prediction.detach().double(), scale=4),
    )
    counts = (pair[0] * 1000).astype(np.uint16), (pair[1].clip(0) * 1000).astype(np.uint16)
    close(evaluate(*counts, scale=4), evaluate(*(c.astype(np.float64) for c in counts), scale=4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prediction": np.ones((5, 33, 20))}, "must both be"),
        ({"reference": np.ones((33, 21))}, r"expected a reference of shape \(bands, rows, cols\)"),
        ({"scale": 0}, "scale must be a positive integer"),
        ({"scale": 2.0}, "scale must be a positive integer"),
        ({"scale": True}, "scale must be a positive integer"),
        ({"peak": 0.0}, "peak must be a positive number"),
        ({"peak": math.inf}, "peak must be a positive number"),
        ({"peak": float("nan")}, "peak must be a positive number"),
        ({"mask": np.ones((33, 20), dtype=bool)}, "mask must be a bool array"),
        ({"mask": np.ones((33, 21))}, "mask must be a bool array"),
        ({"mask": np.zeros((33, 21), dtype=bool), "peak": 1.0}, "no pixel is valid"),
        ({"mask": np.zeros((33, 21), dtype=bool)}, "no pixel is valid"),
        ({"good_bands": np.zeros(5, dtype=bool)}, "every band is marked bad"),
        ({"good_bands": np.ones(4, dtype=bool)}, "good_bands must be a bool array of 5"),
        ({"reference": np.zeros((5, 33, 21))}, "give the peak"),
    ],
)
def test_bad_arguments_are_told(pair: tuple[np.ndarray, np.ndarray], change: dict, words: str) -> None:
    arguments = {"reference": pair[0], "prediction": pair[1], "scale": 4} | change
    with pytest.raises(ValueError, match=words):
        evaluate(arguments.pop("reference"), arguments.pop("prediction"), **arguments)


def test_strips_of_another_scene_are_refused() -> None:
    strips = MetricAccumulator(1, 4, 1.0)
    strips.update(np.ones((1, 3, 8)), np.ones((1, 3, 8)))
    with pytest.raises(ValueError, match="8 columns, found 9"):
        strips.update(np.ones((1, 3, 9)), np.ones((1, 3, 9)))
    for shape in ((2, 3, 8), (1, 24)):
        with pytest.raises(ValueError, match="1 bands, rows, cols"):
            strips.update(np.ones(shape), np.ones(shape))


@pytest.mark.parametrize("size", [1, 5, 8, 40])
def test_parts_equal_the_whole(pair: tuple[np.ndarray, np.ndarray], size: int) -> None:
    """In any order, with as many neighbours as there are, or just the six that count."""
    reference, prediction = (x.copy() for x in pair)
    reference[:, 4:6, 9], prediction[2, 20, 3] = np.nan, np.nan
    whole = evaluate(reference, prediction, scale=4, peak=1.3)
    for beyond in (6, 9):
        parts = MetricAccumulator(5, 4, 1.3)
        for row in reversed(range(0, 33, size)):
            for col in range(0, 21, size):
                near = (slice(None), slice(row, row + size + beyond), slice(col, col + size + beyond))
                parts.update_part(reference[near], prediction[near], min(size, 33 - row), min(size, 21 - col))
        close(parts.compute(), whole)
