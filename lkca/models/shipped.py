"""The models that come with the package, by name. docs/models.md."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from lkca.errors import InputError
from lkca.models.directory import CARD, CONFIG, WEIGHTS, LoadedModel, load_model
from lkca.models.prior import PRIOR_FILE, Prior, shipped_prior

__all__ = ["GENERAL", "MEASURED_FILE", "SHIPPED", "ShippedModel", "find_model"]

GENERAL = "general"  # the prior; what commands take where no model is named
_HERE = Path(__file__).parent
_FOLDER = _HERE / "weights"
MEASURED_FILE = _FOLDER / "measured.json"  # written by studies/shipped/measure.py


@dataclass(frozen=True)
class ShippedModel:
    """name: what ``-m`` takes. bands: of the cubes that it takes. trained_on, terms: the data, and what its owners ask.

    ``general`` is the prior, and takes any bands; every other has one model directory per scale.
    """

    name: str
    bands: str
    trained_on: str
    terms: str

    @property
    def any_bands(self) -> bool:
        """Adapted to each cube, whatever its bands."""
        return self.name == GENERAL

    @property
    def scales(self) -> tuple[int, ...]:
        """Scale factors, rising."""
        if self.any_bands:
            return _general().scales
        return tuple(sorted(int(path.name.rpartition("_x")[2]) for path in _FOLDER.glob(f"{self.name}_x*")))

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return sum(path.stat().st_size for path in self._weights())

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""
        return hashlib.sha256(b"".join(path.read_bytes() for path in self._weights())).hexdigest()

    @property
    def card(self) -> str:
        """Markdown: what it takes, what it learned from, how good it is, its limits."""
        cards = [(folder / CARD).read_text(encoding="utf-8") for folder in self._folders()]
        terms = f"## Terms of the training data\n\n{self.terms}.\n"
        return "\n".join([*cards, terms, self._results()])

    @property
    def gains(self) -> dict[int, float]:
        """Scale → dB of MPSNR over bicubic, mean of the public test scenes; empty where these weights' is unknown."""
        return {
            scale: sum(s["model"]["mpsnr"] - s["bicubic"]["mpsnr"] for s in scenes.values()) / len(scenes)
            for scale, scenes in self._measured().items()
        }

    def load(self, scale: int | None) -> LoadedModel | Prior:
        """Raises InputError where there is no such scale, or several and none is named."""
        if self.any_bands:
            return _general()
        scales = self.scales
        if scale is None and len(scales) == 1:
            scale = scales[0]
        if scale not in scales:
            wanted = "needs a scale factor" if scale is None else f"does not upscale ×{scale}"
            raise InputError(f"the model '{self.name}' {wanted}; give -s with one of {', '.join(map(str, scales))}")
        # by its name: where lkca is installed is nothing that results should tell, and other machines have it elsewhere
        return replace(load_model(_FOLDER / f"{self.name}_x{scale}"), path=Path(self.name))

    def _folders(self) -> list[Path]:
        return [_FOLDER / self.name] if self.any_bands else [_FOLDER / f"{self.name}_x{s}" for s in self.scales]

    def _weights(self) -> list[Path]:
        return [_HERE / PRIOR_FILE] if self.any_bands else [folder / WEIGHTS for folder in self._folders()]

    def _measured(self) -> dict[int, dict[str, dict[str, dict[str, float]]]]:
        """Scale → scene → "bicubic" or "model" → metric; nothing where it was measured with other weights."""
        if not MEASURED_FILE.is_file():
            return {}
        found = json.loads(MEASURED_FILE.read_text(encoding="utf-8")).get(self.name, {})
        if found.get("weights") != self.digest:
            return {}
        return {int(scale): scenes for scale, scenes in found["scores"].items()}

    def _results(self) -> str:
        rows = [
            f"| {scene} | ×{scale} | {s['bicubic']['mpsnr']:.2f} → {s['model']['mpsnr']:.2f} "
            f"| {s['bicubic']['sam']:.2f} → {s['model']['sam']:.2f} |"
            for scale, scenes in self._measured().items()
            for scene, s in scenes.items()
        ]
        head = ["## Public test scenes", "", "| | scale | MPSNR bicubic → model, dB | SAM bicubic → model, ° |"]
        return "\n".join([*head, "|---|---|---:|---:|", *rows, ""]) if rows else ""


SHIPPED = {
    model.name: model
    for model in (
        ShippedModel(
            name=GENERAL,
            bands="any number and order, any sensor",
            trained_on="CAVE, ABU (AVIRIS), photographs, synthetic dead leaves",
            terms="CAVE, ABU: research use, cite Yasuma et al. 2008, Kang et al. 2017",
        ),
        ShippedModel(
            name="cave31",
            bands="31: 400 to 700 nm, every 10 nm",
            trained_on="CAVE (22 scenes), from general's weights",
            terms="CAVE: research use, cite Yasuma et al. 2008; general's too",
        ),
    )
}


def find_model(model: str | os.PathLike[str], scale: int | None = None) -> LoadedModel | Prior:
    """The model directory of that path, else the shipped model of that name, which folders that are no model do not
    hide.

    ``scale`` picks among the files of a shipped model; it is not compared with a directory's. Raises InputError where
    there is neither, where a shipped model lacks the scale, or needs one, and as
    :func:`lkca.models.directory.load_model` does.
    """
    name = os.fspath(model)
    if not name:
        raise InputError(f"the name of the model is empty; give a model directory, or one of {', '.join(SHIPPED)}")
    if name in SHIPPED and not _holds_model(Path(name)):
        return SHIPPED[name].load(scale)
    if os.path.lexists(name):
        return load_model(name)
    raise InputError(
        f"{name}: does not exist; a model is a directory as 'lkca fit' writes it, or the name of a shipped "
        f"model ({', '.join(SHIPPED)}; see 'lkca models')"
    )


def _general() -> Prior:
    prior = shipped_prior()
    if prior is None:
        raise InputError(f"the general model is not in this installation ({PRIOR_FILE} is missing); reinstall lkca")
    return prior


def _holds_model(folder: Path) -> bool:
    """Also a damaged model, and a run folder of ``lkca train`` with models in it: :func:`load_model` tells of them."""
    return any(os.path.lexists(folder / part) for part in (CONFIG, WEIGHTS)) or any(folder.glob(f"*/{WEIGHTS}"))
