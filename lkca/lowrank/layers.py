"""The upsampling layers of a model: which can be factorised, how, and why the others can't."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lkca.errors import InputError
from lkca.lowrank.dataflow import ConvCall, Dataflow, ShuffleCall, observe
from lkca.models import LKCANet
from lkca.nn import FusedShuffle, LowRankConv2d, LowRankUpsample, PixelShuffleUpsample
from lkca.nn.parts import has_hooks, is_plain

__all__ = [
    "COMPUTED",
    "REPLACED",
    "Layer",
    "LowRankError",
    "Shuffle",
    "Survey",
    "altered",
    "computed",
    "loaded_model",
    "plain_model",
    "replaced_convolution",
    "replaced_forward",
    "shaped_model",
    "survey",
    "uses",
]

COMPUTED = (
    "its weight or bias is computed (weight or spectral norm, pruning or another parametrisation); remove that first"
)
REPLACED = "its forward has been replaced (hooks of accelerate do so); remove that first"

_SHARDED = ("FSDPModule", "FullyShardedDataParallel")
_SIDES = (16, 24, 32, 48, 64, 96, 128)  # windowed attention wants multiples of its window
_OWN = (PixelShuffleUpsample, LowRankUpsample, LowRankConv2d)
_KINDS: tuple[type[nn.Module], ...] = (*_OWN, FusedShuffle, nn.Conv2d)


class LowRankError(InputError, ValueError):
    """What was asked of the low-rank tools cannot be done; the message says why."""


@dataclass(frozen=True, eq=False)
class Shuffle:
    """An ``nn.PixelShuffle`` and the convolutions whose outputs, as they come, are all that it is given."""

    module: nn.PixelShuffle
    feeders: tuple[nn.Module, ...]


@dataclass(eq=False)
class Layer:
    """One upsampling layer that can be factorised.

    name: of ``module`` in the model: an ``nn.Conv2d``, or one of lkca.nn's layers. macs: of one pass over the example
    (None: not run). shuffle: what takes the convolution's output as it comes, and could be done in the same pass.
    followed: whether the pass called another convolution after it.
    """

    name: str
    module: nn.Module
    upscale_factor: int
    macs: int | None = None
    shuffle: Shuffle | None = None
    followed: bool = False

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution that meets the layer's input."""
        if isinstance(self.module, PixelShuffleUpsample):
            return self.module.conv
        if isinstance(self.module, (LowRankUpsample, LowRankConv2d)):
            return self.module.reduce
        assert isinstance(self.module, nn.Conv2d)
        return self.module

    @property
    def groups(self) -> int:
        """Blocks of channels that the convolution serves in turn."""
        return getattr(self.module, "shared_groups", 1)

    @property
    def rank(self) -> int | None:
        """Rank in all groups of a layer that is low-rank already."""
        return self.module.rank if isinstance(self.module, (LowRankUpsample, LowRankConv2d)) else None

    @property
    def bias(self) -> Tensor | None:
        """(out,), of all groups together."""
        if isinstance(self.module, PixelShuffleUpsample):
            bias: Any = self.module.conv.bias
            return None if bias is None else bias.repeat(self.groups)
        bias = self.module.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def matrix(self) -> Tensor:
        """(rows, in·k²), float64, on the CPU: the kernel; groups with rows of their own stand below each other.

        LowRankError where it is not finite.
        """
        result: Tensor = self.conv.weight.detach().flatten(1).cpu().double()
        if isinstance(self.module, (LowRankUpsample, LowRankConv2d)):
            last = self.module.weight.detach().unflatten(1, (self.groups, -1)).transpose(0, 1).flatten(0, 1)
            result = last.cpu().double() @ result
        if not result.isfinite().all():
            raise LowRankError(
                f"layer '{self.name}': its weight holds values that are not finite; did training diverge?"
            )
        return result

    def last_factor(self, left: Tensor) -> Tensor:
        """``left`` (rows, r) as the weight (out, groups·r) of the low-rank layer."""
        if self.groups == 1:
            return left
        if isinstance(self.module, LowRankUpsample):
            side_by_side: Tensor = left.unflatten(0, (self.groups, -1)).transpose(0, 1).flatten(1)
            return side_by_side
        diagonal: Tensor = torch.block_diag(*[left] * self.groups)
        return diagonal

    def bias_correction(self, shift: Tensor) -> Tensor:
        """``shift`` (rows,) of :meth:`matrix` as the change (out,) of the bias."""
        if isinstance(self.module, LowRankUpsample):
            result: Tensor = shift.unflatten(0, (self.groups, -1)).sum(0)
            return result
        return shift.repeat(self.groups)

    @property
    def full_rank(self) -> int:
        """Largest rank, in all groups, that a factorisation can have use for."""
        kernel = self.conv.weight
        return self.groups * min(kernel.shape[0], kernel[0].numel(), self.groups * self.out)

    @property
    def out(self) -> int:
        """Channels before the shuffle."""
        if isinstance(self.module, (LowRankUpsample, LowRankConv2d)):
            return self.module.weight.shape[0]
        return self.groups * self.conv.weight.shape[0]

    def weights(self, rank: int | None = None) -> int:
        """Parameters without the bias, as the layer is or as factors of ``rank``."""
        if rank is None:
            if isinstance(self.module, (LowRankUpsample, LowRankConv2d)):
                return self.module.weight.numel() + self.module.reduce.weight.numel()
            return self.conv.weight.numel()
        return rank // self.groups * self.conv.weight[0].numel() + rank * self.out

    def macs_per_pixel(self, rank: int | None = None) -> int:
        """Multiplications per low-resolution pixel, as the layer is or as factors of ``rank``."""
        rank = self.rank if rank is None else rank
        if rank is None:
            return self.groups * self.conv.weight.numel()
        return rank * (self.conv.weight[0].numel() + self.out)


@dataclass
class Survey:
    """layers: that can be factorised. skipped: name -> why not. macs: of the whole model on ``example``, the arguments
    of its run; both None where the model was not run, ``unrun`` then says why it could not be."""

    layers: list[Layer] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    macs: int | None = None
    example: tuple[Any, ...] | None = None
    unrun: str | None = None


def plain_model(model: nn.Module) -> nn.Module:
    """``model`` itself; LowRankError for what has no modules that could be replaced."""
    if not isinstance(model, nn.Module):
        raise LowRankError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise LowRankError("model: is TorchScript, whose layers cannot be replaced; give the Python model")
    if hasattr(model, "_orig_mod"):
        raise LowRankError("model: is the result of torch.compile; give the model before that, and compile afterwards")
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise LowRankError(
            "model: is wrapped in DistributedDataParallel, which knows the parameters that it had; give its .module, "
            "and wrap the result"
        )
    # By name: their module takes a while to import.
    if any(kind.__name__ in _SHARDED for module in model.modules() for kind in type(module).__mro__):
        raise LowRankError(
            "model: is sharded by FSDP, which knows the parameters that it had; give the model before that, and shard "
            "the result"
        )
    return model


def loaded_model(model: nn.Module, advice: str = "load them first") -> nn.Module:
    """``model`` itself, plain and on no meta device; else LowRankError. It may hold lazy modules."""
    if name := next((name for name, p in plain_model(model).named_parameters() if p.is_meta), None):
        raise LowRankError(f"model: its parameter {name} is on the meta device and has no values; {advice}")
    return model


def shaped_model(model: nn.Module) -> nn.Module:
    """``model`` itself, plain and with values in all its parameters; else LowRankError."""
    for name, parameter in loaded_model(model).named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise LowRankError(f"model: its parameter {name} has no shape yet (a lazy module); run the model once")
    return model


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
    own = {id(inner) for m in model.modules() if isinstance(m, _OWN) for inner in m.modules()}
    calls = Counter(id(c.module) for c in flow.convolutions) if flow is not None else Counter()
    sources = list(_from_patterns(model, names))
    if flow is not None:  # a branch that did not run (another scale's head) is told by pattern
        sources = [*_from_flow(flow, names, result), *(s for s in sources if not calls[id(s[0])])]
    macs = {id(c.module): c.macs for c in flow.convolutions} if flow is not None else {}
    for module in model.modules():
        if isinstance(module, _OWN):
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
    reason = _refusal(layer)
    if reason:
        result.skipped[""] = reason
    else:
        result.layers.append(layer)
    return result


def _keep(layer: Layer, names: dict[int, list[str]], ties: Counter[int], calls: Counter[int], result: Survey) -> None:
    conv = layer.conv
    reason = _refusal(layer)
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


def _refusal(layer: Layer) -> str | None:
    """Why this layer by itself cannot be factorised."""
    conv = layer.conv
    if reason := replaced_convolution(conv):
        return reason
    if "weight" not in conv._parameters or computed(layer.module):
        return COMPUTED
    if conv.groups > 1:
        return f"a grouped convolution (groups={conv.groups})"
    if reason := altered(layer.module):
        return reason
    if not conv.weight.is_floating_point():
        return f"its weight is {conv.weight.dtype}, not floating"
    if isinstance(conv.weight, nn.parameter.UninitializedParameter):
        return "its weight has no shape yet (a lazy module); run the model once"
    return None


def replaced_convolution(conv: nn.Module) -> str | None:
    """Why the convolution of one of lkca.nn's layers is none (an adapter of LoRA, say); None: it is one."""
    return None if isinstance(conv, nn.Conv2d) else f"its convolution has been replaced by a {type(conv).__name__}"


def computed(module: nn.Module) -> bool:
    """Whether a weight or bias within is no parameter, but made of others: by ``parametrize``, or by a hook."""
    return any(
        parametrize.is_parametrized(part) or any(isinstance(vars(part).get(n), Tensor) for n in ("weight", "bias"))
        for part in module.modules()
    )


def altered(module: nn.Module) -> str | None:
    """Why a convolution, or a layer of lkca.nn, may compute something else than its class among these; None: it can't.

    A class derived from it has a forward of its own, a forward was replaced, or the convolution within has hooks.
    """
    for part in module.modules():
        kind = next((kind for kind in _KINDS if isinstance(part, kind)), type(part))
        if any(
            getattr(type(part), name, None) is not getattr(kind, name, None) for name in ("forward", "_conv_forward")
        ):
            return f"a {type(part).__name__}, which computes something else than {kind.__name__}"
        if part is not module and has_hooks(part):
            return "hooks on its inner convolution"
    return REPLACED if replaced_forward(module) else None


def replaced_forward(module: nn.Module) -> bool:
    """Whether the object, or a module within it, has a forward that is not its class's."""
    return any("forward" in m.__dict__ for m in module.modules())


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
    own = next((m for m in model.modules() if isinstance(m, _OWN)), None)
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
