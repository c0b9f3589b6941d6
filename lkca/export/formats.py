"""One writer per format. Each returns how the file it wrote is run, for the comparison with the model."""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from lkca.choices import Format
from lkca.errors import InputError
from lkca.export.model import INPUT, OUTPUT, PhysicalModel, traced
from lkca_kernels import keep_operators, use_backend
from lkca_kernels.exporting import call_cpp_operators

__all__ = [
    "FORMATS",
    "METADATA_FILE",
    "ONNX_OPSET",
    "SUFFIXES",
    "Format",
    "onnx_program",
    "optional",
    "requirements",
    "write",
]

FORMATS: tuple[Format, ...] = get_args(Format)
"""Every :data:`Format`."""
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2"}
ONNX_OPSET = 18
"""What torch's exporter is written for: others are converted from it."""
METADATA_FILE = "lkca.json"  # in the pt2 package

Run = Callable[[Tensor], Tensor]


def optional(name: str, extra: str) -> Any:
    """The optional module; InputError, naming the extra, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"this needs {name} ({error}); install it: pip install 'lkca[{extra}]'") from error


def requirements(to: Format, *, plain: bool) -> None:
    """Raises InputError where this machine cannot write the format."""
    if to == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            optional(name, "export")
    if to == "aoti":
        from torch._inductor.cpp_builder import get_cpp_compiler

        from lkca_kernels.cpu import unavailable

        try:
            get_cpp_compiler()
        except Exception as error:  # torch's InvalidCxxCompiler, wherever it is defined
            raise InputError("--to aoti compiles C++; install g++ or clang++, or name one in CXX") from error
        reason = unavailable()
        if reason and not plain:
            raise InputError(f"--to aoti calls lkca's C++ library, which {reason}; build it or give --plain")


def write(model: PhysicalModel, bands: int, path: Path, to: Format, metadata: dict[str, str], *, plain: bool) -> Run:
    """Write ``path`` and return what runs it. ``plain``: PyTorch's own operations only (ONNX has no others)."""
    keep = not plain and to != "onnx"
    with _quiet():
        with ExitStack() as tracing:  # by name: a backend that LKCA_BACKEND asks for is not the file's
            tracing.enter_context(use_backend("auto" if keep else "reference"))
            if keep:
                tracing.enter_context(keep_operators())
            program = traced(model, bands)
        if to == "onnx":
            return _onnx(program, path, metadata)
        if to == "pt2":
            return _pt2(program, path, metadata)
        return _aoti(program, path, metadata, plain=plain)


def onnx_program(program: torch.export.ExportedProgram, inputs: Sequence[str], output: str) -> Any:
    """The program as torch's ONNXProgram, without traces of the exporting machine's source files."""
    for name in ("onnx", "onnxscript"):
        optional(name, "export")
    with _quiet():
        # dynamo=True: the exporter over torch.export; the other one is TorchScript's
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=ONNX_OPSET, input_names=inputs, output_names=[output], verbose=False
        )
    assert exported is not None
    graph: Any = exported.model.graph
    for part in (*graph.all_nodes(), *graph.inputs, *graph.outputs):
        part.metadata_props.clear()
    return exported


def _onnx(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> Run:
    onnxruntime = optional("onnxruntime", "export")
    exported = onnx_program(program, [INPUT], OUTPUT)
    _name_sizes(exported.model)
    exported.model.metadata_props.update(metadata)
    exported.save(path, external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda cube: torch.from_numpy(session.run(None, {INPUT: cube.numpy()})[0])


def _name_sizes(model: Any) -> None:
    (cube,), (upscaled,) = model.graph.inputs, model.graph.outputs
    for value, rows, cols in ((cube, "rows", "cols"), (upscaled, "scale*rows", "scale*cols")):
        for axis, name in ((0, "batch"), (2, rows), (3, cols)):
            value.shape[axis] = name


def _pt2(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> Run:
    package = io.BytesIO()  # where the disk is full, torch's own writer of files ends the process
    torch.export.save(program, package, extra_files={METADATA_FILE: json.dumps(metadata, indent=1)})
    path.write_bytes(package.getbuffer())
    module = torch.export.load(path).module()

    def run(cube: Tensor) -> Tensor:
        with torch.inference_mode():
            result: Tensor = module(cube)
        return result

    return run


def _aoti(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str], *, plain: bool) -> Run:
    from torch._inductor import aoti_compile_and_package, aoti_load_package, config

    if not plain:
        call_cpp_operators(program)
    options: dict[str, Any] = {"aot_inductor.metadata": {**metadata}}
    if hasattr(config.aot_inductor, "check_lowerbound"):
        # The package checks its input where AOTI_RUNTIME_CHECK_INPUTS is set, and would refuse a size of 1 then.
        options["aot_inductor.check_lowerbound"] = False
    aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    package = aoti_load_package(str(path))

    def run(cube: Tensor) -> Tensor:
        with torch.inference_mode():
            result: Tensor = package(cube)
        return result

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
