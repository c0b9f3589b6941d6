"""What a layer's inputs look like on real data: their first and second moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.lowrank.layers import Layer, LowRankError
from lkca.lowrank.spectrum import Moments
from lkca.nn.mode import evaluating

__all__ = ["Calibration", "collect_moments", "feeds", "pairs", "prepared"]

Calibration = Tensor | Iterable[Any] | Callable[[nn.Module], Any]

_PATCHES_PER_CALL = 4096  # of one call of a layer, drawn at random: enough for the moments of a few hundred inputs


def _like(model: nn.Module) -> Tensor | None:
    return next((p for p in model.parameters() if p.is_floating_point()), None)


def _placed(value: object, model: nn.Module, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise LowRankError(f"{name}: expected tensors (B, C, h, w), got {type(value).__name__}")
    like = _like(model)
    tensor = value if like is None else value.to(like.device, like.dtype)
    return tensor[None] if tensor.ndim == 3 else tensor


def _items(calibration: object, name: str) -> list[Any]:
    items = [calibration] if isinstance(calibration, Tensor) else list(calibration)  # type: ignore[call-overload]
    if not items:
        raise LowRankError(f"{name}: holds no image")
    return items


def prepared(calibration: Calibration | None, example: Any, model: nn.Module) -> tuple[Calibration | None, Any]:
    """``calibration``, such that it can be read twice, and ``example``, by default its first image (1, C, h, w)."""
    if calibration is None or (callable(calibration) and not isinstance(calibration, Tensor)):
        return calibration, example
    if not isinstance(calibration, Tensor):
        calibration = list(calibration)
    if example is None:
        first = calibration if isinstance(calibration, Tensor) else calibration[:1]
        example = feeds(first, model)[0][:1]
    return calibration, example


def feeds(calibration: Calibration, model: nn.Module) -> list[Tensor]:
    """The model's inputs in ``calibration``: a tensor (B, C, h, w), or inputs or (input, target) pairs."""
    items = _items(calibration, "calibration")
    return [_placed(i[0] if isinstance(i, (tuple, list)) else i, model, "calibration") for i in items]


def pairs(calibration: Calibration, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The (input, target) pairs in ``calibration``; LowRankError where targets are missing."""
    result = []
    for item in _items(calibration, "validation"):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise LowRankError("max_psnr_drop needs (input, target) pairs to measure PSNR on, or a validation function")
        result.append((_placed(item[0], model, "validation"), _placed(item[1], model, "validation")))
    return result


@torch.no_grad()
def collect_moments(model: nn.Module, layers: Sequence[Layer], calibration: Calibration) -> list[Moments]:
    """Moments of each layer's input patches while ``model`` runs over ``calibration``.

    A callable is given the model and runs it on what it likes. LowRankError for a layer that no run reached, or whose
    inputs were not finite.
    """
    generator = torch.Generator().manual_seed(0)
    sums: list[list[Any]] = [[0, 0.0, 0.0] for _ in layers]

    def listener(total: list[Any]) -> Callable[[nn.Module, Any], None]:
        def listen(conv: nn.Module, inputs: Any) -> None:
            assert isinstance(conv, nn.Conv2d)
            patches = _patches(conv, inputs[0], generator).double()
            total[0] += len(patches)
            total[1] = total[1] + patches.sum(0)
            total[2] = total[2] + patches.T @ patches

        return listen

    with ExitStack() as stack:
        for layer, total in zip(layers, sums, strict=True):
            stack.callback(layer.conv.register_forward_pre_hook(listener(total)).remove)
        stack.enter_context(evaluating(model))
        if callable(calibration) and not isinstance(calibration, Tensor):
            calibration(model)
        else:
            for x in feeds(calibration, model):
                model(x.clone())  # some write into their input
    result = []
    for layer, (count, first, second) in zip(layers, sums, strict=True):
        if count == 0:
            raise LowRankError(f"calibration: no run reached the layer '{layer.name}'")
        if not bool(torch.isfinite(second).all()):
            raise LowRankError(f"calibration: the layer '{layer.name}' was given values that are not finite")
        result.append(Moments((first / count).cpu(), (second / count).cpu(), count))
    return result


def _patches(conv: nn.Conv2d, x: Tensor, generator: torch.Generator) -> Tensor:
    """(count, in·k²): the patches of ``x`` that the kernel meets, at most so many, drawn without replacement."""
    x = x if x.ndim == 4 else x[None]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    for axis in (0, 1):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
        x = x.unfold(2 + axis, reach, conv.stride[axis])[..., :: conv.dilation[axis]]
    batch, _, rows, cols = x.shape[:4]  # (B, in, H', W', kh, kw), a view
    count = batch * rows * cols
    chosen = torch.arange(count, device=x.device)
    if count > _PATCHES_PER_CALL:
        drawn = torch.randperm(count, generator=generator, device=generator.device)
        chosen = drawn[:_PATCHES_PER_CALL].to(x.device)
    b, y, z = chosen // (rows * cols), chosen // cols % rows, chosen % cols
    return x[b, :, y, z].flatten(1)
