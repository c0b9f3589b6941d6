"""Scenes, batches and networks of a study; how a network restores a whole scene."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lkca.data.degradation import Degradation, crop_to_multiple
from lkca.losses import WeightedLoss
from lkca.lowrank import Factoriser, factorize
from lkca.metrics import Metrics, evaluate
from lkca.models import LKCANet, LKCANetConfig
from lkca.models.edsr import EDSR
from lkca.models.lkcanet import lift, repeat
from lkca.models.subspace import SpectralSubspace
from lkca.nn import LowRankUpsample
from lkca.nn.layout import channels_last
from lkca.training.distillation import Criterion
from lkca.training.patches import PatchSampler, Scene, dihedral
from lkca_kernels import bicubic_upsample
from studies.common.config import Network, Study, other_time
from studies.common.scenes import TEST, component_images, read

__all__ = ["Draw", "Restore", "Task", "make_task"]

Draw = Callable[[], tuple[Tensor, Tensor, None]]
Restore = Callable[[Tensor], Tensor]


def run(net: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = net(x)
    return output


class Task(ABC):
    """One data set at one scale: scenes, batches, networks, and how a network restores cubes.

    LKCA-Net works on spectral components one by one, with one body for all (docs/model.md, "shared body").
    """

    baseline_channels: int

    def __init__(self, root: Path, study: Study) -> None:
        self.root, self.study, self.scale = root, study, study.scale
        self.degrade = Degradation(method="bicubic", scale=study.scale).apply
        self.paths = {p.stem: p for p in self.files(root)}
        wanted = {*study.validation, *study.test}
        if missing := sorted(wanted - set(self.paths)):
            raise SystemExit(f"{root}: lacks the scenes {', '.join(missing)}")
        self.training = [n for n, p in self.paths.items() if n not in wanted and n not in TEST[p.parent.name]]

    @abstractmethod
    def files(self, root: Path) -> list[Path]: ...

    @abstractmethod
    def cube(self, name: str) -> Tensor:
        """Normalised (bands, rows, cols), both sides multiples of the scale."""

    @abstractmethod
    def batches(self, kind: str, seed: int) -> Draw: ...

    @abstractmethod
    def apply(self, net: nn.Module, x: Tensor) -> Tensor:
        """What is trained: degraded batch -> sharp batch."""

    @abstractmethod
    def criterion(self, kind: str) -> Criterion: ...

    @abstractmethod
    def student(self, teacher: LKCANet, rank: int) -> LKCANet:
        """The teacher with factors of its upsampling kernel's SVD, nothing else changed."""

    @property
    @abstractmethod
    def full_rank(self) -> int: ...

    @abstractmethod
    def ready(self, net: nn.Module, coarse: Tensor) -> Restore:
        """What restores the scene ``coarse``, (bands, h, w) -> (bands, s·h, s·w), once all is made ready for it."""

    def upscale(self, net: nn.Module | None, coarse: Tensor) -> Tensor:
        """Restored by the network, or bicubic without one; nothing below 0."""
        with torch.no_grad():
            restored = bicubic_upsample(coarse[None], self.scale)[0] if net is None else self.ready(net, coarse)(coarse)
        return restored.clamp_min(0)

    def network(self, kind: str, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        if kind == "edsr":
            options = self.study.baseline.options
            return channels_last(EDSR(self.baseline_channels, self.scale, upsampler="bands", **options))
        return channels_last(LKCANet(self.architecture()))

    def of(self, name: str) -> Task:
        """The task with the network and the time of ``name``; itself where that is no preset and has no time."""
        stem, seconds = other_time(name)
        changes: dict[str, Any] = {}
        if preset := self.study.presets.get(stem):
            changes = {
                "teacher": Network(options=preset.options, lr=preset.lr),
                "components": preset.components,
                "sam_weight": preset.sam_weight,
                "student_seconds": preset.student_seconds,
            }
        if seconds is not None:
            changes["teacher_seconds"] = seconds
        return type(self)(self.root, self.study.model_copy(update=changes)) if changes else self

    def architecture(self) -> LKCANetConfig:
        return LKCANetConfig(bands=1, scale=self.scale, shared=True, **self.study.teacher.options)

    def gain(self, net: nn.Module) -> tuple[float, float]:
        """Of the PSNR over bicubic, mean over validation scenes and bands, dB; and the change of SAM, per cent."""
        gains, angles = [], []
        for name in self.study.validation:
            before, after = self.bicubic(name), self.score(net, name)
            gains.append(after.mpsnr - before.mpsnr)
            angles.append(100 * (after.sam / before.sam - 1))
        return float(np.mean(gains)), float(np.mean(angles))

    @cache  # noqa: B019 (a study holds one task)
    def bicubic(self, name: str) -> Metrics:
        return self.score(None, name)

    def score(self, net: nn.Module | None, name: str) -> Metrics:
        """Of a scene, made coarse and restored by the network or by bicubic; the peak is the scene's largest value."""
        cube = self.cube(name)
        return evaluate(cube, self.upscale(net, self.degrade(cube)), scale=self.scale)

    @staticmethod
    def over_components(net: LKCANet, space: SpectralSubspace) -> Restore:
        """``net``, made for one component, on all components of a cube; a low-rank one as one network over bands."""
        if net.config.rank is not None:
            whole = lift(repeat(net, space.synthesis.shape[1]), space.mean, space.analysis, space.synthesis)
            return lambda coarse: whole(coarse[None])[0]

        def restore(coarse: Tensor) -> Tensor:
            detail = net.residual(space.encode(coarse)[:, None].contiguous(memory_format=torch.channels_last))[:, 0]
            return bicubic_upsample(coarse[None], net.config.scale)[0] + space.decode_detail(detail)

        return restore


class Cave(Task):
    """31 bands, peak 4095 (12 bits). One subspace for all scenes, from the training ones. EDSR takes all bands."""

    baseline_channels = 31

    def __init__(self, root: Path, study: Study) -> None:
        super().__init__(root, study)
        cubes = [self.cube(name) for name in self.training]
        self.scenes = [Scene(cube, torch.ones_like(cube[0], dtype=torch.bool)) for cube in cubes]
        lost = [cube - bicubic_upsample(self.degrade(cube)[None], self.scale)[0] for cube in cubes]
        detail = torch.cat([d.flatten(1)[:, ::7] for d in lost], 1)
        mean = torch.stack([cube.mean((1, 2)) for cube in cubes]).mean(0)
        self.space = SpectralSubspace.of(detail, mean.double(), study.components)
        self.rms = detail.square().mean(1).sqrt()[:, None, None]

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("cave/*.npz"))

    @cache  # noqa: B019 (a study holds one task)
    def cube(self, name: str) -> Tensor:
        return crop_to_multiple(read(self.paths[name]), self.scale) / 4095

    def batches(self, kind: str, seed: int) -> Draw:
        sampler = PatchSampler(
            self.scenes,
            self.scale,
            self.degrade,
            patch=self.study.patch,
            batch=self.study.baseline_batch if kind == "edsr" else self.study.batch,
            generator=torch.Generator().manual_seed(seed),
            mixed=True,
        )

        def draw() -> tuple[Tensor, Tensor, None]:
            coarse, sharp, _ = sampler.draw()
            return coarse.contiguous(memory_format=torch.channels_last), sharp, None

        return draw

    @property
    def full_rank(self) -> int:
        return self.study.components * self.scale**2

    def student(self, teacher: LKCANet, rank: int) -> LKCANet:
        """All bands and components share the factors: the kernel from all features to all bands is what is factorised.

        It has the teacher's full-rank kernel U for every component k and the subspace S: W[c·s²+p, k·width+j] =
        S[c, k] U[p, j], of rank components · s² at most. The layer gives bands in units of what bicubic leaves.
        """
        config = replace(
            teacher.config, bands=self.baseline_channels, components=self.study.components, rank=self.study.components
        )
        net = LKCANet(config)
        net.head.load_state_dict(teacher.head.state_dict())
        net.body.load_state_dict(teacher.body.state_dict())
        synthesis = self.space.synthesis / self.rms[:, 0]  # as the criterion weighs the bands
        kernel = torch.einsum("ck,pjyx->cpkjyx", synthesis, teacher.upsample.conv.weight.detach())  # type: ignore[union-attr, operator]
        left, right, _ = Factoriser.of(kernel.flatten(2).flatten(0, 1)).at(rank)
        # its configuration knows no factors that components share: the layer is put in by hand
        width = self.study.components * teacher.config.width
        net.upsample = LowRankUpsample(width, config.bands, self.scale, rank, bias=False)
        with torch.no_grad():
            net.band_mean.copy_(self.space.mean)
            net.project.weight.copy_(self.space.analysis[:, :, None, None])  # type: ignore[operator]
            net.upsample.weight.copy_(left)
            net.upsample.reduce.weight.copy_(right.reshape(net.upsample.reduce.weight.shape))
        return net

    def apply(self, net: nn.Module, x: Tensor) -> Tensor:
        if not isinstance(net, LKCANet):
            return run(net, x)
        if net.config.bands > 1:
            units = self.rms.flatten().expand(len(x), -1).contiguous()
            bands: Tensor = net.upsample(net.features(x), skip=x, gate=units)
            return bands
        components = torch.einsum("kc,bchw->bkhw", self.space.analysis, x - self.space.mean[:, None, None])
        folded = components.flatten(0, 1)[:, None].contiguous(memory_format=torch.channels_last)
        detail = net.residual(folded).reshape(len(x), -1, *(self.scale * n for n in x.shape[2:]))
        return bicubic_upsample(x, self.scale) + torch.einsum("ck,bkhw->bchw", self.space.synthesis, detail)

    def criterion(self, kind: str) -> Criterion:
        """EDSR: L1, its own. LKCA-Net: squared error over what bicubic leaves in each band, and the spectral angle."""
        if kind == "edsr":
            return F.l1_loss
        return WeightedLoss({"l2": 1.0, "sam": self.study.sam_weight}, self.rms.flatten())

    def ready(self, net: nn.Module, coarse: Tensor) -> Restore:
        if isinstance(net, LKCANet) and net.config.bands == 1:
            return self.over_components(net, self.space)
        return lambda x: self.apply(net, x[None].contiguous(memory_format=torch.channels_last))[0]


class Aviris(Task):
    """Scenes of different bands: one subspace per scene. EDSR too takes one component at a time."""

    baseline_channels = 1

    def files(self, root: Path) -> list[Path]:
        test = {*self.study.test}
        return [
            p for p in sorted(root.glob("cubes/*.npz")) if p.stem.startswith(("abu_", "sandiego_")) or p.stem in test
        ]

    @cache  # noqa: B019 (a study holds one task)
    def cube(self, name: str) -> Tensor:
        cube = crop_to_multiple(read(self.paths[name]), self.scale)
        return cube / cube.max()

    @cached_property
    def pool(self) -> list[Tensor]:
        return [component_images(self.cube(name), 2 * self.study.components) for name in self.training]

    def batches(self, kind: str, seed: int) -> Draw:
        """Components (strong ones more often) or random mixtures of them; each patch scaled to what it lacks."""
        pool, generator = self.pool, torch.Generator().manual_seed(seed)

        def integer(end: int) -> int:
            return int(torch.randint(end, (1,), generator=generator))

        def one() -> Tensor:
            image = pool[integer(len(pool))]
            height, width = image.shape[1:]
            side = self.scale * self.study.patch
            row, col = integer(height - side + 1), integer(width - side + 1)
            patch = image[:, row : row + side, col : col + side]
            if integer(2):
                weights = torch.randn(len(image), generator=generator) / torch.arange(1, len(image) + 1).sqrt()
                patch = torch.einsum("c,chw->hw", weights, patch)[None]
            else:
                first = min(integer(len(image)), integer(len(image)))
                patch = patch[first : first + 1]
            return dihedral(patch, integer(8)) * (1 - 2 * integer(2))

        def draw() -> tuple[Tensor, Tensor, None]:
            sharp = torch.stack([one() for _ in range(self.study.batch)])
            coarse = self.degrade(sharp)
            unit = (sharp - bicubic_upsample(coarse, self.scale)).square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-6
            return (coarse / unit).contiguous(memory_format=torch.channels_last), sharp / unit, None

        return draw

    @property
    def full_rank(self) -> int:
        return self.scale**2

    def student(self, teacher: LKCANet, rank: int) -> LKCANet:
        """Scenes differ in their subspaces, so the kernel over one component is what is factorised."""
        return factorize(teacher, rank=rank)

    def apply(self, net: nn.Module, x: Tensor) -> Tensor:
        return run(net, x)

    def criterion(self, kind: str) -> Criterion:
        """Squared error: a single component has no spectrum to take an angle of."""
        return F.mse_loss

    def ready(self, net: nn.Module, coarse: Tensor) -> Restore:
        """The subspace comes from the coarse scene alone: from what degrading it by 2 takes away."""
        half = crop_to_multiple(coarse, 2)
        detail = half - bicubic_upsample(Degradation(scale=2).apply(half)[None], 2)[0]
        space = SpectralSubspace.of(detail.flatten(1), coarse.flatten(1).double().mean(1), self.study.components)
        if isinstance(net, LKCANet):
            return self.over_components(net, space)
        lost = crop_to_multiple(space.encode(coarse)[:, None], 2)
        lost = lost - bicubic_upsample(Degradation(scale=2).apply(lost), 2)
        unit = lost.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-6  # EDSR has biases: it needs a usual magnitude

        def restore(coarse: Tensor) -> Tensor:
            x = space.encode(coarse)[:, None] / unit
            gained = (net(x) - bicubic_upsample(x, self.scale)) * unit
            return bicubic_upsample(coarse[None], self.scale)[0] + space.decode_detail(gained[:, 0])

        return restore


def make_task(root: Path, study: Study) -> Task:
    return {"cave": Cave, "aviris": Aviris}[study.data](root, study)
