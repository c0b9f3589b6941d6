"""PEP 517 backend: setuptools, plus one question that a static requirement list cannot answer.

The extension compiles against torch's headers. Under build isolation the environment has no torch, and listing
torch as a build requirement would download a second copy (several gigabytes where it is a CUDA build), possibly of
another release than the one that will load the extension. So: use the torch that is importable here, else the one
in the environment that the package is being installed into, else, and only then, ask for torch.
"""

from __future__ import annotations

from typing import Any

from lkca_build_plan import demand_setuptools, expose_torch, switch, torch_requirement

demand_setuptools()  # before any of it is imported

from setuptools import build_meta  # noqa: E402
from setuptools.build_meta import (  # noqa: E402, F401  (the hooks that pass through unchanged)
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def _torch_requirement() -> list[str]:
    if switch("LKCA_BUILD_CPU") == "0" and switch("LKCA_BUILD_CUDA") != "1":
        return []
    return [] if expose_torch() else [torch_requirement()]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch_requirement()]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch_requirement()]
