"""A sweep's jobs in parallel: in the worker processes that joblib's launcher starts."""

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

# Set when this worker is asked to end. It then starts no other job.
_over = False
_prepared = False
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS = 1.0
# In the sweep's folder: a file for each process that runs a job, named by its process id.
_BUSY = ".workers"


def in_worker(folder: Path, job: Callable[[], int]) -> int:
    """Run a job in this worker; return its exit code. `folder` is the sweep's.

    A signal ends the job but raises nothing, or joblib would kill the other workers. Between jobs a
    signal only sets a flag: a worker that died while it takes the next job would block the others.
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
    """Before a worker's first job, unblock the signals that it inherited as blocked."""
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
    """When the process `parent` is gone, let the job save its run, then end this worker."""
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    while not _over:
        time.sleep(_SECONDS)
    os._exit(PreemptedError.exit_code)


@contextmanager
def own_gpu(device: str) -> Iterator[str]:
    """Choose a job's device: of several GPUs, the one with the fewest jobs of this user's sweeps.

    `device` is the root setting; cpu and cuda:N are kept. Each job holds a lock file of its GPU:
    the first free one of slot 0, else of slot 1, and so on.
    """
    import torch

    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count < 2:
        yield device
        return
    locks = Path(tempfile.gettempdir()) / f"wgan-train-{os.getuid()}"
    make_folder(locks)
    for slot in itertools.count():
        for index in range(count):
            lock = locked(locks / f"cuda-{index}-{slot}.lock")
            if lock is not None:
                with lock:
                    yield f"cuda:{index}"
                return


@contextmanager
def asking_workers_to_end(folder: Path) -> Iterator[Callable[[], WganError | None]]:
    """Within the context, pass stop signals on to the workers, which save their runs.

    The context gives a function that returns the error of the signal, or None. A second Ctrl-C ends
    this process at once. Workers inherit this thread's signal mask, so the signals are blocked in
    it; another thread receives them, and Python runs their handler in this one.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for busy in (folder / _BUSY).glob("*"):
            # Not SIGINT: the terminal may have sent one to the workers too, and a second one would
            # end them unsaved.
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
        # Keep nohup's setting, which ignores SIGHUP. A shell starts background jobs with SIGINT
        # ignored, but a run obeys one that is sent to it.
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
    """Remove the files of killed workers: other processes may have their ids by now."""
    for busy in (folder / _BUSY).glob("*"):
        busy.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / _BUSY).rmdir()
