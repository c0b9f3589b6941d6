"""What is exported: the network between its normalisation and back, and what has to be known to use it."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from lkca.models.directory import LoadedModel

__all__ = ["INPUT", "OUTPUT", "PhysicalModel", "describe", "traced"]

INPUT, OUTPUT = "cube", "upscaled"
_EXAMPLE = (2, 19, 17)  # batch, rows, cols while tracing; none of them is 0 or 1, which torch.export would keep


class PhysicalModel(nn.Module):
    """(B, bands, rows, cols), float32, physical units -> (B, bands, s·rows, s·cols): what ``lkca upscale`` computes.

    The bands are those that the network sees (``bands.used`` of ``config.json``), all valid: missing samples, bad bands
    and bands that the model does not use are the caller's matter.
    """

    least: Tensor | None  # of each band's results

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.net = model.net
        self.offset = model.config.normalisation.offset
        self.peak = model.config.normalisation.peak
        bands = model.config.bands
        least = [0.0 if band in set(bands.nonnegative) else -torch.inf for band in bands.used]
        self.register_buffer(
            "least", torch.tensor(least, dtype=torch.float32)[:, None, None] if bands.nonnegative else None
        )

    def forward(self, cube: Tensor) -> Tensor:
        result: Tensor = self.net((cube - self.offset) / self.peak) * self.peak + self.offset
        return result if self.least is None else torch.maximum(result, self.least)


def describe(model: LoadedModel) -> dict[str, str]:
    """What a program that uses the exported file has to know; names and JSON values, as all three formats can hold.

    lkca.halo: pixels of margin with which a tile gives the whole scene's own result.
    """
    config = model.config
    facts = {
        "format": "lkca-export",
        "format_version": 1,
        "input": "float32 (batch, bands, rows, cols), physical units, no missing samples",
        "output": "float32 (batch, bands, scale * rows, scale * cols), physical units",
        "scale": config.scale,
        "halo": model.net.halo,
        "band_count": config.bands.count,
        "bands": config.bands.used,
        "wavelengths_nm": config.bands.wavelengths_nm,
        "fwhm_nm": config.bands.fwhm_nm,
        "offset": config.normalisation.offset,
        "peak": config.normalisation.peak,
        "degradation": config.degradation.model_dump(mode="json"),
        "versions": config.versions,
    }
    return {f"lkca.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def traced(module: nn.Module, bands: int) -> torch.export.ExportedProgram:
    """``module`` over (batch, ``bands``, rows, cols) by ``torch.export``, batch, rows and cols dynamic."""
    batch, rows, cols = _EXAMPLE
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("rows"), 3: torch.export.Dim("cols")}
    with torch.no_grad():
        return torch.export.export(
            module, (torch.rand(batch, bands, rows, cols, dtype=torch.float32),), dynamic_shapes=(sizes,), strict=False
        )
