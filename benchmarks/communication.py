"""What several processes of one run cost: python -m benchmarks.communication [--ranks 2].

Milliseconds a generator step in one process and in several, of the same batch shared out and of a
batch as large for each; the part of them that all-reduces take, waiting for the slower rank
included; and, apart from training, one sum of a flat message beside a sum a parameter. One thread
each, gloo, on random images of MNIST's and of CIFAR-10's shape.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]

from benchmarks.workloads import composed
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.build import build_dataset, build_trainer
from wgan_cli.commands.composition import quoted
from wgan_cli.distributed.process import Process
from wgan_cli.distributed.process_group import ALONE, ProcessGroup, SingleProcess

# Model, image shape, and steps a block. All with 5 critic updates.
WORKLOADS = {"mlp": ((28, 28), 20), "dcgan": ((32, 32, 3), 2)}
BATCH = 64
BLOCKS = 5


class TimedGroup(ProcessGroup):
    """Ranks that count the seconds and bytes of their messages."""

    seconds = 0.0
    bytes = 0

    def average(self, network: TrainedNetwork, terms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """As those do."""
        start = time.perf_counter()
        means = super().average(network, terms)
        self.seconds += time.perf_counter() - start
        self.bytes += 4 * (sum(p.numel() for p in network.optimizer_parameters) + len(terms) + 3)
        return means


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    ranks = parser.parse_args().ranks
    print(f"{'':8}{'ranks':>6}{'batch':>7}{'ms/step':>9}{'all-reduce':>12}{'bytes/step':>13}")
    for model in WORKLOADS:
        for world, batch in ((1, BATCH), (ranks, BATCH), (ranks, ranks * BATCH)):
            step, share, size, flat, apart = _in_processes(world, model, batch)
            print(f"{model:8}{world:6}{batch:7}{step:9.2f}{share:12.1%}{size:13,.0f}")
        print(
            f"{'':8}a sum of the critic's gradients: flat {flat:.2f} ms, a parameter {apart:.2f} ms"
        )


def _in_processes(world: int, model: str, batch: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        shape, _ = WORKLOADS[model]
        images = np.random.default_rng(0).integers(0, 256, (2000, *shape), dtype=np.uint8)
        np.save(Path(folder) / "images.npy", images)
        if world == 1:
            _measure(0, world, model, batch, Path(folder))
        else:
            fresh = multiprocessing.get_context("spawn")
            processes = [
                fresh.Process(target=_measure, args=(rank, world, model, batch, Path(folder)))
                for rank in range(world)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        result: list[float] = torch.load(Path(folder) / "result.pt", weights_only=True)
        return result


def _measure(rank: int, world: int, model: str, batch: int, folder: Path) -> None:
    path = f"dataset.path={quoted(str(folder / 'images.npy'))}"
    words = ["dataset=array", path, f"model={model}", f"batch_size={batch}", "n_critic=5"]
    config, device = composed([*words, "device=cpu", "threads=1"])
    ranks: SingleProcess = ALONE
    if world > 1:
        ranks = TimedGroup(
            Process(rank, world, rank, world), FileStore(str(folder / "store"), world)
        )
        ranks.connect({}, device)
    trainer = build_trainer(config, build_dataset(config), device, ranks)
    _, steps = WORKLOADS[model]
    trainer.train_step()
    steps_ms, shares = [], []
    for _ in range(BLOCKS):
        before = ranks.seconds if isinstance(ranks, TimedGroup) else 0.0
        start = time.perf_counter()
        for _ in range(steps):
            trainer.train_step()
        whole = time.perf_counter() - start
        steps_ms.append(1e3 * whole / steps)
        if isinstance(ranks, TimedGroup):
            shares.append((ranks.seconds - before) / whole)
    flat = apart = size = 0.0
    if isinstance(ranks, TimedGroup):
        size = ranks.bytes / (1 + BLOCKS * steps)
        own = [torch.zeros_like(p) for p in trainer.updates.critic.parameters()]
        one = [torch.zeros(sum(p.numel() for p in own))]
        flat, apart = (_milliseconds(tensors) for tensors in (one, own))
        ranks.close(failed=False)
    if rank == 0:
        middle = statistics.median
        torch.save(
            [middle(steps_ms), middle(shares or [0.0]), size, flat, apart], folder / "result.pt"
        )


def _milliseconds(tensors: Sequence[torch.Tensor]) -> float:
    """That reducing these one after another takes, the ranks starting together."""
    taken = []
    for _ in range(20):
        dist.barrier()
        start = time.perf_counter()
        for tensor in tensors:
            dist.all_reduce(tensor)
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


if __name__ == "__main__":
    main()
