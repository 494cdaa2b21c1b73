"""The rank of this process, and the number of processes of the run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from wgan_cli.errors import ConfigError


@dataclass(frozen=True)
class Process:
    """One process of a run.

    `world` is the number of processes of the run, and `rank` is the number of this process. On this
    machine, the numbers are `local_world` and `local_rank`. `machine` is the number of the machine.
    Ranks and machines are numbered from 0.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    machine: int = 0

    @classmethod
    def current(cls) -> Process:
        """Return this process from torchrun's variables, or a single process if there are none."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            return cls()
        rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
        return cls(
            rank=int(rank),
            world=int(world),
            local_rank=int(os.environ.get("LOCAL_RANK", rank)),
            local_world=int(os.environ.get("LOCAL_WORLD_SIZE", world)),
            machine=int(os.environ.get("GROUP_RANK", 0)),
        )

    @property
    def command(self) -> str:
        """The command that starts a run with this number of processes, without its arguments."""
        if self.world == 1:
            return "wgan-train"
        machines = self.world // self.local_world
        nodes = f"--nnodes={machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc-per-node={self.local_world} -m wgan_cli"


ALONE = Process()


def refuse_uneven(process: Process, batch_size: int, *, going_on: bool = False) -> None:
    """Raise `ConfigError` if the batch cannot be divided evenly among the processes.

    `going_on` is True for a resumed run. Such a run cannot change its batch size, so the message
    suggests numbers of processes instead of batch sizes.
    """
    world = process.world
    if batch_size % world and going_on:
        few = [str(n) for n in range(1, 2 * world) if batch_size % n == 0]
        raise ConfigError(
            f"This run's batch_size={batch_size} is that of all processes together and must be"
            f" divisible by their number, which is {world}: go on in {' or '.join(few)}."
        )
    if batch_size % world:
        less = batch_size - batch_size % world
        fitting = [f"batch_size={size}" for size in (less, less + world) if size]
        raise ConfigError(
            f"batch_size={batch_size} is that of all {world} processes together and must be"
            f" divisible by {world}: type {' or '.join(fitting)}."
        )
