"""Scores the shipped models on the public test scenes: ``python -m studies.shipped.measure DATA [NAME...] [--write]``.

Each scene is degraded (MATLAB's bicubic), restored by ``lkca.evaluation.evaluate_model`` as ``lkca evaluate -m NAME``
does it, and compared with itself. ``--write`` records the numbers in the package, where ``lkca models`` and
docs/models.md take them from. No choice may be made on these scenes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lkca.data import open_cube
from lkca.evaluation import evaluate_model
from lkca.models.shipped import MEASURED_FILE, SHIPPED
from studies.common.scenes import TEST

SCORES = ("mpsnr", "sam", "mssim", "ergas")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with cubes/ and cave/")
    parser.add_argument("names", nargs="*", default=list(SHIPPED), help="of models, all by default")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    if MEASURED_FILE.is_file():
        found = json.loads(MEASURED_FILE.read_text(encoding="utf-8"))
    print("| model | scene | scale | MPSNR bicubic → model (dB) | gain | SAM bicubic → model (°) | |")
    print("|---|---|---|---|---:|---|---:|")
    for model in map(SHIPPED.__getitem__, args.names):
        scores: dict[str, Any] = {}
        found[model.name] = {"weights": model.digest, "scores": scores}
        for scale in model.scales:
            scenes = [(folder, scene) for folder in (TEST if model.any_bands else ("cave",)) for scene in TEST[folder]]
            for folder, scene in scenes:
                with open_cube(str(args.data / folder / f"{scene}.npz")) as cube:
                    result = evaluate_model(cube, model.load(scale), scale)
                entry = {kind: {key: round(getattr(m, key), 4) for key in SCORES} for kind, m in result.scores.items()}
                scores.setdefault(str(scale), {})[scene] = entry
                base, ours = entry["bicubic"], entry["model"]
                print(
                    f"| `{model.name}` | {scene} | ×{scale} | {base['mpsnr']:.2f} → {ours['mpsnr']:.2f} "
                    f"| {ours['mpsnr'] - base['mpsnr']:+.2f} | {base['sam']:.2f} → {ours['sam']:.2f} "
                    f"| {100 * (ours['sam'] / base['sam'] - 1):+.1f} % |",
                    flush=True,
                )
    if args.write:
        MEASURED_FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
