"""Reading encoded images by processes that end with whoever asked for them."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from wgan_cli.data.encoded import Faults, ImagePart, Read
from wgan_cli.errors import DataError

log = logging.getLogger(__name__)

# How many sets of images each process reads ahead.
AHEAD = 4
_TOGETHER = 64
# Below so many images, starting processes takes longer than reading.
_FEW = 1000
# From so many on, a user who sees no bar is told what takes so long.
_MANY = 5000


def usual_workers() -> int:
    """A process for every CPU core that this one may use, and at most 8.

    Those that torchrun started beside this one read too: the cores are shared out among them.
    """
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


class Reads(Iterator[Tensor]):
    """Images uint8 (n, c, size, size) of a part for each of many lists of positions, in order.

    With `workers` 0 they are read in this process. Raises `DataError` for more unreadable images
    than are allowed, and where a process fails.
    """

    def __init__(
        self,
        part: ImagePart,
        positions: Iterable[Sequence[int]],
        faults: Faults,
        workers: int,
        *,
        pin: bool = False,
    ) -> None:
        self._faults = faults
        loader: DataLoader[Read] = DataLoader(
            part,  # type: ignore[arg-type]
            batch_size=None,
            sampler=positions,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin,
            prefetch_factor=AHEAD if workers else None,
            # A loader draws a seed for its processes, else from the global generator.
            generator=torch.Generator(),
        )
        before = active_children()
        with _for_the_parent_alone():
            self._iterators: list[Iterator[Read]] = [iter(loader)]
        processes = [process for process in active_children() if process not in before]
        self.close = weakref.finalize(self, _end, self._iterators, processes)
        _open.add(self)

    def __next__(self) -> Tensor:
        """The next list's images."""
        name = self._faults.name
        try:
            read = next(self._iterators[0])
        except (StopIteration, MemoryError):
            raise
        except Exception as error:
            self.close()
            reason = str(error).strip().splitlines()[-1].rstrip(".") if str(error) else repr(error)
            raise DataError(
                f"{name}: reading its images failed ({reason}). dataset.workers=0 reads them in the"
                " run's own process; others need memory, shared memory (/dev/shm) and open files."
            ) from error
        self._faults.note(read.faults)
        if not read.whole:
            image, reason = read.faults[-1]
            raise DataError(
                f"{name}: no image can be read that could stand for {image} ({reason}): of its"
                " class, or of the whole part, none is sound."
            )
        return read.images


def _end(iterators: list[Iterator[Read]], processes: list[BaseProcess]) -> None:
    """End the processes: when a `Reads` is closed, and when it is collected."""
    # The iterator does so itself when nobody holds it. Where the traceback of an error does, or a
    # process is stuck, it would send SIGTERM, which they do not hear, and Python wait for them.
    iterators.clear()
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


# Ended before Python ends processes itself: by SIGTERM, which these do not hear.
_open: weakref.WeakSet[Reads] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for reads in list(_open):
        reads.close()


def load(
    part: ImagePart, positions: Sequence[int], faults: Faults, workers: int, what: str
) -> Tensor:
    """All images at these positions, uint8 (n, c, size, size), with a bar on a terminal."""
    count = len(positions)
    images = torch.empty((count, *part.shape), dtype=torch.uint8)
    lists = [positions[start : start + _TOGETHER] for start in range(0, count, _TOGETHER)]
    terminal = sys.stderr.isatty()
    if count >= _MANY and not terminal:
        log.info("%s: reading %d images (%s).", faults.name, count, what)
    bar = tqdm(total=count, desc=f"reading {faults.name}", unit="image", disable=not terminal)
    with bar, closing(Reads(part, lists, faults, workers if count >= _FEW else 0)) as reads:
        start = 0
        for some in reads:
            images[start : start + len(some)] = some
            start += len(some)
            bar.update(len(some))
    return images


def _as_it_is(read: Any) -> Any:
    return read


@contextmanager
def _for_the_parent_alone() -> Iterator[None]:
    """Processes started inside hear no Ctrl-C, SIGTERM or SIGHUP, which are for the run to answer.

    A dead one is noticed where its images are awaited, not by the exception that torch's handler of
    SIGCHLD would raise amid whatever runs then.
    """
    blocked = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        # Other threads cannot set handlers, and torch sets none there.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
