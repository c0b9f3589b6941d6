"""Speed on the user's machine, beside what one would write without lkca. docs/export.md, docs/cpu_backend.md.

``bench/`` in the repository takes its baselines and limits from here.
"""

from __future__ import annotations

from lkca.bench.cases import Case, model_case, operator_case, preset_network
from lkca.bench.limits import least_seconds, probes, rate_text
from lkca.bench.run import CaseResult, Clock, Measurement, measure_limits, run_case

__all__ = [
    "Case",
    "CaseResult",
    "Clock",
    "Measurement",
    "least_seconds",
    "measure_limits",
    "model_case",
    "operator_case",
    "preset_network",
    "probes",
    "rate_text",
    "run_case",
]
