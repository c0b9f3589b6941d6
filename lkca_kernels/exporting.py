"""Exported programs for processes without Python: calls of lkca's operators become calls of the C++ library's."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from lkca_kernels.backends import BackendError
from lkca_kernels.cpu import can_run, unavailable
from lkca_kernels.native import CONVENTIONS
from lkca_kernels.ops._operator import OPAQUE

__all__ = ["call_cpp_operators"]

_OTHER_NAMES = {"channel_gate": "channel_gate_fwd"}  # in the library, whose other forwards take an out= as well


@cache
def _cpp_operators() -> dict[Any, Any]:
    """lkca_kernels::<op> -> lkca_cpu::<op>, each with its fake registered; BackendError without the library."""
    reason = unavailable()
    if reason is not None:
        raise BackendError(f"the C++ CPU library, whose operators the program would call, {reason}")
    found = {}
    for name, operator in OPAQUE.items():
        theirs = _OTHER_NAMES.get(name, name)
        torch.library.register_fake(f"lkca_cpu::{theirs}", operator.fake)
        found[getattr(torch.ops.lkca_kernels, name).default] = getattr(torch.ops.lkca_cpu, theirs).default
    return found


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
