"""Model directories: ``model.safetensors`` + ``config.json`` + ``README.md``. No pickle is ever read."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import lkca
from lkca.config import validated
from lkca.data.memory import check_memory
from lkca.environment import package_version
from lkca.errors import InputError, OutputError
from lkca.models.card import model_card
from lkca.models.config import Architecture, ModelConfig
from lkca.models.lkcanet import LKCANet, LKCANetConfig
from lkca.output import check_folder, check_utf8

__all__ = [
    "CARD",
    "CONFIG",
    "WEIGHTS",
    "LoadedModel",
    "build_network",
    "check_model_output",
    "describe_architecture",
    "load_model",
    "package_versions",
    "recover_model",
    "save_model",
]

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_FILES = (WEIGHTS, CONFIG, CARD)
_NEW, _OLD = ".part", ".old"  # suffixes of folders beside a model while it is written, and while it is replaced
_MAX_CONFIG_BYTES = 16 << 20
_MAX_FIELD = 1 << 20  # no width, band count or kernel size is larger; a config that says so is hostile or damaged
_DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"}


@dataclass(frozen=True)
class LoadedModel:
    """A network ready for inference (eval mode, float32, on the CPU) and what its directory says of it.

    adapted: made from the cube that it upscales (lkca.inference.adapt), so there is nothing to compare.
    """

    net: LKCANet
    config: ModelConfig
    path: Path
    adapted: bool = False

    @property
    def name(self) -> str:
        """Of its directory, or "general": what results made by it are called."""
        return Path(os.path.abspath(self.path)).name  # of ".", too

    @property
    def origin(self) -> dict[str, Any]:
        """What a model that starts from these weights records of them: their scenes, and what they started from."""
        training = self.config.training
        origin: dict[str, Any] = {
            "model": str(self.path),
            "scenes": [scene.name for scene in training.data],
            "degradation": self.config.degradation.method,
        }
        earlier = {"started_from": training.details.get("prior"), "factorized": training.details.get("factorized")}
        return origin | {key: value for key, value in earlier.items() if value}


def check_model_output(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raises InputError now for what :func:`save_model` would refuse after hours of training."""
    path = Path(path)
    check_utf8(path)
    check_folder(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path}: exists and is not a directory; choose another name for the model")
    if path.is_dir():
        strange = sorted({entry.name for entry in path.iterdir()} - set(_FILES))
        if strange:
            raise InputError(
                f"{path}: holds files that are not a model's ({', '.join(strange[:3])}); choose another name"
            )
        if any(path.iterdir()) and not overwrite:
            raise InputError(f"{path}: exists; give --overwrite to replace it or choose another name")


def save_model(path: str | os.PathLike[str], net: LKCANet, config: ModelConfig, *, overwrite: bool = False) -> Path:
    """Writes a model directory: aside first, then renamed, so that ``path`` is the old model or the new one.

    Raises InputError where ``path`` exists and ``overwrite`` is false, or is not a model directory, and for weights
    that are not finite; OutputError where it cannot be written. A model that was there survives a failure.
    """
    path = Path(path)
    check_model_output(path, overwrite=overwrite)
    weights = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in net.state_dict().items()}
    _check_finite(weights, "the network")
    parent = path.absolute().parent
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_NEW, dir=parent))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        save_file(weights, aside / WEIGHTS, metadata={"format": "pt"})
        (aside / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (aside / CARD).write_text(model_card(config, weights), encoding="utf-8")
        mask = _umask()  # mkdtemp and safetensors make what only the owner can read
        os.chmod(aside, 0o777 & ~mask)
        for name in _FILES:
            os.chmod(aside / name, 0o666 & ~mask)
        _swap(aside, path)
    except (OSError, SafetensorError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{path}: the model could not be written ({detail}); free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Reads a model directory. The shipped models go by their names: :func:`lkca.models.find_model`.

    Raises InputError, naming the file, for anything that is not exactly a model: a missing or damaged file, an
    unknown configuration key, a tensor that is missing, surplus, of another shape or not finite, or a link that
    leads out of the directory. Sizes are compared before memory is taken for the weights.
    """
    path = Path(path)
    check_utf8(path)
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise InputError(
            f"{path}: {kind}; a model is a directory as 'lkca fit' writes it; 'lkca models NAME -s 4 -o DIR' writes a "
            "shipped one"
        )
    if not (path / CONFIG).exists() and (inner := sorted(str(file.parent) for file in path.glob(f"[!.]*/{CONFIG}"))):
        raise InputError(f"{path}: is no model, give one of those in it: {', '.join(inner[:3])}")
    config_path, weights_path = _inside(path, CONFIG), _inside(path, WEIGHTS)
    config = validated(ModelConfig, _read_bounded(config_path), str(config_path))
    try:
        with safe_open(weights_path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            dtypes = {file.get_slice(name).get_dtype() for name in shapes}
            if not dtypes <= _DTYPES:
                raise InputError(
                    f"{weights_path}: holds tensors of type {', '.join(sorted(dtypes - _DTYPES))}; make the model again"
                )
            net = _skeleton(config.architecture, shapes, config_path, weights_path)
            check_memory(2 * weights_path.stat().st_size, str(weights_path), "close other programs")
            weights = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{weights_path}: is not a whole safetensors file ({error}); copy or fit the model again"
        ) from error
    _check_finite(weights, str(weights_path))
    net.load_state_dict(weights, strict=True, assign=True)
    net.requires_grad_(False)
    return LoadedModel(net.float().eval(), config, path)


def build_network(architecture: Architecture, source: str = "architecture") -> LKCANet:
    """The network that a configuration describes, freshly initialised; InputError where it describes none."""
    for name, value in architecture.config.items():
        if isinstance(value, (int, float)) and abs(value) > _MAX_FIELD:
            raise InputError(f"{source}: 'architecture.config.{name}' is {value}; no network is that large")
    try:
        return LKCANet(LKCANetConfig.from_dict(architecture.config))
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: 'architecture.config' describes no network ({error})") from error


def _skeleton(
    architecture: Architecture, shapes: Mapping[str, tuple[int, ...]], config_path: Path, weights_path: Path
) -> LKCANet:
    """The network on the meta device, its tensors compared with those in the file: no memory taken yet."""
    blocks = architecture.config.get("blocks")
    if isinstance(blocks, int) and blocks > len(shapes):
        raise InputError(
            f"{config_path}: 'architecture.config.blocks' is {blocks} but {weights_path.name} holds only "
            f"{len(shapes)} tensors; the two files do not belong together"
        )
    with torch.device("meta"):
        net = build_network(architecture, str(config_path))
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            found = f"has shape {shapes[name]}" if name in shapes else "is missing"
            wanted = f"has shape {expected[name]}" if name in expected else "has no such tensor"
            raise InputError(
                f"{weights_path}: the tensor '{name}' {found}, but the network of {config_path.name} {wanted}; "
                "the two files do not belong together: copy or fit the model again"
            )
    return net


def _inside(folder: Path, name: str) -> Path:
    """``folder/name`` if it is a regular file that lies in the folder."""
    path = folder / name
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(
            f"{folder}: has no readable {name} ({error.strerror}); a model is a directory as 'lkca fit' writes it"
        ) from error
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: is a link that leads out of the model directory; copy the real file there")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is not a regular file; copy or fit the model again")
    return path


def _read_bounded(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if len(content) > _MAX_CONFIG_BYTES:
        raise InputError(f"{path}: is larger than 16 MiB, which no model configuration is")
    return content


def _check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{source}: the tensor '{name}' holds NaN or infinite values; fit the model again")


def _swap(aside: Path, path: Path) -> None:
    """Puts ``aside`` in the place of ``path``; the directory that was there comes back where that fails."""
    if not path.exists():
        aside.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_OLD, dir=path.absolute().parent))
    try:
        path.rename(old / path.name)
        aside.rename(path)
    except BaseException:  # Ctrl-C too, which is told after the rename that it met
        if not path.exists() and (old / path.name).exists():
            (old / path.name).rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def recover_model(path: str | os.PathLike[str]) -> None:
    """Clears away what a :func:`save_model` that was killed left beside ``path``; nothing else may be saving there.

    A model that it had moved away, with the new one not yet in its place, comes back.
    """
    path = Path(path)
    for left in path.absolute().parent.iterdir():
        if left.name.startswith(f".{path.name}.") and left.suffix in (_NEW, _OLD):
            if not path.exists() and (left / path.name).is_dir():
                (left / path.name).rename(path)
            shutil.rmtree(left, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def describe_architecture(net: LKCANet) -> Architecture:
    """The entry of ``config.json`` that :func:`build_network` turns back into this network's class and sizes."""
    return Architecture(config=dataclasses.asdict(net.config))


def package_versions() -> dict[str, str]:
    """The entry ``versions`` of ``config.json``: lkca, torch, numpy; "unknown" for what is not installed."""
    return {"lkca": lkca.__version__, **{name: package_version(name) or "unknown" for name in ("torch", "numpy")}}
