"""A sweep's jobs in processes beside each other, as joblib's launcher starts them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError
from wgan_cli.locking import locked
from wgan_cli.rundir import make_folder
from wgan_cli.training.interrupts import Terminated, leaving_when_asked

# A worker that was asked to end takes up none of the jobs that are still to come.
_over = False


def in_worker(job: Callable[[], int]) -> int:
    """A job's exit code. A signal ends it alone: raised here, it would have the others killed."""
    global _over
    if not _over:
        try:
            with leaving_when_asked():
                return job()
        except (KeyboardInterrupt, SystemExit, Terminated):
            _over = True
    return PreemptedError.exit_code


@contextmanager
def own_gpu(device: str) -> Iterator[str]:
    """A job's device: where the machine has several GPUs, the one with the fewest jobs on it.

    `device` is root's setting; one that names its GPU stays. Counted are this user's jobs on this
    machine, of every sweep.
    """
    import torch

    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count < 2:
        yield device
        return
    places = Path(tempfile.gettempdir()) / f"wgan-train-{os.getuid()}"
    make_folder(places)
    with _fewest(places, count) as index:
        yield f"cuda:{index}"


@contextmanager
def _fewest(places: Path, count: int) -> Iterator[int]:
    """Of `count` things the first of which no place, else no second place, ... is held by another.

    The place is held inside.
    """
    for layer in itertools.count():
        for index in range(count):
            place = locked(places / f"cuda-{index}-{layer}.lock")
            if place is not None:
                with place:
                    yield index
                return


@contextmanager
def asking_workers_to_end() -> Iterator[Callable[[], WganError | None]]:
    """Inside, a signal is given to the workers, which save their runs; this process waits for them.

    Gives a function that tells what the sweep is to end by, or None. A second Ctrl-C ends it at
    once.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for worker in multiprocessing.active_children():
            # SIGINT may have come to the whole group, and a second one would end a worker unsaved.
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, signal.SIGTERM)

    def asked() -> WganError | None:
        if not seen:
            return None
        return (InterruptedRunError if seen[0] == signal.SIGINT else PreemptedError)("")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
