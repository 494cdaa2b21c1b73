"""A sweep's jobs in processes beside each other, as joblib's launcher starts them."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError
from wgan_cli.locking import locked
from wgan_cli.run_folder import make_folder
from wgan_cli.stop_signals import Terminated, leaving_when_asked

# A worker that was asked to end takes up none of the jobs that are still to come.
_over = False
_prepared = False
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS = 1.0
# In the sweep's folder, a file for each process that has a job, named by its number.
_BUSY = ".workers"


def in_worker(folder: Path, job: Callable[[], int]) -> int:
    """A job's exit code; `folder` is the sweep's.

    A signal ends the job alone: raised here, it would have the others killed. Between jobs it is
    noted: a worker that died amid taking the next job would block the others.
    """
    global _over
    _prepare()
    busy = folder / _BUSY / str(os.getpid())
    make_folder(busy.parent)
    busy.touch()
    try:
        with leaving_when_asked():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if not _over:
                return job()
    except (KeyboardInterrupt, SystemExit, Terminated):
        _over = True
    finally:
        signal.signal(signal.SIGINT, _note_end)
        busy.unlink(missing_ok=True)
    return PreemptedError.exit_code


def _prepare() -> None:
    """Before a worker's first job: hear the signals with which it was born blocked."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    for number in _SIGNALS:
        signal.signal(number, _note_end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_watch_parent, args=[os.getppid()], daemon=True).start()


def _note_end(number: int, frame: FrameType | None) -> None:
    global _over
    _over = True


def _watch_parent(parent: int) -> None:
    """Let this process end, its run saved, where the command that started it is gone."""
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    while not _over:
        time.sleep(_SECONDS)
    os._exit(PreemptedError.exit_code)


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
def asking_workers_to_end(folder: Path) -> Iterator[Callable[[], WganError | None]]:
    """Inside, a signal is given to the workers, which save their runs; this process waits for them.

    Gives a function that tells what the sweep in `folder` is to end by, or None. A second Ctrl-C
    ends it at once. Workers are born with these signals blocked, as this thread is: they come
    through another one, and Python runs their handler here.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for busy in (folder / _BUSY).glob("*"):
            # SIGINT may have come to the whole group, and a second one would end a worker unsaved.
            with suppress(ProcessLookupError):
                os.kill(int(busy.name), signal.SIGTERM)

    def asked() -> WganError | None:
        if not seen:
            return None
        return (InterruptedRunError if seen[0] == signal.SIGINT else PreemptedError)("")

    _forget_workers(folder)
    over = threading.Event()
    listener = threading.Thread(target=over.wait, daemon=True)
    listener.start()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        # nohup has hang-ups ignored. A shell's background jobs are born with Ctrl-C ignored, and
        # yet a run heeds it, as where it was sent by name.
        if number != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(number, note)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield asked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        over.set()
        _forget_workers(folder)


def _forget_workers(folder: Path) -> None:
    """What a killed worker left: its number may be another process's by now."""
    for busy in (folder / _BUSY).glob("*"):
        busy.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / _BUSY).rmdir()
