"""Each operator's files bear one name in every folder, as docs/architecture.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lkca_kernels import reference, triton
from lkca_kernels.backends import ONLY_ON_CPUS
from lkca_kernels.ops.explain import OPERATORS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("op", [op for op in OPERATORS if op != "lowrank_upsample"])  # a convolution before the first
def test_the_name_of_one_file_tells_the_others(op: str) -> None:
    name = OPERATORS[op].__module__.rpartition(".")[2]
    family = name.removesuffix("_stored")  # the same operator, with another end
    assert getattr(reference, op).__module__ == f"lkca_kernels.reference.{family}"
    driver = (ROOT / "csrc" / "cpu" / f"{family}.cpp").read_text()
    assert f" {op}_fwd(" in driver or f" {op}(" in driver
    headers = {path.stem for path in (ROOT / "csrc" / "cpu").glob("*.h")}
    assert headers >= {name} or headers >= {f"{name}_fwd", f"{name}_bwd"}
    if op not in ONLY_ON_CPUS:
        assert (ROOT / "csrc" / "cuda" / f"{family}.cu").exists()
        for way in ("fwd", "bwd"):
            assert triton._HOMES[f"{op}_{way}"] in (family, f"{family}_{way}")
