"""Export of a model directory: write aside, compare, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lkca.errors import InputError, LkcaError, OutputError
from lkca.export.check import TOLERANCE, Check, compare, largest
from lkca.export.formats import FORMATS, SUFFIXES, Format, requirements, write
from lkca.export.model import PhysicalModel, describe
from lkca.models.directory import LoadedModel
from lkca.output import check_output

__all__ = ["Exported", "export_model"]


@dataclass(frozen=True)
class Exported:
    """What was written. plain: holds PyTorch's own operations only. metadata: as in the file."""

    path: Path
    format: Format
    plain: bool
    bytes: int
    checks: tuple[Check, ...]
    metadata: dict[str, str]

    @property
    def error(self) -> float:
        """The largest error of the checks, as a share of the data range."""
        return largest(self.checks)


def export_model(
    model: LoadedModel,
    path: str | os.PathLike[str],
    to: Format,
    *,
    plain: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a model as ONNX, as a torch.export package or as an AOTInductor package for this machine's CPU.

    The file takes and gives physical values (:class:`PhysicalModel`), with batch, rows and cols free. It is written
    aside, run, compared with the model on three sizes, and takes its name only if no value differs by more than 1e-4 of
    the data range. ``plain`` keeps lkca's operators out of pt2 and aoti files; ONNX never has any.

    Raises InputError for another format or suffix, an output that exists or what this machine lacks; OutputError where
    torch cannot export the model, the file cannot be written, or its results differ. Nothing is left then.
    """
    path = Path(path)
    if to not in FORMATS:
        raise InputError(f"the format '{to}' is unknown; choose {', '.join(FORMATS)}")
    if path.suffix != SUFFIXES[to]:
        raise InputError(f"{path}: a file of format {to} ends in {SUFFIXES[to]}; rename the output")
    check_output(path, overwrite=overwrite)
    requirements(to, plain=plain)
    module = PhysicalModel(model).eval()
    bands, metadata = model.net.config.bands, describe(model)
    aside = None
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.absolute().parent))
        file = aside / path.name
        checks = compare(module, write(module, bands, file, to, metadata, plain=plain), bands, model.net.halo)
        error = largest(checks)
        if error > TOLERANCE:
            raise OutputError(
                f"{path}: not written, its results differ from the model's by {error:.1e} of the data range "
                f"(allowed: {TOLERANCE:.0e}); update torch and onnxruntime, or report it"
            )
        done = Exported(path, to, plain or to == "onnx", file.stat().st_size, checks, metadata)
        os.replace(file, path)
    except LkcaError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
    except Exception as error:  # the exporters and compilers raise whatever they like
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        raise OutputError(f"{path}: torch could not export the model ({type(error).__name__}: {first})") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return done
