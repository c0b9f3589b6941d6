"""Low rank of the upsampling layer: analysis and factorisation."""

from __future__ import annotations

from lkca.lowrank.factorize import Spectrum, energy_curve, factorize, rank_for_energy, spectrum

__all__ = ["Spectrum", "energy_curve", "factorize", "rank_for_energy", "spectrum"]
