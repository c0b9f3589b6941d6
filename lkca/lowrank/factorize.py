"""Replace upsampling layers by low-rank ones, in any model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lkca.lowrank.layers import Layer, LowRankError, loaded_model, shaped_model
from lkca.lowrank.moments import Calibration, collect_moments, prepared
from lkca.lowrank.search import Validation, for_budget, for_psnr_drop, psnr_function
from lkca.lowrank.spectrum import Factoriser, Moments, rank_for_energy
from lkca.lowrank.surgery import copied_model, put_low_rank
from lkca.lowrank.survey import Survey, survey
from lkca.models import LKCANet
from lkca.nn import LowRankConv2d, LowRankUpsample, PixelShuffleUpsample

__all__ = ["Factorization", "LayerRank", "factorize", "factorize_reported", "load_lowrank", "ranks_of"]

Model = TypeVar("Model", bound=nn.Module)

_EXACT = 100.0  # dB: more than any truth allows


@dataclass(frozen=True)
class LayerRank:
    """What became of one layer. weights: before and after, without the bias. energy: share of the squared norm of its
    kernel (with calibration: of its outputs) that the factors keep. fused: the shuffle happens in the same pass."""

    name: str
    rank: int
    full_rank: int
    energy: float
    weights: tuple[int, int]
    fused: bool


@dataclass
class Factorization:
    """model: the low-rank one. layers: what was replaced. skipped: name -> why not. psnr_drop: on the validation data,
    where ``max_psnr_drop`` was asked for, in dB. trials: every (ranks, drop) that the search measured."""

    model: nn.Module
    layers: list[LayerRank] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    psnr_drop: float | None = None
    trials: list[tuple[dict[str, int], float]] = field(default_factory=list)


def factorize(
    model: Model,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    max_psnr_drop: float | None = None,
    budget: float | None = None,
    calibration: Calibration | None = None,
    validation: Validation | None = None,
    example: Any = None,
    layers: Sequence[str] | None = None,
    inplace: bool = False,
) -> Model:
    """The model with each convolution that feeds a pixel shuffle replaced by a low-rank one; exact at full rank.

    How low, one of:
        rank: of every layer (clamped to the layer's full rank), or {name: rank} of some. Of an :class:`LKCANet`, whose
            groups share one convolution, it is that of all groups together, a multiple of them.
        energy: share (0, 1] of the kernel's squared norm to keep; with calibration, of its outputs' variance.
        max_psnr_drop: dB that the PSNR (mean over images and channels, against the targets) may lose; the smallest rank
            per layer is searched by running the model on ``validation``.
        budget: weights that all these layers may have together: a number of parameters, or a share below 1 of what they
            have now. Components go to the layers where they hold the most energy per weight.

    calibration: images of the kind that the model will see: a tensor (B, C, h, w), an iterable of such or of (input,
    target) pairs, or a function that runs the model it is given. The factors are then those that lose least of the
    layer's outputs on such inputs, with the bias corrected (:class:`~lkca.lowrank.Factoriser`). validation: pairs, or a
    function that returns the PSNR in dB of the model it is given; by default the calibration pairs.
    example: an input (or tuple of arguments) for the run that finds the layers, by default the first calibration image
    or a random one. layers: names of those to take, by default all that can be.

    Convolution and shuffle become one :class:`~lkca.nn.LowRankUpsample` where one follows the other at once as modules;
    elsewhere (a crop or sum in between, ``F.pixel_shuffle``, hooks on either) the convolution alone becomes a
    :class:`~lkca.nn.LowRankConv2d`. Hooks, device, dtype, train/eval mode and requires_grad stay.

    Returns a copy unless ``inplace``. Raises LowRankError (an InputError and a ValueError) where no layer can be
    factorised, with the reasons, where the arguments do not fit, or where the model's forward reads a layer's weight,
    class or attributes besides calling it.
    """
    return factorize_reported(
        model,
        rank=rank,
        energy=energy,
        max_psnr_drop=max_psnr_drop,
        budget=budget,
        calibration=calibration,
        validation=validation,
        example=example,
        layers=layers,
        inplace=inplace,
    ).model  # type: ignore[return-value]


@torch.no_grad()
def factorize_reported(
    model: nn.Module,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    max_psnr_drop: float | None = None,
    budget: float | None = None,
    calibration: Calibration | None = None,
    validation: Validation | None = None,
    example: Any = None,
    layers: Sequence[str] | None = None,
    inplace: bool = False,
) -> Factorization:
    """As :func:`factorize`, and says what it did."""
    loaded_model(model)
    asked = {"rank": rank, "energy": energy, "max_psnr_drop": max_psnr_drop, "budget": budget}
    if sum(value is not None for value in asked.values()) != 1:
        raise LowRankError(f"give either rank or energy, or max_psnr_drop or budget: one of {', '.join(asked)}")
    if energy is not None and not 0 < energy <= 1:
        raise LowRankError(f"energy: expected a share in (0, 1], got {energy}")
    if isinstance(layers, str):  # a sequence too, of its letters
        raise LowRankError(f"layers: expected a sequence of names, got {layers!r}; give [{layers!r}]")
    for argument, names in (("rank", rank if isinstance(rank, Mapping) else None), ("layers", layers)):
        if names is not None and not names:
            raise LowRankError(f"{argument}: names no layer")
    alone = isinstance(model, (PixelShuffleUpsample, LowRankUpsample, LowRankConv2d))
    if isinstance(model, nn.Conv2d) or (alone and inplace):
        raise LowRankError("model: is a single layer; give a model that holds it, such as nn.Sequential(layer)")
    if alone:
        model = nn.Sequential(model)
    result = Factorization(model if inplace else copied_model(model))
    work = result.model
    calibration, example = prepared(calibration, example, work)
    found = survey(work, example, run=not isinstance(work, LKCANet))
    if not (found.layers or inplace) and survey(model, example, run=not isinstance(model, LKCANet)).layers:
        raise LowRankError(
            "model: a copy runs the model's own layers, as where its forward calls a lambda over self that it keeps; "
            "give inplace=True, or make that a method"
        )
    result.skipped = dict(found.skipped)
    chosen = _chosen(found, rank, layers, result.skipped)
    moments: Sequence[Moments | None] = [None] * len(chosen)
    if calibration is not None:
        moments = collect_moments(work, chosen, calibration)
    both = list(zip(chosen, moments, strict=True))
    factorisers = [Factoriser.of(layer.matrix(), m, centred=layer.bias is not None) for layer, m in both]
    values = [f.values for f in factorisers]
    if rank is not None:
        ranks = [_given(layer, rank) for layer in chosen]
    elif energy is not None:
        ranks = [layer.groups * rank_for_energy(v, energy) for layer, v in zip(chosen, values, strict=True)]
    elif budget is not None:
        ranks = for_budget(chosen, values, budget)
    else:
        assert max_psnr_drop is not None
        psnr = psnr_function(validation if validation is not None else calibration, work)
        apply = _applier(work, chosen, factorisers)
        apply([layer.full_rank for layer in chosen], found.example)  # lest trials fail, or mislead
        found_ranks, result.psnr_drop, result.trials = for_psnr_drop(chosen, apply, psnr, max_psnr_drop)
        for layer, r in zip(chosen, found_ranks, strict=True):
            if r is None:
                result.skipped[layer.name] = f"no rank that saves weights stays within {max_psnr_drop:g} dB"
        kept = [i for i, r in enumerate(found_ranks) if r is not None]
        if not kept:
            raise LowRankError(f"max_psnr_drop: {result.skipped[chosen[0].name]}, in any layer{_exactly(psnr(work))}")
        chosen, factorisers = [chosen[i] for i in kept], [factorisers[i] for i in kept]
        values = [values[i] for i in kept]
        ranks = [r for r in found_ranks if r is not None]
    ranks = [min(r, layer.full_rank) for layer, r in zip(chosen, ranks, strict=True)]
    before = [layer.weights() for layer in chosen]
    fused = _apply(work, chosen, factorisers, ranks, found.example)
    for layer, r, v, old, one_pass in zip(chosen, ranks, values, before, fused, strict=True):
        held = v[: r // layer.groups].square().sum() / v.square().sum().clamp_min(torch.finfo(v.dtype).tiny)
        weights = (old, layer.weights(r))
        result.layers.append(LayerRank(layer.name, r, layer.full_rank, float(held), weights, one_pass))
    if alone:
        result.model = work.get_submodule("0")
    return result


def _exactly(psnr: float) -> str:
    """What a PSNR in dB that no cut can keep says of its targets; nothing for any other."""
    if psnr < _EXACT:
        return ""
    return f"; the model gives its targets to {psnr:.0f} dB: are they its own outputs? Give the truth"


def _chosen(
    found: Survey, rank: int | Mapping[str, int] | None, names: Sequence[str] | None, skipped: dict[str, str]
) -> list[Layer]:
    if isinstance(rank, Mapping):
        names = list(rank)
    known = {layer.name: layer for layer in found.layers}
    if names is not None:
        for name in names:
            if name not in known:
                reason = skipped.get(name, f"no such upsampling layer; there are: {', '.join(known) or 'none'}")
                raise LowRankError(f"layer '{name}': {reason}")
        chosen = [known[name] for name in dict.fromkeys(names)]
    else:
        chosen = []
        for layer in found.layers:
            if layer.rank is not None and isinstance(rank, Integral) and rank >= layer.rank:
                skipped[layer.name] = f"has rank {layer.rank} already; factorise to a lower one"
            else:
                chosen.append(layer)
    if not chosen:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in skipped.items())
        if not reasons:
            reasons = "it has no convolution that feeds a pixel shuffle"
        unrun = f"; the model was not run: {found.unrun}" if found.unrun and found.example is None else ""
        raise LowRankError(f"model: nothing can be factorised ({reasons}){unrun}")
    return chosen


def _given(layer: Layer, rank: int | Mapping[str, int]) -> int:
    value = rank[layer.name] if isinstance(rank, Mapping) else rank
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise LowRankError(f"rank: expected an integer, got {value!r}")
    value = int(value)
    if value < 1 or value % layer.groups:
        groups = f" of the {layer.groups} groups" if layer.groups > 1 else ""
        raise LowRankError(f"rank: expected a positive multiple{groups}, got {value}")
    return value


def _apply(
    model: nn.Module,
    layers: Sequence[Layer],
    factorisers: Sequence[Factoriser],
    ranks: Sequence[int],
    example: tuple[Any, ...] | None,
) -> list[bool]:
    parts = [f.at(r // layer.groups) for layer, f, r in zip(layers, factorisers, ranks, strict=True)]
    return put_low_rank(model, layers, parts, example)


def _applier(model: nn.Module, layers: Sequence[Layer], factorisers: Sequence[Factoriser]) -> Callable[..., nn.Module]:
    """ranks -> a copy of ``model`` with them; None leaves a layer as it is. With an example it is tried on that."""

    def apply(ranks: Sequence[int | None], example: tuple[Any, ...] | None = None) -> nn.Module:
        trial = copied_model(model)
        kept = [(layer, f, r) for layer, f, r in zip(layers, factorisers, ranks, strict=True) if r is not None]
        here = [Layer(la.name, trial.get_submodule(la.name), la.upscale_factor) for la, _, _ in kept]
        _apply(trial, here, [f for _, f, _ in kept], [r for _, _, r in kept], example)
        return trial

    return apply


def ranks_of(model: nn.Module) -> dict[str, int]:
    """{name: rank} of a model's low-rank layers: what :func:`factorize` takes to make them anew."""
    return {layer.name: layer.rank for layer in survey(model, run=False).layers if layer.rank is not None}


def load_lowrank(model: Model, state: Mapping[str, Tensor], *, example: Any = None) -> Model:
    """Give ``model``, as its own code makes it, the structure and values of a factorised one's state_dict, in place.

    ``state`` may come from a file (safetensors). LowRankError where it has no low-rank layers of this model's, or does
    not fit it: keys and shapes are named, and the model stays as it was.
    """
    ending = ".reduce.weight"
    factors = {
        key.removesuffix(ending): state.get(key.removesuffix("reduce.weight") + "weight")
        for key in state
        if key.endswith(ending)
    }
    ranks = {name: last.shape[1] for name, last in factors.items() if isinstance(last, Tensor) and last.ndim == 2}
    if not ranks:
        raise LowRankError("state: holds no low-rank layer (no weight (out, rank) beside a reduce.weight)")
    loaded_model(model, 'give it some, by model.to_empty(device="cpu"), to be loaded')
    shaped_model(model)
    # What does not fit shows once layers have changed and values are overwritten.
    before = [(module, dict(vars(module)), dict(module._modules)) for module in model.modules()]
    values = model.state_dict()
    for key, value in values.items():
        values[key] = value.clone() if isinstance(value, Tensor) else value
    try:
        _fill(model, state, ranks)
        factorize(model, rank=ranks, example=example, inplace=True)
        try:
            model.load_state_dict(state)  # itself: as a plain dict it would lose its layers' versions
        except RuntimeError as error:
            reasons = [line.strip() for line in str(error).splitlines()]
            raise LowRankError(f"state: does not fit the model: {' '.join(reasons[1:] or reasons)}") from error
    except BaseException:
        for module, attributes, modules in before:
            vars(module).clear()
            vars(module).update(attributes, _modules=modules)
        model.load_state_dict(values, strict=False)
        raise
    return model


@torch.no_grad()
def _fill(model: nn.Module, state: Mapping[str, Tensor], layers: Iterable[str]) -> None:
    """Give ``model`` values by which :func:`factorize` can tell its structure: what it holds may be zero or NaN.

    Those of ``state`` where they fit, and random ones in ``layers``, which are to change.
    """
    for key, value in model.state_dict().items():
        if isinstance(value, Tensor) and isinstance(given := state.get(key), Tensor) and given.shape == value.shape:
            value.copy_(given)
    modules, generator = dict(model.named_modules()), torch.Generator().manual_seed(0)
    for name in layers:
        for parameter in modules[name].parameters() if name in modules else ():
            drawn = torch.rand(parameter.shape, generator=generator, device=generator.device)
            parameter.copy_(0.1 * (drawn - 0.5))
