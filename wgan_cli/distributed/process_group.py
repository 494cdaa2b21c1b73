"""Communication between the processes of a run.

In every update, the ranks sum one message. It contains the gradients, the update's terms (losses
and norms) and flags for stop signals. While rank 0 measures and writes files, the other ranks wait
for an instruction. Each process writes the reason for its end into torchrun's store, which
continues to exist after the process has ended.
"""

from __future__ import annotations

import enum
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.distributed.process import Process
from wgan_cli.errors import RankError
from wgan_cli.randomness import FULL_BATCH, Shard
from wgan_cli.stop_signals import SharedStopSignals, StopSignals

# The longest wait for the other processes to start.
_START_TIMEOUT = timedelta(minutes=30)
# The longest wait for a message. If a process is lost, the connection fails earlier.
_TIMEOUT = timedelta(days=1)
# Seconds to wait for the other ranks to report that they are alive or why they ended.
_REASON_TIMEOUT = 5.0
_POLL_SECONDS = 0.05

Result = TypeVar("Result")


class Instruction(enum.IntEnum):
    """An instruction from rank 0 to the other ranks."""

    CONTINUE = 0
    ROLL_BACK = 1
    END = 2


class SingleProcess:
    """The process group of a run with one process. `ProcessGroup` is for several processes."""

    shard: Shard = FULL_BATCH
    leads = True

    @property
    def world(self) -> int:
        """The number of processes."""
        return self.shard.world

    def connect(self, settings: dict[str, Any], device: torch.device) -> None:
        """Connect to the other processes and send `settings` to them."""

    def arrive(self, point: str) -> None:
        """Wait until all processes reach this point. Raise `RankError` if one has failed."""

    def one_per_machine_first(self, work: Callable[[], Result]) -> Result:
        """Return `work()`.

        With several processes, one per machine calls it first. The others then call it too and find
        the files that the first call wrote.
        """
        return work()

    def share_signals(self, signals: StopSignals) -> StopSignals:
        """Return stop signals that all ranks share, so that all ranks stop at the same step."""
        return signals

    def average(self, network: TrainedNetwork, terms: Sequence[Tensor]) -> list[Tensor]:
        """Average the network's gradients over all ranks; return the averages of the terms."""
        return list(terms)


ALONE = SingleProcess()


class ProcessGroup(SingleProcess):
    """The connection of a process to the others. All processes read and write `store`."""

    def __init__(self, process: Process, store: Store) -> None:
        self.process = process
        self.store = store
        self.shard = Shard(process.rank, process.world)
        self.leads = process.rank == 0
        self.signals = SharedStopSignals(StopSignals())
        self._lost_ranks: list[int] = []
        self._unreachable = False
        self._on_gpu = False

    def connect(self, settings: dict[str, Any], device: torch.device) -> None:
        """Connect to the other processes. They receive `settings` from rank 0 through the store."""
        self._on_gpu = device.type == "cuda"
        if self.leads:
            self.store.set("settings", json.dumps(settings))
        self.arrive("connect")
        if self.leads:
            self.store.set("open", "")
        elif not self._wait_for_key("open"):
            raise RankError("Rank 0 ended before the ranks were connected.")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if self._on_gpu else "gloo",
            store=PrefixStore("group", self.store),
            rank=self.process.rank,
            world_size=self.process.world,
            timeout=_TIMEOUT,
        )

    def arrive(self, point: str) -> None:
        """On rank 0, wait until all ranks reach this point. Raise `RankError` if one has failed."""
        if not self.leads:
            self._set(f"{point}/{self.process.rank}", "")
            return
        for rank in range(1, self.world):
            # Poll the store, because a wait inside torch would not notice a failure.
            while not self._has(f"{point}/{rank}"):
                failure = self.failure_of_other_rank()
                if failure is not None or self._unreachable:
                    raise failure or RankError("torchrun has ended.")
                time.sleep(_POLL_SECONDS)

    def settings(self) -> dict[str, Any] | None:
        """Wait for the settings from rank 0. Return None if rank 0 ends without training."""
        return json.loads(self.store.get("settings")) if self._wait_for_key("settings") else None

    def one_per_machine_first(self, work: Callable[[], Result]) -> Result:
        """Return `work()`. On each machine, local rank 0 calls it before the other ranks do."""
        done = f"done/{self.process.machine}"
        if self.process.local_rank > 0:
            if not self._wait_for_key(done):
                raise RankError("Rank 0 ended before the data were read.")
            return work()
        result = work()
        self.store.set(done, "")
        return result

    def average(self, network: TrainedNetwork, terms: Sequence[Tensor]) -> list[Tensor]:
        """Average the gradients over all ranks; return the averages of the terms.

        The message also contains the stop signals of all ranks.
        """
        count = len(terms) + len(SharedStopSignals.NONE)
        message = network.gradient_message(count)
        tail = message[-count:].zero_()
        torch.stack([term.to(tail.dtype) for term in terms], out=tail[: len(terms)])
        for index, signalled in enumerate(self.signals.local(), start=len(terms)):
            if signalled:
                tail[index] = 1
        try:
            dist.all_reduce(message)
        except RuntimeError:
            self.raise_lost_rank()
        message.div_(self.world)
        network.take_gradients(message)
        # Copy the values, because the next message may use the same memory.
        means = tail.clone()
        self.signals.counts = means[len(terms) :]
        return list(means[: len(terms)].unbind())

    def share_signals(self, signals: StopSignals) -> StopSignals:
        """Return the stop signals of all ranks. The ranks share their signals in every update."""
        self.signals = SharedStopSignals(signals)
        return self.signals

    def send(self, state: dict[str, Any]) -> None:
        """Send a state to all ranks as bytes, because the ranks may not share a disk."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(data)]))
        self._broadcast(data)

    def receive(self) -> dict[str, Any]:
        """Receive and return the state that rank 0 sends, with its tensors on the CPU."""
        size = self._broadcast(torch.zeros(1, dtype=torch.int64))
        data = self._broadcast(torch.empty(int(size), dtype=torch.uint8))
        sent = io.BytesIO(data.numpy().tobytes())
        state: dict[str, Any] = torch.load(sent, map_location="cpu", weights_only=True)
        return state

    def send_instruction(self, instruction: Instruction) -> None:
        """Send rank 0's instruction to the other ranks."""
        self._broadcast(torch.tensor([int(instruction)]))

    def wait_for_instruction(self) -> Instruction:
        """Wait for rank 0's instruction and return it."""
        return Instruction(int(self._broadcast(torch.zeros(1, dtype=torch.int64))))

    def report_end(self, exit_code: int, message: str = "", state: str = "failed") -> None:
        """Write into the store how this process ended. `message` is the reason for a failure."""
        end = {"exit_code": exit_code, "message": message, "state": state}
        self._set(f"end/{self.process.rank}", json.dumps(end))

    def end_of(self, rank: int) -> dict[str, Any] | None:
        """Return what a rank wrote by `report_end`, or None if it has not written anything."""
        key = f"end/{rank}"
        return json.loads(self.store.get(key)) if self._has(key) else None

    def leader_exit_code(self, seconds: float) -> int:
        """Wait at most `seconds` for the exit code of rank 0. Return 1 if rank 0 was lost."""
        self._wait_for([0], seconds)
        end = self.end_of(0)
        return 1 if end is None else int(end["exit_code"])

    def wait_for_others(self, seconds: float) -> None:
        """Wait at most `seconds` until all ranks that are not lost have ended."""
        self._wait_for(sorted({*range(1, self.world)} - {*self._lost_ranks}), seconds)

    def close(self, *, failed: bool) -> None:
        """Close the connections, because their threads would abort the process at its exit."""
        # After a failure, NCCL would wait forever for the lost process.
        if dist.is_initialized() and not (failed and self._on_gpu):
            dist.destroy_process_group()

    def failure_of_other_rank(self) -> RankError | None:
        """Return the failure that another rank has reported; None if there is none."""
        for rank in range(1, self.world):
            end = self.end_of(rank)
            if end is not None and end["message"]:
                return RankError(f"Rank {rank}: {end['message']}", end["exit_code"], end["state"])
        return None

    def raise_lost_rank(self) -> NoReturn:
        """Raise `RankError` after a failed message. Give the reason if a rank has reported one."""
        if not self.leads:
            self._set(f"alive/{self.process.rank}", "")
            raise RankError("Another process of the run ended.")
        silent = self._wait_for(range(1, self.world), _REASON_TIMEOUT, "alive")
        failure = self.failure_of_other_rank()
        if failure is not None:
            raise failure
        self._lost_ranks = silent
        which = ", ".join(map(str, silent))
        if len(silent) == 1:
            lost = f"Rank {which} was lost: its process was killed"
        else:
            lost = f"A process was lost: one of ranks {which or 'from 1 on'} was killed"
        raise RankError(f"{lost}, or its machine cannot be reached.")

    def _set(self, key: str, value: str) -> None:
        if not self._unreachable:
            with suppress(RuntimeError):
                self.store.set(key, value)

    def _has(self, key: str) -> bool:
        """Return True if the store has the key. Return False if not, or if the store has ended."""
        try:
            return not self._unreachable and self.store.check([key])
        except RuntimeError:
            self._unreachable = True
            return False

    def _wait_for_key(self, key: str) -> bool:
        """Wait until the store has the key. Return False if rank 0 ends before that."""
        while not self._has(key):
            if self._unreachable or self.end_of(0) is not None:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _wait_for(self, ranks: Sequence[int], seconds: float, also: str = "end") -> list[int]:
        """Wait for the ranks to end or to set the key `also`. Return the ranks that did neither."""
        until = time.monotonic() + seconds
        while True:
            ranks = [r for r in ranks if not any(self._has(f"{key}/{r}") for key in ("end", also))]
            over = self._unreachable or time.monotonic() > until
            if over or not ranks or (also != "end" and self.failure_of_other_rank() is not None):
                return ranks
            time.sleep(_POLL_SECONDS)

    def _broadcast(self, message: Tensor) -> Tensor:
        try:
            dist.broadcast(message, src=0)
        except RuntimeError:
            self.raise_lost_rank()
        return message


@cache
def join_process_group(process: Process) -> SingleProcess:
    """Return the process group of the run. Its processes connect through torchrun's store."""
    if process.world == 1:
        return ALONE
    store, _, _ = next(rendezvous("env://", timeout=_START_TIMEOUT))
    # torchrun --max-restarts uses the same store for all attempts, so prefix the keys.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return ProcessGroup(process, PrefixStore(f"attempt_{attempt}", store))
