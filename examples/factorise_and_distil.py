"""Cut an upsampler to a low rank, bring it back by distillation: ``python examples/factorise_and_distil.py``.

The network and its images are small, so that this runs in seconds; the steps are those of a real one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lkca.data import synthetic_scene
from lkca.data.degradation import Degradation
from lkca.lowrank import factorize
from lkca.models.edsr import EDSR
from lkca.training.distill import DistillRecipe, distill
from lkca.training.distillation import Point
from lkca.training.loop import Schedule, train_loop
from lkca.training.progress import Budget

SCALE, PATCH = 4, 12


def main() -> None:
    torch.manual_seed(0)
    with synthetic_scene(rows=192, cols=128, bands=12) as cube:
        scene = torch.from_numpy(cube.read())
    scene = scene / scene.max()
    learn, judge = scene[:, :144], scene[:, 144:]
    degrade = Degradation(scale=SCALE).apply

    def draw() -> tuple[Tensor, Tensor, None]:
        side = SCALE * PATCH
        corners = [(int(torch.randint(144 - side, ())), int(torch.randint(128 - side, ()))) for _ in range(4)]
        sharp = torch.stack([learn[:, row : row + side, col : col + side] for row, col in corners])
        return degrade(sharp), sharp, None

    def psnr(network: nn.Module) -> float:
        network.eval()
        with torch.inference_mode():
            error = network(degrade(judge)[None])[0] - judge
        return float(-10 * error.square().mean().log10())

    teacher = EDSR(bands=12, scale=SCALE, width=16, blocks=2, upsampler="bands")

    def supervised(position: float) -> Tensor:
        degraded, sharp, _ = draw()
        return (teacher(degraded) - sharp).abs().mean()

    train_loop(teacher, supervised, Schedule(0.0, 1.0, lr=2e-3), Budget(None, 150))
    print(f"teacher                      {psnr(teacher):.2f} dB")

    student = factorize(teacher, rank=2)
    print(f"rank 2 by SVD, nothing after {psnr(student):.2f} dB")
    recipe = DistillRecipe(points=(Point("upsample", where="input"),), warmup_share=0.2)
    distill(teacher, student.train(), draw, budget=Budget(None, 100), recipe=recipe)
    print(f"… and distilled              {psnr(student):.2f} dB")


if __name__ == "__main__":
    main()
