"""Reads encoded images in parallel processes, and makes sure that these end."""

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

from wgan_cli.data.encoded import ImagePart, ReadResult
from wgan_cli.errors import DataError

log = logging.getLogger(__name__)

# The number of batches that each process reads ahead.
PREFETCH = 4
_CHUNK = 64
# Below this number of images, starting processes takes longer than reading.
_MIN_FOR_PROCESSES = 1000
# From this number of images, log that they are being read if there is no progress bar.
_MIN_FOR_LOG = 5000


def default_workers() -> int:
    """Return the number of CPU cores that this process may use, at most 8.

    Under torchrun, the machine's cores are divided by its number of ranks.
    """
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


class ParallelReader(Iterator[Tensor]):
    """Iterates over lists of positions; yields the images of each, uint8 (n, c, size, size).

    The batches come in the order of the lists. With `workers` 0 they are read in this process.
    Raises `DataError` if a process fails or there are more unreadable images than allowed.
    """

    def __init__(
        self,
        part: ImagePart,
        positions: Iterable[Sequence[int]],
        workers: int,
        *,
        pin: bool = False,
    ) -> None:
        self._faults = part.faults
        loader: DataLoader[ReadResult] = DataLoader(
            part,  # type: ignore[arg-type]
            batch_size=None,
            sampler=positions,
            num_workers=workers,
            collate_fn=_identity,
            pin_memory=pin,
            prefetch_factor=PREFETCH if workers else None,
            # The loader draws a seed for its processes; without this, from the global generator.
            generator=torch.Generator(),
        )
        before = active_children()
        with _signals_blocked_in_children():
            self._iterators: list[Iterator[ReadResult]] = [iter(loader)]
        processes = [process for process in active_children() if process not in before]
        self.close = weakref.finalize(self, _end, self._iterators, processes)
        # Close at exit before Python ends child processes by SIGTERM, which these block.
        atexit.register(self.close)

    def __next__(self) -> Tensor:
        """Return the next list's images."""
        name = self._faults.name
        try:
            result = next(self._iterators[0])
        except (StopIteration, MemoryError):
            raise
        except Exception as error:
            self.close()
            reason = str(error).strip().splitlines()[-1].rstrip(".") if str(error) else repr(error)
            raise DataError(
                f"{name}: reading its images failed ({reason}). Reader processes need memory,"
                " shared memory (/dev/shm) and open files; dataset.workers=0 reads without them."
            ) from error
        self._faults.record(result.faults)
        if not result.complete:
            image, reason = result.faults[-1]
            raise DataError(
                f"{name}: {image} cannot be read ({reason}), and no other image of its class"
                " (or part) can replace it."
            )
        return result.images


def _end(iterators: list[Iterator[ReadResult]], processes: list[BaseProcess]) -> None:
    """End the processes, when a `ParallelReader` is closed or garbage-collected."""
    # The loader's iterator ends its processes when it is freed. But a traceback may still hold it,
    # or a process may be stuck; it then sends SIGTERM, which these processes block. So kill them.
    iterators.clear()
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def read_images(part: ImagePart, positions: Sequence[int], workers: int, part_name: str) -> Tensor:
    """Read the images at these positions, uint8 (n, c, size, size), with a progress bar."""
    count, name = len(positions), part.faults.name
    images = torch.empty((count, *part.shape), dtype=torch.uint8)
    chunks = [positions[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
    terminal = sys.stderr.isatty()
    if count >= _MIN_FOR_LOG and not terminal:
        log.info("%s: reading %d %s images.", name, count, part_name)
    bar = tqdm(total=count, desc=f"reading {name}", unit="image", disable=not terminal)
    workers = workers if count >= _MIN_FOR_PROCESSES else 0
    with bar, closing(ParallelReader(part, chunks, workers)) as reader:
        start = 0
        for chunk in reader:
            images[start : start + len(chunk)] = chunk
            start += len(chunk)
            bar.update(len(chunk))
    return images


def _identity(result: Any) -> Any:
    return result


@contextmanager
def _signals_blocked_in_children() -> Iterator[None]:
    """Block Ctrl-C, SIGTERM and SIGHUP in processes started inside: the run handles them.

    Also restore the SIGCHLD handler that torch replaces: its exception for a dead process could
    interrupt any code, whereas `ParallelReader` notices the death when it waits for the images.
    """
    blocked = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        # Only the main thread can set handlers; in other threads torch sets none.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
