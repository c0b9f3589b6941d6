"""The part of ``lkca train`` that learns: a plain loop's step, on one device or many, and the validation's gain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lkca.errors import InputError
from lkca.losses import WeightedLoss
from lkca.nn.layout import channels_last
from lkca.training.config import TrainConfig
from lkca.training.data import TrainingSet, open_training_set
from lkca.training.optimise import Average, adamw, rate_factor, set_rate
from lkca.training.patches import PatchDataset, micro_batches
from lkca.training.start import Lost, first_patches, new_network
from lkca.training.validation import Restored, psnr_gain, restore

__all__ = ["Learner"]


class Learner:
    """What learns, in one process: the data, the network, its average, and what a step takes. Not where it is kept.

    first: whether this process writes and reports. Raises InputError for data that cannot be learned from.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.accelerator = _accelerator(config)
        self.device: torch.device = self.accelerator.device
        self.data: TrainingSet = open_training_set(config.data, config.scale)
        self.degradation = config.degrader
        self.patches = PatchDataset(self.data.train, config.patch * config.scale, config.seed)
        lost = Lost.of(first_patches(self.patches), self.degradation)
        if lost.pixels == 0:
            raise InputError(
                "data: the first patches hold no pixel that is valid in every band; leave out the bands or the scenes "
                "that lack most samples, or lower 'patch'"
            )
        self.loss = WeightedLoss(config.loss, lost.unit).to(self.device)
        torch.manual_seed(config.seed)
        sizes = config.model.build(len(self.data.bands.used), config.scale)
        self.net = channels_last(new_network(sizes, lost, self.patches, self.degradation))
        optimiser = adamw(self.net, config.lr, config.weight_decay)
        module = torch.compile(self.net) if config.compile else self.net
        self.model, self.optimiser = self.accelerator.prepare(module, optimiser)
        self.average = Average(self.net, config.ema)

    @property
    def first(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def batches(self, done: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The patches of this process for the steps after the first ``done``."""
        config = self.config
        return micro_batches(
            self.patches,
            batch=config.batch,
            accumulate=config.accumulate,
            steps=range(done, config.steps),
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            workers=config.data.workers,
        )

    def step(self, done: int, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """One optimiser step after ``done`` others; its loss, the mean over this process's patches."""
        config = self.config
        set_rate(self.optimiser, config.lr * rate_factor(done / config.steps, done, config.warmup))
        total = torch.zeros((), device=self.device)
        for part in range(config.accumulate):
            sharp, valid = (x.to(self.device, non_blocking=True) for x in next(batches))
            waits = part + 1 < config.accumulate
            with self.accelerator.no_sync(self.model) if waits else contextlib.nullcontext():
                coarse = self.degradation.apply(sharp).contiguous(memory_format=torch.channels_last)
                restored = self.model(coarse).float()
                loss = self.loss(torch.where(valid, restored, sharp), sharp) / config.accumulate
                self.accelerator.backward(loss)
            total += loss.detach()
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.update(self.net, done + 1)
        return total

    def gain(self, show: Callable[[Restored], None]) -> float:
        """What the averaged weights gain over bicubic, dB: the mean over the validation scenes.

        Each process restores its share of them. show: is given the first scene, by the process that restores it.
        """
        scenes = self.data.validation
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        with self.average.inside(self.net):
            for number in range(self.accelerator.process_index, len(scenes), self.accelerator.num_processes):
                done = restore(self.net, scenes[number].whole(), self.degradation, self.device)
                total += psnr_gain(done)
                if number == 0:
                    show(done)
        return float(self.accelerator.reduce(total, "sum")) / len(scenes)


def _accelerator(config: TrainConfig) -> Any:
    try:
        from accelerate import Accelerator  # type: ignore[import-untyped]
        from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError("accelerate is not installed; pip install 'lkca[train]'") from error
    AcceleratorState._reset_state(True)  # else a second run in one process could not choose another precision
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    if cpu and config.amp == "fp16":
        raise InputError("amp: fp16 needs a GPU; use bf16 or no")
    return Accelerator(cpu=cpu, mixed_precision=config.amp)
