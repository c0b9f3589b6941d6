"""Models as files that run without lkca or without Python: ONNX, torch.export, AOTInductor. docs/export.md."""

from __future__ import annotations

from lkca.export.check import TOLERANCE, Check, check_sizes, compare
from lkca.export.formats import FORMATS, ONNX_OPSET, SUFFIXES, Format
from lkca.export.model import PhysicalModel, describe
from lkca.export.run import Exported, export_model

__all__ = [
    "FORMATS",
    "ONNX_OPSET",
    "SUFFIXES",
    "TOLERANCE",
    "Check",
    "Exported",
    "Format",
    "PhysicalModel",
    "check_sizes",
    "compare",
    "describe",
    "export_model",
]
