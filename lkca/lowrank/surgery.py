"""Put low-rank layers into a model, and take them out again."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from lkca.lowrank.layers import COMPUTED, Layer, LowRankError, altered, computed, plain_model, replaced_convolution
from lkca.lowrank.trials import ROUGHLY, StillCalled, differing, output
from lkca.models import LKCANet
from lkca.nn import FusedShuffle, LowRankConv2d, LowRankUpsample, PixelShuffleUpsample

__all__ = [
    "carry_over",
    "conv_arguments",
    "copied_model",
    "merge",
    "put_low_rank",
    "replace_module",
]

Model = TypeVar("Model", bound=nn.Module)
Parts = tuple[Tensor, Tensor, Tensor]

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
    """Keyword arguments of a convolution like ``conv`` but for channels and bias, on the meta device."""
    return {
        "kernel_size": conv.kernel_size,
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
        sizes = old.in_channels, old.out_channels, old.upscale_factor, rank
        new = LowRankUpsample(*sizes, shared_groups=old.shared_groups, **arguments)
        new.shuffle_apart = old.shuffle_apart
    elif fused:
        channels = layer.out // layer.upscale_factor**2
        new = LowRankUpsample(conv.in_channels, channels, layer.upscale_factor, rank, **arguments)
        new.shuffle_apart = True
    else:
        new = LowRankConv2d(conv.in_channels, layer.out, rank=rank, **arguments)
    if isinstance(new, LowRankUpsample):
        new.keeps_layout = layer.followed
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
    if whole is None or not differing(whole, expected, least=ROUGHLY) - unsteady:
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
    if isinstance(old, LowRankUpsample) and not old.shuffle_apart:
        new: nn.Module = PixelShuffleUpsample(old.in_channels, old.out_channels, old.upscale_factor, **arguments)
        conv = new.conv
    else:
        new = conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], **arguments)
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
