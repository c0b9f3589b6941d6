"""Models as files that run without lkca or without Python: ONNX, torch.export, AOTInductor. docs/export.md."""

from __future__ import annotations

from lkca.export.check import Check
from lkca.export.formats import FORMATS, ONNX_OPSET, Format
from lkca.export.model import PhysicalModel
from lkca.export.run import Exported, export_model

__all__ = [
    "FORMATS",
    "ONNX_OPSET",
    "Check",
    "Exported",
    "Format",
    "PhysicalModel",
    "export_model",
]
