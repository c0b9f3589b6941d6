"""``lkca train``: a network trained on a data set, kept in a run folder, exactly resumable. docs/training.md.

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
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from lkca.config import read_yaml
from lkca.errors import InputError, LkcaError, OutputError
from lkca.models.config import ModelConfig, TrainingRecord, utc_now
from lkca.models.directory import describe_architecture, load_model, package_versions, recover_model, save_model
from lkca.output import alone_in, check_folder, check_name, written_aside
from lkca.training.checkpoint import Progressed, latest_checkpoint, load_checkpoint, save_checkpoint
from lkca.training.config import FREE, TrainConfig
from lkca.training.data import TrainingSet
from lkca.training.learner import Learner
from lkca.training.monitor import Monitor, summary_writer
from lkca.training.optimise import DivergedError, check_loss, cpu_by_default
from lkca.training.progress import Progress, ProgressCallback
from lkca.training.validation import measure, restore, validation_record

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
    check_name(run)
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
    if config.tensorboard:
        summary_writer()  # before the folder is begun, or an old run in it is deleted
    with cpu_by_default():
        learner = Learner(config)
        if learner.first:
            try:
                run.mkdir(exist_ok=True)
            except OSError as error:
                raise OutputError(f"{run}: cannot be made ({error.strerror}); choose another folder") from error
        with alone_in(run) if learner.first else contextlib.nullcontext():
            progressed = _begin(learner, run, resume=resume)
            return _Run(learner, run, progressed, callback, command).result()


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


def _described(data: TrainingSet) -> list[str]:
    """What a run learns from, as far as a resumption can tell it from another."""
    scenes = [f"{scene.name}: {scene.region} of {scene.rows} x {scene.cols} pixels" for scene in data.data]
    return [*scenes, f"peak {data.normalisation.peak:.6g}"]


def _begin(learner: Learner, run: Path, *, resume: bool) -> Progressed:
    """Where the run stands: at its last checkpoint, which the learner then has; else at step 0, in a cleared folder."""
    if learner.first:
        for name in (_BEST, _LAST):  # what a kill left half written
            recover_model(run / name)
    now = _described(learner.data)
    progressed = Progressed(data=now)
    checkpoint = latest_checkpoint(run / _CHECKPOINTS) if resume else None
    if checkpoint is not None:
        scaler = learner.accelerator.scaler
        progressed = load_checkpoint(checkpoint, learner.net, learner.average, learner.optimiser, scaler)
        before = progressed.data or now
        if before != now:
            other = next((item for item in before + now if (item in before) != (item in now)), "in another order")
            raise InputError(
                f"data: the run in {run} began with other scenes or another peak ({other}); resume with those"
            )
        progressed.data = now
    elif learner.first:
        for name in (_BEST, _LAST, _CHECKPOINTS, _TENSORBOARD):
            shutil.rmtree(run / name, ignore_errors=True)
    if learner.first:
        text = yaml.safe_dump(learner.config.model_dump(mode="json"), sort_keys=False)
        with written_aside(run / _CONFIG) as path:
            path.write_text(text, encoding="utf-8")
    learner.accelerator.wait_for_everyone()
    return progressed


class _Run:
    """The steps of a learner, from where its run stands to the end, and what is reported and kept on the way."""

    def __init__(
        self,
        learner: Learner,
        folder: Path,
        progressed: Progressed,
        callback: ProgressCallback | None,
        command: str,
    ) -> None:
        self.learner, self.config, self.folder = learner, learner.config, folder
        self.progressed, self.callback, self.command = progressed, callback, command
        self.earlier, self.started = progressed.seconds, time.monotonic()
        self.wish = threading.Event()  # to stop
        self.batches = learner.batches(progressed.step)
        tensorboard = folder / _TENSORBOARD if self.config.tensorboard and learner.first else None
        self.monitor = Monitor(tensorboard, start=progressed.step, wavelengths=learner.data.bands.wavelengths_nm)

    def result(self) -> TrainResult:
        with _signals(self.wish):
            end = self._loop()
        if self.learner.first and end in ("done", "early"):
            self._save(_LAST, end)
        metrics = self._final_metrics(end) if self.learner.first else {}
        self.monitor.close()
        self.learner.accelerator.wait_for_everyone()
        model = self.folder / _BEST
        return TrainResult(
            end=end,
            model=model if model.is_dir() else None,
            steps=self.progressed.step,
            seconds=self.progressed.seconds,
            best_step=self.progressed.best_step,
            metrics=metrics,
            split=self.learner.data.split,
            notes=self.learner.data.notes,
        )

    def _loop(self) -> End:
        config, progressed = self.config, self.progressed
        while progressed.step < config.steps:
            if config.patience is not None and progressed.idle >= config.patience:
                return "early"
            if stop := self._stop():
                self._checkpoint()
                return stop
            loss = self.learner.step(progressed.step, self.batches)
            progressed.step += 1
            progressed.seconds = self.earlier + time.monotonic() - self.started
            step, last = progressed.step, progressed.step == config.steps
            validate = last or step % config.validate_every == 0
            checkpoint = last or step % config.checkpoint_every == 0
            if not (validate or checkpoint or self.learner.device.type == "cpu" or step % _SYNC_EVERY == 0):
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
        wish = 2.0 if self.wish.is_set() else float(late and self.learner.first)
        accelerator = self.learner.accelerator
        if accelerator.num_processes > 1:
            if self.progressed.step % _SYNC_EVERY:
                return None
            wishes = accelerator.gather(torch.tensor([wish], device=accelerator.device))
            wish = float(wishes.max())
        return "interrupted" if wish == 2 else "time" if wish else None

    def _checked(self, loss: Tensor) -> float:
        """Mean of the loss over the processes; where it is not finite InputError, or LkcaError beside a best model."""
        value = float(self.learner.accelerator.reduce(loss, "mean"))
        try:
            check_loss(value, self.progressed.step)
        except DivergedError as error:
            if not (best := self.folder / _BEST).is_dir():
                raise
            raise LkcaError(f"{error}; {best} holds the best model until then") from error
        return value

    def _report(self, loss: float, gain: float | None) -> None:
        if not self.learner.first:
            return
        progressed = self.progressed
        rate = self.learner.optimiser.param_groups[0]["lr"]
        self.monitor.scalars(progressed.step, {"loss": loss, "learning rate": rate})
        if self.callback is not None:
            fraction = progressed.step / self.config.steps
            self.callback(Progress("train", progressed.step, progressed.seconds, fraction, loss, gain))

    def _validate(self) -> float | None:
        """Score the averaged weights on the validation scenes, keep them if they are the best; the gain in dB."""
        progressed, gain = self.progressed, None
        if self.learner.data.validation:
            gain = self.learner.gain(lambda scene: self.monitor.picture(progressed.step, scene))
            self.monitor.scalars(progressed.step, {"validation gain over bicubic, dB": gain})
            if not gain > progressed.best:  # NaN is never the best
                progressed.idle += 1
                return gain
            progressed.best = gain
        progressed.best_step, progressed.idle = progressed.step, 0
        if self.learner.first:
            self._save(_BEST, None)
        return gain

    def _checkpoint(self) -> None:
        learner = self.learner
        if learner.first:
            save_checkpoint(
                self.folder / _CHECKPOINTS, self.progressed, learner.net, learner.average, learner.optimiser,
                learner.accelerator.scaler,
            )  # fmt: skip
        learner.accelerator.wait_for_everyone()

    def _save(self, name: str, end: End | None) -> None:
        """The averaged weights as a model directory."""
        net = self.learner.net
        with self.learner.average.inside(net):
            save_model(self.folder / name, net, self._entry(end), overwrite=True)

    def _entry(self, end: End | None, metrics: dict[str, dict[str, float]] | None = None) -> ModelConfig:
        learner, config, progressed = self.learner, self.config, self.progressed
        data = learner.data
        return ModelConfig(
            architecture=describe_architecture(learner.net),
            scale=config.scale,
            bands=data.bands,
            degradation=learner.degradation,
            normalisation=data.normalisation,
            training=TrainingRecord(
                data=data.data,
                seed=config.seed,
                seconds=round(progressed.seconds, 1),
                steps=progressed.best_step if metrics else progressed.step,
                interrupted=end in ("time", "interrupted"),
                device=str(learner.device),
                threads=torch.get_num_threads(),
                command=self.command,
                created=utc_now(),
                recipe=config.model_dump(mode="json"),
                details={"processes": learner.accelerator.num_processes},
            ),
            validation=validation_record(metrics, data.split) if metrics else None,
            versions=package_versions(),
        )

    def _final_metrics(self, end: End) -> dict[str, dict[str, float]]:
        """All scores of the best model, and their entry in its directory."""
        learner, path = self.learner, self.folder / _BEST
        if not learner.data.validation or not path.is_dir():
            return {}
        best = load_model(path)
        scenes = (scene.whole() for scene in learner.data.validation)
        restored = partial(restore, degradation=learner.degradation, device=learner.device)
        metrics = measure({"model": best.net.to(learner.device)}, scenes, restored, self.config.scale)
        save_model(path, best.net.cpu(), self._entry(end, metrics), overwrite=True)
        return metrics
