"""Degradation against an independent dense imresize, against torch's antialiased bicubic, and by geometry."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter1d

from lkca.data.degradation import Degradation, crop_to_multiple, degrade

METHODS = ("bicubic", "gaussian", "area")


def imresize_weights(size: int, scale: int) -> np.ndarray:
    """MATLAB's ``contributions`` for imresize(x, 1/scale), antialiasing on, as a dense (out, in) matrix.

    Written from the 1-based formulas of the toolbox: u = x/scale + 0.5(1 - 1/scale), P = ceil(width) + 2 taps from
    floor(u - width/2), normalised, indices mirrored through [1..n, n..1].
    """

    def cubic(x: np.ndarray) -> np.ndarray:
        ax = np.abs(x)
        near = 1.5 * ax**3 - 2.5 * ax**2 + 1
        far = -0.5 * ax**3 + 2.5 * ax**2 - 4 * ax + 2
        return near * (ax <= 1) + far * ((ax > 1) & (ax <= 2))

    shrink = 1.0 / scale
    width = 4.0 / shrink
    out = int(np.ceil(size * shrink))
    u = np.arange(1, out + 1) / shrink + 0.5 * (1 - 1 / shrink)
    indices = np.floor(u - width / 2)[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = shrink * cubic(shrink * (u[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    mirror = np.r_[np.arange(size), np.arange(size)[::-1]]
    columns = mirror[np.mod(indices.astype(int) - 1, 2 * size)]
    dense = np.zeros((out, size))
    np.add.at(dense, (np.arange(out)[:, None], columns), weights)
    return dense


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("blocks", [(1, 1), (1, 5), (3, 2), (13, 9)])
def test_bicubic_is_imresize_even_where_the_border_exceeds_the_image(scale: int, blocks: tuple[int, int]) -> None:
    height, width = blocks[0] * scale, blocks[1] * scale
    x = torch.rand(2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(scale))
    expected = imresize_weights(height, scale) @ x.numpy() @ imresize_weights(width, scale).T
    np.testing.assert_allclose(degrade(x, scale).numpy(), expected, atol=5e-16, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_bicubic_is_torch_antialiased_bicubic_on_a_symmetric_border(scale: int) -> None:
    x = torch.rand(1, 3, 6 * scale, 5 * scale, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pad = 4 * scale
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="symmetric"))
    big = F.interpolate(padded, scale_factor=1 / scale, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(degrade(x, scale), big[..., 4:-4, 4:-4], atol=1e-14, rtol=0)


def test_area_is_the_block_mean() -> None:
    x = torch.arange(48, dtype=torch.float32).reshape(1, 6, 8)
    expected = x.numpy().reshape(1, 3, 2, 4, 2).mean(axis=(2, 4))
    np.testing.assert_array_equal(degrade(x, 2, "area").numpy(), expected)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_gaussian_is_the_filter_at_the_block_centres(scale: int) -> None:
    """An odd scale has a pixel at each block's centre; the centre of an even one lies between two."""
    sigma = 0.6 * scale
    row = torch.rand(20 * scale, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    image = row.expand(scale, -1)  # constant along rows: the other axis must not matter
    got = degrade(image, scale, "gaussian", sigma=sigma)
    assert got.shape == (1, 20)
    if scale % 2:
        blurred = gaussian_filter1d(row.numpy(), sigma, mode="reflect", radius=60)
        np.testing.assert_allclose(got[0].numpy(), blurred[scale // 2 :: scale], atol=2e-4)
    else:
        centres = np.arange(20) * scale + (scale - 1) / 2
        extended = np.r_[row.numpy()[::-1], row.numpy(), row.numpy()[::-1]]
        where = np.arange(len(extended)) - len(row)
        weights = np.exp(-0.5 * ((where - centres[:, None]) / sigma) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(got[0].numpy(), weights @ extended, atol=2e-4)


@pytest.mark.parametrize("sigma", [0.01, 1e-9])
def test_a_gaussian_far_narrower_than_a_pixel_takes_what_is_nearest_to_the_middle(sigma: float) -> None:
    degradation = Degradation(method="gaussian", scale=4, sigma=sigma)
    assert [weight for weight in degradation.kernel if weight] == [0.5, 0.5]


def test_a_gaussian_far_narrower_than_a_pixel_takes_the_middle() -> None:
    x = torch.rand(18, 27, generator=torch.Generator().manual_seed(2))
    degradation = Degradation(method="gaussian", scale=9, sigma=0.1)
    assert degradation.halo == 0
    torch.testing.assert_close(degradation.apply(x), x[4::9, 4::9])


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_default_gaussian_has_the_stated_gain_at_the_coarse_nyquist_frequency(scale: int) -> None:
    kernel = np.array(Degradation(method="gaussian", scale=scale).kernel)
    distance = np.arange(len(kernel)) - (len(kernel) - 1) / 2
    gain = float((kernel * np.cos(np.pi * distance / scale)).sum())
    assert gain == pytest.approx(0.3, abs=2e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8])
def test_no_method_shifts_the_image(method: str, scale: int) -> None:
    """A linear ramp comes back with the value at each block's centre, away from the border."""
    y, x = torch.meshgrid(torch.arange(16.0 * scale), torch.arange(12.0 * scale), indexing="ij")
    ramp = (2 * y + 3 * x).double()
    centre = (torch.arange(16, dtype=torch.float64) + 0.5) * scale - 0.5
    expected = 2 * centre[:, None] + 3 * centre[:12]
    inside = (slice(3, -3), slice(3, -3))
    torch.testing.assert_close(degrade(ramp, scale, method)[inside], expected[inside], atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_constants_survive_and_mirroring_commutes(method: str) -> None:
    x = torch.rand(2, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(degrade(torch.full_like(x, 0.7), 4, method), torch.full((2, 3, 2), 0.7).double())
    torch.testing.assert_close(degrade(x.flip(-1), 4, method), degrade(x, 4, method).flip(-1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_the_rounded_exact_result(method: str, dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    exact = degrade(x.double(), 4, method)
    got = degrade(x, 4, method)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, atol=torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_gradient(method: str) -> None:
    x = torch.rand(1, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: degrade(t, 2, method), (x,))


def test_windows_with_their_halo_equal_the_whole() -> None:
    model = Degradation(method="gaussian", scale=4)
    x = torch.rand(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    margin = -(-model.halo // 4) * 4
    part = model.apply(x[24 - margin : 40 + margin])[margin // 4 : -margin // 4]
    torch.testing.assert_close(part, model.apply(x)[6:10], atol=1e-15, rtol=0)


@pytest.mark.parametrize(("method", "side"), [("area", 1), ("bicubic", 2), ("gaussian", 2)])
def test_nan_spreads_to_what_sees_it_and_no_further(method: str, side: int) -> None:
    x = torch.ones(1, 12, 12)
    x[0, 0, 0] = float("nan")
    bad = degrade(x, 2, method).isnan()  # type: ignore[arg-type]
    assert bad[0, :side, :side].all() and bad.sum() == side**2


@pytest.mark.parametrize("method", METHODS)
def test_the_description_survives_json(method: str) -> None:
    model = Degradation.model_validate({"method": method, "scale": 4})
    assert Degradation.model_validate_json(model.model_dump_json()) == model
    assert (model.sigma is not None) == (method == "gaussian")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: degrade(x, 1), "scale must be an integer of at least 2"),
        (lambda x: degrade(x, 2.0), "scale must be an integer"),  # type: ignore[arg-type]
        (lambda x: degrade(x, True), "scale must be an integer"),
        (lambda x: degrade(x, 2, "lanczos"), "bicubic, gaussian, area"),  # type: ignore[arg-type]
        (lambda x: degrade(x, 4), "multiples of scale=4, found 6 x 8"),
        (lambda x: degrade(x, 3), "multiples of scale=3, found 6 x 8"),
        (lambda x: degrade(x[:, :0], 2), "with pixels"),
        (lambda x: Degradation(scale="2").apply(x), "valid integer"),  # type: ignore[arg-type]
        (lambda x: Degradation(method="gaussian", scale="2").apply(x), "valid integer"),  # type: ignore[arg-type]
        (lambda x: degrade(x, 2, sigma=1.0), "sigma belongs to method 'gaussian'"),
        (lambda x: degrade(x, 2, "gaussian", sigma=-1.0), "greater than 0"),
        (lambda x: degrade(x, 2, "gaussian", sigma=math.inf), "finite"),
        (lambda x: degrade(x.int(), 2), "floating tensor"),
        (lambda x: degrade(x.numpy(), 2), "floating tensor .*, found a ndarray; torch.from_numpy"),  # type: ignore[arg-type]
        (lambda x: Degradation(scale=2).apply("scene.tif"), "found a str;"),  # type: ignore[arg-type]
        (lambda x: crop_to_multiple(x, 7), "hold no 7 x 7 block"),
        (lambda x: crop_to_multiple(x.mT, 7), "hold no 7 x 7 block"),
        (lambda x: crop_to_multiple(x, 0), "scale must be an integer of at least 2"),
    ],
)
def test_bad_arguments_are_told(call: Callable[[torch.Tensor], torch.Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(torch.rand(3, 6, 8))


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="blur"):
        Degradation.model_validate({"method": "bicubic", "scale": 2, "blur": 1})


def test_crop_keeps_the_upper_left_corner() -> None:
    x = torch.rand(3, 7, 9)
    assert torch.equal(crop_to_multiple(x, 4), x[:, :4, :8])
