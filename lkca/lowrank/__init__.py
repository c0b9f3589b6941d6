"""Low rank of upsampling layers, in any PyTorch model: analyse, factorise, merge back. docs/lowrank.md."""

from __future__ import annotations

from lkca.lowrank.analyze import Analysis, Candidate, LayerAnalysis, analyze
from lkca.lowrank.factorize import (
    Factorization,
    LayerRank,
    factorize,
    factorize_reported,
    load_lowrank,
    ranks_of,
)
from lkca.lowrank.layers import LowRankError
from lkca.lowrank.replace import Replacements, replace_modules
from lkca.lowrank.spectrum import (
    Factoriser,
    Moments,
    Spectrum,
    break_even_rank,
    effective_rank,
    energy_curve,
    rank_for_energy,
    singular_values,
    spectrum,
    stable_rank,
)
from lkca.lowrank.surgery import merge

__all__ = [
    "Analysis",
    "Candidate",
    "Factoriser",
    "Factorization",
    "LayerAnalysis",
    "LayerRank",
    "LowRankError",
    "Moments",
    "Replacements",
    "Spectrum",
    "analyze",
    "break_even_rank",
    "effective_rank",
    "energy_curve",
    "factorize",
    "factorize_reported",
    "load_lowrank",
    "merge",
    "rank_for_energy",
    "ranks_of",
    "replace_modules",
    "singular_values",
    "spectrum",
    "stable_rank",
]
