"""Several processes of one run without torchrun: forked, which spares them importing torch."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed import FileStore

from wgan_cli.distributed.process import Process
from wgan_cli.distributed.process_group import ProcessGroup

PATIENCE = 60.0


class Processes:
    """`work(rank)` in `world` forked processes, whose exit codes are what it returns.

    What they print is in `out_<rank>.txt` of the folder.
    """

    def __init__(self, world: int, folder: Path, work: Callable[[int], int]) -> None:
        self.folder = folder
        self.started = [self._fork(rank, work) for rank in range(world)]

    def codes(self) -> list[int]:
        """Their exit codes, waited for; of one that a signal killed minus its number."""
        until = time.monotonic() + PATIENCE
        codes: dict[int, int] = {}
        while len(codes) < len(self.started) and time.monotonic() < until:
            for process in set(self.started) - codes.keys():
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    codes[process] = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        for process in set(self.started) - codes.keys():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        assert len(codes) == len(self.started), f"still running: {self.said()}"
        return [codes[process] for process in self.started]

    def said(self) -> list[str]:
        return [(self.folder / f"out_{rank}.txt").read_text() for rank in range(len(self.started))]

    def _fork(self, rank: int, work: Callable[[int], int]) -> int:
        child = os.fork()
        if child:
            return child
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            out = os.open(self.folder / f"out_{rank}.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            for number, stream in ((1, "stdout"), (2, "stderr")):
                os.dup2(out, number)
                setattr(sys, stream, os.fdopen(number, "w", buffering=1, closefd=False))
            code = work(rank)
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        os._exit(code)


def groups(world: int, folder: Path, work: Callable[[ProcessGroup], Any]) -> list[Any]:
    """What `work` returns on each rank, for what `torch.save` can keep."""

    def on_rank(rank: int) -> int:
        group = ProcessGroup(
            Process(rank, world, rank, world), FileStore(str(folder / "store"), world)
        )
        group.connect({}, torch.device("cpu"))
        torch.save(work(group), folder / f"result_{rank}.pt")
        return 0

    processes = Processes(world, folder, on_rank)
    codes = processes.codes()
    assert codes == [0] * world, processes.said()
    results = [folder / f"result_{rank}.pt" for rank in range(world)]
    return [torch.load(result, weights_only=True) for result in results]


def commands(world: int, folder: Path, words: Sequence[str], at: Any = None) -> Processes:
    """`wgan-train WORDS` on so many ranks, in the current folder; `at(rank)` goes before it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def on_rank(rank: int) -> int:
        from wgan_cli.commands.train import run

        told = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
        os.environ.update({name: str(number) for name, number in told.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if at is not None:
            at(rank)
        return run(list(words))

    return Processes(world, folder, on_rank)
