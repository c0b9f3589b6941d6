"""``lkca train``: a network trained on a data set, on one device or many, exactly resumable. docs/training.md.

A run folder holds config.yaml, best/ and last/ (model directories: the averaged weights of the best validation, and of
the end), checkpoints/ (the state to resume from) and tensorboard/.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from lkca.config import read_yaml
from lkca.errors import InputError, LkcaError
from lkca.losses import WeightedLoss
from lkca.models.config import ModelConfig, TrainingRecord, utc_now
from lkca.models.directory import describe_architecture, load_model, package_versions, recover_model, save_model
from lkca.nn.layout import channels_last
from lkca.output import alone_in, check_folder, check_utf8, written_aside
from lkca.training.checkpoint import Progressed, latest_checkpoint, load_checkpoint, save_checkpoint
from lkca.training.config import FREE, TrainConfig
from lkca.training.data import PatchDataset, TrainingSet, micro_batches, open_training_set
from lkca.training.monitor import Monitor
from lkca.training.optimise import Average, DivergedError, adamw, check_loss, cpu_by_default, rate_factor, set_rate
from lkca.training.progress import Progress, ProgressCallback
from lkca.training.start import Lost, first, new_network
from lkca.training.validation import measure, psnr_gain, restore, validation_record

__all__ = ["TrainResult", "check_run", "train"]

End = Literal["done", "early", "time", "interrupted"]

_CONFIG, _BEST, _LAST, _CHECKPOINTS, _TENSORBOARD = "config.yaml", "best", "last", "checkpoints", "tensorboard"
_SYNC_EVERY = 20  # steps: on a GPU reading the loss waits for it, and so does asking the other processes


@dataclass(frozen=True)
class TrainResult:
    """end: why the run stopped. model: the best model's directory, None before the first validation. metrics:
    {"bicubic", "model"} -> scores of the best model on ``split``, empty without validation scenes. best_step: its step.
    """

    end: End
    model: Path | None
    steps: int
    seconds: float
    best_step: int
    metrics: dict[str, dict[str, float]]
    split: str
    notes: list[str]


def check_run(run: Path, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
    """Raise InputError unless ``run`` can be begun (new, or ``overwrite``) or gone on with (``resume``, same keys)."""
    own = {_CONFIG, _BEST, _LAST, _CHECKPOINTS, _TENSORBOARD}
    check_utf8(run)
    if run.exists() and not run.is_dir():
        raise InputError(f"{run}: is a file; name a folder for the run")
    check_folder(run / _CONFIG if run.exists() else run)
    entries = {entry.name for entry in run.iterdir() if not entry.name.startswith(".")} if run.is_dir() else set()
    if strange := sorted(entries - own):
        raise InputError(f"{run}: holds files that are not a run's ({', '.join(strange[:3])}); choose another name")
    if resume and (run / _CONFIG).exists():
        old = _flat(read_yaml(run / _CONFIG, TrainConfig).model_dump(exclude=FREE))
        new = _flat(config.model_dump(exclude=FREE))
        for key in old | new:
            before, now = old.get(key), new.get(key)
            if repr(before) != repr(now):  # NaN is equal to NaN
                raise InputError(f"{key}: the run in {run} began with {before}, not {now}; resume with the same")
        if (run / _LAST).exists() and latest_checkpoint(run / _CHECKPOINTS) is None:
            raise InputError(
                f"{run}: is at its end and holds no state to go on from; give --overwrite instead of --resume to begin "
                "anew, which replaces its models"
            )
    elif entries and not (resume or overwrite):
        raise InputError(f"{run}: holds a run; give --resume to go on with it, or --overwrite to begin anew")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Records within records as keys with dots, as the command line has them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def train(
    config: TrainConfig,
    run: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callback: ProgressCallback | None = None,
    command: str = "",
) -> TrainResult:
    """Train as ``config`` says into the folder ``run``; with ``resume`` go on where its last checkpoint stands.

    Under ``torchrun`` or ``accelerate launch`` every process calls this; the first one writes. Ctrl-C and SIGTERM end
    the run after the step, with a checkpoint. ``callback``: called by the first process, with the loss and, after a
    validation, the gain over bicubic in dB. ``command``: kept in the model's records. Raises InputError for what cannot
    be trained, before and during training (a loss that is not finite: LkcaError, if there is a best model already),
    OutputError where the run cannot be written.
    """
    check_run(run, config, resume=resume, overwrite=overwrite)
    with cpu_by_default(), contextlib.ExitStack() as stack:
        return _Run(config, run, resume, callback, command, stack).result()


@contextlib.contextmanager
def _signals(wish: threading.Event) -> Iterator[None]:
    """Ctrl-C, or a cluster's SIGTERM, sets ``wish`` once; a second one acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def heed(number: int, frame: Any) -> None:
        wish.set()
        signal.signal(number, old[signal.Signals(number)])

    for number in old:
        signal.signal(number, heed)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


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


def _described(data: TrainingSet) -> list[str]:
    """What a run learns from, as far as a resumption can tell it from another."""
    scenes = [f"{scene.name}: {scene.region} of {scene.rows} x {scene.cols} pixels" for scene in data.data]
    return [*scenes, f"peak {data.normalisation.peak:.6g}"]


class _Run:
    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        resume: bool,
        callback: ProgressCallback | None,
        command: str,
        stack: contextlib.ExitStack,
    ) -> None:
        self.config, self.run, self.callback, self.command = config, run, callback, command
        self.accelerator = _accelerator(config)
        self.device: torch.device = self.accelerator.device
        self.data: TrainingSet = open_training_set(config.data, config.scale)
        self.degradation = config.degrader
        patches = PatchDataset(self.data.train, config.patch * config.scale, config.seed)
        lost = Lost.of(first(patches), self.degradation)
        if lost.pixels == 0:
            raise InputError(
                "data: the first patches hold no pixel that is valid in every band; leave out the bands or the scenes "
                "that lack most samples, or lower 'patch'"
            )
        self.loss = WeightedLoss(config.loss, lost.unit).to(self.device)
        torch.manual_seed(config.seed)
        sizes = config.model.build(len(self.data.bands.used), config.scale)
        self.net = channels_last(new_network(sizes, lost, patches, self.degradation))
        optimiser = adamw(self.net, config.lr, config.weight_decay)
        module = torch.compile(self.net) if config.compile else self.net
        self.model, self.optimiser = self.accelerator.prepare(module, optimiser)
        self.average = Average(self.net, config.ema)
        self.progressed = Progressed(data=_described(self.data))
        self.wish = threading.Event()  # to stop
        self.started = time.monotonic()
        self._begin(resume, stack)
        self.earlier = self.progressed.seconds
        self.patches = self._batches(patches)
        folder = run / _TENSORBOARD if config.tensorboard and self.first else None
        self.monitor = Monitor(folder, start=self.progressed.step, wavelengths=self.data.bands.wavelengths_nm)

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return bool(self.accelerator.is_main_process)

    def _begin(self, resume: bool, stack: contextlib.ExitStack) -> None:
        """Restore the last checkpoint, or clear the folder, which is this run's as long as ``stack``; first, what a
        kill left half written."""
        if self.first:
            self.run.mkdir(exist_ok=True)
            stack.enter_context(alone_in(self.run))
            for name in (_BEST, _LAST):
                recover_model(self.run / name)
        checkpoint = latest_checkpoint(self.run / _CHECKPOINTS) if resume else None
        if checkpoint is not None:
            scaler = self.accelerator.scaler
            now = self.progressed.data
            self.progressed = load_checkpoint(checkpoint, self.net, self.average, self.optimiser, scaler)
            before = self.progressed.data or now
            if before != now:
                other = next((item for item in before + now if (item in before) != (item in now)), "in another order")
                raise InputError(
                    f"data: the run in {self.run} began with other scenes or another peak ({other}); resume with those"
                )
            self.progressed.data = now
        elif self.first:
            for name in (_BEST, _LAST, _CHECKPOINTS, _TENSORBOARD):
                shutil.rmtree(self.run / name, ignore_errors=True)
        if self.first:
            text = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
            with written_aside(self.run / _CONFIG) as path:
                path.write_text(text, encoding="utf-8")
        self.accelerator.wait_for_everyone()

    def _batches(self, patches: PatchDataset) -> Any:
        config = self.config
        return micro_batches(
            patches,
            batch=config.batch,
            accumulate=config.accumulate,
            steps=range(self.progressed.step, config.steps),
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            workers=config.data.workers,
        )

    def result(self) -> TrainResult:
        with _signals(self.wish):
            end = self._loop()
        if self.first and end in ("done", "early"):
            self._save(_LAST, end)
        metrics = self._final_metrics(end) if self.first else {}
        self.monitor.close()
        self.accelerator.wait_for_everyone()
        model = self.run / _BEST
        return TrainResult(
            end=end,
            model=model if model.is_dir() else None,
            steps=self.progressed.step,
            seconds=self.progressed.seconds,
            best_step=self.progressed.best_step,
            metrics=metrics,
            split=self.data.split,
            notes=self.data.notes,
        )

    def _loop(self) -> End:
        config, progressed = self.config, self.progressed
        while progressed.step < config.steps:
            if config.patience is not None and progressed.idle >= config.patience:
                return "early"
            if stop := self._stop():
                self._checkpoint()
                return stop
            loss = self._step()
            progressed.seconds = self.earlier + time.monotonic() - self.started
            step, last = progressed.step, progressed.step == config.steps
            validate = last or step % config.validate_every == 0
            checkpoint = last or step % config.checkpoint_every == 0
            if not (validate or checkpoint or self.device.type == "cpu" or step % _SYNC_EVERY == 0):
                continue
            value = self._checked(loss)
            gain = self._validate() if validate else None
            if checkpoint:
                self._checkpoint()
            self._report(value, gain)
        return "done"

    def _stop(self) -> Literal["time", "interrupted"] | None:
        """Why to stop now: any process's signal, or the first one's clock."""
        minutes = self.config.minutes
        late = minutes is not None and time.monotonic() - self.started > 60 * minutes
        wish = 2.0 if self.wish.is_set() else float(late and self.first)
        if self.accelerator.num_processes > 1:
            if self.progressed.step % _SYNC_EVERY:
                return None
            wishes = self.accelerator.gather(torch.tensor([wish], device=self.device))
            wish = float(wishes.max())
        return "interrupted" if wish == 2 else "time" if wish else None

    def _step(self) -> Tensor:
        """One optimiser step; its loss, the mean over this process's patches."""
        config, step = self.config, self.progressed.step
        set_rate(self.optimiser, config.lr * rate_factor(step / config.steps, step, config.warmup))
        total = torch.zeros((), device=self.device)
        for part in range(config.accumulate):
            sharp, valid = (x.to(self.device, non_blocking=True) for x in next(self.patches))
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
        self.progressed.step += 1
        self.average.update(self.net, self.progressed.step)
        return total

    def _checked(self, loss: Tensor) -> float:
        """Mean of the loss over the processes; where it is not finite InputError, or LkcaError beside a best model."""
        value = float(self.accelerator.reduce(loss, "mean"))
        try:
            check_loss(value, self.progressed.step)
        except DivergedError as error:
            if not (best := self.run / _BEST).is_dir():
                raise
            raise LkcaError(f"{error}; {best} holds the best model until then") from error
        return value

    def _report(self, loss: float, gain: float | None) -> None:
        if not self.first:
            return
        progressed = self.progressed
        rate = self.optimiser.param_groups[0]["lr"]
        self.monitor.scalars(progressed.step, {"loss": loss, "learning rate": rate})
        if self.callback is not None:
            fraction = progressed.step / self.config.steps
            self.callback(Progress("train", progressed.step, progressed.seconds, fraction, loss, gain))

    def _validate(self) -> float | None:
        """Score the averaged weights on the validation scenes, keep them if they are the best; the gain in dB.

        Each process restores its share of the scenes.
        """
        scenes, progressed = self.data.validation, self.progressed
        gain = None
        if scenes:
            total = torch.zeros((), device=self.device, dtype=torch.float64)
            rank, world = self.accelerator.process_index, self.accelerator.num_processes
            with self.average.inside(self.net):
                for number in range(rank, len(scenes), world):
                    done = restore(self.net, scenes[number], self.degradation, self.device)
                    total += psnr_gain(done)
                    if number == 0:
                        self.monitor.picture(progressed.step, done)
            gain = float(self.accelerator.reduce(total, "sum")) / len(scenes)
            self.monitor.scalars(progressed.step, {"validation gain over bicubic, dB": gain})
            if not gain > progressed.best:  # NaN is never the best
                progressed.idle += 1
                return gain
            progressed.best = gain
        progressed.best_step, progressed.idle = progressed.step, 0
        if self.first:
            self._save(_BEST, None)
        return gain

    def _checkpoint(self) -> None:
        if self.first:
            folder = self.run / _CHECKPOINTS
            save_checkpoint(folder, self.progressed, self.net, self.average, self.optimiser, self.accelerator.scaler)
        self.accelerator.wait_for_everyone()

    def _save(self, name: str, end: End | None) -> None:
        """The averaged weights as a model directory."""
        with self.average.inside(self.net):
            save_model(self.run / name, self.net, self._entry(end), overwrite=True)

    def _entry(self, end: End | None, metrics: dict[str, dict[str, float]] | None = None) -> ModelConfig:
        data, config, progressed = self.data, self.config, self.progressed
        return ModelConfig(
            architecture=describe_architecture(self.net),
            scale=config.scale,
            bands=data.bands,
            degradation=self.degradation,
            normalisation=data.normalisation,
            training=TrainingRecord(
                data=data.data,
                seed=config.seed,
                seconds=round(progressed.seconds, 1),
                steps=progressed.best_step if metrics else progressed.step,
                interrupted=end in ("time", "interrupted"),
                device=str(self.device),
                threads=torch.get_num_threads(),
                command=self.command,
                created=utc_now(),
                recipe=config.model_dump(mode="json"),
                details={"processes": self.accelerator.num_processes},
            ),
            validation=validation_record(metrics, data.split) if metrics else None,
            versions=package_versions(),
        )

    def _final_metrics(self, end: End) -> dict[str, dict[str, float]]:
        """All scores of the best model, and their entry in its directory."""
        if not self.data.validation or not (self.run / _BEST).is_dir():
            return {}
        best = load_model(self.run / _BEST)
        metrics = measure(best.net.to(self.device), self.data.validation, self.degradation, self.device)
        save_model(self.run / _BEST, best.net.cpu(), self._entry(end, metrics), overwrite=True)
        return metrics
