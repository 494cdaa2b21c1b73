"""What the processes that train one run together say to each other.

Every update sends one message: the gradients, the numbers that the update reports and whether a
signal came, all summed over the ranks. Rank 0 measures, writes and decides; where that takes long
the others wait for its word. Why a process ended stands in torchrun's store, which outlives it.
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
from wgan_cli.distributed.shared_signals import SharedStopSignals
from wgan_cli.errors import RankError
from wgan_cli.randomness import FULL_BATCH, Shard
from wgan_cli.stop_signals import StopSignals

# How long processes wait for the first word of each other.
_MEETING = timedelta(minutes=30)
# And later, while rank 0 measures: who is lost is noticed by its connection.
_SILENCE = timedelta(days=1)
# Seconds in which the ranks that are left have said why they end.
_LAST_WORDS = 5.0
_LOOK_EVERY = 0.05

Result = TypeVar("Result")


class Instruction(enum.IntEnum):
    """What rank 0 says once it has measured and written."""

    GO_ON = 0
    GO_BACK = 1
    END = 2


class SingleProcess:
    """The processes of a run that has one; `ProcessGroup` are those of another."""

    shard: Shard = FULL_BATCH
    leads = True

    @property
    def world(self) -> int:
        """How many there are."""
        return self.shard.world

    def connect(self, settings: dict[str, Any], device: torch.device) -> None:
        """Let the others begin, with these settings."""

    def arrive(self, where: str) -> None:
        """Wait until all the others are there too. Raises `RankError` where one has failed."""

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """What `work` returns. One process a machine does it first: the others find its files."""
        return work()

    def heard(self, signals: StopSignals) -> StopSignals:
        """Signals of which all ranks know at the same step."""
        return signals

    def average(self, weights: TrainedNetwork, terms: Sequence[Tensor]) -> list[Tensor]:
        """Make the weights' gradients, and return the terms, the means over all ranks."""
        return list(terms)


ALONE = SingleProcess()


class ProcessGroup(SingleProcess):
    """A run in several processes, seen from its `place` in it; all can read the `store`."""

    def __init__(self, place: Process, store: Store) -> None:
        self.place = place
        self.store = store
        self.shard = Shard(place.rank, place.world)
        self.leads = place.rank == 0
        self.signals: SharedStopSignals | None = None
        self._lost: list[int] = []
        self._unreachable = False
        self._on_gpu = False

    def connect(self, settings: dict[str, Any], device: torch.device) -> None:
        """Meet the others; rank 0's settings are what `settings` of another rank waits for."""
        self._on_gpu = device.type == "cuda"
        if self.leads:
            self.store.set("settings", json.dumps(settings))
        self.arrive("door")
        if self.leads:
            self.store.set("open", "")
        elif not self._comes("open"):
            raise RankError("Rank 0 ended before the ranks met.")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if self._on_gpu else "gloo",
            store=PrefixStore("group", self.store),
            rank=self.place.rank,
            world_size=self.place.world,
            timeout=_SILENCE,
        )

    def arrive(self, where: str) -> None:
        """Only rank 0 waits, and not inside of torch, where it would hear of no failure."""
        if not self.leads:
            self._put(f"{where}/{self.place.rank}", "")
            return
        for rank in range(1, self.world):
            while not self._knows(f"{where}/{rank}"):
                trouble = self.trouble()
                if trouble is not None or self._unreachable:
                    raise trouble or RankError("torchrun has ended.")
                time.sleep(_LOOK_EVERY)

    def settings(self) -> dict[str, Any] | None:
        """Rank 0's, waited for; None where it ends without training."""
        if not self._comes("settings"):
            return None
        settings: dict[str, Any] = json.loads(self.store.get("settings"))
        return settings

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """The first process of each machine works before the others of that machine do."""
        done = f"done/{self.place.machine}"
        if self.place.local > 0:
            if not self._comes(done):
                raise RankError("Rank 0 ended before the data were read.")
            return work()
        result = work()
        self.store.set(done, "")
        return result

    def average(self, weights: TrainedNetwork, terms: Sequence[Tensor]) -> list[Tensor]:
        """By one sum over the ranks, which also tells each of them who was signalled."""
        count = len(terms) + len(SharedStopSignals.NOTHING)
        message = weights.message(count)
        tail = message[-count:].zero_()
        torch.stack([term.to(tail.dtype) for term in terms], out=tail[: len(terms)])
        asked = self.signals.asked() if self.signals is not None else SharedStopSignals.NOTHING
        for place, told in enumerate(asked, start=len(terms)):
            if told:
                tail[place] = 1
        try:
            dist.all_reduce(message)
        except RuntimeError:
            self.lost()
        message.div_(self.world)
        weights.take(message)
        # The next update's message takes this one's place.
        means = tail.clone()
        if self.signals is not None:
            self.signals.heard = means[len(terms) :]
        return list(means[: len(terms)].unbind())

    def heard(self, signals: StopSignals) -> StopSignals:
        """Those of all ranks, as of the newest update."""
        self.signals = SharedStopSignals(signals)
        return self.signals

    def send(self, state: dict[str, Any]) -> None:
        """As the bytes of `torch.save`: machines may share no disk."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(data)]))
        self._broadcast(data)

    def receive(self) -> dict[str, Any]:
        """What rank 0 sends, on the CPU."""
        size = self._broadcast(torch.zeros(1, dtype=torch.int64))
        data = self._broadcast(torch.empty(int(size), dtype=torch.uint8))
        sent = io.BytesIO(data.numpy().tobytes())
        state: dict[str, Any] = torch.load(sent, map_location="cpu", weights_only=True)
        return state

    def say(self, word: Instruction) -> None:
        """Rank 0's word to those who `listen`."""
        self._broadcast(torch.tensor([int(word)]))

    def listen(self) -> Instruction:
        """Wait for rank 0's word."""
        return Instruction(int(self._broadcast(torch.zeros(1, dtype=torch.int64))))

    def tell_end(self, exit_code: int, message: str = "", state: str = "failed") -> None:
        """Leave in the store how this process ends; `message` where it is why the run does."""
        end = {"exit_code": exit_code, "message": message, "state": state}
        self._put(f"end/{self.place.rank}", json.dumps(end))

    def end_of(self, rank: int) -> dict[str, Any] | None:
        """How a rank ended, if it did and could say so."""
        key = f"end/{rank}"
        end: dict[str, Any] | None = json.loads(self.store.get(key)) if self._knows(key) else None
        return end

    def code_of_leader(self, seconds: float) -> int:
        """Rank 0's exit code, waited for; 1 where it was lost."""
        self._wait_for([0], seconds)
        end = self.end_of(0)
        return 1 if end is None else int(end["exit_code"])

    def wait_for_others(self, seconds: float) -> None:
        """Wait until those have ended that are not lost."""
        self._wait_for([rank for rank in range(1, self.world) if rank not in self._lost], seconds)

    def close(self, *, failed: bool) -> None:
        """End the connections, whose threads would abort a process that ends with them."""
        # nccl would wait for the answer to a message that is never to be answered.
        if dist.is_initialized() and not (failed and self._on_gpu):
            dist.destroy_process_group()

    def trouble(self) -> RankError | None:
        """The failure of another rank, if one has told of it."""
        for rank in range(1, self.world):
            end = self.end_of(rank)
            if end is not None and end["message"]:
                return RankError(f"Rank {rank}: {end['message']}", end["exit_code"], end["state"])
        return None

    def lost(self) -> NoReturn:
        """A message could not be sent: raise why, as far as the others' last words tell."""
        if not self.leads:
            self._put(f"alive/{self.place.rank}", "")
            raise RankError("Another process of the run ended.")
        silent = self._wait_for(range(1, self.world), _LAST_WORDS, "alive")
        trouble = self.trouble()
        if trouble is not None:
            raise trouble
        self._lost = silent
        which = ", ".join(map(str, silent))
        raise RankError(
            f"Rank {which} was lost: its process was killed, or its machine is not to be reached."
            if len(silent) == 1
            else f"A process was lost: of ranks {which or 'from 1 on'} one was killed, or its"
            " machine is not to be reached."
        )

    def _put(self, key: str, value: str) -> None:
        if not self._unreachable:
            with suppress(RuntimeError):
                self.store.set(key, value)

    def _knows(self, key: str) -> bool:
        """Whether the store has it; a store that rank 0 kept is gone with that."""
        try:
            return not self._unreachable and self.store.check([key])
        except RuntimeError:
            self._unreachable = True
            return False

    def _comes(self, key: str) -> bool:
        """Wait for it; False where rank 0 ended before."""
        while not self._knows(key):
            if self._unreachable or self.end_of(0) is not None:
                return False
            time.sleep(_LOOK_EVERY)
        return True

    def _wait_for(self, ranks: Sequence[int], seconds: float, also: str = "end") -> list[int]:
        """Wait until these have ended, or said `also`; returns those that did not."""
        until = time.monotonic() + seconds
        while True:
            ranks = [r for r in ranks if not any(self._knows(f"{it}/{r}") for it in ("end", also))]
            over = self._unreachable or time.monotonic() > until
            if over or not ranks or (also != "end" and self.trouble() is not None):
                return ranks
            time.sleep(_LOOK_EVERY)

    def _broadcast(self, message: Tensor) -> Tensor:
        try:
            dist.broadcast(message, src=0)
        except RuntimeError:
            self.lost()
        return message


@cache
def join_process_group(place: Process) -> SingleProcess:
    """The processes of this run, by torchrun's store where there are several."""
    if place.world == 1:
        return ALONE
    store, _, _ = next(rendezvous("env://", timeout=_MEETING))
    # torchrun --max-restarts keeps one store for all attempts.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return ProcessGroup(place, PrefixStore(f"attempt_{attempt}", store))
