"""Exported programs for processes without Python: calls of lkca's operators become calls of the C++ library's."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from lkca_kernels.backends import BackendError
from lkca_kernels.cpu import can_run, unavailable
from lkca_kernels.memory_format import memory_format_of
from lkca_kernels.native import CONVENTIONS

__all__ = ["call_cpp_operators"]


@cache
def _cpp_operators() -> dict[Any, Any]:
    """lkca_kernels::<op> -> lkca_cpu::<op>, each with its fake registered; BackendError without the library."""
    reason = unavailable()
    if reason is not None:
        raise BackendError(f"the C++ CPU library, whose operators the program would call, {reason}")

    def lowrank(
        z: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, skip: Tensor | None, s: int, _: int
    ) -> Tensor:
        return z.new_empty(z.shape[0], weight.shape[0] // s**2, z.shape[2] * s, z.shape[3] * s)

    def epilogue(y: Tensor, gate: Tensor | None, skip: Tensor | None, s: int, _: int) -> Tensor:
        return y.new_empty(y.shape[0], y.shape[1] // s**2, y.shape[2] * s, y.shape[3] * s)

    def mean(x: Tensor) -> Tensor:
        return x.new_empty(x.shape[:2], dtype=torch.float32)

    def gate(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape[:2]), mean(x)

    def attention(
        x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x, memory_format=memory_format_of(x)), mean(x)

    def local_attention(x: Tensor, w1: Tensor, w2: Tensor, residual: Tensor | None, window: int) -> Tensor:
        return torch.empty_like(x, memory_format=memory_format_of(x))

    def large_kernel(x: Tensor, depthwise: Tensor, expand: Tensor, contract: Tensor, residual: Tensor | None) -> Tensor:
        return torch.empty_like(x, memory_format=memory_format_of(x))

    torch.library.register_fake("lkca_cpu::lowrank_pixel_shuffle", lowrank)
    torch.library.register_fake("lkca_cpu::pixel_shuffle_epilogue", epilogue)
    torch.library.register_fake("lkca_cpu::channel_gate_fwd", gate)
    torch.library.register_fake("lkca_cpu::channel_attention", attention)
    torch.library.register_fake("lkca_cpu::local_channel_attention", local_attention)
    torch.library.register_fake("lkca_cpu::large_kernel_branch", large_kernel)
    ours, theirs = torch.ops.lkca_kernels, torch.ops.lkca_cpu
    return {
        ours.lowrank_pixel_shuffle.default: theirs.lowrank_pixel_shuffle.default,
        ours.pixel_shuffle_epilogue.default: theirs.pixel_shuffle_epilogue.default,
        ours.channel_gate.default: theirs.channel_gate_fwd.default,
        ours.channel_attention.default: theirs.channel_attention.default,
        ours.local_channel_attention.default: theirs.local_channel_attention.default,
        ours.large_kernel_branch.default: theirs.large_kernel_branch.default,
    }


def call_cpp_operators(program: torch.export.ExportedProgram) -> int:
    """Let a program exported under :func:`lkca_kernels.keep_operators` call ``lkca_cpu::*``, in place.

    Those operators need nothing but the shared library (:func:`lkca_kernels.native.library_path`), so that an
    AOTInductor package of the program runs in a C++ process that has loaded it. CPU, inference. Returns how many calls
    were replaced. Raises BackendError where the library is not here, or has nothing for a call: one with ``out=``, or
    in float64; the program then stays as it was.
    """
    operators = _cpp_operators()
    graphs = [part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    nodes = [node for part in graphs for node in part.graph.nodes if node.op == "call_function"]
    for node in nodes:
        if getattr(node.target, "namespace", "") == "lkca_kernels" and node.target not in operators:
            raise BackendError(f"the C++ CPU library has no {node.target}, which the program calls")
        if node.target in operators:
            first = node.args[0].meta["val"]
            names = [argument.name for argument in node.target._schema.arguments]
            scale = node.args[names.index("upscale_factor")] if "upscale_factor" in names else 1
            reason = can_run(node.target.name(), first.device, first.dtype, scale)
            if reason is not None:
                raise BackendError(f"the C++ CPU library, whose {node.target} the program would call, {reason}")
    replaced = 0
    for node in nodes:
        if node.target in operators:
            arguments = node.args[:-1]  # all but the backend that Python would choose
            node.args = tuple(CONVENTIONS[a] if isinstance(a, str) else a for a in arguments)
            node.target = operators[node.target]
            replaced += 1
    for part in graphs:
        part.recompile()
    return replaced
