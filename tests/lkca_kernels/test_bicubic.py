"""The bicubic definition, against PyTorch's two and against imresize written down independently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from lkca_kernels.reference import bicubic
from lkca_kernels.reference.bicubic import bicubic_upsample

SIZES = [(1, 1), (1, 7), (2, 3), (16, 15), (33, 17)]
SCALES = [2, 3, 4, 5, 8]


def _imresize_rows(image: np.ndarray, scale: int) -> np.ndarray:
    """MATLAB's imresize along the first axis, sample by sample: Keys a = -0.5, symmetric border."""
    rows = image.shape[0]
    mirror = [*range(rows), *reversed(range(rows))]
    out = np.zeros((rows * scale, *image.shape[1:]))
    for i in range(rows * scale):
        at = (i + 0.5) / scale - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            d = abs(at - tap)
            weight = 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            out[i] += weight * image[mirror[tap % (2 * rows)]]
    return out


@pytest.fixture(params=["_by_banded_product", "_by_convolution", "_by_taps"])
def every_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways of taking the same sums: of eager calls on CPUs, of traced ones, and of GPUs."""
    monkeypatch.setattr(bicubic, "_way", lambda _: getattr(bicubic, request.param))


@pytest.mark.usefixtures("every_form")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_matlab_is_imresize(h: int, w: int, scale: int) -> None:
    x = torch.randn(2, 3, h, w, dtype=torch.float64)
    expected = _imresize_rows(x.permute(2, 3, 0, 1).numpy(), scale)
    expected = _imresize_rows(expected.swapaxes(0, 1), scale).swapaxes(0, 1)
    torch.testing.assert_close(bicubic_upsample(x, scale), torch.from_numpy(expected).permute(2, 3, 0, 1).contiguous())


@pytest.mark.parametrize("scale", SCALES)
def test_matlab_is_antialiased_torch_after_symmetric_padding(scale: int) -> None:
    x = torch.randn(1, 2, 9, 6, dtype=torch.float64)
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="symmetric"))
    size = (17 * scale, 14 * scale)
    inner = F.interpolate(padded, size=size, mode="bicubic", antialias=True)[..., 4 * scale : -4 * scale, :]
    torch.testing.assert_close(bicubic_upsample(x, scale), inner[..., 4 * scale : -4 * scale].contiguous())


@pytest.mark.usefixtures("every_form")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_torch_is_interpolate(h: int, w: int, scale: int) -> None:
    x = torch.randn(2, 3, h, w, dtype=torch.float64)
    expected = F.interpolate(x, size=(h * scale, w * scale), mode="bicubic", align_corners=False)
    torch.testing.assert_close(bicubic_upsample(x, scale, "torch"), expected)


@pytest.mark.parametrize("convention", ["matlab", "torch"])
def test_keeps_a_constant_and_differentiates(convention: bicubic.Convention) -> None:
    constant = torch.full((1, 1, 3, 5), 0.7, dtype=torch.float64)
    upsampled = bicubic_upsample(constant, 3, convention)
    torch.testing.assert_close(upsampled, torch.full_like(upsampled, 0.7))
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: bicubic_upsample(t, 3, convention).sin(), x)
    assert torch.autograd.gradgradcheck(lambda t: bicubic_upsample(t, 2, convention).sin(), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 7, 5).to(dtype)
    assert torch.equal(bicubic_upsample(x, 4), bicubic_upsample(x.float(), 4).to(dtype))


def test_layout_and_empty() -> None:
    x = torch.randn(2, 3, 5, 4).to(memory_format=torch.channels_last)
    assert bicubic_upsample(x, 2).is_contiguous()
    assert bicubic_upsample(torch.empty(0, 3, 5, 4), 2).shape == (0, 3, 10, 8)
    assert bicubic_upsample(torch.empty(1, 3, 0, 4), 2).shape == (1, 3, 0, 8)
    assert bicubic_upsample(torch.empty(1, 3, 0, 4, requires_grad=True), 2).requires_grad


def test_a_missing_sample_stays_within_its_reach() -> None:
    """As F.interpolate has it: four by four neighbours at every phase."""
    x = torch.randn(1, 2, 40, 37)
    x[0, 1, 20, 20] = float("nan")
    found, expected = bicubic_upsample(x, 3, "torch"), F.interpolate(x, scale_factor=3, mode="bicubic")
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_autocast_leaves_it_alone() -> None:
    x = torch.randn(1, 2, 20, 20)
    expected = bicubic_upsample(x, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bicubic_upsample(x, 4), expected)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # off the CPU it is computed in another way
def test_exported_with_named_sizes(device: str) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return bicubic_upsample(x, 3)

    sizes = {"x": {2: torch.export.Dim("h"), 3: torch.export.Dim("w")}}
    x = torch.randn(1, 2, 6, 7, device=device)
    program = torch.export.export(Module(), (x,), dynamic_shapes=sizes, strict=False)
    assert program.module()(torch.randn(1, 2, 9, 5, device=device)).shape == (1, 2, 27, 15)


def test_tracers_and_numbers_of_numpy() -> None:
    x, fine = torch.randn(1, 2, 6, 7), torch.empty(1, 2, 12, 14)
    expected = bicubic_upsample(x, 2)
    assert torch.equal(bicubic_upsample(x, np.int64(2)), expected)
    assert torch.equal(make_fx(lambda a: bicubic_upsample(a, 2))(x)(x), expected)
    traced = torch.jit.trace(lambda a, b: bicubic_upsample(a, b.shape[2] // a.shape[2]), (x, fine))
    torch.testing.assert_close(traced(x, fine), expected)


def test_half_sums_do_not_overflow() -> None:
    """16-bit images take the fast way, whatever they sum to."""
    x = torch.full((1, 1, 300, 300), 1000.0, dtype=torch.float16)
    assert bicubic._way(x) is bicubic._by_banded_product
    x[0, 0, 3, 3] = torch.inf
    assert bicubic._way(x) is bicubic._by_taps
    assert bicubic._way(x.to("meta")) is bicubic._by_taps  # as on a GPU, whose products may be tf32


def test_wrong_arguments() -> None:
    x = torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match="x: expected"):
        bicubic_upsample(x[0], 2)
    with pytest.raises(ValueError, match="convention: expected 'matlab' or 'torch'"):
        bicubic_upsample(x, 2, "keys")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale: expected"):
        bicubic_upsample(x, 0)
    for scale in (2.5, True, "2"):
        with pytest.raises(TypeError, match="scale: expected an integer, got"):
            bicubic_upsample(x, scale)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"convention: expected 'matlab' or 'torch', got \['matlab'\]"):
        bicubic_upsample(x, 2, ["matlab"])  # type: ignore[arg-type]
    for other in (x.int(), x.bool(), x.to(torch.complex64), x.to(torch.float8_e5m2)):
        with pytest.raises(TypeError, match="x: expected float16, bfloat16, float32 or float64, got"):
            bicubic_upsample(other, 2)
    with pytest.raises(TypeError, match=r"x: expected a tensor \(B, C, h, w\), got ndarray"):
        bicubic_upsample(x.numpy(), 2)  # type: ignore[arg-type]
    for other in (x.to_sparse(), x.to_mkldnn(), torch.nested.nested_tensor([x[0], x[0]])):
        with pytest.raises(TypeError, match="x: expected a dense tensor, got"):
            bicubic_upsample(other, 2)


def test_onnx_with_dynamic_sizes(tmp_path: object) -> None:
    ort = pytest.importorskip("onnxruntime")

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return bicubic_upsample(x, 3)

    path = f"{tmp_path}/bicubic.onnx"
    axes = {"x": {2: "h", 3: "w"}}
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter: needs no further package
        torch.onnx.export(
            Network(), (torch.randn(1, 2, 6, 5),), path, dynamo=False, input_names=["x"], dynamic_axes=axes
        )
    session = ort.InferenceSession(path)
    for h, w in ((6, 5), (1, 1), (20, 33)):
        x = torch.randn(1, 2, h, w)
        (found,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), bicubic_upsample(x, 3))
