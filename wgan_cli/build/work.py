"""Measure a run's work, and choose the number of threads that this work can use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wgan_cli.build.networks import build_generator, build_unconstrained_critic
from wgan_cli.distributed.process import Process
from wgan_cli.evaluation.sampling import evaluating
from wgan_cli.machine import LEAST_THREADS, most_threads, useful_threads
from wgan_cli.schema import FilledConfig

# A batch of two is enough to count, because work grows linearly with the batch.
_COUNTED = 2


def training_threads(
    config: FilledConfig, device: str, shape: Sequence[int], classes: int | None
) -> int:
    """Return the number of CPU threads for training: by cores and, on a CPU, by work.

    `shape` is the shape of a sample, and `classes` the number of classes of a conditional run.
    """
    most = most_threads()
    # Do not build networks where the answer is known. On CUDA, threads serve evaluations only.
    if most <= LEAST_THREADS or device != "cpu":
        return most
    return min(most, useful_threads(multiply_adds(config, shape, classes)))


def multiply_adds(config: FilledConfig, shape: Sequence[int], classes: int | None) -> float:
    """Return the multiplications, in products and convolutions, of both networks on one batch.

    The batch is this process's share of it. Networks for which the trial fails count as endless
    work: the trainer may still train them, or else will say what is wrong.
    """
    # This import loads triton, if that is installed, which takes a tenth of a second.
    from torch.utils.flop_counter import FlopCounterMode

    labels = [] if classes is None else [torch.zeros(_COUNTED, dtype=torch.int64)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            generator = build_generator(config.model, config.latent_dim, shape, classes)
            critic = build_unconstrained_critic(config, shape, classes)
            with evaluating(generator, critic), FlopCounterMode(display=False) as counter:
                samples = generator(torch.zeros(_COUNTED, config.latent_dim), *labels)
                critic(samples, *labels)
        except Exception:
            return float("inf")
    # The counter counts a multiplication and an addition as two operations.
    share = config.batch_size / Process.current().world
    return counter.get_total_flops() / 2 / _COUNTED * share
