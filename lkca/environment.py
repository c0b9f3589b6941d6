"""Versions and machine, for whoever wants to repeat what was done."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["environment", "package_version", "processor"]

_PACKAGES = ("lkca", "torch", "numpy", "scipy", "rasterio")


def environment() -> dict[str, str]:
    """What stands at the end of a report: versions, system, processor."""
    packages = {name: package_version(name) or "not installed" for name in _PACKAGES}
    return {
        **packages,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
    }


def package_version(package: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
