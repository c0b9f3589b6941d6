"""The CAVE protocol (Yasuma et al. 2008): whole scenes for training, validation and test. docs/protocols.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from lkca.data.cube import Cube
from lkca.data.gdal import without_place
from lkca.data.meta import CubeMeta
from lkca.data.protocols.dataset import DatasetWriter, Split
from lkca.data.protocols.statistics import check_layout
from lkca.data.readers import open_cube
from lkca.errors import InputError

__all__ = ["CAVE_TEST", "CAVE_VALIDATION", "WAVELENGTHS", "write_cave"]

WAVELENGTHS = np.arange(400.0, 701.0, 10.0)  # nm

# The eight that the 24-scene archive lacks, and its two test scenes: no scene trains in one layout and tests in the
# other. Validation: two training scenes without a twin among the others.
CAVE_TEST = (
    "beads", "chart_and_stuffed_toy", "cloth", "face", "flowers", "glass_tiles", "jelly_beans", "photo_and_face",
    "pompoms", "thread_spools",
)  # fmt: skip
CAVE_VALIDATION = ("feathers", "sponges")

TEXT = (
    "Whole scenes divided by full scale (65535; 4095 for the 12-bit archive). Test: "
    + ", ".join(CAVE_TEST)
    + "; validation: "
    + ", ".join(CAVE_VALIDATION)
    + "; the rest trains. SSPSR draws its 20 training scenes at random and does not name them; this list is lkca's own."
)
URL = "https://www.cs.columbia.edu/CAVE/databases/multispectral/"
_FULL_SCALE = {"png": 65535.0, "npz": 4095.0}


def write_cave(writer: DatasetWriter, root: Path) -> None:
    """Copy the scenes under ``root``: the original folders of 31 PNG files, or ``*.npz`` archives of 12-bit cubes."""
    kind, scenes = _find(root)
    for split in ("train", "validation", "test"):
        for name, opened in scenes.items():
            if _split(name) == split:
                with opened() as cube:
                    check_layout(cube)
                    writer.add(split, name, cube)
    writer.finish("cave", TEXT, _FULL_SCALE[kind], WAVELENGTHS)


def _split(name: str) -> Split:
    return "test" if name in CAVE_TEST else "validation" if name in CAVE_VALIDATION else "train"


def _find(root: Path) -> tuple[str, dict[str, Callable[[], Cube]]]:
    if not root.is_dir():
        raise InputError(f"{root}: is no folder; give the one that holds the CAVE scenes with --root")
    first = sorted(root.rglob("*_ms_01.png"))
    if first:
        return "png", {p.name.removesuffix("_ms_01.png"): partial(_read_pngs, p) for p in first}
    archives = sorted(root.glob("*.npz"))
    if archives:
        return "npz", {p.stem: partial(_read_npz, p) for p in archives}
    raise InputError(
        f"{root}: holds neither SCENE_ms/SCENE_ms_01.png nor SCENE.npz; download the scenes from {URL} and unpack them"
    )


def _read_npz(path: Path) -> Cube:
    cube = open_cube(path)
    if cube.bands != len(WAVELENGTHS):
        raise InputError(f"{path}: has {cube.bands} bands, a CAVE scene {len(WAVELENGTHS)}; give the CAVE folder alone")
    return cube


def _read_pngs(first: Path) -> Cube:
    """The 31 PNG files of a scene as one cube of uint16 samples."""
    bands = []
    for number in range(1, len(WAVELENGTHS) + 1):
        path = first.with_name(first.name.replace("_01.png", f"_{number:02d}.png"))
        if not path.is_file():
            raise InputError(f"{path}: is missing, one of the scene's {len(WAVELENGTHS)} bands; unpack it again")
        bands.append(_read_png(path))
        if bands[-1].shape != bands[0].shape:
            raise InputError(f"{path}: has {bands[-1].shape} pixels, {first.name} {bands[0].shape}; unpack it again")
    meta = CubeMeta(wavelengths=WAVELENGTHS, stored_dtype=np.dtype(np.uint16))
    return Cube.from_array(np.stack(bands), meta, source=str(first.parent))


def _read_png(path: Path) -> np.ndarray:
    """One band, uint16. One scene (watercolors) is stored as 8-bit colour: equal channels, of which one is taken."""
    try:
        with without_place(), rasterio.open(path) as image:
            channels = image.read()
    except RasterioError as error:
        raise InputError(f"{path}: cannot be read ({error}); it may be damaged, unpack it again") from error
    colours = channels[:3] if len(channels) >= 3 else channels[:1]
    if colours.dtype not in (np.uint8, np.uint16) or (colours != colours[0]).any():
        raise InputError(f"{path}: is no grey image of 8 or 16 bits; expected one band of a CAVE scene")
    grey = colours[0]
    result: np.ndarray = grey.astype(np.uint16) * 257 if grey.dtype == np.uint8 else grey
    return result
