"""Files that JPL's imaging spectrometers (AVIRIS, AVIRIS-NG, AVIRIS-3, EMIT) have beside their spectral images.

Names: the distribution documents of these products, such as ANG_L1B_L2_Data_Product_Readme (AVIRIS-NG), and EMIT's at
LP DAAC. A flight line or granule is told by its time, geometry and quality by a word of the name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["accessories"]

# f080611t01p00r07 (AVIRIS), ang20170228t170016, AV320230821t173024, EMIT_L2A_RFL_001_20230316T045133
_LINE = re.compile(r"^(?:f|ang|av3|emit(?:_\w*?_)?)(\d{6,8}t\d{2,6}(?:p\d\dr\d\d)?)", re.I)
_GEOMETRY = {"glt", "igm", "loc", "obs"}
_QUALITY = {"mask", "rfluncert", "unc"}


def accessories(files: Sequence[Path]) -> list[Path]:
    """Those of ``files`` that are geometry or quality of a spectral image among them, and no scene of their own."""
    parts = [(file, line[1].lower(), _is_accessory(file)) for file in files if (line := _LINE.match(file.name))]
    images = {line for _, line, accessory in parts if not accessory}
    return [file for file, line, accessory in parts if accessory and line in images]


def _is_accessory(file: Path) -> bool:
    return not (_GEOMETRY | _QUALITY).isdisjoint(re.split("[_.]", file.name.lower()))
