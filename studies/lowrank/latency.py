"""Latency of the study's LKCA-Net by rank of its upsampler: ``python -m studies.lowrank.latency``."""

from __future__ import annotations

import torch

from lkca.fitting.factorize import latencies
from lkca.lowrank import factorize
from lkca.models import LKCANet
from studies.lowrank.networks import SCALE, network


def main() -> None:
    for bands in (31, 205):
        net = network("lkcanet", bands)
        assert isinstance(net, LKCANet)
        torch.nn.init.normal_(net.upsample.conv.weight)  # type: ignore[arg-type, union-attr]
        ranks = (64, 32, 16, 8, 4)
        nets = [net.eval(), *(factorize(net, rank=rank) for rank in ranks)]
        seconds = latencies(nets, side=32, rounds=15)
        for rank, spent in zip(("full", *ranks), seconds, strict=True):
            print(f"{bands} bands ×{SCALE}, 32×32, rank {rank}: {1000 * spent:.1f} ms, {seconds[0] / spent:.2f}×")
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}")


if __name__ == "__main__":
    main()
