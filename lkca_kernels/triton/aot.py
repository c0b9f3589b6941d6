"""Compile kernels for NVIDIA GPUs without one, and read what the machine code needs.

The arguments are those of a real call (`record_launches` over meta tensors), specialised as Triton's runtime
specialises them: None and 1 become constants, multiples of 16 are marked.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import lkca_kernels.triton as backend

from .launch import Launch, record_launches
from .tune import candidate as use_candidate

__all__ = ["ARCHITECTURES", "Architecture", "Resources", "compile_launch", "representative_launches"]

_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@dataclass(frozen=True)
class Architecture:
    """Per-multiprocessor limits (CUDA C++ programming guide, compute capabilities); shared memory in bytes."""

    capability: int
    warps: int
    blocks: int
    shared_per_block: int
    shared_per_sm: int
    registers: int = 65536


ARCHITECTURES = {
    80: Architecture(80, 64, 32, 163 * 1024, 164 * 1024),
    90: Architecture(90, 64, 32, 227 * 1024, 228 * 1024),
    100: Architecture(100, 64, 32, 227 * 1024, 228 * 1024),
}


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel needs. ``stack``, in bytes per thread, holds what ptxas spilled; 0 means no spills.

    ``shared`` is in bytes per block; ``ttir`` and ``ptx`` are texts.
    """

    kernel: str
    capability: int
    num_warps: int
    registers: int
    stack: int
    shared: int
    ttir: str
    ptx: str

    @property
    def occupancy(self) -> float:
        """Estimated share of the multiprocessor's warps that fit, by registers, shared memory and block count."""
        arch = ARCHITECTURES[self.capability]
        per_warp = -(-self.registers * 32 // 256) * 256  # registers are handed out 256 a warp
        blocks = min(
            arch.blocks,
            arch.warps // self.num_warps,
            arch.registers // (per_warp * self.num_warps),
            arch.shared_per_sm // (self.shared + 1024),  # the system keeps 1 KiB a block
        )
        return blocks * self.num_warps / arch.warps


def _source(launch: Launch) -> ASTSource:
    kernel = launch.kernel
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, parameter in enumerate(kernel.params):
        name = parameter.name
        value = launch.arguments[name]
        divisible = False
        if parameter.is_constexpr or value is None:
            signature[name] = "constexpr"
            constants[name] = value
        elif isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
            divisible = True  # the caching allocator's addresses are
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[name] = "constexpr"
            constants[name] = 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            divisible = value % 16 == 0 and not parameter.do_not_specialize
        if divisible:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def compile_launch(launch: Launch, capability: int) -> Resources:
    """Compile ``launch`` for ``sm_<capability>``; Triton's own cache makes the second time quick.

    Raises whatever Triton or ptxas raise where the kernel does not compile, RuntimeError in interpreter mode.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("ahead-of-time compilation needs TRITON_INTERPRET unset: interpreted kernels have no IR")
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    compiled = triton.compile(_source(launch), target=GPUTarget("cuda", capability, 32), options=options)
    registers, stack = _usage(compiled.asm["cubin"])
    return Resources(
        kernel=launch.kernel.__name__,
        capability=capability,
        num_warps=launch.num_warps,
        registers=registers,
        stack=stack,
        shared=compiled.metadata.shared,
        ttir=compiled.asm["ttir"],
        ptx=compiled.asm["ptx"],
    )


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes per thread, as cuobjdump (which Triton ships) reads them from the cubin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", report)
    if match is None:
        raise RuntimeError(f"cuobjdump reported no resource usage: {report!r}")
    return int(match[1]), int(match[2])


def representative_launches(dtype: torch.dtype, candidate: int = 0) -> dict[str, Launch]:
    """Every kernel as real calls in ``dtype`` launch it, by a name that tells its variant.

    ``candidate`` counts the tiles of `config.py`: 0 the default, -1 the last, round where an operator has fewer.

    Sizes: 128 bands from rank 32 at ×4, 102 bands from rank 16 at ×3 (no power of two: stored element by element);
    channel attention of 64 channels.
    """
    with use_candidate(candidate):
        return _representatives(dtype)


def _representatives(dtype: torch.dtype) -> dict[str, Launch]:
    found: dict[str, Launch] = {}

    def meta(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def keep(variant: str, launches: list[Launch]) -> None:
        seen: list[str] = []
        for launch in launches:
            name = launch.kernel.__name__.removesuffix("_kernel")
            again = f", pass {seen.count(name) + 1}" if name in seen else ""
            seen.append(name)
            found.setdefault(f"{name} ({variant}{again})", launch)

    for channels, rank, s, h, w in ((128, 32, 4, 256, 256), (102, 16, 3, 100, 100)):
        phases = channels * s * s
        tensors = (meta(2, rank, h, w), meta(phases, rank), meta(phases), meta(2, channels))
        low, high, stack = meta(2, channels, h, w), meta(2, channels, h * s, w * s), meta(2, phases, h, w)
        for kind, skip in (("no skip", None), ("HR skip", high), ("LR skip", low)):
            with record_launches() as launches:
                backend.lowrank_pixel_shuffle_fwd(*tensors, skip, upscale_factor=s, skip_bicubic="matlab")
                backend.pixel_shuffle_epilogue_fwd(stack, tensors[3], skip, upscale_factor=s, skip_bicubic="matlab")
            keep(f"×{s}, {kind}", launches)
        wanted = {
            "all gradients": (True, True, True, True, False),
            "input alone": (True, False, False, False, False),
            "weights alone": (False, True, True, True, False),
            "LR skip": (False, False, False, False, True),
        }
        for what, needs in wanted.items():
            with record_launches() as launches:
                backend.lowrank_pixel_shuffle_bwd(
                    high, *tensors, low, upscale_factor=s, skip_bicubic="matlab", needs=needs
                )
            keep(f"×{s}, {what}", launches)
        with record_launches() as launches:
            backend.pixel_shuffle_epilogue_bwd(
                high, stack, tensors[3], None, upscale_factor=s, skip_bicubic="matlab", needs=(True, True, False)
            )
        keep(f"×{s}", launches)

    x, mean = meta(2, 64, 256, 256), meta(2, 64, dtype=torch.float32)
    layers = meta(8, 64), meta(8), meta(64, 8), meta(64)
    mixing = meta(8, 64), meta(64, 8)
    for layout in (torch.contiguous_format, torch.channels_last):
        image = x.contiguous(memory_format=layout)
        with record_launches() as launches:
            backend.channel_attention_fwd(image, *layers, image)
            backend.channel_gate_fwd(image, *layers)
        keep(f"forward, {str(layout).removeprefix('torch.')}", launches)
        with record_launches() as launches:
            backend.channel_attention_bwd(image, image, mean, *layers, needs=(True,) * 5)
        keep(f"backward, {str(layout).removeprefix('torch.')}", launches)
        with record_launches() as launches:
            backend.local_channel_attention_fwd(image, *mixing, image, window=9)
        keep(f"local, {str(layout).removeprefix('torch.')}", launches)
        with record_launches() as launches:
            backend.local_channel_attention_bwd(image, image, *mixing, window=9, needs=(True,) * 3)
        keep(f"local backward, {str(layout).removeprefix('torch.')}", launches)
    return found
