"""Reads encoded images in parallel processes, and ends these processes reliably."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wgan_cli.cores import own_cores
from wgan_cli.data.encoded import ImagePart, ReadResult
from wgan_cli.errors import DataError
from wgan_cli.process_control import signals_blocked, signals_named
from wgan_cli.progress_bar import ProgressBar
from wgan_cli.stop_signals import STOP_REQUESTS

log = logging.getLogger(__name__)

# The number of batches that each process reads ahead.
PREFETCH = 4
_CHUNK = 64
_STOP_SIGNALS = (signal.SIGINT, *STOP_REQUESTS)
# Below this number of images, starting processes takes longer than reading.
_MIN_FOR_PROCESSES = 1000
# With at least this many images and no progress bar, log that images are being read.
_MIN_FOR_LOG = 5000


def default_workers() -> int:
    """Return the number of CPU cores that this process may use, at most 8.

    Under torchrun, this is its share of the machine's cores.
    """
    return min(8, own_cores())


class ParallelReader(Iterator[Tensor]):
    """Yields the images at each list of positions, uint8 (n, c, size, size), in order.

    With `workers` = 0, this process reads the images. Raises `DataError` if a process fails or more
    images are unreadable than allowed.
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
            # The loader draws a seed for its processes, but must not draw it from the global
            # generator.
            generator=torch.Generator(),
            worker_init_fn=_ignore_stop_signals if workers else None,
        )
        before = active_children()
        self._iterators: list[Iterator[ReadResult]] = []
        failure: OSError | None = None
        with _signals_blocked_in_children():
            try:
                if workers:
                    # Torch's iterator prints a traceback if its own first lock cannot be made.
                    multiprocessing.Lock()
                self._iterators.append(iter(loader))
            except OSError as error:
                failure = error
        processes = [process for process in active_children() if process not in before]
        if failure is not None:
            _end(self._iterators, processes)
            raise _failed(self._faults.name, failure) from failure
        self.close = weakref.finalize(self, _end, self._iterators, processes)
        # Close at exit, before Python sends SIGTERM to child processes: these ignore the signal.
        atexit.register(self.close)

    def __next__(self) -> Tensor:
        """Return the images at the next list of positions."""
        name = self._faults.name
        try:
            result = next(self._iterators[0])
        except (StopIteration, MemoryError):
            raise
        except Exception as error:
            self.close()
            raise _failed(name, error) from error
        self._faults.record(result.faults)
        if not result.complete:
            image, reason = result.faults[-1]
            raise DataError(
                f"{name}: {image} cannot be read ({reason}), and no other image of its class"
                " (or part) can replace it."
            )
        return result.images


def _failed(name: str, error: Exception) -> DataError:
    """Return the error of a data set whose reader processes cannot start, or have failed."""
    reason = str(error).strip().splitlines()[-1].rstrip(".") if str(error) else repr(error)
    return DataError(
        f"{name}: reading its images failed ({reason}). Reader processes need memory, shared memory"
        " (on Linux /dev/shm) and open files; dataset.workers=0 reads without them."
    )


def _end(iterators: list[Iterator[ReadResult]], processes: list[BaseProcess]) -> None:
    """End the processes, when a `ParallelReader` is closed or garbage-collected."""
    # Freeing the loader's iterator ends its processes, but a traceback may keep the iterator alive.
    # The iterator also sends SIGTERM to stuck processes, which ignore it. So kill the processes.
    iterators.clear()
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def read_images(part: ImagePart, positions: Sequence[int], workers: int, part_name: str) -> Tensor:
    """Return the images at these positions, uint8 (n, c, size, size); show a progress bar."""
    count, name = len(positions), part.faults.name
    images = torch.empty((count, *part.shape), dtype=torch.uint8)
    chunks = [positions[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
    bar = ProgressBar(total=count, desc=f"reading {name}", unit="image")
    if count >= _MIN_FOR_LOG and bar.disable:
        log.info("%s: reading %d %s images.", name, count, part_name)
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


def _ignore_stop_signals(worker: int) -> None:
    """Ignore stop signals in a reader process: only the run's process handles them."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals_blocked_in_children() -> Iterator[None]:
    """Block stop signals in child processes started in this context, until they ignore them.

    The context also restores the SIGCHLD handler that torch replaces: if a child process dies,
    torch's handler raises an exception that could interrupt any code. `ParallelReader` notices a
    dead process when it waits for images.
    """
    before = {number: signal.getsignal(number) for number in signals_named("SIGCHLD")}
    with signals_blocked(_STOP_SIGNALS):
        try:
            yield
        finally:
            # Only the main thread can set signal handlers, so torch sets none in other threads.
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    if handler is not None:
                        signal.signal(number, handler)
