"""Which convolutions feed which pixel shuffles, observed while the model runs on an example.

Below autograd a model's forward, whatever its control flow, is a sequence of ATen calls. A convolution's output carries
a tag; the tag goes along through calls that keep each channel a channel of the same pixel and are linear (additions,
scaling, crops, padding, copies), notes what spoils it (an activation, a reshape), and ends in the next convolution or
matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

import lkca_kernels  # noqa: F401  (registers the operators that are named below)
from lkca.nn.mode import evaluating

__all__ = ["ConvCall", "Dataflow", "ShuffleCall", "copied", "observe"]

_CONVOLUTIONS = {"convolution", "_convolution", "conv2d", "mkldnn_convolution", "cudnn_convolution"}
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "einsum", "embedding"}
_SUMS = {"add", "add_", "sub", "sub_"}
_SCALINGS = {"mul", "mul_", "div", "div_"}
_COPIES = {"clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "positive"}
_VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "select", "squeeze", "unsqueeze", "flatten"}
_CROPS = {"slice", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "narrow", "split", "unbind", "cat"}
_SHUFFLES = {"pixel_shuffle", "pixel_shuffle_epilogue"}


@dataclass(eq=False)
class ConvCall:
    """One call of a convolution. module: its ``nn.Conv2d``, None where it was called by other means."""

    module: nn.Module | None
    channels: int
    macs: int
    readers: list[str] = field(default_factory=list)  # operators that read the output as it came


@dataclass(frozen=True)
class ShuffleCall:
    """One pixel shuffle. module: its ``nn.PixelShuffle``, None where called functionally.

    sources: the convolutions whose outputs arrive, each with what stands in the way (None: nothing that changes what
    its channels mean). direct: the one whose output is the shuffle's input itself.
    """

    module: nn.Module | None
    upscale_factor: int
    channels: int
    sources: dict[ConvCall, str | None]
    direct: ConvCall | None


@dataclass
class Dataflow:
    """What one forward pass showed. macs: multiplications of convolutions and matrix products in all."""

    convolutions: list[ConvCall] = field(default_factory=list)
    shuffles: list[ShuffleCall] = field(default_factory=list)
    macs: int = 0


@dataclass(frozen=True)
class _Tag:
    """sources as in :class:`ShuffleCall`; split: (a, b, c) where the channels are shown as three axes before (h, w);
    spread: upscale factor once two of those axes stand beside h and w."""

    sources: dict[ConvCall, str | None]
    direct: ConvCall | None = None
    channels: int = 0
    split: tuple[int, int, int] | None = None
    spread: int | None = None

    def spoiled(self, reason: str) -> _Tag:
        return _Tag({call: old or reason for call, old in self.sources.items()}, channels=self.channels)


def observe(model: nn.Module, *inputs: Any) -> Dataflow:
    """Run ``model(*inputs)`` once, in eval mode and without gradients; its modes and hooks are as before."""
    recorder = _Recorder()
    with evaluating(model), torch.no_grad(), recorder.watch(model), recorder:
        model(*copied(inputs))
    return recorder.flow


def copied(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a call with tensors of their own: some models write into their input."""
    result: tuple[Any, ...] = tree_map_only(Tensor, torch.clone, inputs)
    return result


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Dataflow()
        self._conv: list[nn.Module] = []
        self._shuffle: list[nn.Module] = []
        self._tags: dict[int, _Tag] = {}
        self._alive: list[Tensor] = []  # tagged tensors, so that no other gets the id of one

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Know which ``nn.Conv2d`` and ``nn.PixelShuffle`` is running."""
        with ExitStack() as stack:
            for kind, running in ((nn.Conv2d, self._conv), (nn.PixelShuffle, self._shuffle)):
                for module in model.modules():
                    if isinstance(module, kind):
                        enter = module.register_forward_pre_hook(lambda m, _, r=running: r.append(m))
                        leave = module.register_forward_hook(lambda m, _, o, r=running: r.clear())
                        stack.callback(enter.remove)
                        stack.callback(leave.remove)
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {id(t): self._tags[id(t)] for t in _tensors((args, kwargs)) if id(t) in self._tags}
        shapes = {id(t): tuple(t.shape) for t in _tensors(args)}
        out = func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        macs = self._count(func, args, kwargs, out)
        if name in _CONVOLUTIONS:
            self._convolution(args, out, macs)
        elif before:
            self._follow(name, args, kwargs, out, before, shapes)
        elif name in _SHUFFLES:
            self._shuffled(name, args, kwargs, None)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> int:
        packet = getattr(func, "_overloadpacket", func)
        if packet is torch.ops.lkca_kernels.lowrank_pixel_shuffle:
            z, weight = args[0], args[1]
            macs = z.shape[0] * z.shape[2] * z.shape[3] * weight.numel()
        elif packet in flop_registry:
            macs = int(flop_registry[packet](*args, **kwargs, out_val=out)) // 2
        else:
            return 0
        self.flow.macs += macs
        result: int = macs
        return result

    def _convolution(self, args: Any, out: Tensor, macs: int) -> None:
        for tensor in _tensors(args):
            self._read(tensor, "convolution")
        if out.ndim != 4:
            return
        module = self._conv[-1] if self._conv else None
        call = ConvCall(module, out.shape[1], macs)
        self.flow.convolutions.append(call)
        self._tag(out, _Tag({call: None}, call, call.channels))

    def _read(self, tensor: Tensor, name: str) -> None:
        tag = self._tags.get(id(tensor))
        if tag is not None and tag.direct is not None:
            tag.direct.readers.append(name)

    def _tag(self, tensor: Tensor, tag: _Tag) -> None:
        if id(tensor) not in self._tags:
            self._alive.append(tensor)
        self._tags[id(tensor)] = tag

    def _follow(
        self,
        name: str,
        args: Any,
        kwargs: Any,
        out: Any,
        before: dict[int, _Tag],
        shapes: dict[int, tuple[int, ...]],
    ) -> None:
        for tensor in _tensors(args):
            self._read(tensor, name)
        if name in _SHUFFLES:
            first = before.get(id(args[0]))
            self._shuffled(name, args, kwargs, first)
            return
        if name in _PRODUCTS or "attention" in name:
            return
        tag = self._combined(name, args, before, shapes)
        for result in _tensors(out):
            if not result.is_floating_point():
                continue
            self._tag(result, self._moved(name, tag, args, result, shapes))

    def _combined(self, name: str, args: Any, before: dict[int, _Tag], shapes: dict[int, tuple[int, ...]]) -> _Tag:
        """The tags of a call's inputs as one: what spoils a source on one way spoils it."""
        tags = list(before.values())
        if len(tags) == 1:
            tag = tags[0]
        else:
            sources: dict[ConvCall, str | None] = {}
            for one in tags:
                for call, reason in one.sources.items():
                    sources[call] = sources.get(call) or reason
            tag = _Tag(sources, channels=tags[0].channels)
        clean = [t for t in _tensors(args) if id(t) in before and None in before[id(t)].sources.values()]
        if name in _SCALINGS and len(clean) > 1:
            return tag.spoiled("a product of two feature maps between the convolution and the shuffle")
        if name.startswith("div") and len(args) > 1 and isinstance(args[1], Tensor) and id(args[1]) in before:
            return tag.spoiled("a division by features between the convolution and the shuffle")
        if name == "cat":
            dim = args[1] if len(args) > 1 else 0
            rank = max(len(shapes[id(t)]) for t in _tensors(args[0]))
            if dim % rank >= rank - 3:
                return tag.spoiled("a concatenation (cat) between the convolution and the shuffle")
        return tag

    def _moved(self, name: str, tag: _Tag, args: Any, out: Tensor, shapes: dict[int, tuple[int, ...]]) -> _Tag:
        """``tag`` as it is on the output of the call."""
        unchanged = replace(tag, direct=None)
        inputs = [shapes[id(t)] for t in _tensors(args) if id(t) in self._tags and id(t) in shapes]
        shape = inputs[0] if inputs else ()
        if name in _COPIES:
            return unchanged
        if name in _SUMS or name in _SCALINGS:
            kept = out.ndim >= 3 and out.shape[-3] == tag.channels
            return unchanged if kept or tag.split else tag.spoiled(f"a broadcast ({name}) changes the channels")
        if name in ("permute", "transpose", "movedim"):
            return self._permuted(name, unchanged, args, shape)
        if name in _VIEWS or name in _CROPS:
            if len(shape) >= 3 and out.ndim >= 3 and out.shape[-3] == shape[-3] == tag.channels:
                return unchanged
            if name in _VIEWS:
                return self._viewed(name, unchanged, shape, out)
        if name in _VIEWS or name in _CROPS or name in ("expand", "as_strided", "index_select", "index", "stack"):
            return tag.spoiled(f"a reshape ({name}) of the channels between the convolution and the shuffle")
        return tag.spoiled(f"{name.strip('_')} between the convolution and the shuffle")

    def _viewed(self, name: str, tag: _Tag, shape: tuple[int, ...], out: Tensor) -> _Tag:
        size = tuple(out.shape)
        if tag.split is None and tag.spread is None and len(shape) == 4 and len(size) == 6 and size[-2:] == shape[-2:]:
            return replace(tag, split=size[1:4])
        if tag.spread is not None and len(shape) == 6 and len(size) == 4:
            s = tag.spread
            if size == (shape[0], shape[1], shape[2] * shape[3], shape[4] * shape[5]):
                self.flow.shuffles.append(ShuffleCall(None, s, tag.channels, dict(tag.sources), None))
                return tag.spoiled("a pixel shuffle")
        return tag.spoiled(f"a reshape ({name}) of the channels between the convolution and the shuffle")

    def _permuted(self, name: str, tag: _Tag, args: Any, shape: tuple[int, ...]) -> _Tag:
        order = list(range(len(shape)))
        if name == "permute":
            order = [d % len(shape) for d in args[1]]
        elif name == "transpose":
            a, b = args[1] % len(shape), args[2] % len(shape)
            order[a], order[b] = order[b], order[a]
        if tag.split is not None:
            # (n, a, b, c, h, w) -> (n, channels, h, s, w, s): either order of the channel's three factors
            for channel, first, second in ((1, 2, 3), (3, 1, 2)):
                if order == [0, channel, 4, first, 5, second] and shape[first] == shape[second]:
                    return replace(tag, split=None, spread=shape[first])
        return tag.spoiled(f"a reshape ({name}) of the channels between the convolution and the shuffle")

    def _shuffled(self, name: str, args: Any, kwargs: Any, tag: _Tag | None) -> None:
        values = {i: value for i, value in enumerate(args)}
        factor = kwargs.get("upscale_factor", values.get(1 if name == "pixel_shuffle" else 3))
        module = self._shuffle[-1] if self._shuffle else None
        channels = args[0].shape[-3]
        sources = {} if tag is None else {c: (r or _mismatch(c, channels)) for c, r in tag.sources.items()}
        self.flow.shuffles.append(
            ShuffleCall(module, int(factor), channels, sources, None if tag is None else tag.direct)
        )


def _mismatch(call: ConvCall, channels: int) -> str | None:
    return None if call.channels == channels else "a reshape of the channels between the convolution and the shuffle"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
