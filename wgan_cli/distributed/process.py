"""Where a process stands among those that train one run together."""

from __future__ import annotations

import os
from dataclasses import dataclass

from wgan_cli.errors import ConfigError


@dataclass(frozen=True)
class Process:
    """Its `rank` of `world`, and its `local` one of `beside` on its `machine`, all from 0."""

    rank: int = 0
    world: int = 1
    local: int = 0
    beside: int = 1
    machine: int = 0

    @classmethod
    def here(cls) -> Process:
        """What torchrun says in the environment; a process of its own where it says nothing."""
        told = os.environ
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= told.keys():
            return cls()
        return cls(
            rank=int(told["RANK"]),
            world=int(told["WORLD_SIZE"]),
            local=int(told.get("LOCAL_RANK", told["RANK"])),
            beside=int(told.get("LOCAL_WORLD_SIZE", told["WORLD_SIZE"])),
            machine=int(told.get("GROUP_RANK", 0)),
        )

    @property
    def command(self) -> str:
        """What is typed before a run's words to start it in as many processes."""
        if self.world == 1:
            return "wgan-train"
        machines = self.world // self.beside
        nodes = f"--nnodes={machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc-per-node={self.beside} -m wgan_cli"


ALONE = Process()


def refuse_in_several(place: Process, *, sweep: bool) -> None:
    """Raise `ConfigError` for a sweep in several processes."""
    if place.world > 1 and sweep:
        raise ConfigError(
            "-m starts many runs, and torchrun trains one run in many processes: leave one of them"
            " out, or use hydra/launcher=joblib for several runs at once."
        )


def refuse_uneven(place: Process, batch_size: int, *, going_on: bool = False) -> None:
    """Raise `ConfigError` for a batch of which the processes' parts would differ in size.

    A run that goes on keeps its batch; for it other numbers of processes are named.
    """
    if batch_size % place.world and going_on:
        few = [str(n) for n in range(1, 2 * place.world) if batch_size % n == 0]
        raise ConfigError(
            f"This run's batch_size={batch_size} is that of all processes together and must be"
            f" divisible by their number, which is {place.world}: go on in {' or '.join(few)}."
        )
    if batch_size % place.world:
        less = batch_size - batch_size % place.world
        fitting = [f"batch_size={size}" for size in (less, less + place.world) if size]
        raise ConfigError(
            f"batch_size={batch_size} is that of all {place.world} processes together and must be"
            f" divisible by {place.world}: type {' or '.join(fitting)}."
        )
