"""``config.yaml`` of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lkca.config import StrictModel, read_yaml

__all__ = ["Network", "Preset", "Study", "load", "other_time"]


class Network(StrictModel):
    """What is built for ``lkcanet`` (width, blocks, …: fields of LKCANetConfig) and ``edsr``, and its learning rate."""

    options: dict[str, int] = Field(default_factory=dict)
    lr: float = Field(gt=0)


class Preset(Network):
    """A size of LKCA-Net, trained as ``lkca`` would: full rank first, then LKCA-KD at ``rank`` per component."""

    components: int = Field(ge=1)
    rank: int = Field(ge=1)
    sam_weight: float = Field(default=0, ge=0, description="As the study's.")
    student_seconds: float = Field(gt=0, description="CPU seconds of the training that the student gets, at its end.")


class Study(StrictModel):
    """All choices of a study; each was made on the validation scenes (docs/distillation.md)."""

    data: Literal["cave", "aviris"]
    scale: int = Field(ge=2)
    seeds: list[int]
    validation: list[str] = Field(description="Training scenes that are held out for choices.")
    test: list[str] = Field(description="Never seen before the report.")
    baseline: Network
    teacher: Network
    patch: int = Field(description="Coarse pixels.")
    components: int = Field(ge=1, description="Spectral components that LKCA-Net restores.")
    batch: int = Field(description="Patches; cave: each gives as many images as there are components.")
    baseline_batch: int
    sam_weight: float = Field(default=0, ge=0, description="Of SAM, beside the relative squared error (cave).")
    teacher_seconds: float = Field(description="CPU seconds of training, one thread; the baseline gets the same.")
    student_seconds: float = Field(description="… of each way to train the student.")
    svd_loss: float = Field(default=0.3, description="dB that the SVD alone must lose on validation; sets the rank.")
    student_lr: float = Field(gt=0)
    orientations: int = Field(default=1, description="Of the teacher's self-ensemble, per step.")
    alignment: float = 0.1
    presets: dict[str, Preset] = Field(
        default_factory=dict,
        description="Trained for teacher_seconds in all: the last seconds as a student.",
    )
    longer: list[str] = Field(
        default_factory=list,
        description="Baseline, teacher or preset, trained for another time: base_480, in all 480 CPU seconds.",
    )
    ablation: list[str] = Field(default_factory=list, description="Further ways to train the student.")
    ablation_seeds: list[int] = Field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        """How its trainings are made, by name; not which of them are."""
        what = {"presets", "longer", "ablation", "ablation_seeds", "seeds"}
        values = self.model_dump(mode="json")
        how = {key: value for key, value in values.items() if key not in what}
        return how | {f"presets.{name}": preset for name, preset in values["presets"].items()}


def other_time(name: str) -> tuple[str, float | None]:
    """``base_480`` -> ("base", 480.0), ``base`` -> ("base", None): what is trained, and for how long."""
    stem, _, time = name.rpartition("_")
    return (stem, float(time)) if time.isdecimal() and stem else (name, None)


def load(path: Path) -> Study:
    return read_yaml(path, Study)
