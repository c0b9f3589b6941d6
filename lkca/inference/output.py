"""Moved to :mod:`lkca.output`."""

from __future__ import annotations

from lkca.output import check_output

__all__ = ["check_output"]
