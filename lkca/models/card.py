"""The generated model card (README.md of a model directory)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from lkca.models.config import ModelConfig, TrainingRecord, ValidationRecord

__all__ = ["model_card"]


def model_card(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """Markdown: what the model takes and gives, what it learned from, how good it was, and its limits."""
    lines = [
        f"# {config.architecture.name} ×{config.scale}, {config.bands.count} bands",
        "",
        f"Sharpens hyperspectral cubes {config.scale} times. Made by lkca {config.versions.get('lkca', '?')}; "
        "`config.json` holds everything below in machine-readable form.",
        "",
        "```",
        f"lkca upscale -i FILE -o OUT -m MODEL_DIR -s {config.scale}",
        "```",
        "",
        *_input(config),
        *_training(config.training, weights),
        *([] if config.validation is None else _validation(config.validation)),
        *_limits(config),
    ]
    return "\n".join(lines)


def _input(config: ModelConfig) -> list[str]:
    bands, normal = config.bands, config.normalisation
    rest = "." if len(bands.used) == bands.count else "; the others (bad or empty in training) are upscaled by bicubic."
    rule = f" ({normal.rule})" if normal.rule else ""
    return [
        "## Input",
        "",
        f"- Bands in a file: {bands.count}{bands.span}. The network sees {len(bands.used)}{rest}",
        f"- Normalisation: (value − {normal.offset:g}) / {normal.peak:g}{rule}.",
        f"- Degradation it was trained to undo: {_degradation(config)}.",
        "",
    ]


def _training(training: TrainingRecord, weights: Mapping[str, Tensor]) -> list[str]:
    size = sum(tensor.numel() for tensor in weights.values() if tensor.is_floating_point())
    end = ", stopped before its time budget." if training.interrupted else "."
    role = "Made of" if "made" in training.details else "Scenes that trained it, or validated"
    lines = [
        "## Training",
        "",
        *([f"- {role}:"] if training.data else []),
        *(f"  - `{d.name}`: {d.rows} × {d.cols} pixels (region `{d.region}`)" for d in training.data),
        f"- {size:,} numbers in the weights; {training.seconds:.0f} s on {training.device}, seed {training.seed}{end}",
    ]
    if made := training.details.get("made"):
        lines.append(f"- Made as: {made}.")
    if prior := training.details.get("prior"):
        about = json.dumps(prior, ensure_ascii=False, default=str)
        start = "another model" if "model" in prior else "lkca's shipped prior"
        lines.append(f"- Started from {start}: `{about}`")
    cuts = training.details.get("factorized", [])
    for cut in cuts:
        scenes = ", ".join(f"`{name}`" for name in cut["calibration"])
        lines.append(
            f"- Upsampler factorised to rank {cut['rank']} of {cut['of']}; its factors are fitted to the upper three "
            f"quarters of the rows of {scenes}."
        )
    if commands := [text for text in (training.command, *(cut["command"] for cut in cuts)) if text]:
        lines += ["", "```", *commands, "```"]
    return [*lines, ""]


def _validation(record: ValidationRecord) -> list[str]:
    names = sorted({name for scores in record.scores.values() for name in scores})
    lines = [
        "## Validation during the fit",
        "",
        f"Protocol: {record.protocol}. {record.split}",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for stage, scores in record.scores.items():
        cells = (f"{scores[name]:.4g}" if name in scores else "–" for name in names)
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _limits(config: ModelConfig) -> list[str]:
    return [
        "## Limits",
        "",
        f"{_suits(config.training)} Detail finer than the input's pixels is an estimate, not a measurement; check it "
        "with `lkca evaluate` on a part of your scene that was not used for training. The training data's own terms of "
        "use apply to what is derived from them.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(config.versions.items())) + ".",
        "",
    ]


def _suits(training: TrainingRecord) -> str:
    if training.details.get("made"):
        return "Made from the statistics of the cube above: it suits that cube and others of its sensor and ground."
    return (
        "Fitted to the scenes above by making them coarser and learning to restore them (Wald's protocol): expect it "
        "to suit the same sensor, similar ground and similar blur."
    )


def _degradation(config: ModelConfig) -> str:
    degradation = config.degradation
    detail = "" if degradation.sigma is None else f" (sigma {degradation.sigma:.3g} fine pixels)"
    return f"{degradation.method}{detail} ×1/{degradation.scale}"
