"""Networks."""

from __future__ import annotations

from lkca.models.lkcanet import PRESETS, LKCANet, LKCANetConfig

__all__ = ["PRESETS", "LKCANet", "LKCANetConfig"]
