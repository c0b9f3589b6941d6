"""The upsampling layers of a model, found by running it, or by the pattern of its modules where it is not run."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lkca.lowrank.dataflow import ConvCall, Dataflow, ShuffleCall, observe
from lkca.lowrank.layers import OWN, Layer, Shuffle, plain_model, refusal
from lkca.models import LKCANet
from lkca.nn.parts import has_hooks, is_plain

__all__ = ["Survey", "survey", "uses"]

_SIDES = (16, 24, 32, 48, 64, 96, 128)  # windowed attention wants multiples of its window


@dataclass
class Survey:
    """layers: that can be factorised. skipped: name -> why not. macs: of the whole model on ``example``, the arguments
    of its run; both None where the model was not run, ``unrun`` then says why it could not be."""

    layers: list[Layer] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    macs: int | None = None
    example: tuple[Any, ...] | None = None
    unrun: str | None = None


@torch.no_grad()
def survey(model: nn.Module, example: Any = None, *, run: bool = True) -> Survey:
    """Find the layers by running ``model`` on ``example`` (a tensor or a tuple of arguments).

    Without an example, random images of likely shapes are tried; where none will do, only what can be told without
    running the model is found: lkca.nn's layers, and convolutions that stand before an ``nn.PixelShuffle`` in an
    ``nn.Sequential``. The latter holds with ``run=False`` too.
    """
    plain_model(model)
    flow, result = None, Survey()
    if isinstance(model, nn.Conv2d):
        return _single(model, result)
    if run:
        flow, result = _run(model, example)
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    ties = uses(model)
    own = {id(inner) for m in model.modules() if isinstance(m, OWN) for inner in m.modules()}
    calls = Counter(id(c.module) for c in flow.convolutions) if flow is not None else Counter()
    sources = list(_from_patterns(model, names))
    if flow is not None:  # a branch that did not run (another scale's head) is told by pattern
        sources = [*_from_flow(flow, names, result), *(s for s in sources if not calls[id(s[0])])]
    macs = {id(c.module): c.macs for c in flow.convolutions} if flow is not None else {}
    for module in model.modules():
        if isinstance(module, OWN):
            factor = getattr(module, "upscale_factor", 1)
            layer = Layer(names[id(module)][0], module, factor)
            if flow is not None:
                layer.macs = macs.get(id(layer.conv), 0)
            _keep(layer, names, ties, calls, result)
    for module, factor, shuffle in sources:
        if id(module) not in own:
            layer = Layer(names[id(module)][0], module, factor, macs.get(id(module)), shuffle)
            _keep(layer, names, ties, calls, result)
    followed = set() if flow is None else {id(call.module) for call in flow.convolutions[:-1]}
    for layer in result.layers:
        layer.followed = id(layer.conv) in followed
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    result.layers.sort(key=lambda layer: order.get(layer.name, 0))
    return result


def uses(model: nn.Module) -> Counter[int]:
    """How many modules hold a parameter, by its id: more than one where it is tied."""
    return Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)


def _single(conv: nn.Conv2d, result: Survey) -> Survey:
    layer = Layer("", conv, 1)
    reason = refusal(layer)
    if reason:
        result.skipped[""] = reason
    else:
        result.layers.append(layer)
    return result


def _keep(layer: Layer, names: dict[int, list[str]], ties: Counter[int], calls: Counter[int], result: Survey) -> None:
    conv = layer.conv
    reason = refusal(layer)
    if len(names[id(layer.module)]) > 1:
        reason = f"shared: registered as {' and '.join(names[id(layer.module)])}"
    elif calls[id(conv)] > 1:
        reason = f"reused: called {calls[id(conv)]} times in one forward pass"
    elif reason is None and ties[id(conv.weight)] > 1:
        reason = "shared: its weight is tied to another layer's"
    if reason:
        result.skipped[layer.name] = reason
    elif layer not in result.layers:
        result.layers.append(layer)


# ---- by running -----------------------------------------------------------------------------------------------------


def _run(model: nn.Module, example: Any) -> tuple[Dataflow | None, Survey]:
    if example is not None:
        inputs = example if isinstance(example, tuple) else (example,)
        flow = observe(model, *inputs)
        return flow, Survey(macs=flow.macs, example=inputs)
    failure = "it has no parameters"
    for guess in _guesses(model):
        try:
            flow = observe(model, guess)
        except Exception as error:  # whatever a foreign model raises at an input it was not made for
            failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            continue
        return flow, Survey(macs=flow.macs, example=(guess,))
    return None, Survey(unrun=f"no guessed input fits ({failure}); give example=")


def _guesses(model: nn.Module) -> Iterator[Tensor]:
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None or like.is_meta:
        return
    counts: list[int] = []
    if isinstance(model, LKCANet):
        counts.append(model.config.bands)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    own = next((m for m in model.modules() if isinstance(m, OWN)), None)
    if first is not None:
        counts.append(first.in_channels)
    if own is not None and own is model:
        counts.append(int(own.in_channels))
    counts += [3, 1]
    for side in _SIDES:
        for count in dict.fromkeys(counts):
            generator = torch.Generator().manual_seed(0)
            image = torch.rand(1, count, side, side, generator=generator, device=generator.device)
            yield image.to(like.device, like.dtype)


def _from_flow(
    flow: Dataflow, names: dict[int, list[str]], result: Survey
) -> Iterable[tuple[nn.Conv2d, int, Shuffle | None]]:
    """The convolutions that feed the flow's shuffles; what can't be told of the others goes to ``result.skipped``."""
    found: dict[int, tuple[nn.Conv2d, int, Shuffle | None]] = {}
    fusable = _fusable(flow)
    for number, shuffle in enumerate(flow.shuffles):
        title = names[id(shuffle.module)][0] if shuffle.module is not None else f"pixel shuffle {number}"
        if not shuffle.sources:
            result.skipped[title] = "its input does not come from a convolution"
        clean = [call for call, reason in shuffle.sources.items() if reason is None]
        for call, reason in shuffle.sources.items():
            module = call.module
            if not isinstance(module, nn.Conv2d):
                if reason is None or not clean:
                    result.skipped[title] = "a functional or transposed convolution: there is no nn.Conv2d to replace"
            elif reason is None:
                found.setdefault(
                    id(module), (module, shuffle.upscale_factor, fusable.get(call) if not has_hooks(module) else None)
                )
            elif not clean and id(module) not in found:
                result.skipped[names[id(module)][0]] = reason
    for module, _, _ in found.values():
        result.skipped.pop(names[id(module)][0], None)
    return found.values()


def _fusable(flow: Dataflow) -> dict[ConvCall, Shuffle]:
    """Convolutions whose output goes to one ``nn.PixelShuffle`` and nowhere else; all of that shuffle's inputs are."""
    by_module: dict[int, list[ShuffleCall]] = {}
    for shuffle in flow.shuffles:
        by_module.setdefault(id(shuffle.module), []).append(shuffle)
    result: dict[ConvCall, Shuffle] = {}
    for calls in by_module.values():
        module = calls[0].module
        if module is None or not is_plain(module, nn.PixelShuffle):
            continue
        direct = [call.direct for call in calls]
        if all(c is not None and c.readers == ["pixel_shuffle"] and c.module is not None for c in direct):
            feeders = tuple(c.module for c in direct if c is not None and c.module is not None)
            result.update({c: Shuffle(module, feeders) for c in direct if c is not None})
    return result


# ---- by patterns ----------------------------------------------------------------------------------------------------


def _from_patterns(model: nn.Module, names: dict[int, list[str]]) -> Iterable[tuple[nn.Conv2d, int, Shuffle | None]]:
    for module in model.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for before, after in itertools.pairwise(list(module)):
            if isinstance(before, nn.Conv2d) and isinstance(after, nn.PixelShuffle):
                alone = len(names[id(after)]) == 1 and not has_hooks(before) and is_plain(after, nn.PixelShuffle)
                at_once = type(module).forward is nn.Sequential.forward and "forward" not in module.__dict__
                yield before, after.upscale_factor, Shuffle(after, (before,)) if alone and at_once else None
