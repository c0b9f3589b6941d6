"""Protocols of one large scene: which part is used, which tiles test, which strip validates. docs/protocols.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lkca.data.cube import Cube
from lkca.data.protocols.dataset import DatasetWriter
from lkca.data.protocols.statistics import check_layout
from lkca.data.readers import open_cube
from lkca.data.window import Window
from lkca.errors import InputError

__all__ = ["CHIKUSEI", "HOUSTON2018", "PAVIA", "SceneProtocol", "tiles"]


def tiles(window: Window, height: int, width: int, prefix: str) -> tuple[tuple[str, Window], ...]:
    """As many whole ``height`` x ``width`` tiles as fit, row by row, named PREFIX_1, PREFIX_2, …"""
    corners = [
        (row, col)
        for row in range(window.row, window.row + window.height - height + 1, height)
        for col in range(window.col, window.col + window.width - width + 1, width)
    ]
    return tuple((f"{prefix}_{i}", Window(row, col, height, width)) for i, (row, col) in enumerate(corners, 1))


@dataclass(frozen=True)
class SceneProtocol:
    """How one scene becomes a data set.

    patterns: of the file's name, the preferred first. variable: in a .mat file. shape: (rows, cols, bands) of the file;
    of ``surplus`` + bands the last ``surplus`` are no spectral bands. crop: the part in use; the other windows count
    from its corner. peak: the value that stands for 1; None: the largest sample of the crop. text: the protocol in a
    sentence. url: where the file comes from.
    """

    name: str
    patterns: tuple[str, ...]
    variable: str
    shape: tuple[int, int, int]
    crop: Window
    test: tuple[tuple[str, Window], ...]
    train: Window
    validation: tuple[tuple[str, Window], ...]
    text: str
    url: str
    peak: float | None = None
    surplus: int = 0

    def find(self, root: Path) -> Path:
        """The scene's file under ``root``; InputError where it is missing or not the only one of its pattern."""
        if not root.is_dir():
            raise InputError(f"{root}: is no folder; give the one that holds {self.patterns[0]} with --root")
        for pattern in self.patterns:
            found = sorted(path for path in root.rglob(pattern) if path.is_file())
            if len(found) > 1:
                raise InputError(f"{root}: holds {len(found)} files {pattern} ({found[0]}, {found[1]}); keep one there")
            if found:
                return found[0]
        raise InputError(
            f"{root}: holds no {' or '.join(self.patterns)}; download the scene from {self.url} and unpack it there"
        )

    def open(self, root: Path) -> Cube:
        """The scene, its spectral bands only. InputError unless it has the expected shape."""
        path = self.find(root)
        matlab = path.suffix.lower() == ".mat"
        cube = open_cube(path, variable=self.variable if matlab else None, axes="rcb" if matlab else None)
        rows, cols, bands = self.shape
        if cube.shape == (rows, cols, bands + self.surplus) and self.surplus:
            return cube.select(np.arange(bands))
        if cube.shape != self.shape:
            found = " x ".join(map(str, cube.shape))
            cube.close()
            raise InputError(
                f"{path}: has {found} rows, columns and bands, the {self.name} scene {rows} x {cols} x {bands}; "
                f"download it again from {self.url}"
            )
        return cube

    def write(self, writer: DatasetWriter, root: Path) -> None:
        """Copy the splits from the file under ``root``."""
        with self.open(root) as cube:
            scene = cube.region(self.crop)
            check_layout(scene)
            writer.add("train", self.name, scene, self.train)
            for name, window in self.validation:
                writer.add("validation", name, scene, window)
            for name, window in self.test:
                writer.add("test", name, scene, window)
            writer.finish(self.name, self.text, self.peak, cube.meta.wavelengths)


CHIKUSEI = SceneProtocol(
    name="chikusei",
    patterns=("HyperspecVNIR_Chikusei_20140729.mat", "HyperspecVNIR_Chikusei_20140729.hdr"),
    variable="chikusei",
    shape=(2517, 2335, 128),
    crop=Window(106, 143, 2304, 2048),
    test=tiles(Window(0, 0, 512, 2048), 512, 512, "chikusei"),
    train=Window(512, 0, 1616, 2048),
    validation=tiles(Window(2128, 0, 176, 2048), 176, 512, "chikusei"),
    text="SSPSR (Jiang et al. 2020): rows 107:2410 and columns 144:2191, divided by the crop's maximum; the first 512 "
    "rows are four test tiles of 512 x 512, the rest trains, of which its last 176 rows (10 %) validate.",
    url="https://naotoyokoya.com/Download.html",
)

PAVIA = SceneProtocol(
    name="pavia",
    patterns=("Pavia.mat",),
    variable="pavia",
    shape=(1096, 715, 102),
    crop=Window(0, 0, 1096, 715),
    test=tiles(Window(0, 0, 1096, 224), 224, 224, "pavia"),
    train=Window(0, 224, 984, 491),
    validation=tiles(Window(984, 224, 112, 488), 112, 488, "pavia"),
    peak=8000.0,
    text="SSPSR (Jiang et al. 2020): all 1096 x 715 pixels, divided by 8000; the first 224 columns hold four test "
    "tiles of 224 x 224, the rest trains, of which its last 112 rows (10 %) validate.",
    url="https://www.ehu.eus/ccwintco/index.php/Hyperspectral_Remote_Sensing_Scenes",
)

HOUSTON2018 = SceneProtocol(
    name="houston2018",
    patterns=("20170218_UH_CASI_S4_NAD83.pix", "20170218_UH_CASI_S4_NAD83.hdr", "Houston2018.mat"),
    variable="houston",
    shape=(1202, 4768, 48),
    surplus=2,
    crop=Window(0, 0, 1202, 4768),
    test=tiles(Window(0, 0, 1202, 512), 256, 256, "houston2018"),
    train=Window(0, 512, 1202, 3832),
    validation=tiles(Window(0, 4344, 1202, 424), 400, 424, "houston2018"),
    text="48 bands of 1202 x 4768 pixels, divided by their maximum; the first 512 columns hold eight test tiles of "
    "256 x 256, the rest trains, of which its last 424 columns (10 %) validate. The split is lkca's own.",
    url="https://hyperspectral.ee.uh.edu/?page_id=1075",
)
