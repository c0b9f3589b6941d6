"""The words that options and configuration files choose from. Without torch: the command line's help needs none."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["WIDEST_SIGMA", "DegradationMethod", "Format", "Precision", "Protocol"]

DegradationMethod: TypeAlias = Literal["bicubic", "gaussian", "area"]  # lkca.data.degradation
Format: TypeAlias = Literal["onnx", "pt2", "aoti"]
"""What :func:`lkca.export.export_model` writes."""
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]  # of a network's body, lkca.inference
Protocol: TypeAlias = Literal["chikusei", "houston2018", "pavia", "cave"]  # lkca.data.protocols

WIDEST_SIGMA = 100.0
"""The widest Gaussian blur that commands and configurations take, in fine pixels; far wider ones take hours."""
