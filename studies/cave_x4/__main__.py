"""See config.yaml beside this file, and docs/distillation.md."""

from __future__ import annotations

from pathlib import Path

from studies.common.command import main

main(Path(__file__).parent)
