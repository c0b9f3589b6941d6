"""The general model made to fit a cube: no training, only statistics of the cube itself. docs/models.md.

The prior (lkca.models.prior) restores one spectral component and knows no bands. Which components a scene has follows
from the scene alone: they are the principal components of the detail that it loses when it is made twice as coarse.
Prior and components together are one ordinary :class:`LoadedModel` over the scene's bands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lkca.data import Cube, Window
from lkca.data.degradation import Degradation
from lkca.data.memory import check_memory
from lkca.errors import InputError
from lkca.inference.fill import fill_missing
from lkca.lowrank import factorize
from lkca.models.config import BandSet, ModelConfig, Normalisation, TrainingData, TrainingRecord
from lkca.models.directory import LoadedModel, describe_architecture, package_versions
from lkca.models.lkcanet import lift, repeat
from lkca.models.prior import Prior
from lkca.models.shipped import GENERAL
from lkca.models.subspace import SpectralSubspace
from lkca_kernels import bicubic_upsample

__all__ = ["COMPONENTS", "PIXELS", "adapt", "sample_windows"]

COMPONENTS = 8  # more change nothing, fewer lose some (docs/models.md)
_ENERGY = 0.99  # of the prior's upsampling kernel
_STEP = 2  # how much coarser the cube is made to see what it loses
_SIDE = 64  # pixels of a window
_GRID = 20  # windows along a side of the scene, at most
PIXELS = 100_000  # that suffice to know a scene
_QUANTILE = 0.999
_NEGLIGIBLE = 3e-3  # of a band's lost detail: what is below 0 no more than this is the ringing of a filter


class _Statistics:
    """Sums over windows. A sample that is missing in some band counts there as one without detail.

    count, total: valid samples and their sum, (bands,). below: sum of the squares of those below 0. products: of the
    detail, (bands, bands). peak: the largest quantile of a band's magnitudes.
    """

    def __init__(self, bands: int) -> None:
        self.count = torch.zeros(bands, dtype=torch.float64)
        self.total = torch.zeros(bands, dtype=torch.float64)
        self.below = torch.zeros(bands, dtype=torch.float64)
        self.products = torch.zeros(bands, bands, dtype=torch.float64)
        self.peak = 0.0
        self.windows = 0

    def add(self, values: np.ndarray) -> None:
        """values: float32 (bands, rows, cols), NaN where missing."""
        valid = np.isfinite(values)
        if not valid.any():
            return
        self.windows += 1
        filled, _ = fill_missing(values)
        odd = [(0, size % _STEP) for size in filled.shape[1:]]
        image = torch.from_numpy(np.pad(filled, ((0, 0), *odd), mode="edge"))
        coarse = Degradation(scale=_STEP).apply(image)
        detail = (image - bicubic_upsample(coarse[None], _STEP)[0])[:, : filled.shape[1], : filled.shape[2]]
        seen = torch.from_numpy(valid)
        detail = torch.where(seen, detail, 0).flatten(1).double()
        self.count += seen.flatten(1).sum(1)
        samples = torch.where(seen, torch.from_numpy(filled), 0).flatten(1).double()
        self.total += samples.sum(1)
        self.below += samples.clamp_max(0).square().sum(1)
        self.products += detail @ detail.T
        self.peak = max(self.peak, float(np.quantile(np.abs(filled), _QUANTILE, axis=(1, 2)).max()))


@torch.no_grad()
def adapt(cube: Cube, prior: Prior, scale: int) -> LoadedModel:
    """The network over the cube's bands that restores each of its strongest ``COMPONENTS`` components by the prior.

    Reads a fixed sample of windows over the whole scene, so time and memory do not grow with its size, and the result
    depends on the cube alone. Missing samples are left out; bad and empty bands stay to bicubic, constant ones and what
    lies outside the components too. Raises InputError for a scale that the prior lacks, and where the windows hold no
    valid sample.

    Where next to nothing is below 0, results below 0 become 0: physical spectra are not negative, and beside a bright
    edge a dark pixel's spectral angle suffers from nothing else as much (docs/models.md).
    """
    if scale not in prior.scales:
        raise InputError(
            f"the general model upscales ×{', ×'.join(map(str, prior.scales))}, not ×{scale}; "
            f"give one of these with -s, or fit a model for ×{scale} with 'lkca fit'"
        )
    good = np.flatnonzero(cube.good_bands)
    check_memory(3 * 8 * good.size**2, f"{cube.source}: the covariance of {good.size} bands", "select fewer bands")
    found = _Statistics(good.size)
    for window in sample_windows(cube) if good.size else ():
        found.add(cube.read(window, good))
        if found.count.max() >= PIXELS:
            break
    alive = found.count > 0
    if not alive.any():
        raise InputError(
            f"{cube.source}: no valid sample in the windows that the general model looks at; give a part of the scene "
            "that holds data, or use 'lkca upscale --bicubic'"
        )
    products, count = found.products[alive][:, alive], found.count[alive]
    space = SpectralSubspace.of_moments(products, products.diagonal() / count, found.total[alive] / count, COMPONENTS)
    nonnegative = found.below <= _NEGLIGIBLE * found.products.diagonal()
    peak = found.peak if found.peak > 0 else 1.0
    over_components = repeat(factorize(prior.network(scale), energy=_ENERGY), space.synthesis.shape[1])
    # The network takes and gives bands / peak: the two maps undo that.
    net = lift(over_components, space.mean / peak, space.analysis * peak, space.synthesis / peak)
    config = ModelConfig(
        architecture=describe_architecture(net),
        scale=scale,
        bands=BandSet.of(cube, good[alive.numpy()].tolist(), good[(alive & nonnegative).numpy()].tolist()),
        degradation=Degradation(scale=scale),
        normalisation=Normalisation(peak=peak, rule=f"largest {_QUANTILE:.1%} quantile of a band's magnitudes"),
        training=TrainingRecord(
            data=[TrainingData.of(cube, Window.full(cube.rows, cube.cols))],
            seed=0,
            seconds=0,
            device="cpu",
            details={
                "made": f"shipped general model, adapted to {cube.source} without training",
                "components": space.synthesis.shape[1],
                "windows": found.windows,
                "pixels": int(found.count.max()),
                "prior": dict(prior.origin),
            },
        ),
        versions=package_versions(),
    )
    net.requires_grad_(False)
    return LoadedModel(net.eval(), config, Path(GENERAL), adapted=True)


def sample_windows(cube: Cube) -> Iterator[Window]:
    """Windows that cover the scene, or, where it is larger, lie evenly over it; in a fixed random order."""
    rows, height = _cuts(cube.rows)
    cols, width = _cuts(cube.cols)
    for index in np.random.default_rng(0).permutation(len(rows) * len(cols)):
        yield Window(rows[index // len(cols)], cols[index % len(cols)], height, width)


def _cuts(size: int) -> tuple[list[int], int]:
    """Starts and length of the windows along a side."""
    length = size if size < 2 * _SIDE else _SIDE
    count = min(_GRID, math.ceil(size / length))
    return np.linspace(0, size - length, count).round().astype(int).tolist(), length
