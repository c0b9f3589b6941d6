"""``lkca doctor``: what this installation can do, and why it cannot do the rest."""

from __future__ import annotations

import inspect
import os
import platform
import sys
from typing import Any

from lkca.cli.console import print_json, print_table
from lkca.cli.options import Json, examples
from lkca.environment import package_version, processor

__all__ = ["EXAMPLES", "doctor_command", "machine"]

EXAMPLES = examples(
    "lkca doctor",
    "lkca doctor --json > doctor.json",
)

_PACKAGES = ("lkca", "torch", "triton", "numpy", "scipy", "rasterio", "h5py", "safetensors", "pydantic", "matplotlib")
_VARIABLES = (
    "LKCA_",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TRITON_INTERPRET",
    "CUDA_VISIBLE_DEVICES",
    "THP_MEM_ALLOC_ENABLE",
)


def doctor_command(json: Json = False) -> None:
    """Shows versions, processor, compiled extensions and which backend serves each operator, with reasons."""
    facts = _facts()
    if json:
        print_json(facts)
        return
    print_table(
        "versions",
        ["package", "version"],
        [(k, v or "not installed") for k, v in facts["versions"].items()],
        text_columns=2,
    )
    print_table("machine", ["property", "value"], [(k, str(v)) for k, v in facts["machine"].items()], text_columns=2)
    print_table("compiled extensions", ["item", "state"], facts["extensions"].items(), text_columns=2)
    served = {op: f"{entry['chosen'] or 'none'} ({entry['reason']})" for op, entry in facts["operators"].items()}
    print_table("backends (float32, ×4)", ["operator", "served by"], served.items(), text_columns=2)
    refused = {why for entry in facts["operators"].values() for why in entry["refused"].items()}
    if refused:
        print_table("why other backends do not serve", ["backend", "reason"], sorted(refused), text_columns=2)
    if facts["environment"]:
        print_table("environment", ["variable", "value"], facts["environment"].items(), text_columns=2)


def _facts() -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in _PACKAGES}},
        "machine": machine(),
        "extensions": _extensions(),
        "operators": _operators(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if any(name.startswith(prefix) for prefix in _VARIABLES)
        },
    }


def machine() -> dict[str, Any]:
    """Processor, cores, memory and cards, and what torch makes of them."""
    import torch

    from lkca.data.memory import available_memory

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "free_memory_gib": round(available_memory() / 2**30, 1),
        "cuda_devices": cuda or "none",
        "torch_cuda": torch.version.cuda or "a CPU build",
        "executable": sys.executable,
    }


def _extensions() -> dict[str, str]:
    """Per library: loaded, or why not; what the C++ one has for this processor; how they were compiled."""
    from lkca_kernels import cpu, native

    libraries: tuple[native.Library, ...] = ("cpu", "cuda")
    state: dict[str, str] = {
        library: native.load(library) or f"loaded from {native.library_path(library)}" for library in libraries
    }
    if native.load("cpu") is None:
        state["cpu kernels"] = f"{', '.join(cpu.available_isas())} (best first, of those this processor runs)"
    return state | {name: str(value) for name, value in native.build_info().items()}


def _operators() -> dict[str, Any]:
    """Which backend serves each operator on each kind of device here, in float32 at ×4, and why each other does not."""
    import torch

    from lkca_kernels import BackendError
    from lkca_kernels.backends import explain_call
    from lkca_kernels.ops.explain import OPERATORS

    devices = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
    found: dict[str, Any] = {}
    for device in devices:
        for op, function in OPERATORS.items():
            if op == "lowrank_upsample":  # its second stage is lowrank_pixel_shuffle
                continue
            name = f"{op} on {device.type}"
            scale = 4 if "upscale_factor" in inspect.signature(function).parameters else 1
            try:
                answer = explain_call(op, device, torch.float32, scale, None)
            except BackendError as error:
                found[name] = {"chosen": None, "reason": str(error), "refused": {}}
                continue
            found[name] = {"chosen": answer.chosen, "reason": answer.reason, "refused": dict(answer.refusals)}
    return found
