"""What the Triton kernels need on NVIDIA GPUs, read from machine code compiled without one.

    python bench/aot_report.py [--arch 80 90 100] [--dtype float32 float16 bfloat16] [--candidate N]
        [--json FILE]

One line per kernel: registers and spilled (stack) bytes per thread, shared memory per block in bytes, and the
estimated occupancy, the share of a multiprocessor's warps that fit. None of it is a measurement of speed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch

warnings.filterwarnings("ignore", message=".*TRITON_DEFAULT_FP_FUSION.*")


def main() -> None:
    from lkca_kernels.triton.aot import ARCHITECTURES, compile_launch, representative_launches

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=sorted(ARCHITECTURES), choices=sorted(ARCHITECTURES))
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--candidate", type=int, default=0, help="tile of lkca_kernels/triton/config.py, 0 the default")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()

    rows = []
    print(f"{'kernel':62} {'dtype':9} {'sm':>4} {'warps':>5} {'regs':>5} {'stack':>5} {'shared':>7} {'occupancy':>9}")
    for dtype in arguments.dtype:
        for name, launch in representative_launches(getattr(torch, dtype), arguments.candidate).items():
            for arch in arguments.arch:
                r = compile_launch(launch, arch)
                row = {
                    "kernel": name, "dtype": dtype, "sm": arch, "warps": r.num_warps, "registers": r.registers,
                    "stack": r.stack, "shared": r.shared, "occupancy": r.occupancy,
                }  # fmt: skip
                rows.append(row)
                print(
                    f"{name:62} {dtype:9} {arch:4} {r.num_warps:5} {r.registers:5} {r.stack:5} {r.shared:7} "
                    f"{r.occupancy:9.0%}",
                    flush=True,
                )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
