"""Run jobs of a sweep in parallel, in the worker processes that joblib's launcher starts."""

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
from wgan_cli.files import locked
from wgan_cli.run_folder import make_folder
from wgan_cli.stop_signals import Terminated, leaving_when_asked

# Whether a signal has asked this worker to end. Then it starts no other job.
_over = False
# Whether this worker handles stop signals, unblocked, and watches its parent.
_prepared = False
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS = 1.0
# A subfolder of the sweep with a file for each process that runs a job, named by process id.
_BUSY = ".workers"


def in_worker(folder: Path, job: Callable[[], int]) -> int:
    """Run a job in this worker; return the exit code. `folder` is the sweep's folder.

    A signal ends the job but raises no error, because joblib would then kill the other workers.
    Between jobs, a signal only sets a flag: a worker that dies while it takes the next job would
    block the others.
    """
    global _over, _prepared
    if not _prepared:
        _prepared = True
        for number in _SIGNALS:
            signal.signal(number, _note_end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        threading.Thread(target=_watch_parent, args=[os.getppid()], daemon=True).start()
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


def _note_end(number: int, frame: FrameType | None) -> None:
    global _over
    _over = True


def _watch_parent(parent: int) -> None:
    """Wait until the process `parent` has ended, let the job save its run, end this worker."""
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    while not _over:
        time.sleep(_SECONDS)
    os._exit(PreemptedError.exit_code)


@contextmanager
def own_gpu(device: str) -> Iterator[str]:
    """Yield a job's device: the GPU with the fewest jobs of this user, if there are several GPUs.

    `device` is the root setting; cpu and cuda:N are kept. To count the jobs, each job locks one
    file of its GPU: slot 0 of the first GPU where it is free, else slot 1, and so on.
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
    """Within the context, pass stop signals on to the workers, which then save their runs.

    The context yields a function that returns the error for the signal, or None if none came. A
    second Ctrl-C ends this process at once. New workers inherit the signal mask of this thread and
    must not get signals too early, so this thread blocks them. Another thread receives them, and
    Python still runs the handler in this thread.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for busy in (folder / _BUSY).glob("*"):
            # Do not send SIGINT: the workers may have got one from the terminal, and a second one
            # would end them before they save.
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
        # Under nohup, keep ignoring SIGHUP. Handle SIGINT even if it is ignored, as it is for
        # background jobs of a shell.
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
    """Remove the files of workers: the id of a killed worker may now belong to another process."""
    for busy in (folder / _BUSY).glob("*"):
        busy.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / _BUSY).rmdir()
