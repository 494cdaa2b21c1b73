"""Run jobs of a sweep in parallel, in the worker processes that joblib's launcher starts."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from wgan_cli.commands.sweep_job import Launcher
from wgan_cli.cores import usable_cores
from wgan_cli.errors import DiskError, InterruptedRunError, PreemptedError, WganError
from wgan_cli.files import disk_error
from wgan_cli.guard import inside
from wgan_cli.locks import locked
from wgan_cli.operating_system import user_id
from wgan_cli.process_control import (
    ask_this_process_to_end,
    ask_to_end,
    parent_has_ended,
    signals_blocked,
    unblock_signals,
)
from wgan_cli.run_folder import make_folder
from wgan_cli.stop_signals import (
    STOP_REQUESTS,
    Terminated,
    leaving_when_asked,
    not_under_nohup,
)

# True after a signal has asked this worker to end. The worker then starts no other job.
_over = False
# True after this worker has set its handlers for stop signals and begun to watch its parent.
_prepared = False
_SIGNALS = (signal.SIGINT, *STOP_REQUESTS)
_SECONDS = 1.0
# A subfolder of the sweep. Each process that runs a job has a file in it, named by process id.
_BUSY = ".workers"


def share_cores(launcher: Launcher, jobs: int) -> None:
    """Let the jobs of a sweep that run at once on this machine share its cores.

    The processes of the jobs inherit the variables set here. A user's own values stay.
    """
    if launcher is Launcher.LOCAL:
        # This launcher starts all jobs at once.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
    if launcher is Launcher.JOBLIB:
        # joblib divides the cores itself, but counts hyperthreads, and misses some limits.
        os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(usable_cores()))


def in_worker(folder: Path, job: Callable[[], int]) -> int:
    """Run a job in this worker; return the exit code. `folder` is the sweep's folder.

    A signal ends the job, but this function raises no error: on an error, joblib would kill the
    other workers. Between jobs, a signal only sets a flag: if a worker died while it takes its next
    job, the other workers would be blocked.
    """
    global _over, _prepared
    if not _prepared:
        _prepared = True
        for number in _SIGNALS:
            signal.signal(number, _note_end)
        unblock_signals(_SIGNALS)
        threading.Thread(target=_watch_parent, args=[os.getppid()], daemon=True).start()
    busy = inside(folder, _BUSY, str(os.getpid()))
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
    """Wait for the process `parent` to end; then let the job save its run, and end this worker."""
    while not parent_has_ended(parent):
        time.sleep(_SECONDS)
    ask_this_process_to_end()
    while not _over:
        time.sleep(_SECONDS)
    os._exit(PreemptedError.exit_code)


@contextmanager
def own_gpu(device: str) -> Iterator[str]:
    """Yield the device of a job. If there are several GPUs, it is the GPU with the fewest jobs.

    `device` is the root setting; cpu, cuda:N and mps are kept. Only jobs of this user count. Each
    GPU has lock files called slots, and each job locks one slot. A job takes slot 0 of the first
    GPU where slot 0 is free. If there is none, it tries slot 1 of all GPUs, and so on.
    """
    import torch

    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count < 2:
        yield device
        return
    locks = private_folder(Path(tempfile.gettempdir()) / f"wgan-train-{user_id()}")
    for slot in itertools.count():
        for index in range(count):
            lock = locked(locks / f"cuda-{index}-{slot}.lock")
            if lock is not None:
                with lock:
                    yield f"cuda:{index}"
                return


def private_folder(path: Path) -> Path:
    """Create a folder of this user's own, which others may not write to; return its path.

    Everybody may write to the folder for temporary files, and may have made this one with links in
    it. Raises `DiskError`.
    """
    make_folder(path.parent)
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as error:
        raise disk_error(error, path, done="made") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user_id():
        raise DiskError(f"{path} is not this user's own folder: set TMPDIR to another folder.")
    path.chmod(0o700)
    return path


@contextmanager
def asking_workers_to_end(folder: Path) -> Iterator[Callable[[], WganError | None]]:
    """Within the context, pass stop signals on to the workers, which then save their runs.

    The context yields a function that returns the error for the signal, or None if no signal came.
    A second Ctrl-C ends this process at once. This thread blocks the signals: new workers inherit
    its signal mask, and signals must not reach them too early. Another thread receives the signals,
    and Python still runs the handler in this thread.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for busy in (folder / _BUSY).glob("*"):
            # Do not send SIGINT: the workers may have got one from the terminal, and a second one
            # would end them before they save.
            ask_to_end(int(busy.name))

    def asked() -> WganError | None:
        if not seen:
            return None
        return (InterruptedRunError if seen[0] == signal.SIGINT else PreemptedError)("")

    _forget_workers(folder)
    over = threading.Event()
    listener = threading.Thread(target=over.wait, daemon=True)
    listener.start()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # Handle SIGINT even if it is ignored, because a shell ignores it in background jobs.
    for number in not_under_nohup(_SIGNALS):
        signal.signal(number, note)
    try:
        with signals_blocked(_SIGNALS):
            yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        over.set()
        _forget_workers(folder)


def _forget_workers(folder: Path) -> None:
    """Remove the workers' files: the process id of a killed worker may now be another process's."""
    for busy in inside(folder, _BUSY).glob("*"):
        busy.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / _BUSY).rmdir()
