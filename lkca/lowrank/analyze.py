"""How low the rank of a model's upsampling layers is, and what lowering it would save."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lkca.lowrank.layers import Layer, LowRankError, shaped_model
from lkca.lowrank.moments import Calibration, collect_moments, prepared
from lkca.lowrank.spectrum import (
    break_even_rank,
    effective_rank,
    energy_curve,
    rank_for_energy,
    singular_values,
    stable_rank,
)
from lkca.lowrank.survey import survey
from lkca_kernels.arguments import integer

__all__ = ["Analysis", "Candidate", "LayerAnalysis", "analyze"]

_ENERGIES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Candidate:
    """A rank, the share of energy that it keeps (of the kernel, and of its outputs on real data), and what it costs.

    weights: parameters without bias. macs: multiplications per low-resolution pixel.
    """

    rank: int
    energy: float
    data_energy: float | None
    weights: int
    macs: int


@dataclass(frozen=True)
class LayerAnalysis:
    """One upsampling layer.

    singular_values: descending, of the kernel as a matrix (out, in·k²); data_singular_values: of its outputs on the
    calibration data (weighted by the covariance of the inputs; by their second moment where the layer has no bias).
    full_rank, break_even, candidates[].rank: in all groups together. weight_share, macs_share: of the whole model, None
    where it was not run. ``rank`` is that of a layer that is low-rank already.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    upscale_factor: int
    groups: int
    rank: int | None
    full_rank: int
    break_even: int
    stable_rank: float
    effective_rank: float
    weights: int
    macs: int
    weight_share: float
    macs_share: float | None
    fused: bool
    singular_values: Tensor = field(repr=False)
    data_singular_values: Tensor | None = field(repr=False)
    candidates: tuple[Candidate, ...] = field(repr=False)

    @property
    def energy_curve(self) -> Tensor:
        """Share of the kernel's squared norm in the first 1, 2, … components (of each group)."""
        return energy_curve(self.singular_values)

    @property
    def data_energy_curve(self) -> Tensor | None:
        """The same of its outputs on the calibration data."""
        return None if self.data_singular_values is None else energy_curve(self.data_singular_values)


@dataclass(frozen=True)
class Analysis:
    """layers: that can be factorised. skipped: name -> why another that stands before a pixel shuffle can't.

    parameters, macs: of the whole model; macs on ``example_shape`` (None: the model was not run, ``unrun`` says why).
    """

    layers: tuple[LayerAnalysis, ...]
    skipped: dict[str, str]
    parameters: int
    macs: int | None
    example_shape: tuple[int, ...] | None
    unrun: str | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with all singular values."""
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "example_shape": self.example_shape,
            "unrun": self.unrun,
            "layers": [
                {
                    name: value.tolist() if isinstance(value, Tensor) else value
                    for name, value in vars(layer).items()
                    if name != "candidates"
                }
                | {"candidates": [vars(candidate) for candidate in layer.candidates]}
                for layer in self.layers
            ],
            "skipped": self.skipped,
        }

    def plot(self, path: str | Path) -> Path:
        """Draws the energy curves as PNG, SVG or PDF; returns the path.

        InputError for another suffix, and where there is no layer; OutputError where the file cannot be written.
        """
        from lkca.lowrank.plot import plot_analysis

        return plot_analysis(self, path)

    def __str__(self) -> str:
        return "\n".join(_text(self))


def _text(analysis: Analysis) -> Iterable[str]:
    for layer in analysis.layers:
        share = f"{layer.weight_share:.0%} of the parameters"
        share += "" if layer.macs_share is None else f", {layer.macs_share:.0%} of the multiplications"
        yield (
            f"{layer.name or layer.kind}: {layer.in_channels} -> {layer.out_channels}, {layer.kernel_size[0]}×"
            f"{layer.kernel_size[1]}, ×{layer.upscale_factor}; {share}; stable rank {layer.stable_rank:.1f}, effective "
            f"rank {layer.effective_rank:.1f} of {layer.full_rank}; cheaper up to rank {layer.break_even}"
        )
        for c in layer.candidates:
            data = "" if c.data_energy is None else f" ({c.data_energy:.2%} of the outputs')"
            yield (
                f"  rank {c.rank}: {c.energy:.2%} of the energy{data}, {c.weights / layer.weights:.0%} of the weights, "
                f"{c.macs / layer.macs:.0%} of the multiplications"
            )
    for name, reason in analysis.skipped.items():
        yield f"{name}: not possible, {reason}"
    if not analysis.layers and not analysis.skipped and not analysis.unrun:
        yield "no convolution feeds a pixel shuffle"
    if analysis.unrun:
        yield f"the model was not run, so layers may be missing: {analysis.unrun}"


@torch.no_grad()
def analyze(
    model: nn.Module,
    example: Any = None,
    *,
    calibration: Calibration | None = None,
    ranks: Iterable[int] | None = None,
) -> Analysis:
    """Spectrum, ranks and costs of each convolution in ``model`` that feeds a pixel shuffle, or of one convolution.

    The layers are found by following the data while the model runs on ``example`` (a tensor, a tuple of arguments; by
    default the first calibration image, or random images of likely shapes), in eval mode; the model stays as it is, but
    for what its own forward writes there in that mode too (observers of quantisation-aware training).
    calibration: images as for :func:`lkca.lowrank.factorize`, for the spectrum of the outputs on real data. ranks:
    candidates, by default those that keep 50, 90, 95, 99 and 99.9 % of the energy, and the break-even rank.

    Raises LowRankError for a calibration that reaches no layer and a model that is not made of modules or whose
    parameters have no values yet (on the meta device, lazy), and what the model raises on the example.
    """
    calibration, example = prepared(calibration, example, shaped_model(model))
    found = survey(model, example)
    data: list[Tensor | None] = [None] * len(found.layers)
    if calibration is not None:
        moments = collect_moments(model, found.layers, calibration)
        data = [
            singular_values(layer.matrix(), m, centred=layer.bias is not None)
            for layer, m in zip(found.layers, moments, strict=True)
        ]
    parameters = sum(p.numel() for p in model.parameters())
    if ranks is not None and (isinstance(ranks, str) or not isinstance(ranks, Iterable)):
        raise LowRankError(f"ranks: expected a sequence of integers, got {ranks!r}")
    wanted = None if ranks is None else sorted({integer("ranks", rank) for rank in ranks})
    if wanted and wanted[0] < 1:
        raise LowRankError(f"ranks: expected positive integers, got {wanted[0]}")
    first = found.example[0] if found.example else None
    shape = tuple(first.shape) if isinstance(first, Tensor) else None
    both = zip(found.layers, data, strict=True)
    layers = tuple(_analysis(layer, values, wanted, parameters, found.macs) for layer, values in both)
    unrun = found.unrun if found.macs is None else None
    return Analysis(layers, found.skipped, parameters, found.macs, shape, unrun)


def _analysis(
    layer: Layer, data: Tensor | None, ranks: list[int] | None, parameters: int, macs: int | None
) -> LayerAnalysis:
    values = singular_values(layer.matrix())
    groups = layer.groups
    even = max((r for r in range(groups, layer.full_rank + 1, groups) if layer.weights(r) < layer.weights()), default=0)
    if layer.rank is None and groups == 1:
        even = min(layer.full_rank, break_even_rank(layer.out, layer.conv.weight[0].numel()))
    if ranks is None:
        chosen = {groups * rank_for_energy(values, energy) for energy in _ENERGIES}
        if data is not None:
            chosen |= {groups * rank_for_energy(data, energy) for energy in _ENERGIES}
        chosen |= {even} if even else set()
    else:
        chosen = {min(layer.full_rank, -(-rank // groups) * groups) for rank in ranks}
    curve, data_curve = energy_curve(values), None if data is None else energy_curve(data)
    candidates = tuple(
        Candidate(
            rank,
            float(curve[rank // groups - 1]),
            None if data_curve is None else float(data_curve[rank // groups - 1]),
            layer.weights(rank),
            layer.macs_per_pixel(rank),
        )
        for rank in sorted(chosen)
    )
    spent = None if layer.macs is None or not macs else _macs(layer) / macs
    return LayerAnalysis(
        name=layer.name,
        kind=type(layer.module).__name__,
        in_channels=layer.conv.in_channels * groups,
        out_channels=layer.out,
        kernel_size=(layer.conv.kernel_size[0], layer.conv.kernel_size[1]),
        upscale_factor=layer.upscale_factor,
        groups=groups,
        rank=layer.rank,
        full_rank=layer.full_rank,
        break_even=even,
        stable_rank=stable_rank(values),
        effective_rank=effective_rank(values),
        weights=layer.weights(),
        macs=layer.macs_per_pixel(),
        weight_share=layer.weights() / max(1, parameters),
        macs_share=spent,
        fused=layer.shuffle is not None or hasattr(layer.module, "upscale_factor"),
        singular_values=values,
        data_singular_values=data,
        candidates=candidates,
    )


def _macs(layer: Layer) -> float:
    """Multiplications in the run over the example, of both factors if the layer is low-rank already."""
    assert layer.macs is not None
    if layer.rank is None:
        return layer.macs
    return layer.macs * layer.macs_per_pixel() / (layer.rank * layer.conv.weight[0].numel())
