"""Train on the CAVE images and use the result: ``python examples/train_on_cave.py [CAVE_FOLDER RUN]``.

CAVE_FOLDER is the unpacked download (``*_ms`` folders of PNG files) or a folder of ``.npz`` scenes. Without arguments
four stand-ins of the same layout are made, and the training is a few steps long.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import lkca


def lkca_command(*words: str | Path) -> None:
    print("lkca", *words)
    subprocess.run([sys.executable, "-m", "lkca", *map(str, words)], check=True)


def stand_ins(folder: Path) -> None:
    """31 bands, 12 bits, as the packed scenes have them."""
    for seed, name in enumerate(("balloons", "beads", "cd", "pompoms")):
        with lkca.synthetic_scene(rows=64, cols=64, bands=31, seed=seed) as cube:
            values = np.moveaxis(cube.read(), 0, 2)
        np.savez(folder / f"{name}.npz", cube=(4095 * values.clip(0, 1)).astype(np.uint16))


def main(cave: Path, run: Path, *changes: str) -> None:
    dataset = run.with_suffix(".h5")
    lkca_command("prepare", "cave", "--root", cave, "-o", dataset)
    config = Path(__file__).resolve().parents[1] / "configs" / "cave_x4_base.yaml"
    lkca_command("train", config, f"data.dataset={dataset}", *changes, "-o", run)
    lkca_command("evaluate", "-m", run / "best", f"{dataset}::/test/beads", "-s", "4")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            stand_ins(Path(folder))
            quick = ("model.preset=tiny", "steps=4", "batch=2", "validate_every=4", "tensorboard=false")
            main(Path(folder), Path(folder) / "run", *quick)
