"""A model is run with what replaces its layers: what such a run refuses, and what it cannot tell."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lkca.lowrank import (
    LowRankError,
    factorize,
    factorize_reported,
    ranks_of,
    replace_modules,
)
from lkca.lowrank.trials import agree, output

from .layouts import EdsrLike, Result, Slotted, make


def test_a_forward_that_looks_at_its_layers_keeps_them_apart() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 3, padding=1)
            self.shuffle = nn.PixelShuffle(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            height = y.shape[2]  # of the coarse image: not so if the convolution shuffled too
            return self.shuffle(y)[:, :, :height]

    model, x = Looks(), torch.rand(1, 3, 6, 6)
    result = factorize_reported(model, rank=12, example=x)
    assert [layer.fused for layer in result.layers] == [False]
    torch.testing.assert_close(result.model(x), model(x), atol=1e-5, rtol=0)


class TakesMore(nn.Module):
    """A dict and a tensor, in either order; ``reads``: its forward looks at the layer's class."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
        self.reads = reads

    def forward(self, *given: Any) -> Tensor:
        batch, noise = given if isinstance(given[0], dict) else given[::-1]
        y: Tensor = self.up(batch["image"].add_(noise))
        return y if not self.reads or isinstance(self.up[1], nn.PixelShuffle) else -y


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("first", ["dict", "tensor"])
def test_what_is_swapped_is_tried_with_all_arguments(first: str, reads: bool) -> None:
    model, image, noise = TakesMore(reads), torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
    expected = model({"image": image.clone()}, noise)
    batch = {"image": image.clone()}
    example = (batch, noise) if first == "dict" else (noise, batch)
    low = factorize_reported(model, rank=12, example=example)
    assert [layer.fused for layer in low.layers] == [not reads]
    assert list(replace_modules(model, example).swapped) == ([] if reads else ["up.0"])
    assert torch.equal(batch["image"], image)
    for net in (low.model, model):
        torch.testing.assert_close(net({"image": image.clone()}, noise), expected, atol=1e-5, rtol=0)


class Reads(nn.Module):
    """Uses more of its convolution than the convolution's result."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
        self.other = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x) + self.other(x)
        conv: Any = self.up[0]
        if self.what == "class":
            return y if isinstance(conv, nn.Conv2d) else y.mean(1)
        return y * (conv.weight.abs().mean() if self.what == "weight" else conv.kernel_size[0])


@pytest.mark.parametrize("what", ["class", "weight", "size"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_model_that_reads_its_convolution_is_refused(what: str, inplace: bool) -> None:
    model, x = Reads(what).eval(), torch.rand(1, 3, 6, 6)
    expected = model(x)
    for rank in (2, 12):
        with pytest.raises(LowRankError, match=r"up\.0.*: the model's forward uses more of them than their results"):
            factorize(model, rank=rank, inplace=inplace)
    assert torch.equal(model(x), expected)
    low = factorize(model, rank=12, layers=["other.0"], inplace=inplace)
    torch.testing.assert_close(low(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("what", ["class", "weight", "size"])
def test_a_search_refuses_it_too(what: str) -> None:
    """Its trials failed in PyTorch, or found that no rank is good enough."""
    model, x = Reads(what).eval(), torch.rand(2, 3, 6, 6)
    with pytest.raises(LowRankError, match="the model's forward uses more of them than their results"):
        factorize(model, max_psnr_drop=1.0, calibration=[(x, torch.rand_like(model(x)))])


class Unlike(nn.Module):
    """Gives something else each time, or whole numbers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
        self.kind, self.calls = kind, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.up(x)
        if self.kind == "uint8":
            return (255 * y.sigmoid()).round().to(torch.uint8)
        return y + self.calls if self.kind == "counts" else y > 0


@pytest.mark.parametrize("kind", ["counts", "uint8", "bool"])
def test_what_cannot_be_told_from_outputs_is_no_reason(kind: str) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model, x = Unlike(kind).eval(), torch.rand(1, 3, 40, 40)
        assert ranks_of(factorize(model, rank=3, example=x)) == {"up.0": 3}


def test_a_model_of_inference_mode_is_factorised_in_place() -> None:
    with torch.inference_mode():
        model = make(EdsrLike).eval()
        assert ranks_of(factorize(model, rank=3, inplace=True)) == {"upsample.0": 3, "upsample.2": 3}


def test_a_model_may_be_tried_under_autocast() -> None:
    torch.manual_seed(0)
    model = make(EdsrLike)
    x = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)  # its weights are in autocast's cache now
        low = factorize(model, rank=3)
        factorize(copy.deepcopy(model), rank=3, inplace=True)
        assert torch.equal(model(x), expected)
    assert ranks_of(low) == {"upsample.0": 3, "upsample.2": 3}


def test_outputs_that_are_not_finite_refuse_nothing() -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = (self.up(x) * torch.tensor([1.0, 0.0, torch.nan]).view(1, 3, 1, 1)).reciprocal()
            return y, y.isnan(), y[:0]

    model = Logarithm().eval()
    assert [layer.fused for layer in factorize_reported(model, rank=4).layers] == [True]
    assert list(replace_modules(model).swapped) == ["up.0"]


def test_a_model_may_draw_at_random() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x + torch.randn_like(x))

    model, x = Noisy(), torch.rand(1, 3, 6, 6)
    assert factorize_reported(model, rank=12, example=x).layers[0].fused
    assert list(replace_modules(model, x).swapped) == ["up.0"]
    torch.manual_seed(0)
    noise = torch.randn(8)
    torch.manual_seed(0)
    output(model, (x,))
    assert torch.equal(torch.randn(8), noise)


def test_a_model_may_write_into_its_input() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))

        def forward(self, x: Tensor) -> Tensor:
            x *= 255
            return self.up(x)

    model, x = Writes(), torch.rand(2, 3, 6, 6)
    kept = x.clone()
    pairs = [(x, torch.rand(2, 3, 12, 12))]
    result = factorize_reported(model, max_psnr_drop=1.0, calibration=pairs, example=x)
    assert result.layers[0].fused and torch.equal(x, kept)


def test_what_agrees() -> None:
    x = torch.rand(3)
    for value in (x, x.numpy(), [x, 2], {"a": (x, None)}, Result(x), SimpleNamespace(x=x), "text", 2.5, True, None):
        assert agree(value, copy.deepcopy(value))
    for one, other in (
        (Result(x), Result(x + 1)),
        (x.numpy(), x.numpy() + 1),
        (Result(x), Result(x, 3)),
        (Slotted(x), Slotted(x + 1)),
        (SimpleNamespace(x=x), SimpleNamespace(x=x, y=x)),
        ([x, 2], [x, 3]),
        ("text", "other"),
        (2.5, 2.6),
        (ValueError("a"), ValueError("a")),
    ):
        assert not agree(one, other)
    assert agree(2.5, 2.5 * (1 + 1e-6)) and agree(float("nan"), float("nan"))


@pytest.mark.parametrize(
    "form",
    [
        lambda array: array[..., ::-1],
        lambda array: array.astype(">f4"),
        lambda array: array.astype(np.longdouble),
        lambda array: (array * 255).astype(np.uint16),
        lambda array: np.broadcast_to(array, (2, *array.shape)),
        lambda array: torch.as_tensor(array).to_sparse(),
    ],
    ids=["reversed", "big-endian", "long double", "uint16", "read-only", "sparse"],
)
def test_arrays_of_any_kind_are_compared(form: Callable[[np.ndarray], Any]) -> None:
    array = np.random.default_rng(0).random((3, 4), np.float32)
    assert agree(form(array), form(array.copy())) and not agree(form(array), form(array + 1))


def test_a_result_that_leads_back_to_itself_is_compared() -> None:
    def ring(x: Tensor) -> SimpleNamespace:
        result = SimpleNamespace(x=x, part=SimpleNamespace(), parts={})
        result.part.whole = result.parts["whole"] = result
        return result

    def chain(x: Tensor) -> Any:
        result: Any = x
        for _ in range(5000):
            result = [result]
        return result

    x = torch.rand(3)
    for form in (ring, chain):
        assert agree(form(x), form(x.clone())) and not agree(form(x), form(x + 1))
