"""An upsampling layer that can be factorised, and why others, and whole models, can't."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lkca.errors import InputError
from lkca.nn import FusedShuffle, LowRankConv2d, LowRankUpsample, PixelShuffleUpsample
from lkca.nn.parts import has_hooks

__all__ = [
    "COMPUTED",
    "OWN",
    "REPLACED",
    "Layer",
    "LowRankError",
    "Shuffle",
    "altered",
    "computed",
    "loaded_model",
    "plain_model",
    "refusal",
    "replaced_convolution",
    "replaced_forward",
    "shaped_model",
]

COMPUTED = (
    "its weight or bias is computed (weight or spectral norm, pruning or another parametrisation); remove that first"
)
REPLACED = "its forward has been replaced (hooks of accelerate do so); remove that first"
OWN = (PixelShuffleUpsample, LowRankUpsample, LowRankConv2d)  # lkca.nn's upsampling layers

_SHARDED = ("FSDPModule", "FullyShardedDataParallel")
_KINDS: tuple[type[nn.Module], ...] = (*OWN, FusedShuffle, nn.Conv2d)


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


def refusal(layer: Layer) -> str | None:
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
