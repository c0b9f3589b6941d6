"""Swap squeeze-excite blocks and upsamplers of a model for the fused ones, outputs unchanged."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lkca.lowrank.layers import REPLACED, Layer, replaced_forward, shaped_model
from lkca.lowrank.surgery import carry_over, conv_arguments, copied_model, replace_module
from lkca.lowrank.survey import Survey, survey, uses
from lkca.lowrank.trials import STILL_CALLED, StillCalled, agree, differing, output, same_draws
from lkca.nn import ChannelAttention, FusedShuffle, LowRankConv2d, LowRankUpsample, PixelShuffleUpsample
from lkca.nn.parts import has_hooks

__all__ = ["Replacements", "replace_modules"]

_TOLERANCE = 1e-5
_MOST_SAID = 120  # characters of a foreign module's error
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass
class Replacements:
    """model: the one that was given, changed in place. swapped: name -> what now stands there. kept: name -> why an
    upsampler or what looks like a squeeze-excite block stays as it was."""

    model: nn.Module
    swapped: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name}: now {what}" for name, what in self.swapped.items()]
        lines += [f"{name}: kept, {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines) or "nothing to swap"


@torch.no_grad()
def replace_modules(model: nn.Module, example: Any = None) -> Replacements:
    """Swap, in place, what lkca.nn has fused versions of; outputs change by at most 1e-5 of their size.

    - Squeeze-excite blocks (torchvision's, timm's, RCAN's, HAT's, SENet's or any other) become
      :class:`~lkca.nn.ChannelAttention`. A block is known by what it does: a module with two layers that squeeze and
      expand its channels, whose results on probing images, with weights drawn for that, equal
      x · sigmoid(W2 relu(W1 mean(x) + b1) + b2).
    - A convolution with its ``nn.PixelShuffle`` right behind it becomes :class:`~lkca.nn.PixelShuffleUpsample`.

    example: an input (or tuple of arguments) for the run that finds the upsamplers and tries the swaps, by default a
    random image; should outputs change, as where a forward looks into a block, the old ones come back. (What a model
    does not give alike twice, such as noise or a count of its calls, is not compared.) Where no run is possible (no
    guessed image fits), blocks and upsamplers in an ``nn.Sequential`` are swapped untried. Hooks, device, dtype,
    train/eval mode and requires_grad stay. So do the parameters, which an optimiser may know already, but for the
    weights of linear layers: those become convolutions'. Raises LowRankError for a model that is not made of modules or
    has no values yet (on the meta device, lazy), and what the model raises on the example; nothing is changed then.
    """
    found = survey(shaped_model(model), example)
    result = Replacements(model)
    _swap_attention(model, found.example, result)
    _swap_upsamplers(model, found, result)
    return result


# ---- squeeze and excitation ----------------------------------------------------------------------------------------


def _swap_attention(model: nn.Module, example: tuple[Any, ...] | None, result: Replacements) -> None:
    ties = uses(model)
    swaps: list[tuple[str, nn.Module, nn.Module]] = []
    expected: Any = None
    named = [(name, module) for name, module in model.named_modules() if module is not model]
    for name, module in reversed(named):  # the innermost first: what holds a block alone may be walked through by name
        ends = _squeeze_and_expand(module)
        if ends is None:
            continue
        tied = any(ties[id(p)] > 1 for p in module.parameters())
        reason = "its weights are tied to another layer's" if tied else _differs(module)
        for inner in [inner for inner in result.kept if inner.startswith(f"{name}.")]:
            del result.kept[inner]  # parts of this one
        if reason is not None:
            result.kept[name] = reason
            continue
        if not swaps:
            expected = output(model, example)
        new = _attention(*ends)
        carry_over(module, new)
        replace_module(model, module, new)
        swaps.append((name, module, new))
        result.swapped[name] = "ChannelAttention"
    if swaps and not agree(expected, output(model, example, replaced=[module for _, module, _ in swaps])):
        for _, module, swap in swaps:
            replace_module(model, swap, module)
        unsteady = differing(expected, output(model, example))
        for name, module, swap in swaps:
            replace_module(model, module, swap)
            found = output(model, example, replaced=[module])
            still = isinstance(found, StillCalled)
            if still or differing(expected, found) - unsteady:
                replace_module(model, swap, module)
                del result.swapped[name]
                result.kept[name] = STILL_CALLED if still else "the model's forward uses more of it than its result"
    for report in (result.swapped, result.kept):
        report.update({name: report.pop(name) for name, _ in named if name in report})  # in the model's order


def _squeeze_and_expand(module: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The two layers C -> C' and C' -> C that hold all of the module's parameters, if that is how it is made."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Conv2d, nn.Linear)):
        return None
    if any(isinstance(m, ChannelAttention) for m in module.modules()):  # the block itself, or around it
        return None
    holders = [m for m in module.modules() if m._parameters]
    if len(holders) != 2 or not all(isinstance(m, (nn.Conv2d, nn.Linear)) for m in holders):
        return None
    sizes = []
    for m in holders:
        if isinstance(m, nn.Conv2d) and (m.kernel_size != (1, 1) or m.groups != 1 or m.stride != (1, 1)):
            return None
        if m._parameters.get("weight") is None:
            return None
        weight = m.weight
        assert isinstance(weight, Tensor)
        sizes.append(tuple(weight.shape[:2]))
    (hidden, channels), (out, middle) = sizes
    return (holders[0], holders[1]) if (out, middle) == (channels, hidden) and 0 < hidden <= channels else None


def _attention(squeeze: nn.Module, expand: nn.Module) -> ChannelAttention:
    weight: Any = squeeze.weight
    bias = squeeze.bias is not None or expand.bias is not None
    hidden, channels = weight.shape[:2]
    new = ChannelAttention(channels, hidden_channels=hidden, bias=bias, device="meta", dtype=weight.dtype)
    new.to_empty(device=weight.device)
    for ours, theirs in ((new.fc1, squeeze), (new.fc2, expand)):
        source: Any = theirs
        if isinstance(theirs, nn.Conv2d):
            ours.weight = source.weight
        else:
            ours.weight.copy_(source.weight.reshape(ours.weight.shape))
            ours.weight.requires_grad_(source.weight.requires_grad)
        if source.bias is not None:
            ours.bias = source.bias
        elif ours.bias is not None:
            ours.bias.zero_().requires_grad_(False)
    return new


def _differs(module: nn.Module) -> str | None:
    """Why a ChannelAttention may not take the module's place; None where it may.

    Tried with drawn weights: by those that it holds (zeros at the start of a training) other blocks may look alike.
    """
    if any(has_hooks(m) for m in module.modules() if m is not module):
        return "hooks on its inner modules would be lost"
    if replaced_forward(module):
        return REPLACED
    for m in module.modules():
        if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)):
            return f"it holds a {type(m).__name__}"
        if others := m._parameters.keys() - {"weight", "bias"}:
            return f"its {type(m).__name__} holds parameters of its own ({', '.join(sorted(others))})"
    if any(True for _ in module.buffers()):
        return "its buffers would be lost"
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if len(kinds) != 1 or kinds[0] not in _POSITIONAL:
        return "its forward takes more than an image"
    old = copied_model(module).requires_grad_(False)
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(old, hooks).clear()
    if next(old.parameters()).device.type != "mps":
        old = old.double()
    generator = torch.Generator().manual_seed(0)
    drawn: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": torch.float64}
    for parameter in old.parameters():
        parameter.copy_((2 * torch.rand(parameter.shape, **drawn) - 1) * (2 / math.sqrt(parameter[0].numel())))
    ends = _squeeze_and_expand(old)
    assert ends is not None
    fused = _attention(*ends).requires_grad_(False)
    channels = fused.fc1.in_channels
    for rows, cols, size in ((7, 5, 1.0), (4, 4, 30.0), (1, 3, 0.01), (6, 2, -10.0)):  # also where sigmoids saturate
        x = torch.randn(2, channels, rows, cols, **drawn) * abs(size)
        x = (x + size * torch.rand(1, channels, 1, 1, **drawn)).to(next(old.parameters()))
        expected, gradient = _result_and_gradient(fused, x)
        for training in (False, True):
            try:
                with same_draws(old):
                    found, slope = _result_and_gradient(old.train(training), x)
            except Exception as error:  # a foreign module that wants something else than an image
                said = " ".join(str(error).split())[:_MOST_SAID]
                return f"it cannot be tried on images of any size in {x.dtype} ({type(error).__name__}: {said})"
            if not isinstance(found, Tensor) or found.shape != expected.shape:
                return "its result has another shape than its input (a gate alone, or another layer)"
            if float((found - expected).abs().max()) > _TOLERANCE * float(expected.abs().max()):
                when = ", in training" if training else ""
                return f"it computes something else than x · sigmoid(W2 relu(W1 mean(x) + b1) + b2){when}"
            if float((slope - gradient).abs().max()) > _TOLERANCE * float(gradient.abs().max()):
                return "it sends another gradient back"
    return None


def _result_and_gradient(block: nn.Module, x: Tensor) -> tuple[Any, Tensor]:
    """What ``block`` makes of an image, and the gradient by it; zeros where none comes back."""
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        found = block(leaf.clone())  # some write into their input
        if isinstance(found, Tensor) and found.requires_grad:
            found.square().sum().backward()  # autograd.grad would be refused by a reentrant checkpoint
            found = found.detach()
    return found, torch.zeros_like(x) if leaf.grad is None else leaf.grad


# ---- upsamplers ----------------------------------------------------------------------------------------------------


def _swap_upsamplers(model: nn.Module, found: Survey, result: Replacements) -> None:
    result.kept.update(found.skipped)
    layers = [la for la in found.layers if not isinstance(la.module, (PixelShuffleUpsample, LowRankUpsample))]
    here = {id(layer.module) for layer in layers if layer.shuffle is not None}
    for layer in layers:
        if isinstance(layer.module, LowRankConv2d):
            continue
        if layer.shuffle is None:
            result.kept[layer.name] = "its pixel shuffle does not follow at once as a module, or one of them has hooks"
        elif all(id(feeder) in here for feeder in layer.shuffle.feeders):
            continue
        else:
            result.kept[layer.name] = "its pixel shuffle serves a layer that cannot be swapped"
    layers = [layer for layer in layers if layer.name not in result.kept and layer.shuffle is not None]
    if not layers:
        return
    expected = output(model, found.example)
    swaps: list[tuple[nn.Module, nn.Module]] = [(layer.module, _upsampler(layer)) for layer in layers]
    shuffles = {id(la.shuffle.module): la.shuffle.module for la in layers if la.shuffle is not None}
    swaps += [(shuffle, FusedShuffle(shuffle.upscale_factor)) for shuffle in shuffles.values()]
    for old, new in swaps:
        if isinstance(new, FusedShuffle):
            carry_over(old, new)  # a convolution that is swapped has no hooks, and stays itself within the new module
        replace_module(model, old, new)
    outcome = output(model, found.example, replaced=shuffles.values())  # the convolutions are called within what is new
    if not agree(expected, outcome):
        for old, new in swaps:
            replace_module(model, new, old)
        still = isinstance(outcome, StillCalled)
        if still or differing(expected, outcome) - differing(expected, output(model, found.example)):
            reason = STILL_CALLED if still else "the model's forward depends on its convolution alone"
            result.kept.update({layer.name: reason for layer in layers})
            return
        for old, new in swaps:
            replace_module(model, old, new)
    result.swapped.update({layer.name: "PixelShuffleUpsample" for layer in layers})


def _upsampler(layer: Layer) -> PixelShuffleUpsample:
    conv = layer.conv
    new = PixelShuffleUpsample(
        conv.in_channels,
        layer.out // layer.upscale_factor**2,
        layer.upscale_factor,
        bias=conv.bias is not None,
        **conv_arguments(conv),
    )
    new.shuffle_apart = True
    new.conv = conv
    return new.train(conv.training)
