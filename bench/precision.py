"""Do fewer bits pay on this CPU? ``python bench/precision.py``: float32, bfloat16 and int8 of the general model.

The built-in scene, made 4 times coarser, goes through the general model; per form of it the CPU time of one thread
(median of calls in turns) and the MPSNR of the result. int8: ONNX Runtime's static quantisation (QDQ, per channel),
calibrated on the same coarse scene, which is the best case for it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lkca.data import Cube, synthetic_scene
from lkca.data.degradation import degrade
from lkca.export import PhysicalModel, export_model
from lkca.inference.adapt import adapt
from lkca.metrics import evaluate
from lkca.models.directory import LoadedModel
from lkca.models.prior import shipped_prior

SCALE = 4


def half(model: LoadedModel) -> Callable[[Tensor], Tensor]:
    """The network in bfloat16, its normalisation in float32."""
    module = PhysicalModel(model)
    net = copy.deepcopy(model.net).to(torch.bfloat16)

    def run(x: Tensor) -> Tensor:
        y = net(((x - module.offset) / module.peak).bfloat16()).float() * module.peak + module.offset
        return y if module.least is None else torch.maximum(y, module.least)

    return run


def session(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    runs = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(runs.run(None, {"cube": x.numpy()})[0])


def quantised(path: Path, x: Tensor) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static, shape_inference

    class Scene(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items: Iterator[dict[str, np.ndarray]] = iter([{"cube": x.numpy()}])

        def get_next(self) -> Any:
            return next(self.items, None)

    ready, out = path.with_name("ready.onnx"), path.with_name("int8.onnx")
    shape_inference.quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    quantize_static(str(ready), str(out), Scene(), per_channel=True, op_types_to_quantize=["Conv", "MatMul"])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bands", type=int, default=64)
    parser.add_argument("--size", type=int, default=256, help="fine pixels per side")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prior = shipped_prior()
    assert prior is not None
    with synthetic_scene(arguments.size, arguments.size, arguments.bands) as scene:
        truth = torch.from_numpy(scene.read())
        coarse = degrade(truth, SCALE)
        model = adapt(Cube.from_array(coarse.numpy(), scene.meta, source="coarse"), prior, SCALE)
    used = model.config.bands.used
    truth, x = truth[used], coarse[used][None].contiguous()
    module = PhysicalModel(model)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "model.onnx"
        with torch.inference_mode(False):
            export_model(model, path, "onnx")
        forms: dict[str, Callable[[Tensor], Tensor]] = {
            "lkca float32": module,
            "lkca bfloat16": half(model),
            "ONNX Runtime float32": session(path),
            "ONNX Runtime int8": session(quantised(path, x)),
        }
        results = {name: form(x) for name, form in forms.items()}
        times: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(arguments.rounds):
            for name, form in forms.items():
                begin = time.process_time()
                form(x)
                times[name].append(time.process_time() - begin)
    print(f"{len(used)} bands, x{SCALE}, {tuple(x.shape[2:])} coarse pixels, one thread, torch {torch.__version__}")
    for name, result in results.items():
        mpsnr = evaluate(truth, result[0], scale=SCALE).mpsnr
        print(f"{name:22} {1e3 * statistics.median(times[name]):8.1f} ms CPU   MPSNR {mpsnr:.3f} dB")


if __name__ == "__main__":
    main()
