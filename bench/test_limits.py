"""What the machine can do at best, measured in the same run: the limits that bench/table.py divides by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lkca.bench import probes

SIZES = (8, 32, 51, 107, 134)  # MB of the outputs of the cases; the table takes the nearest
PROBES = [("matmul", dtype, 0) for dtype in (torch.float32, torch.bfloat16)] + [
    (kind, torch.float32, size) for size in SIZES for kind in ("write warm", "write fresh", "write fresh huge")
]


@pytest.mark.parametrize(("kind", "dtype", "size"), PROBES, ids=str)
def test_limit(measure: Callable[..., None], kind: str, dtype: torch.dtype, size: int) -> None:
    wanted = f"matmul {dtype}" if kind == "matmul" else f"{kind} {size} MB"
    for name, call, facts in probes([dtype], [size] if size else []):
        if name == wanted:
            measure(call, "limits", name, **facts)
            return
    pytest.skip("huge pages can be asked for on Linux only")
