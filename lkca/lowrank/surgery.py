"""Put low-rank layers into a model, and take them out again."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from lkca.lowrank.dataflow import copied
from lkca.lowrank.layers import COMPUTED, Layer, LowRankError, altered, computed, plain_model, replaced_convolution
from lkca.models import LKCANet
from lkca.nn import FusedShuffle, LowRankConv2d, LowRankUpsample, PixelShuffleUpsample
from lkca.nn.mode import evaluating

__all__ = [
    "STILL_CALLED",
    "StillCalled",
    "agree",
    "carry_over",
    "conv_arguments",
    "copied_model",
    "differing",
    "merge",
    "output",
    "put_low_rank",
    "replace_module",
    "same_draws",
]

Model = TypeVar("Model", bound=nn.Module)
Parts = tuple[Tensor, Tensor, Tensor]

STILL_CALLED = "the model calls it by a reference of its own (in a list, a closure), where no other can take its place"

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_non_full_backward_hook",
    "_is_full_backward_hook",
)
# Of the outputs' largest value: rounding of two orders of summation, far below what a wrong graph does.
_AGREEMENT = 1e-3
_ROUGHLY = 0.05  # where 16 bits play a part
_FLIPPED = 0.01


class StillCalled(LowRankError):
    """A model calls a module that was replaced."""


def copied_model(model: Model) -> Model:
    """A deep copy. PyTorch refuses it where a module keeps a tensor with a gradient's history, in a list or by itself
    (the weights that ``weight_norm`` and pruning compute, for one): the copy has its values alone.
    """
    kept = [value for module in model.modules() for value in tree_leaves(vars(module)) if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in kept if not value.is_leaf})


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Set ``new`` under every name that ``old`` has in ``model``."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Hooks and train/eval mode of ``old`` to ``new``."""
    for name in _HOOKS:
        if hasattr(old, name):
            setattr(new, name, getattr(old, name))
    new.train(old.training)


def conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Keyword arguments of a convolution like ``conv`` but for channels, kernel and bias, on the meta device."""
    return {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "padding_mode": conv.padding_mode,
        "device": "meta",  # so that no random number is drawn
        "dtype": conv.weight.dtype,
    }


def _low_rank(layer: Layer, parts: Parts, fused: bool) -> LowRankConv2d | LowRankUpsample:
    left, right, correction = parts
    conv, old = layer.conv, layer.module
    rank, bias = layer.groups * right.shape[0], layer.bias
    arguments = {**conv_arguments(conv), "bias": bias is not None}
    new: LowRankConv2d | LowRankUpsample
    if isinstance(old, (PixelShuffleUpsample, LowRankUpsample)):
        new = LowRankUpsample(
            old.in_channels,
            old.out_channels,
            old.upscale_factor,
            rank,
            conv.kernel_size,  # type: ignore[arg-type]
            shared_groups=old.shared_groups,
            **arguments,
        )
        new.shuffle_apart = old.shuffle_apart
    elif fused:
        channels = layer.out // layer.upscale_factor**2
        new = LowRankUpsample(conv.in_channels, channels, layer.upscale_factor, rank, conv.kernel_size, **arguments)  # type: ignore[arg-type]
        new.shuffle_apart = True
    else:
        new = LowRankConv2d(conv.in_channels, layer.out, conv.kernel_size, rank, **arguments)  # type: ignore[arg-type]
    new.to_empty(device=conv.weight.device)
    new.reduce.weight.copy_(right.reshape(new.reduce.weight.shape))
    new.weight.copy_(layer.last_factor(left))
    if bias is not None:
        assert new.bias is not None
        new.bias.copy_(bias.double() + layer.bias_correction(correction).to(bias.device))
    _learn_like(new, conv.weight, getattr(old, "bias", None) if conv.bias is None else conv.bias)
    carry_over(old, new)
    return new


def _learn_like(new: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """requires_grad of the old ``weight`` and ``bias`` to the parameters that stand for them."""
    for name, parameter in new.named_parameters():
        like = bias if name.endswith("bias") else weight
        assert like is not None
        parameter.requires_grad_(like.requires_grad)


@torch.no_grad()
def put_low_rank(
    model: nn.Module, layers: Sequence[Layer], parts: Sequence[Parts], example: tuple[Any, ...] | None = None
) -> list[bool]:
    """Replace ``layers`` of ``model`` in place by factors ``parts``; True for each whose shuffle went into it.

    ``model(*example)`` is run with the factors' products as kernels, with the factors, and with shuffles in their
    layers. Should the outputs differ, the model looks at a layer in a way that the run before did not show (attributes,
    shapes): with the factors alone, and by more than 5 %, a LowRankError says so, and the model is as it was; else the
    shuffles stay separate. What a model does not give alike twice (noise, a count of its calls) is not compared.
    """
    whole, unsteady = _with_products(model, layers, parts, example)
    replaced = {id(layer.module) for layer in layers if layer.shuffle is not None}
    fused = [
        layer.shuffle is not None and all(id(feeder) in replaced for feeder in layer.shuffle.feeders)
        for layer in layers
    ]
    shuffles = {
        id(layer.shuffle.module): layer.shuffle.module
        for layer, one in zip(layers, fused, strict=True)
        if one and layer.shuffle is not None
    }
    separate = [_low_rank(layer, p, False) for layer, p in zip(layers, parts, strict=True)]
    for layer, new in zip(layers, separate, strict=True):
        replace_module(model, layer.module, new)
        _tell_parent(model, new)
    own = [isinstance(new, LowRankUpsample) for new in separate]
    expected = output(model, example, replaced=[layer.module for layer in layers])
    if reason := _looked_into(whole, unsteady, expected):
        for layer, new in zip(layers, separate, strict=True):
            replace_module(model, new, layer.module)
            _tell_parent(model, layer.module)
        raise LowRankError(f"{', '.join(layer.name for layer in layers)}: {reason}; take other layers")
    if not any(fused):
        return own
    together = [
        _low_rank(layer, p, True) if one else new
        for layer, p, one, new in zip(layers, parts, fused, separate, strict=True)
    ]
    stand_ins = {key: FusedShuffle(shuffle.upscale_factor) for key, shuffle in shuffles.items()}
    for old, new in zip(separate, together, strict=True):
        replace_module(model, old, new)
    for key, stand_in in stand_ins.items():
        carry_over(shuffles[key], stand_in)
        replace_module(model, shuffles[key], stand_in)
    if not differing(expected, output(model, example)) - unsteady:
        return [one or lkca for one, lkca in zip(fused, own, strict=True)]
    for old, new in zip(separate, together, strict=True):
        replace_module(model, new, old)
    for key, stand_in in stand_ins.items():
        replace_module(model, stand_in, shuffles[key])
    return own


def _looked_into(whole: Any, unsteady: set[str], expected: Any) -> str | None:
    """Why factors are no substitute: ``whole`` is what the model gives with their products, ``expected`` with them.

    unsteady: places in it that are not compared.
    """
    if isinstance(expected, StillCalled):
        return str(expected)
    # Two roundings, under autocast in 16 bits.
    if whole is None or not differing(whole, expected, least=_ROUGHLY) - unsteady:
        return None
    failed = f" (with them it raises {type(expected).__name__}: {expected})" if isinstance(expected, Exception) else ""
    return f"the model's forward uses more of them than their results{failed}"


def _with_products(
    model: nn.Module, layers: Sequence[Layer], parts: Sequence[Parts], example: tuple[Any, ...] | None
) -> tuple[Any, set[str]]:
    """What the model gives with its own layers and kernels of the rank, and where it does not give the same twice.

    None where it is not run, fails, or has factors.
    """
    if example is None or any(layer.rank is not None for layer in layers):
        return None, set()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    products: dict[str, Tensor] = {}
    for layer, (left, right, correction) in zip(layers, parts, strict=True):
        weight, bias = layer.conv.weight, layer.conv.bias
        if id(weight) not in names or (bias is not None and id(bias) not in names):
            return None, set()
        products[names[id(weight)]] = (left @ right).reshape(weight.shape).to(weight)
        if bias is not None:
            products[names[id(bias)]] = bias + correction.to(bias)

    def call(*inputs: Any) -> Any:
        torch.clear_autocast_cache()  # it holds the weights of before
        return functional_call(model, products, inputs)

    first, second = (output(model, example, call) for _ in range(2))
    torch.clear_autocast_cache()
    return (None, set()) if isinstance(first, Exception) else (first, differing(first, second))


def _tell_parent(model: nn.Module, new: nn.Module) -> None:
    """An LKCANet's configuration goes with its upsampler."""
    for module in model.modules():
        if isinstance(module, LKCANet) and module.upsample is new:
            module.config = dataclasses.replace(module.config, rank=getattr(new, "rank", None))


def output(
    model: nn.Module,
    example: tuple[Any, ...] | None,
    call: Callable[..., Any] | None = None,
    *,
    replaced: Iterable[nn.Module] = (),
) -> Any:
    """``model(*example)`` (or ``call``, which runs it) in eval mode, or what it raises; None without an example.

    It raises :class:`StillCalled` where it calls a module of ``replaced``, which are its submodules no more.
    """
    if example is None:
        return None
    with evaluating(model), same_draws(model), _refusing(replaced):
        try:
            return (call or model)(*copied(example))
        except Exception as error:  # a foreign model that met a shape it did not expect
            return error


@contextmanager
def _refusing(replaced: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the modules refuse to be called. By their forward: hooks are common to them and what replaced them."""

    def forward(*_: object, **__: object) -> None:
        raise StillCalled(STILL_CALLED)

    kept = [(module, vars(module).get("forward")) for module in replaced]
    for module, _ in kept:
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, own in kept:
            del vars(module)["forward"]
            if own is not None:
                vars(module)["forward"] = own


@contextmanager
def same_draws(model: nn.Module) -> Iterator[None]:
    """What ``model`` draws at random inside (a generator's noise) is the same each time, and not missed outside."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cards):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[card.index] for card in cards)):
            generator.manual_seed(0)
        yield


def agree(expected: Any, found: Any, *, least: float = _AGREEMENT) -> bool:
    """Whether nothing of two outputs differs (:func:`differing`)."""
    return not differing(expected, found, least=least)


def differing(expected: Any, found: Any, *, least: float = _AGREEMENT) -> set[str]:
    """Where two outputs (tensors, arrays, numbers; sequences, dictionaries or objects of them) differ beyond rounding.

    Places are written as Python would: ``[0].image``, ``""`` for the whole; "raised" where one is an error. least:
    share of the largest value by which float32 may differ; 16 bits may by 0.05 in any case. Of a tensor's integers and
    booleans, which rounding may turn where a value is near a half or a threshold, one in a hundred may.
    """
    if isinstance(expected, Exception) or isinstance(found, Exception):
        return {"raised"}
    result: set[str] = set()
    met: set[tuple[int, int]] = set()  # an object may lead back to itself
    pairs = [("", expected, found)]
    while pairs:
        place, one, other = pairs.pop()
        if one is other or (id(one), id(other)) in met:
            continue
        met.add((id(one), id(other)))
        parts = _parts(one)
        if parts is not None:
            theirs = _parts(other) if type(one) is type(other) or isinstance(one, (list, tuple, dict)) else None
            if theirs is None or parts.keys() != theirs.keys():
                result.add(place)
            else:
                pairs += [(place + name, part, theirs[name]) for name, part in parts.items()]
        elif not _same(one, other, least):
            result.add(place)
    return result


def _parts(value: Any) -> dict[str, Any] | None:
    """What a sequence, dictionary or object consists of, by place within it; None for what is compared as a whole."""
    if isinstance(value, (list, tuple)):
        return {f"[{i}]": part for i, part in enumerate(value)}
    if isinstance(value, dict):
        return {f"[{key!r}]": part for key, part in value.items()}
    if isinstance(value, (Tensor, np.ndarray, int, float, str, nn.Module)):  # a module would lead back to the model
        return None
    state: Any = object.__getstate__(value)  # of a dataclass, say; a pair of dictionaries where it has slots
    dictionaries = state if isinstance(state, tuple) else (state,)
    return {f".{name}": part for held in dictionaries if held for name, part in held.items()} or None


def _same(expected: Any, found: Any, least: float) -> bool:
    if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray) and expected.dtype.kind in "biufc":
        return found.dtype.kind in "biufc" and _close(_tensor(expected), _tensor(found), least)
    if isinstance(expected, Tensor):
        return isinstance(found, Tensor) and _close(expected, found, least)
    if type(expected) is not type(found):
        return False
    if isinstance(expected, float):
        return math.isclose(expected, found, rel_tol=least) or (math.isnan(expected) and math.isnan(found))
    return bool(expected == found) if isinstance(expected, (int, str)) else True


def _tensor(array: np.ndarray) -> Tensor:
    """A copy that PyTorch takes: not reversed or read-only, in this machine's order of bytes, of 64 bits at most."""
    kind, size = array.dtype.kind, min(array.dtype.itemsize, 16 if array.dtype.kind == "c" else 8)
    return torch.from_numpy(np.array(array, dtype=f"={kind}{size}", order="C"))


def _close(expected: Tensor, found: Tensor, least: float) -> bool:
    if expected.shape != found.shape:
        return False
    expected, found = (t if t.layout is torch.strided else t.to_dense() for t in (expected, found))
    if not (expected.is_floating_point() or expected.is_complex()):
        return int((expected != found).sum()) <= _FLIPPED * expected.numel()
    if not expected.numel():
        return True
    equal = (expected == found) | (expected.isnan() & found.isnan())  # infinities and NaN, too
    difference = (expected - found).abs().masked_fill(equal, 0)
    scale = float(expected.abs().masked_fill(~expected.isfinite(), 0).max()) + torch.finfo(torch.float32).tiny
    loose = least if expected.dtype in (torch.float32, torch.float64) else max(least, _ROUGHLY)
    return float(difference.max()) <= loose * scale


# ---- back ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def merge(model: Model, *, inplace: bool = False) -> Model:
    """The model with the factors of every low-rank layer multiplied out again, its structure as before factorisation.

    A :class:`~lkca.nn.LowRankConv2d` becomes an ``nn.Conv2d``; so does a :class:`~lkca.nn.LowRankUpsample` whose pixel
    shuffle was a module of the model, which comes back; any other becomes a :class:`~lkca.nn.PixelShuffleUpsample`.
    What :func:`lkca.replace_modules` made of convolutions and shuffles is undone too. Outputs differ by rounding alone.

    A copy unless ``inplace``. LowRankError where nothing is low-rank, or for an LKCANet whose full-rank kernel its
    configuration cannot describe (fitted, with a body that its components share), or where a layer's forward was
    replaced, its class has a forward of its own, its convolution has hooks, or a weight or bias is computed
    (weight norm, pruning).
    """
    plain_model(model)
    result = model if inplace else copied_model(model)
    low: list[Any] = [m for m in result.modules() if isinstance(m, (LowRankConv2d, LowRankUpsample))]
    low += [m for m in result.modules() if isinstance(m, PixelShuffleUpsample) and m.shuffle_apart]
    if not low:
        raise LowRankError("model: has no low-rank layer to merge")
    if result in low:
        if inplace:
            raise LowRankError("model: is a single layer; give a model that holds it, such as nn.Sequential(layer)")
        return merge(nn.Sequential(model)).get_submodule("0")  # type: ignore[return-value]
    for name, module in result.named_modules():
        if (module in low or isinstance(module, FusedShuffle)) and (reason := altered(module)):
            raise LowRankError(f"model: {name} cannot be merged: {reason}")
        if isinstance(module, (LowRankConv2d, LowRankUpsample)) and (reason := replaced_convolution(module.reduce)):
            raise LowRankError(f"model: {name} cannot be merged: {reason}")
        if isinstance(module, (LowRankConv2d, LowRankUpsample)) and computed(module):
            raise LowRankError(f"model: {name} cannot be merged: {COMPUTED}")
    for parent in result.modules():
        if isinstance(parent, LKCANet) and parent.upsample in low and parent.config.groups > 1:
            raise LowRankError(
                "model: the body of this LKCANet serves its components in turn; its low-rank upsampler has no "
                "full-rank counterpart in the configuration"
            )
    for old in low:
        new = old.conv if isinstance(old, PixelShuffleUpsample) else _merged(old)
        carry_over(old, new)
        replace_module(result, old, new)
        _tell_parent(result, new)
    for stand_in in [m for m in result.modules() if isinstance(m, FusedShuffle)]:
        shuffle = nn.PixelShuffle(stand_in.upscale_factor)
        carry_over(stand_in, shuffle)
        replace_module(result, stand_in, shuffle)
    return result


def _merged(old: LowRankConv2d | LowRankUpsample) -> nn.Module:
    kernel = _product(old)
    arguments = {**conv_arguments(old.reduce), "bias": old.bias is not None}
    size = old.reduce.kernel_size
    if isinstance(old, LowRankUpsample) and not old.shuffle_apart:
        new: nn.Module = PixelShuffleUpsample(old.in_channels, old.out_channels, old.upscale_factor, size, **arguments)  # type: ignore[arg-type]
        conv = new.conv
    else:
        new = conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], size, **arguments)  # type: ignore[arg-type]
    new.to_empty(device=old.weight.device)
    assert isinstance(conv, nn.Conv2d)
    conv.weight.copy_(kernel)
    if old.bias is not None:
        assert conv.bias is not None
        conv.bias.copy_(old.bias)
    _learn_like(new, old.weight, old.bias)
    return new


def _product(old: LowRankConv2d | LowRankUpsample) -> Tensor:
    wide = copy.deepcopy(old).double() if old.weight.device.type != "mps" else old
    return wide.merged_weight()
