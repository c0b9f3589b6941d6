"""The tables of scores, ranks and times: the command line prints them and the report shows them, digit for digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lkca.evaluation import Evaluation
    from lkca.fitting import FittedModel
    from lkca.lowrank import LayerAnalysis
    from lkca.models.config import ValidationRecord
    from lkca.report.speed import Speed

__all__ = [
    "SCORE_COLUMNS",
    "Table",
    "fit_table",
    "rank_table",
    "recorded_scores",
    "score_table",
    "speed_table",
    "validation_table",
]

# name, heading, digits, whether more is better
SCORE_COLUMNS = (
    ("mpsnr", "MPSNR dB", 2, True),
    ("mssim", "MSSIM", 4, True),
    ("sam", "SAM °", 3, False),
    ("cc", "CC", 4, True),
    ("rmse", "RMSE", 5, False),
    ("ergas", "ERGAS", 3, False),
)


@dataclass(frozen=True)
class Table:
    """Text, as it is printed. note: the line below, which says how the numbers were measured."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def score_table(result: Evaluation) -> Table:
    """Scores of one scene, a row per prediction, and what the model gained over bicubic."""
    rows = [
        (name, *(f"{getattr(metrics, key):.{digits}f}" for key, _, digits, _ in SCORE_COLUMNS))
        for name, metrics in result.scores.items()
    ]
    if {"bicubic", "model"} <= result.scores.keys():
        ours, base = result.scores["model"], result.scores["bicubic"]
        gains = (f"{getattr(ours, key) - getattr(base, key):+.{digits}f}" for key, _, digits, _ in SCORE_COLUMNS)
        rows.append(("difference", *gains))
    blur = ""
    if result.degradation is not None:
        sigma = result.degradation.sigma
        width = "" if sigma is None else f", sigma {sigma:.3g} fine pixels"
        blur = f"degradation {result.degradation.method}{width}, "
    origin = "as given" if result.peak_given else "largest valid sample of the reference"
    return Table(
        f"{result.source}  ×{result.scale}  region {result.window}",
        ("", *(heading for _, heading, _, _ in SCORE_COLUMNS)),
        tuple(rows),
        f"protocol {result.protocol}; {blur}peak {result.peak:.6g} ({origin}), {result.bands.size} bands scored; "
        "more is better for MPSNR, MSSIM, CC",
    )


def fit_table(fitted: FittedModel, name: str) -> Table:
    """Scores of a fit on what it held out, and what it spent. name: of the model."""
    from lkca.training.validation import RULES

    result = fitted.result
    columns, rows = recorded_scores(result.metrics)
    ended = "stopped early" if result.interrupted else "done"
    return Table(
        f"{name}  ×{fitted.config.scale}  measured on the {result.split}",
        columns,
        rows,
        f"{ended}: {result.steps} steps in {result.seconds:.0f} s; the student's upsampler has rank {result.rank} "
        f"({result.energy:.1%} of the teacher's energy); protocol {RULES} "
        f"{fitted.config.normalisation.peak:.6g}",
    )


def validation_table(record: ValidationRecord) -> Table:
    """Scores that a model directory records."""
    columns, rows = recorded_scores(record.scores)
    return Table("Scores recorded in the model", columns, rows, f"measured on the {record.split}; {record.protocol}")


def rank_table(layer: LayerAnalysis, parameters: int) -> Table:
    """What each candidate rank of an upsampling layer keeps and costs. parameters: of the whole network."""
    kernel = f"{layer.kernel_size[0]}×{layer.kernel_size[1]}"
    kernel += f", {layer.groups} groups in turn" if layer.groups > 1 else ""
    rank = f"rank {layer.rank}" if layer.rank is not None else f"full rank {layer.full_rank}"
    share = f"{layer.weight_share:.1%} of the network's {parameters:,} parameters"
    if layer.macs_share is not None:
        share += f", {layer.macs_share:.1%} of its multiplications"
    rows = tuple(
        (
            str(c.rank),
            f"{c.energy:.2%}",
            f"{c.weights:,}",
            f"{c.weights / layer.weights:.0%}",
            f"{c.macs / layer.macs:.0%}",
        )
        for c in layer.candidates
    )
    return Table(
        f"{layer.name or layer.kind}  {layer.in_channels} → {layer.out_channels}, {kernel}, "
        f"×{layer.upscale_factor}, {rank}",
        ("rank", "energy", "weights", "of now", "multiplications"),
        rows,
        f"now {layer.weights:,} weights: {share}; lower ranks are cheaper up to {layer.break_even}; stable rank "
        f"{layer.stable_rank:.1f}, effective rank {layer.effective_rank:.1f}",
    )


def speed_table(speed: Speed) -> Table:
    """Times of one forward pass, and fine pixels per second."""
    base = speed.timings[0].seconds
    rows = tuple(
        (
            timing.name,
            timing.served_by,
            f"{1e3 * timing.seconds:.2f}",
            f"{1e-6 * speed.fine_pixels / timing.seconds:.3g}",
            f"{timing.seconds / base:.2f}",
        )
        for timing in speed.timings
    )
    return Table(
        f"One pass of {speed.bands} bands, {speed.side} × {speed.side} → "
        f"{speed.side * speed.scale} × {speed.side * speed.scale} pixels",
        ("", "served by", "ms", "Mpixel/s", f"times {speed.timings[0].name}"),
        rows,
        f"float32 random values on {speed.device}, {speed.threads} CPU threads; median of {speed.rounds} rounds in "
        "which the rows take turns; pixels are those of the output, all bands at once",
    )


def recorded_scores(scores: dict[str, dict[str, float]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Columns and rows of the scores that are there, by {name: {score: value}}."""
    shown = [
        (key, heading, digits) for key, heading, digits, _ in SCORE_COLUMNS if any(key in s for s in scores.values())
    ]
    rows = tuple(
        (name, *(f"{values[key]:.{digits}f}" if key in values else "–" for key, _, digits in shown))
        for name, values in scores.items()
    )
    return ("", *(heading for _, heading, _ in shown)), rows
