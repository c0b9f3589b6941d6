"""Figures and numbers of docs/lowrank.md from trained networks.

``python -m studies.lowrank.figures DATA WEIGHTS -o FIGURES``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import safetensors.torch
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lkca.lowrank import (
    LayerAnalysis,
    LowRankError,
    analyze,
    energy_curve,
    factorize,
    factorize_reported,
    rank_for_energy,
)
from lkca.lowrank.plot import plot_curves
from lkca.lowrank.search import psnr_function
from lkca.models import LKCANet
from studies.lowrank.networks import network, pairs, scenes

CALIBRATION_IMAGES = 6
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
LIMIT = 0.05  # dB that a rank may lose


def untrained(kind: str, bands: int) -> nn.Module:
    """As before training, but with PyTorch's default in the upsampling kernel (LKCA-Net's starts at zero)."""
    net = network(kind, bands, seed=1)
    if isinstance(net, LKCANet):
        net.upsample.reset_parameters()
    return net


def layer_numbers(layer: LayerAnalysis) -> dict[str, float | int]:
    """Ranks for 90 and 99 % of the energy of kernel and outputs."""
    assert layer.data_singular_values is not None
    return {
        "full": layer.full_rank,
        "break_even": layer.break_even,
        "stable": round(layer.stable_rank, 1),
        "effective": round(layer.effective_rank, 1),
        **{f"kernel {e:.0%}": rank_for_energy(layer.singular_values, e) for e in (0.9, 0.99)},
        **{f"outputs {e:.1%}": rank_for_energy(layer.data_singular_values, e) for e in (0.9, 0.99, 0.999)},
    }


@torch.no_grad()
def disturbance(net: nn.Module, low: nn.Module, images: list[tuple[Tensor, Tensor]]) -> float:
    """‖low - net‖² / ‖net - target‖² over the images: what the cut adds, as a share of the network's own error."""
    changed = sum(float((low(x) - net(x)).square().sum()) for x, _ in images)
    return changed / sum(float((net(x) - target).square().sum()) for x, target in images)


def study(root: Path, weights: Path, data: str, kind: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
    """Energy curves per layer, and everything that is measured, of one trained network."""
    train, held = scenes(root, data)
    bands = train[0].shape[0]
    start, net, random = network(kind, bands), network(kind, bands), untrained(kind, bands)
    net.load_state_dict(safetensors.torch.load_file(weights / f"{data}_{kind}.safetensors"))
    calibration, validation = pairs(train[:CALIBRATION_IMAGES]), pairs(held)
    trained, control = (analyze(n.eval(), calibration=calibration) for n in (net, random))
    curves: dict[str, dict[str, Tensor]] = {}
    numbers: dict[str, object] = {"parameters": trained.parameters}
    for layer, other in zip(trained.layers, control.layers, strict=True):
        title = f"{data} {kind} {layer.name}: {layer.out_channels} × {layer.in_channels * 9}"
        assert layer.data_energy_curve is not None and other.data_energy_curve is not None
        curves[title] = {
            "kernel, trained": layer.energy_curve,
            "kernel, random": other.energy_curve,
            "outputs, trained": layer.data_energy_curve,
            "outputs, random": other.data_energy_curve,
        }
        entry: dict[str, object] = {"trained": layer_numbers(layer), "random": layer_numbers(other)}
        entry["share of parameters"] = round(layer.weight_share, 3)
        entry["share of multiplications"] = round(layer.macs_share or 0.0, 3)
        if kind == "edsr":  # LKCA-Net's kernel starts at zero: all of it is learnt
            before, after = (n.get_parameter(f"{layer.name}.weight").detach().flatten(1) for n in (start, net))
            change = torch.linalg.svdvals((after - before).double())
            curves[title]["kernel, change by training"] = energy_curve(change)
            entry["change"] = {f"kernel {e:.0%}": rank_for_energy(change, e) for e in (0.9, 0.99)}
            entry["change / start, norms"] = round(float((after - before).norm() / before.norm()), 3)
        numbers[layer.name] = entry
    psnr = psnr_function(validation, net)
    whole = psnr(net)
    numbers["held-out PSNR"] = round(whole, 3)
    drops: dict[str, dict[int, float]] = {"plain": {}, "calibrated": {}}
    errors: dict[str, dict[int, float]] = {"plain": {}, "calibrated": {}}
    for rank in (r for r in RANKS if r <= max(layer.break_even for layer in trained.layers)):
        for name, images in (("plain", None), ("calibrated", calibration)):
            low = factorize(net, rank=rank, calibration=images, example=validation[0][0])
            drops[name][rank] = round(whole - psnr(low), 4)
            errors[name][rank] = float(f"{disturbance(net, low, validation):.3g}")
    numbers["drop in dB by rank"] = drops
    numbers["disturbance by rank"] = errors
    try:
        found = factorize_reported(net, max_psnr_drop=LIMIT, calibration=calibration, validation=validation)
    except LowRankError as error:
        numbers[f"within {LIMIT} dB"] = str(error)
    else:
        numbers[f"within {LIMIT} dB"] = found.skipped | {
            layer.name: f"rank {layer.rank}, {layer.weights[1] / layer.weights[0]:.1%} of the weights"
            for layer in found.layers
        }
    return curves, numbers


def draw_disturbance(results: dict[str, dict[str, object]], path: Path) -> None:
    """What the cut changes on held-out scenes, against the rank of all layers."""
    figure = Figure(figsize=(4.4 * len(results), 3.3), layout="constrained")
    for i, (name, numbers) in enumerate(results.items(), 1):
        axes = figure.add_subplot(1, len(results), i)
        errors: dict[str, dict[int, float]] = numbers["disturbance by rank"]  # type: ignore[assignment]
        for label, values in errors.items():
            above = {rank: value for rank, value in values.items() if value > 0}
            axes.plot(list(above), list(above.values()), marker=".", label=label)
        axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="‖low − net‖² / ‖net − truth‖²", title=name)
        axes.legend(fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder with cave/ and cubes/")
    parser.add_argument("weights", type=Path, help="folder with DATA_KIND.safetensors, as train.py writes them")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    curves: dict[str, dict[str, Tensor]] = {}
    results: dict[str, dict[str, object]] = {}
    for data in ("cave", "aviris"):
        for kind in ("lkcanet", "edsr"):
            name = f"{data}_{kind}"
            weights, cache = args.weights / f"{name}.safetensors", args.weights / f"{name}.measured.pt"
            if not weights.exists():
                continue
            if not cache.exists() or cache.stat().st_mtime < weights.stat().st_mtime:
                torch.save(study(args.root, args.weights, data, kind), cache)
            more, results[name] = torch.load(cache)
            curves.update(more)
            print(json.dumps({name: results[name]}, indent=1), flush=True)
    plot_curves(curves, args.output / "lowrank_energy.png")
    draw_disturbance(results, args.output / "lowrank_disturbance.png")


if __name__ == "__main__":
    main()
