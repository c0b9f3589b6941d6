"""What modules are made of: their sizes, and whether an operator may take their parts' weights instead of calling them.

It may where the parts are what the module made.
"""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import Tensor, nn

from lkca_kernels.arguments import integer

__all__ = ["has_hooks", "is_plain", "keeps_size", "rows", "sizes"]

M = TypeVar("M", bound=nn.Module)


def sizes(**given: int) -> tuple[int, ...]:
    """As Python's integers (products of NumPy's small ones overflow); TypeError, or ValueError below 1, by name."""
    found = {name: integer(name, value) for name, value in given.items()}
    for name, value in found.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    return tuple(found.values())


def has_hooks(part: nn.Module) -> bool:
    """Whether anything was registered on the part, for forward or backward."""
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def is_plain(part: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether a call does what ``kind`` does and nothing else: no other class, hook or forward has taken its place."""
    return type(part) is kind and not has_hooks(part) and "forward" not in part.__dict__


def keeps_size(conv: nn.Conv2d, kernel: tuple[int, ...], groups: int = 1) -> bool:
    """Whether a convolution with ``kernel`` keeps the image's size with zeros around it, without stride or dilation."""
    settings = conv.kernel_size, conv.padding, conv.groups, conv.stride, conv.dilation, conv.padding_mode
    return settings == (kernel, tuple(n // 2 for n in kernel), groups, (1, 1), (1, 1), "zeros")


def rows(conv: nn.Conv2d) -> Tensor:
    """Kernel (out, n) of a convolution that is pointwise or depthwise: one row for each output channel.

    Its gradient has the weight's own strides, of channels-last kernels too, where they differ in sides of 1 alone: DDP
    warns of any others.
    """
    weight = conv.weight
    channels_last = weight.stride(1) == 1 and weight.stride(3) == weight.shape[1]
    return weight.permute(0, 2, 3, 1).flatten(1) if channels_last else weight.flatten(1)
