"""The same operators as one would write them in PyTorch, and the same run by torch.compile and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lkca.export.formats import onnx_program, optional
from lkca_kernels.reference import bicubic_upsample

__all__ = ["CONTENDERS", "compiled", "eager_epilogue", "eager_lowrank", "onnx_call", "onnx_session"]

CONTENDERS = ("lkca", "eager", "compile", "onnxruntime")


def eager_lowrank(z: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, skip: Tensor, scale: int) -> Tensor:
    """1×1 convolution, pixel shuffle, gate, skip; the skip is upsampled first where it is low-resolution."""
    return eager_epilogue(F.conv2d(z, weight[:, :, None, None], bias), gate, skip, scale)


def eager_epilogue(y: Tensor, gate: Tensor, skip: Tensor, scale: int) -> Tensor:
    """Pixel shuffle, gate, skip."""
    if skip.shape[-1] == y.shape[-1]:
        skip = bicubic_upsample(skip, scale)
    return torch.addcmul(skip, F.pixel_shuffle(y, scale), gate[:, :, None, None])


def compiled(f: Callable[..., Tensor], out: Tensor | None = None) -> Callable[..., Tensor]:
    """torch.compile of f; with ``out`` the result is written there inside the compiled function."""
    torch._dynamo.reset()
    if out is None:
        return torch.compile(f, dynamic=False)
    target = out
    return torch.compile(lambda *args: target.copy_(f(*args)), dynamic=False)


def onnx_session(f: Callable[..., Tensor], tensors: Sequence[Tensor], threads: int) -> Any:
    """An ONNX Runtime session of f(*tensors), inputs x0, x1, …, output ``out``; InputError without the extra."""
    onnxruntime = optional("onnxruntime", "export")

    class Module(torch.nn.Module):
        def forward(self, *args: Tensor) -> Tensor:
            return f(*args)

    with torch.no_grad():
        program = torch.export.export(Module(), tuple(tensors), strict=False)
    exported = onnx_program(program, [f"x{k}" for k in range(len(tensors))], "out")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        exported.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def onnx_call(
    f: Callable[..., Tensor], tensors: Sequence[Tensor], threads: int, out: Tensor | None = None
) -> Callable[[], Any]:
    """A call of f by ONNX Runtime, inputs bound without copies; the output fresh (a list of one), or ``out``."""
    session = onnx_session(f, tensors, threads)
    bound = session.io_binding()
    for k, tensor in enumerate(tensors):
        bound.bind_input(f"x{k}", "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
    if out is not None:
        bound.bind_output("out", "cpu", 0, np.float32, tuple(out.shape), out.data_ptr())

    def call() -> Any:
        if out is None:
            bound.bind_output("out", "cpu")
        session.run_with_iobinding(bound)
        return None if out is not None else bound.get_outputs()

    return call
